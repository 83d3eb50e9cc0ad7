"""Zarr stores, v2 and v3: an array of shape (n_rows, n_columns), or a group with one array a column."""

from __future__ import annotations

import base64
import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.errors import ZarrUserWarning
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from gmm_dask.errors import UserError
from pipeline.config.job import DataConfig
from pipeline.sources.base import (
    Block,
    Chunks,
    Column,
    Reader,
    Selection,
    Source,
    Span,
    column_positions,
    cut,
    numbered_columns,
    numeric_dtype,
    refuse_empty,
    select_columns,
)
from pipeline.sources.chunk_policy import ChunkPolicy
from pipeline.sources.location import ZARR_METADATA, Place, filled_in


class _WholeStore(WrapperStore[Any]):
    """A store in which every chunk is there: Zarr would read a lost one as fill values."""

    def __init__(self, store: Any, source: str) -> None:
        super().__init__(store)
        self._source = source

    def _with_store(self, store: Any) -> _WholeStore:
        return _WholeStore(store, self._source)

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        found = await self._store.get(key, *args, **kwargs)
        if found is None and PurePosixPath(key).name not in ZARR_METADATA:
            raise UserError(
                f"data.source: the chunk {key} of {self._source} is not stored, so that it may be lost. Copy or write "
                "the data again; or, if it was left out because it holds fill values only, take data.missing_chunks: "
                "fill."
            )
        return found


def open_zarr(data: DataConfig, place: Place, policy: ChunkPolicy) -> Source:
    """Open a Zarr array or group; see :func:`pipeline.sources.open_source`."""
    with place.reading():
        try:
            node = zarr.open(_store(data, place), mode="r")
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            words = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"data.source: {data.source} is not a Zarr array or group: {words}.") from None
        if isinstance(node, zarr.Array):
            return _open_array(node, data, place, policy)
        return _open_group(node, data, place, policy)


def _store(data: DataConfig, place: Place) -> Store:
    """The store, which is strict about missing chunks unless the configuration says otherwise."""
    if place.is_local:
        store: Store = LocalStore(place.path, read_only=True)
    else:
        url, options = filled_in(data)
        store = FsspecStore.from_url(url, storage_options=options, read_only=True)
    return store if data.missing_chunks == "fill" else _WholeStore(store, data.source)


# -- one array -----------------------------------------------------------------------------------------------


def _open_array(array: zarr.Array[Any], data: DataConfig, place: Place, policy: ChunkPolicy) -> Source:
    if array.ndim not in (1, 2):
        raise UserError(
            f"data.source: the array {data.source} must have the shape (n_rows, n_columns); its shape is {array.shape}."
        )
    found = numbered_columns(array.shape, _dtype(array))
    selection = select_columns(found, data)
    positions = column_positions(selection.fields, found)
    everything = positions.tolist() == list(range(len(found)))
    reader = _ArrayReader(place, array, None if everything else positions, selection.block_dtype, _missing(array))
    return _source(reader, [array], selection, data, place, policy)


@dataclass(frozen=True, eq=False)
class _ArrayReader:
    """Reads rows of an array; ``positions`` are its columns to read, None for all."""

    place: Place
    array: zarr.Array[Any]
    positions: NDArray[np.intp] | None
    dtype: np.dtype[Any]
    missing: float | None

    def read(self, piece: Span) -> Block:
        """Rows ``piece``, (n_rows, n_fields)."""
        rows = slice(piece.start, piece.stop)
        with _decoding(self.place, self.array, piece):
            if self.positions is None or self.array.ndim == 1:
                values = self.array[rows]
            else:
                values = self.array.oindex[rows, self.positions]
        block = np.asarray(values, dtype=self.dtype, order="C").reshape(len(piece), -1)
        return _with_nan(block, self.missing)


# -- one array a column --------------------------------------------------------------------------------------


def _open_group(group: zarr.Group, data: DataConfig, place: Place, policy: ChunkPolicy) -> Source:
    with warnings.catch_warnings():
        # files that are not Zarr's are none of our business here
        warnings.simplefilter("ignore", ZarrUserWarning)
        arrays = dict(sorted(group.arrays()))
    selection = select_columns([_column(name, array) for name, array in arrays.items()], data)
    chosen = {name: arrays[name] for name in selection.fields}
    _require_plain(chosen, data.source)
    _require_one_length(chosen, data.source)
    columns = tuple(chosen.values())
    reader = _ColumnsReader(place, columns, tuple(map(_missing, columns)), selection.block_dtype)
    return _source(reader, columns, selection, data, place, policy)


