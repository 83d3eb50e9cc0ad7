"""The group of each row: the values of the column that ``data.by`` names, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.formatting import short_time
from pipeline.config.data import DataConfig
from pipeline.config.formats import CSV
from pipeline.sources import AUTOMATIC, open_keys, open_source
from pipeline.sources.base import MissingColumnsError, Source
from pipeline.sources.retries import read_with_retries

# a value of the column: a whole number, or what it is as text
Key = int | str
# the position of a row without a value
NO_GROUP = -1
# above it, a number of double precision may not be the one that was written
_LARGEST_WHOLE = 2**53


@dataclass(frozen=True, eq=False)
class ChunkKeys:
    """The groups of the rows of a chunk.

    Attributes
    ----------
    keys : tuple of int or str
        Those that occur, each once.
    codes : ndarray of shape (n_rows,), int64
        Of each row the position of its key; :data:`NO_GROUP` where there is none.
    """

    keys: tuple[Key, ...]
    codes: NDArray[np.int64]


@dataclass(frozen=True)
class KeyColumn:
    """Reads the column of groups, by the number of a chunk; tasks of the graph hold it.

    Attributes
    ----------
    by : str
        Its name.
    path : str
        Of the data, for messages.
    read : callable
        Returns the values of a chunk, of any Arrow type.
    """

    by: str
    path: str
    read: Callable[[int], Any]

    def __call__(self, number: int) -> ChunkKeys:
        """Return the groups of the rows of a chunk."""
        values = self.read(number)
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        found = pc.dictionary_encode(self._whole_or_text(values))
        codes = found.indices.fill_null(NO_GROUP).to_numpy(zero_copy_only=False).astype(np.int64)
        keys = found.dictionary.to_pylist()
        if pa.types.is_temporal(values.type):
            keys = list(map(short_time, keys))
        return _without_empty(tuple(keys), codes)

    def _whole_or_text(self, values: pa.Array) -> pa.Array:
        kind = values.type
        if pa.types.is_integer(kind) or pa.types.is_string(kind):
            return values
        if pa.types.is_floating(kind):  # as pandas has whole numbers of which some are missing
            numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
            missing = np.isnan(numbers)
            others = numbers[~missing & ((numbers != np.floor(numbers)) | (np.abs(numbers) > _LARGEST_WHOLE))]
            if len(others):
                raise UserError(
                    f"data.by: expected whole numbers, texts, dates or booleans in the column {self.by!r} of "
                    f"{self.path}; it has other numbers, such as {others[0]:.6g}. "
                    "Name a column that tells groups, or write one with rounded values."
                )
            return pa.array(np.where(missing, 0.0, numbers).astype(np.int64), mask=missing)
        try:
            return pc.cast(values, pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise UserError(
                f"data.by: expected whole numbers, texts, dates or booleans in the column {self.by!r} of {self.path}; "
                f"it is {kind}. Name another column."
            ) from None


def _without_empty(keys: tuple[Key, ...], codes: NDArray[np.int64]) -> ChunkKeys:
    """Return keys of which an empty text, as CSV has for a missing value, is none."""
    if "" not in keys:
        return ChunkKeys(keys, codes)
    empty = keys.index("")
    codes = np.where(codes == empty, NO_GROUP, codes - (codes > empty))
    return ChunkKeys((*keys[:empty], *keys[empty + 1 :]), codes)


def open_group_keys(data: DataConfig, source: Source) -> KeyColumn:
    """Open the column that ``data.by`` names, for the chunks of a source; headers are read.

    Raises
    ------
    UserError
        If the data have no such column, or it holds neither whole numbers, texts, dates nor booleans.
    """
    by = str(data.by)
    if source.format.key_opener is not None:
        reader = open_keys(source, [by], "data.by")
        return KeyColumn(by, source.path, partial(_first_column, reader))
    if source.format is CSV:
        opener = resolve_name("pipeline.sources.formats.csv:open_text")
        return KeyColumn(by, source.path, partial(read_with_retries, opener(source, by)))
    return KeyColumn(by, source.path, _open_numbers(data, source))


def require_groups(keys: KeyColumn, source: Source) -> None:
    """Read the column of the first chunk, so that one of no use is refused before anything is made.

    Raises
    ------
    UserError
        If it holds neither whole numbers, texts, dates nor booleans. Its type does not tell: numbers of double
        precision may be whole ones, some of which are missing.
    """
    if source.chunks.pieces:
        keys(0)


def _first_column(read: Callable[[int], pa.Table], number: int) -> pa.ChunkedArray:
    return read(number).column(0)


def _open_numbers(data: DataConfig, source: Source) -> Callable[[int], Any]:
    """Open a column of an array, read as numbers by the chunks of the others."""
    alone = data.model_copy(update={"columns": (data.by,), "weights": None, "by": None})
    try:
        reader = open_source(alone, AUTOMATIC).chunks.reader
    except MissingColumnsError as error:
        raise MissingColumnsError(str(error).replace("data.columns:", "data.by:", 1), error.columns) from None
    except UserError as error:
        raise UserError(str(error).replace("data.columns:", "data.by:", 1)) from None
    return _Numbers(reader, tuple(source.chunks.pieces))


@dataclass(frozen=True)
class _Numbers:
    reader: Any
    pieces: tuple[Any, ...]

    def __call__(self, number: int) -> pa.Array:
        block = read_with_retries(self.reader.read, self.pieces[number])
        return pa.array(np.ascontiguousarray(block[:, 0]))


def groups_in_header(data: DataConfig, source: Source) -> int | None:
    """Return how many groups there are, where the names of folders tell it; None where only a read does."""
    files = [getattr(piece, "file", None) for piece in source.chunks.pieces]
    constants = [dict(file.constants) if file is not None else {} for file in files]
    if not all(data.by in each for each in constants):
        return None
    return len({each[data.by].as_py() for each in constants} - {None})


def in_order(keys: set[Key]) -> list[Key]:
    """Return all keys of a column in their order; texts that are all whole numbers, as in CSV, are those."""
    texts = [key for key in keys if isinstance(key, str)]
    if texts and all(_is_whole(text) for text in texts):
        return sorted(keys, key=int)
    return sorted(keys, key=lambda key: (isinstance(key, str), key))


def _is_whole(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and text == str(int(text))
