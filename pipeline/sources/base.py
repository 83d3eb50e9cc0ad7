"""What the formats share: the choice of columns, the size of chunks, and the lazy array over them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import itemgetter
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from pipeline.config import DataConfig

Block = NDArray[np.floating[Any]]
Piece = TypeVar("Piece")
PieceIn = TypeVar("PieceIn", contravariant=True)

# an automatic chunk: enough rows to be worth a task, few enough for a worker's memory
CHUNK_BYTES = 16 * 2**20
CHUNK_ROWS = 100_000, 1_000_000
CHUNKS_WANTED = 16


@dataclass(frozen=True, eq=False)
class Source:
    """Rows that are read when they are computed.

    Attributes
    ----------
    array : dask.array.Array of shape (n_rows, n_columns)
        float32 if every column is, else float64; one chunk of columns. A CSV's chunks are of unknown length.
    weights : dask.array.Array of shape (n_rows,), or None
        float64, chunked like the rows.
    columns : tuple of str
        The array's columns.
    n_rows : int or None
        None where only a read of the data can tell (CSV).
    chunk_rows : int
        Rows of the largest chunk; of a CSV an estimate, on the large side.
    bytes_per_pass : int
        Bytes that one read of the data takes from the disk; of a Zarr array before compression.
    path : str
        As in the configuration.
    kind : str
        ``"csv"``, ``"npy"``, ``"zarr"`` or ``"parquet"``.
    """

    array: da.Array
    weights: da.Array | None
    columns: tuple[str, ...]
    n_rows: int | None
    chunk_rows: int
    bytes_per_pass: int
    path: str
    kind: str


@dataclass(frozen=True)
class Column:
    """A column that a source has.

    Attributes
    ----------
    name : str
    type : str
        As the format calls it, for messages.
    dtype : numpy dtype or None
        None if the column is not numeric.
    offered : bool
        Whether it is taken when the configuration names no columns.
    """

    name: str
    type: str
    dtype: np.dtype[Any] | None
    offered: bool = True


@dataclass(frozen=True)
class Selection:
    """The columns that a job reads.

    Attributes
    ----------
    columns : tuple of str
        To cluster on.
    weights : str or None
    dtype : numpy dtype
        Of the rows: float32 if every column is, else float64.
    """

    columns: tuple[str, ...]
    weights: str | None
    dtype: np.dtype[Any]

    @property
    def fields(self) -> tuple[str, ...]:
        """All that is read: the columns, then the weights."""
        return self.columns if self.weights is None else (*self.columns, self.weights)

    @property
    def block_dtype(self) -> np.dtype[Any]:
        """What the fields are read as: float64 as soon as there are weights, which may need it."""
        return self.dtype if self.weights is None else np.dtype(np.float64)


@dataclass(frozen=True)
class Span:
    """A stretch of rows, or of bytes: from ``start`` up to and without ``stop``."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class Reader(Protocol[PieceIn]):
    """Reads one piece of a source: what a task of the graph holds."""

    def read(self, piece: PieceIn) -> Block:
        """The piece's rows, (n_rows, n_fields), of the selection's fields in order."""


# -- columns -------------------------------------------------------------------------------------------------


def select_columns(found: Sequence[Column], data: DataConfig) -> Selection:
    """The columns that the configuration asks for, or all numeric ones.

    Raises
    ------
    UserError
        If one does not exist or is not numeric, or if none is numeric.
    """
    by_name = {column.name: column for column in found}
    if data.weights is not None:
        _require_numeric(data.weights, by_name, "data.weights", data.source)
    if data.columns is None:
        chosen = [c for c in found if c.dtype is not None and c.offered and c.name != data.weights]
    else:
        chosen = [_require_numeric(name, by_name, "data.columns", data.source) for name in data.columns]
    if not chosen:
        listing = ", ".join(f"{column.name} ({column.type})" for column in found) or "no columns at all"
        raise UserError(f"data.source: {data.source} has no numeric columns to cluster on; it has {listing}.")
    single = all(c.dtype is not None and c.dtype.newbyteorder("=") == np.float32 for c in chosen)
    return Selection(
        tuple(column.name for column in chosen), data.weights, np.dtype(np.float32 if single else np.float64)
    )