def _column(name: str, array: zarr.Array[Any]) -> Column:
    """An array as a column; the index of its own dimension, such as a row's number, is only taken by name."""
    dtype = _dtype(array)
    if array.ndim != 1:
        return Column(name, f"of shape {array.shape}", None)
    return Column(name, str(dtype), numeric_dtype(dtype), offered=_dimensions(array) != (name,))


def _require_plain(arrays: dict[str, zarr.Array[Any]], path: str) -> None:
    for name, array in arrays.items():
        packed = [key for key in ("scale_factor", "add_offset") if key in array.attrs]
        if packed:
            raise UserError(
                f"data.source: the column {name!r} of {path} is packed ({', '.join(packed)}): its numbers are "
                "not in its unit. Write it unpacked, without these attributes."
            )


def _require_one_length(arrays: dict[str, zarr.Array[Any]], path: str) -> None:
    if len({array.shape[0] for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} {array.shape[0]}" for name, array in arrays.items())
        raise UserError(
            f"data.source: the columns of {path} differ in length: {lengths}. List those of one length in data.columns."
        )


@dataclass(frozen=True, eq=False)
class _ColumnsReader:
    """Reads rows of several arrays, one a column."""

    place: Place
    arrays: tuple[zarr.Array[Any], ...]
    missing: tuple[float | None, ...]
    dtype: np.dtype[Any]

    def read(self, piece: Span) -> Block:
        """Rows ``piece``, (n_rows, n_fields)."""
        block = np.empty((len(piece), len(self.arrays)), dtype=self.dtype)
        for i, (array, missing) in enumerate(zip(self.arrays, self.missing, strict=True)):
            with _decoding(self.place, array, piece):
                block[:, i] = cast(Any, array[piece.start : piece.stop])
            _with_nan(block[:, i], missing)
        return block


# -- both ----------------------------------------------------------------------------------------------------


@contextmanager
def _decoding(place: Place, array: zarr.Array[Any], piece: Span) -> Iterator[None]:
    """Put in words that a chunk is not what was written."""
    with place.reading():
        try:
            yield
        except UserError:
            raise
        except (ValueError, RuntimeError, TypeError) as error:
            name = f"the column {array.basename!r} of {place.source}" if array.basename else place.source
            words = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"data.source: {name} is damaged somewhere in rows {piece.start:,} to {piece.stop - 1:,}: {words}. "
                "Copy or write it again."
            ) from None


def _source(
    reader: Reader[Span],
    arrays: Sequence[zarr.Array[Any]],
    selection: Selection,
    data: DataConfig,
    place: Place,
    policy: ChunkPolicy,
) -> Source:
    n_rows = arrays[0].shape[0]
    if not n_rows:
        refuse_empty(data.source)
    storage = _storage_rows(arrays)
    wanted = policy.rows(data, n_rows, len(selection.fields))
    pieces = list(cut(n_rows, max(1, wanted // storage) * storage))
    identity = data.source, [array.metadata.to_dict() for array in arrays]
    chunks = Chunks(reader, pieces, list(map(len, pieces)), identity)
    n_bytes = sum(array.nbytes for array in arrays)
    return Source(place, "zarr", selection, chunks, n_rows, max(map(len, pieces)), n_bytes)


def _storage_rows(arrays: Sequence[zarr.Array[Any]]) -> int:
    """Rows after which a storage chunk of every array ends, or those of the largest, if that is far away."""
    rows = [array.chunks[0] for array in arrays]
    common = math.lcm(*rows)
    return common if common <= 4 * max(rows) else max(rows)


def _dtype(array: zarr.Array[Any]) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(cast(Any, array.dtype))
    return dtype


def _dimensions(array: zarr.Array[Any]) -> tuple[Any, ...]:
    """Names of the dimensions; v2 has them from xarray only."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS", ())
    return tuple(cast(Any, names))


def _missing(array: zarr.Array[Any]) -> float | None:
    """The number that xarray wrote for a missing value, other than NaN; None if there is none."""
    value: Any = array.attrs.get("_FillValue")
    if isinstance(value, str):
        (value,) = struct.unpack("<d", base64.standard_b64decode(value))
    if value is None and array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in array.attrs:
        value = array.metadata.fill_value
    return None if value is None or math.isnan(value) else float(value)


def _with_nan(block: Block, missing: float | None) -> Block:
    if missing is not None:
        block[block == block.dtype.type(missing)] = np.nan
    return block
