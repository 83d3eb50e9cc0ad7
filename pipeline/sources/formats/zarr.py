"""Zarr stores, v2 and v3: an array of shape (n_rows, n_columns), or a group with one array per column."""

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
from pipeline.config.data import DataConfig
from pipeline.config.formats import ZARR
from pipeline.sources.base import (
    READ_BYTES,
    Block,
    ChunkPolicy,
    Column,
    Selection,
    Source,
    Span,
    column_positions,
    numbered_columns,
    numeric_dtype,
    select_columns,
    spans_read,
)
from pipeline.sources.location import Location, filled_in

# copies of a storage chunk: as it is stored and decoded, and what Zarr's threads keep of those before
DECODED_COPIES = 3


class _WholeStore(WrapperStore[Any]):
    """A store that refuses missing chunks: Zarr reads a lost chunk as fill values."""

    def __init__(self, store: Any, source: str) -> None:
        super().__init__(store)
        self._source = source

    def _with_store(self, store: Any) -> _WholeStore:
        return _WholeStore(store, self._source)

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        found = await self._store.get(key, *args, **kwargs)
        if found is None and PurePosixPath(key).name not in ZARR.metadata:
            raise UserError(
                f"data.source: the chunk {key} of {self._source} is not stored, and may be lost. Copy or write the "
                "data again; if it was left out because it holds fill values only, set data.missing_chunks to fill."
            )
        return found


