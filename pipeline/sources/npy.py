"""NPY files: an array of shape (n_rows, n_columns), in C or Fortran order, read by offset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from pipeline.config import DataConfig
from pipeline.sources.base import (
    Block,
    Source,
    Span,
    column_positions,
    cut,
    lazy_rows,
    numbered_columns,
    refuse_empty,
    rows_per_chunk,
    select_columns,
)


@dataclass(frozen=True)
class _Header:
    """Where and how a file holds its numbers."""

    path: str
    n_rows: int
    n_columns: int
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int


def open_npy(data: DataConfig) -> Source:
    """Open an NPY file; see :func:`pipeline.sources.open_source`."""
    header = _read_header(data.source)
    found = numbered_columns((header.n_rows, header.n_columns), header.dtype)
    selection = select_columns(found, data)
    reader = _NpyReader(header, tuple(column_positions(selection.fields, found).tolist()), selection.block_dtype)
    pieces = list(cut(header.n_rows, rows_per_chunk(data, header.n_rows, len(selection.fields))))
    stat = Path(data.source).stat()
    array, weights = lazy_rows(
        reader, pieces, list(map(len, pieces)), selection, header, stat.st_size, stat.st_mtime_ns
    )
    n_read = len(reader.positions) if header.fortran_order else header.n_columns
    n_bytes = header.n_rows * n_read * header.dtype.itemsize
    return Source(array, weights, selection.columns, header.n_rows, max(map(len, pieces)), n_bytes, data.source, "npy")


def _read_header(path: str) -> _Header:
    try:
        with open(path, "rb") as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran_order, dtype = read(file)
            offset = file.tell()
            n_bytes = file.seek(0, 2) - offset
    except (OSError, ValueError) as error:
        raise UserError(f"data.source: {path} is not a valid NPY file: {error}.") from None
    if len(shape) not in (1, 2):
        raise UserError(f"data.source: {path} must hold an array of shape (n_rows, n_columns); its shape is {shape}.")
    n_rows, n_columns = shape if len(shape) == 2 else (*shape, 1)
    if not n_rows:
        refuse_empty(path)
    expected = n_rows * n_columns * dtype.itemsize
    if n_bytes < expected and not dtype.hasobject:
        raise UserError(
            f"data.source: {path} is truncated: its header promises {expected} bytes of numbers, "
            f"and {n_bytes} are there. Copy or write it again."
        )
    return _Header(path, n_rows, n_columns, fortran_order, dtype, offset)


@dataclass(frozen=True)
class _NpyReader:
    """Reads rows of an NPY file.

    It reads by offset: pages of a memory map would count as this process's memory while they are cached.
    """

    header: _Header
    positions: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, piece: Span) -> Block:
        """Rows ``piece``, (n_rows, n_fields)."""
        if self.header.fortran_order:
            block = np.empty((len(piece), len(self.positions)), dtype=self.dtype)
            for field, column in enumerate(self.positions):
                block[:, field] = self._numbers(column * self.header.n_rows + piece.start, len(piece))
            return block
        width = self.header.n_columns
        rows = self._numbers(piece.start * width, len(piece) * width).reshape(len(piece), width)
        if self.positions != tuple(range(width)):
            rows = rows[:, self.positions]
        return np.ascontiguousarray(rows, dtype=self.dtype)

    def _numbers(self, first: int, count: int) -> NDArray[Any]:
        dtype = self.header.dtype
        offset = self.header.offset + first * dtype.itemsize
        numbers = np.fromfile(self.header.path, dtype=dtype, count=count, offset=offset)
        if len(numbers) < count:
            raise UserError(f"data.source: {self.header.path} was truncated while it was read.")
        return numbers