def _require_numeric(name: str, by_name: dict[str, Column], key: str, path: str) -> Column:
    if name not in by_name:
        close = get_close_matches(name, by_name, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"{key}: {path} has no column {name!r}{hint}; its columns are {', '.join(by_name)}.")
    column = by_name[name]
    if column.dtype is None:
        numeric = ", ".join(c.name for c in by_name.values() if c.dtype is not None) or "none"
        raise UserError(
            f"{key}: the column {name!r} of {path} is not numeric ({column.type}); the numeric columns are {numeric}."
        )
    return column


def numeric_dtype(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The dtype itself if its values are real numbers or booleans, else None."""
    return dtype if dtype.kind in "fiub" else None


def numbered_columns(shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[Column]:
    """The columns of an array of shape (n_rows, n_columns) or (n_rows,): ``x0, x1, ...``."""
    n_columns = shape[1] if len(shape) == 2 else 1
    return [Column(f"x{i}", str(dtype), numeric_dtype(dtype)) for i in range(n_columns)]


def column_positions(names: Sequence[str], found: Sequence[Column]) -> NDArray[np.intp]:
    """Where the named columns stand among those found."""
    position = {column.name: i for i, column in enumerate(found)}
    return np.array([position[name] for name in names], dtype=np.intp)


def refuse_empty(path: str) -> NoReturn:
    """Raise :class:`UserError` for a source without rows."""
    raise UserError(f"data.source: {path} has no rows; a mixture needs at least two.")


# -- chunks --------------------------------------------------------------------------------------------------


def rows_per_chunk(data: DataConfig, n_rows: int, n_fields: int) -> int:
    """Rows that a chunk should have: as configured, or enough for a task and within 16 MiB of float64."""
    if data.chunk_rows != "auto":
        return data.chunk_rows
    fewest, most = CHUNK_ROWS
    wanted = min(most, max(fewest, math.ceil(n_rows / CHUNKS_WANTED)))
    return max(1, min(wanted, CHUNK_BYTES // (8 * n_fields)))


def cut(length: int, step: int) -> Iterator[Span]:
    """Consecutive spans of ``step``, the last one shorter."""
    for start in range(0, length, step):
        yield Span(start, min(start + step, length))


# -- the lazy array ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ReadRows(Generic[Piece]):
    """The task that reads one chunk; named so that a dashboard shows ``read-chunk``."""

    reader: Reader[Piece]
    selection: Selection

    def __call__(self, piece: Piece) -> Any:
        block = self.reader.read(piece)
        if self.selection.weights is None:
            return block
        # a copy: the rows must not keep the column of weights alive in their stride
        rows = np.ascontiguousarray(block[:, :-1], dtype=self.selection.dtype)
        return rows, np.ascontiguousarray(block[:, -1])


def lazy_rows(
    reader: Reader[Piece],
    pieces: Sequence[Piece],
    lengths: Sequence[float],
    selection: Selection,
    *identity: Any,
) -> tuple[da.Array, da.Array | None]:
    """The rows of a source, and their weights, as Dask arrays of one task a chunk.

    Parameters
    ----------
    reader : Reader
        Reads a piece; it travels in every task.
    pieces : sequence
        One for each chunk.
    lengths : sequence of float
        Rows of each piece; NaN where unknown.
    selection : Selection
    *identity : object
        What else tells this data from any other, for the names of the tasks.
    """
    token = tokenize(pieces, selection, *identity)
    name = f"read-chunk-{token}"
    read = _ReadRows(reader, selection)
    chunks = tuple(lengths), (len(selection.columns),)
    if selection.weights is None:
        tasks: dict[Hashable, Any] = {(name, i, 0): (read, piece) for i, piece in enumerate(pieces)}
        graph = HighLevelGraph.from_collections(name, tasks)
        return da.Array(graph, name, chunks=chunks, dtype=selection.dtype), None
    layers: dict[str, dict[Hashable, Any]] = {name: {(name, i): (read, piece) for i, piece in enumerate(pieces)}}
    rows, weights = f"rows-{token}", f"weights-{token}"
    layers[rows] = {(rows, i, 0): (itemgetter(0), (name, i)) for i in range(len(pieces))}
    layers[weights] = {(weights, i): (itemgetter(1), (name, i)) for i in range(len(pieces))}
    graph = HighLevelGraph(layers, {name: set(), rows: {name}, weights: {name}})
    return (
        da.Array(graph, rows, chunks=chunks, dtype=selection.dtype),
        da.Array(graph, weights, chunks=chunks[:1], dtype=np.dtype(np.float64)),
    )