def open_zarr(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open a Zarr array or group; see :func:`pipeline.sources.open_source`."""
    with location.reading():
        try:
            node = zarr.open(_store(data, location), mode="r")
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            words = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"data.source: {data.shown} is not a Zarr array or group: {words}.") from None
        if isinstance(node, zarr.Array):
            return _open_array(node, data, location, policy)
        return _open_group(node, data, location, policy)


def _store(data: DataConfig, location: Location) -> Store:
    """Return the store, which refuses missing chunks unless the configuration allows them."""
    if location.is_local:
        store: Store = LocalStore(location.path, read_only=True)
    else:
        url, options = filled_in(data)
        store = FsspecStore.from_url(url, storage_options=options, read_only=True)
    return store if data.missing_chunks == "fill" else _WholeStore(store, data.shown)


# -- one array -----------------------------------------------------------------------------------------------


def _open_array(array: zarr.Array[Any], data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    if array.ndim not in (1, 2):
        raise UserError(
            f"data.source: the array {data.shown} must have the shape (n_rows, n_columns); its shape is {array.shape}."
        )
    found = numbered_columns(array.shape, _dtype(array))
    selection = select_columns(found, data)
    positions = column_positions(selection.fields, found)
    everything = positions.tolist() == list(range(len(found)))
    whole = everything or array.ndim == 1
    reader = _ArrayReader(location, array, None if whole else positions, selection.block_dtype, _missing(array))
    return _source(reader, [array], selection, data, location, policy)


@dataclass(frozen=True, eq=False)
class _ArrayReader:
    """Reads rows of an array; ``positions`` are its columns to read, None for all."""

    location: Location
    array: zarr.Array[Any]
    positions: NDArray[np.intp] | None
    dtype: np.dtype[Any]
    missing: float | None

    def read(self, piece: Span) -> Block:
        """Return rows ``piece``, (n_rows, n_fields)."""
        with _decoding(self.location, self.array, piece):
            if self.positions is None:
                values = np.asarray(self.array[piece.start : piece.stop], dtype=self.dtype, order="C")
                block = values.reshape(len(piece), math.prod(values.shape[1:]))
            else:
                block = np.empty((len(piece), len(self.positions)), dtype=self.dtype)
                for span in spans_read(piece, self._row_bytes(self.positions), _unit(self.array)):
                    chosen = self.array.oindex[span.start : span.stop, self.positions]
                    block[span.start - piece.start : span.stop - piece.start] = cast(Any, chosen)
        return _with_nan(block, self.missing)

    def _row_bytes(self, positions: NDArray[np.intp]) -> int:
        """Bytes of a row in the storage chunks that some columns are in."""
        width = self.array.chunks[1]
        return len(np.unique(positions // width)) * width * _dtype(self.array).itemsize

    def read_bytes(self, n_rows: int) -> int:
        """What the read of so many rows holds beside them."""
        if self.positions is None:
            return _decoded_bytes(self.array, n_rows)
        row_bytes = self._row_bytes(self.positions)
        unit = _unit(self.array)
        return DECODED_COPIES * row_bytes * unit * max(1, min(READ_BYTES // (row_bytes * unit), -(-n_rows // unit)))


# -- one array per column --------------------------------------------------------------------------------------


def _open_group(group: zarr.Group, data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    with warnings.catch_warnings():
        # Zarr warns of other files in the group, which do no harm here
        warnings.simplefilter("ignore", ZarrUserWarning)
        arrays = dict(sorted(group.arrays()))
    selection = select_columns([_column(name, array) for name, array in arrays.items()], data)
    chosen = {name: arrays[name] for name in selection.fields}
    _require_plain(chosen, data.source)
    _require_one_length(chosen, data.source)
    columns = tuple(chosen.values())
    reader = _ColumnsReader(location, columns, tuple(map(_missing, columns)), selection.block_dtype)
    return _source(reader, columns, selection, data, location, policy)


def _column(name: str, array: zarr.Array[Any]) -> Column:
    """Return an array as a column; a dimension's own index, such as the rows' numbers, is only selected by name."""
    dtype = _dtype(array)
    if array.ndim != 1:
        return Column(name, f"of shape {array.shape}", None)
    # v2 has no names of dimensions, except in an attribute that xarray writes
    dimensions: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS", ())
    return Column(name, str(dtype), numeric_dtype(dtype), offered=tuple(dimensions) != (name,))


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
    """Reads rows of several arrays, one per column."""

    location: Location
    arrays: tuple[zarr.Array[Any], ...]
    missing: tuple[float | None, ...]
    dtype: np.dtype[Any]

    def read(self, piece: Span) -> Block:
        """Return rows ``piece``, (n_rows, n_fields)."""
        block = np.empty((len(piece), len(self.arrays)), dtype=self.dtype)
        for i, (array, missing) in enumerate(zip(self.arrays, self.missing, strict=True)):
            with _decoding(self.location, array, piece):
                block[:, i] = cast(Any, array[piece.start : piece.stop])
            _with_nan(block[:, i], missing)
        return block

    def read_bytes(self, n_rows: int) -> int:
        """What the read of so many rows holds beside them."""
        return max(_decoded_bytes(array, n_rows) for array in self.arrays)


# -- both ----------------------------------------------------------------------------------------------------


@contextmanager
def _decoding(location: Location, array: zarr.Array[Any], piece: Span) -> Iterator[None]:
    """Turn errors of decoding a chunk into messages for the user."""
    with location.reading():
        try:
            yield
        except UserError:
            raise
        except (ValueError, RuntimeError, TypeError) as error:
            name = f"the column {array.basename!r} of {location.source}" if array.basename else location.source
            words = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"data.source: {name} is damaged somewhere in rows {piece.start:,} to {piece.stop - 1:,}: {words}. "
                "Copy or write it again."
            ) from None


def _source(
    reader: _ArrayReader | _ColumnsReader,
    arrays: Sequence[zarr.Array[Any]],
    selection: Selection,
    data: DataConfig,
    location: Location,
    policy: ChunkPolicy,
) -> Source:
    n_rows = arrays[0].shape[0]
    unit = min(_storage_rows(arrays), max(1, n_rows))
    step = policy.stored(data, n_rows, len(selection.fields), unit)
    return Source.of_rows(
        location,
        ZARR,
        selection,
        reader,
        n_rows=n_rows,
        step=step,
        identity=(data.source, [array.metadata.to_dict() for array in arrays]),
        bytes_per_pass=sum(array.nbytes for array in arrays),
        read_bytes=reader.read_bytes(min(step, n_rows)),
        unit=unit,
    )


def _unit(array: zarr.Array[Any]) -> int:
    """Rows of a storage chunk."""
    return max(1, array.chunks[0])


def _decoded_bytes(array: zarr.Array[Any], n_rows: int) -> int:
    """Bytes of the storage chunks of whole rows that are decoded at a time, with their copies."""
    unit = _unit(array)
    numbers = -(-n_rows // unit) * unit * math.prod(array.shape[1:])
    if not array.shards:  # of a shard, Zarr reads all chunks that it needs at once
        numbers = min(numbers, int(zarr.config.get("async.concurrency")) * math.prod(array.chunks))
    return DECODED_COPIES * numbers * _dtype(array).itemsize


def _storage_rows(arrays: Sequence[zarr.Array[Any]]) -> int:
    """Return the least common multiple of the arrays' storage chunks, or the largest of them if that is much less."""
    rows = [_unit(array) for array in arrays]
    common = math.lcm(*rows)
    return common if common <= 4 * max(rows) else max(rows)


def _dtype(array: zarr.Array[Any]) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(cast(Any, array.dtype))
    return dtype


def _missing(array: zarr.Array[Any]) -> float | None:
    """Return the number other than NaN that xarray wrote for missing values, or None."""
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
