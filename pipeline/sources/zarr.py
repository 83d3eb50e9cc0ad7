"""Zarr stores, v2 and v3: an array of shape (n_rows, n_columns), or a group with one array a column."""

from __future__ import annotations

import base64
import math
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ZarrUserWarning

from gmm_dask.errors import UserError
from pipeline.config import DataConfig
from pipeline.sources.base import (
    Block,
    Column,
    Reader,
    Selection,
    Source,
    Span,
    column_positions,
    cut,
    lazy_rows,
    numbered_columns,
    numeric_dtype,
    refuse_empty,
    rows_per_chunk,
    select_columns,
)


def open_zarr(data: DataConfig) -> Source:
    """Open a Zarr array or group; see :func:`pipeline.sources.open_source`."""
    try:
        node = zarr.open(data.source, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"data.source: {data.source} is not a Zarr array or group: {error}.") from None
    if isinstance(node, zarr.Array):
        return _open_array(node, data)
    return _open_group(node, data)


# -- one array -----------------------------------------------------------------------------------------------


def _open_array(array: zarr.Array[Any], data: DataConfig) -> Source:
    if array.ndim not in (1, 2):
        raise UserError(
            f"data.source: the array {data.source} must have the shape (n_rows, n_columns); its shape is {array.shape}."
        )
    found = numbered_columns(array.shape, _dtype(array))
    selection = select_columns(found, data)
    positions = column_positions(selection.fields, found)
    everything = positions.tolist() == list(range(len(found)))
    reader = _ArrayReader(array, None if everything else positions, selection.block_dtype, _missing(array))
    return _source(reader, [array], selection, data)


@dataclass(frozen=True, eq=False)
class _ArrayReader:
    """Reads rows of an array; ``positions`` are its columns to read, None for all."""

    array: zarr.Array[Any]
    positions: NDArray[np.intp] | None
    dtype: np.dtype[Any]
    missing: float | None

    def read(self, piece: Span) -> Block:
        """Rows ``piece``, (n_rows, n_fields)."""
        rows = slice(piece.start, piece.stop)
        if self.positions is None or self.array.ndim == 1:
            values = self.array[rows]
        else:
            values = self.array.oindex[rows, self.positions]
        block = np.asarray(values, dtype=self.dtype, order="C").reshape(len(piece), -1)
        return _with_nan(block, self.missing)


# -- one array a column --------------------------------------------------------------------------------------


def _open_group(group: zarr.Group, data: DataConfig) -> Source:
    with warnings.catch_warnings():
        # files that are not Zarr's are none of our business here
        warnings.simplefilter("ignore", ZarrUserWarning)
        arrays = dict(sorted(group.arrays()))
    selection = select_columns([_column(name, array) for name, array in arrays.items()], data)
    chosen = {name: arrays[name] for name in selection.fields}
    _require_plain(chosen, data.source)
    _require_one_length(chosen, data.source)
    reader = _ColumnsReader(tuple(chosen.values()), tuple(map(_missing, chosen.values())), selection.block_dtype)
    return _source(reader, list(chosen.values()), selection, data)


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

    arrays: tuple[zarr.Array[Any], ...]
    missing: tuple[float | None, ...]
    dtype: np.dtype[Any]

    def read(self, piece: Span) -> Block:
        """Rows ``piece``, (n_rows, n_fields)."""
        block = np.empty((len(piece), len(self.arrays)), dtype=self.dtype)
        for i, (array, missing) in enumerate(zip(self.arrays, self.missing, strict=True)):
            block[:, i] = cast(Any, array[piece.start : piece.stop])
            _with_nan(block[:, i], missing)
        return block


# -- both ----------------------------------------------------------------------------------------------------


def _source(reader: Reader[Span], arrays: Sequence[zarr.Array[Any]], selection: Selection, data: DataConfig) -> Source:
    n_rows = arrays[0].shape[0]
    if not n_rows:
        refuse_empty(data.source)
    storage = _storage_rows(arrays)
    wanted = rows_per_chunk(data, n_rows, len(selection.fields))
    pieces = list(cut(n_rows, max(1, wanted // storage) * storage))
    identity = [array.metadata.to_dict() for array in arrays]
    array, weights = lazy_rows(reader, pieces, list(map(len, pieces)), selection, data.source, identity)
    n_bytes = sum(array.nbytes for array in arrays)
    return Source(array, weights, selection.columns, n_rows, max(map(len, pieces)), n_bytes, data.source, "zarr")


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
