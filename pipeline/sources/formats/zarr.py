"""Zarr stores, v2 and v3: an array of shape (n_rows, n_columns), or a group with one array per column."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.errors import ZarrUserWarning
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from gmm_dask.conventions import Encoding, date_units, zarr_attributes
from gmm_dask.errors import UserError
from gmm_dask.formatting import listed
from gmm_dask.memory import release_freed
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
    stored_column,
    stored_encoding,
    with_decoding_note,
)
from pipeline.sources.location import Location, filled_in

# copies of a storage chunk: as it is stored and decoded, and what Zarr's threads keep of those before
DECODED_COPIES = 4
# what they keep of larger storage chunks than this is given back after each read, where the C library can: Zarr has up
# to 32 threads, each with its part. A read of 20 chunks of 23 MiB took 112 MiB without it, and 45 to 68 with it; a job
# over a grid in chunks of 1 MiB 725 to 752 MiB without it, and 617 with it, in the same time (benchmarks/ocean.py).
KEPT_BYTES = 2**18


class _WholeStore(WrapperStore[Any]):
    """A store that refuses missing chunks: Zarr reads a lost chunk as fill values."""

    def __init__(self, store: Any, source: str) -> None:
        super().__init__(store)
        self._source = source

    def _with_store(self, store: Any) -> _WholeStore:
        return _WholeStore(store, self._source)

    @property
    def inner(self) -> Store:
        """The store that has the chunks."""
        found: Store = self._store
        return found

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
        node = open_node(data, location)
        if isinstance(node, zarr.Array):
            if data.variables is not None:
                raise UserError(
                    f"data.variables: {data.shown} is an array of its own. Set data.source to the group that it is a "
                    "variable of."
                )
            return _open_array(node, data, location, policy)
        if data.variables is not None:
            from pipeline.sources.formats.zarr_grids import open_zarr_grid

            return open_zarr_grid(node, data, location, policy)
        return _open_group(node, data, location, policy)


def open_node(data: DataConfig, location: Location) -> zarr.Array[Any] | zarr.Group:
    """Return the array or the group; raises :class:`UserError` if there is none."""
    try:
        return zarr.open(_store(data, location), mode="r")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        words = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"data.source: {data.shown} is not a Zarr array or group: {words}.") from None


def _store(data: DataConfig, location: Location) -> Store:
    """Return the store, which refuses missing chunks unless the configuration allows them."""
    if location.is_local:
        store: Store = LocalStore(location.path, read_only=True)
    else:
        url, options = filled_in(data)
        store = FsspecStore.from_url(url, storage_options=options, read_only=True)
    return store if data.missing_chunks == "fill" else _WholeStore(store, data.shown)


def filled_if_absent(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return an array whose chunks that are not stored are read as its fill value."""
    store = array.store
    return zarr.open_array(store.inner, path=array.path, mode="r") if isinstance(store, _WholeStore) else array


# -- one array -----------------------------------------------------------------------------------------------


def _open_array(array: zarr.Array[Any], data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    if array.ndim not in (1, 2):
        raise UserError(
            f"data.source: the array {data.shown} must have the shape (n_rows, n_columns); its shape is {array.shape}."
        )
    found = numbered_columns(array.shape, dtype_of(array), zarr_attributes(array))
    selection = select_columns(found, data)
    positions = column_positions(selection.fields, found)
    everything = positions.tolist() == list(range(len(found)))
    whole = everything or array.ndim == 1
    encoding = _encoding(array, data.shown)
    selection = with_decoding_note(selection, [encoding] * len(selection.fields))
    reader = _ArrayReader(location, array, None if whole else positions, selection.block_dtype, encoding)
    return _source(reader, [array], selection, data, location, policy)


@dataclass(frozen=True, eq=False)
class _ArrayReader:
    """Reads rows of an array; ``positions`` are its columns to read, None for all."""

    location: Location
    array: zarr.Array[Any]
    positions: NDArray[np.intp] | None
    dtype: np.dtype[Any]
    encoding: Encoding

    def read(self, piece: Span) -> Block:
        """Return rows ``piece``, (n_rows, n_fields)."""
        with decoding(self.location, self.array, _rows(piece)):
            if self.positions is None:
                values = self._values(self.array[piece.start : piece.stop])
                give_back(self.array)
                return values.reshape(len(piece), math.prod(values.shape[1:]))
            block = np.empty((len(piece), len(self.positions)), dtype=self.dtype)
            for span in spans_read(piece, self._row_bytes(self.positions), _unit(self.array)):
                chosen = self.array.oindex[span.start : span.stop, self.positions]
                block[span.start - piece.start : span.stop - piece.start] = self._values(chosen)
                give_back(self.array)
        return block

    def _values(self, stored: Any) -> Block:
        return self.encoding.decode(np.asarray(stored), self.dtype)

    def _row_bytes(self, positions: NDArray[np.intp]) -> int:
        """Bytes of a row in the storage chunks that some columns are in."""
        width = self.array.chunks[1]
        return len(np.unique(positions // width)) * width * dtype_of(self.array).itemsize

    def read_bytes(self, n_rows: int) -> int:
        """What the read of so many rows holds beside them."""
        if self.positions is None:
            return _decoded_bytes(self.array, n_rows)
        row_bytes = self._row_bytes(self.positions)
        unit = _unit(self.array)
        return DECODED_COPIES * row_bytes * unit * max(1, min(READ_BYTES // (row_bytes * unit), -(-n_rows // unit)))


# -- one array per column --------------------------------------------------------------------------------------


def _open_group(group: zarr.Group, data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    arrays = arrays_of(group)
    if data.columns is None:
        _refuse_grid(arrays, data)
    selection = select_columns([_column(name, array) for name, array in arrays.items()], data)
    chosen = {name: arrays[name] for name in selection.fields}
    _require_one_length(chosen, data.source)
    columns = tuple(chosen.values())
    encodings = tuple(_encoding(array, f"the column {name!r} of {data.shown}") for name, array in chosen.items())
    selection = with_decoding_note(selection, encodings)
    reader = _ColumnsReader(location, columns, encodings, selection.block_dtype)
    return _source(reader, columns, selection, data, location, policy)


def _refuse_grid(arrays: dict[str, zarr.Array[Any]], data: DataConfig) -> None:
    """Raise :class:`UserError` if arrays have numbers on a grid, of which the configuration does not speak."""
    shown = {name: f"{name}({', '.join(dimensions_of(array))})" for name, array in arrays.items()}
    on_grid = [name for name, array in arrays.items() if array.ndim > 1 and dimensions_of(array) and is_numeric(array)]
    if on_grid:
        raise UserError(
            f"data.source: {data.shown} has variables on a grid: {listed([shown[name] for name in on_grid])}. Name "
            f"those to cluster on in data.variables, such as [{on_grid[0]}], and in data.feature_dims the dimensions "
            "that are columns; all others are rows. Or name arrays of one dimension in data.columns."
        )


def is_numeric(array: zarr.Array[Any]) -> bool:
    """Whether an array holds numbers; dates are none."""
    return numeric_dtype(dtype_of(array)) is not None and not date_units(array.attrs)


def arrays_of(group: zarr.Group) -> dict[str, zarr.Array[Any]]:
    """Return the arrays of a group by their names, in alphabetical order."""
    with warnings.catch_warnings():
        # Zarr warns of other files in the group, which do no harm here
        warnings.simplefilter("ignore", ZarrUserWarning)
        return dict(sorted(group.arrays()))


def _column(name: str, array: zarr.Array[Any]) -> Column:
    """Return an array as a column; a dimension's own index, such as the rows' numbers, is only selected by name."""
    dimensions = dimensions_of(array)
    if array.ndim != 1:
        shape = f"({', '.join(dimensions)})" if len(dimensions) == array.ndim else f"of shape {array.shape}"
        return Column(name, shape, None)
    column = stored_column(name, dtype_of(array), zarr_attributes(array))
    return replace(column, offered=dimensions != (name,))


def dimensions_of(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Return the names of an array's dimensions; v2 has them in an attribute that xarray writes, and none otherwise."""
    found: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS", ())
    return tuple(map(str, found)) if all(found) else ()


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
    encodings: tuple[Encoding, ...]
    dtype: np.dtype[Any]

    def read(self, piece: Span) -> Block:
        """Return rows ``piece``, (n_rows, n_fields)."""
        block = np.empty((len(piece), len(self.arrays)), dtype=self.dtype)
        for i, (array, encoding) in enumerate(zip(self.arrays, self.encodings, strict=True)):
            with decoding(self.location, array, _rows(piece)):
                block[:, i] = encoding.decode(np.asarray(array[piece.start : piece.stop]), self.dtype)
            give_back(array)
        return block

    def read_bytes(self, n_rows: int) -> int:
        """What the read of so many rows holds beside them."""
        return max(_decoded_bytes(array, n_rows) for array in self.arrays)


# -- both ----------------------------------------------------------------------------------------------------


@contextmanager
def decoding(location: Location, array: zarr.Array[Any], part: str) -> Iterator[None]:
    """Turn errors of decoding a chunk into messages for the user, which name the part that is read."""
    with location.reading():
        try:
            yield
        except UserError:
            raise
        except (ValueError, RuntimeError, TypeError) as error:
            name = f"the column {array.basename!r} of {location.source}" if array.basename else location.source
            words = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"data.source: {name} is damaged somewhere in {part}: {words}. Copy or write it again."
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


def _rows(piece: Span) -> str:
    return f"rows {piece.start:,} to {piece.stop - 1:,}"


def give_back(array: zarr.Array[Any]) -> None:
    """Return what Zarr's threads keep of large storage chunks to the operating system."""
    if math.prod(array.chunks) * dtype_of(array).itemsize > KEPT_BYTES:
        release_freed()


def _unit(array: zarr.Array[Any]) -> int:
    """Rows of a storage chunk."""
    return max(1, array.chunks[0])


def _decoded_bytes(array: zarr.Array[Any], n_rows: int) -> int:
    """Bytes of the storage chunks of whole rows that are decoded at a time, with their copies."""
    unit = _unit(array)
    numbers = -(-n_rows // unit) * unit * math.prod(array.shape[1:])
    if not array.shards:  # of a shard, Zarr reads all chunks that it needs at once
        numbers = min(numbers, int(zarr.config.get("async.concurrency")) * math.prod(array.chunks))
    return DECODED_COPIES * numbers * dtype_of(array).itemsize


def _storage_rows(arrays: Sequence[zarr.Array[Any]]) -> int:
    """Return the least common multiple of the arrays' storage chunks, or the largest of them if that is much less."""
    rows = [_unit(array) for array in arrays]
    common = math.lcm(*rows)
    return common if common <= 4 * max(rows) else max(rows)


def dtype_of(array: zarr.Array[Any]) -> np.dtype[Any]:
    """Return the dtype of an array's numbers."""
    dtype: np.dtype[Any] = np.dtype(cast(Any, array.dtype))
    return dtype


def _encoding(array: zarr.Array[Any], where: str) -> Encoding:
    return stored_encoding(zarr_attributes(array), dtype_of(array), where)
