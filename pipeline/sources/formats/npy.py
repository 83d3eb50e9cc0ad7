"""NPY files: an array of shape (n_rows, n_columns), in C or Fortran order, read by offset."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import NPY
from pipeline.sources.base import (
    READ_BYTES,
    Block,
    ChunkPolicy,
    Source,
    Span,
    column_positions,
    numbered_columns,
    select_columns,
    spans_read,
)
from pipeline.sources.location import Location

# larger than any header
HEADER_BYTES = 2**16


@dataclass(frozen=True)
class _Header:
    """The position and layout of a file's numbers."""

    location: Location
    n_rows: int
    n_columns: int
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int


def open_npy(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open an NPY file; see :func:`pipeline.sources.open_source`."""
    header = _read_header(location)
    found = numbered_columns((header.n_rows, header.n_columns), header.dtype)
    selection = select_columns(found, data)
    reader = _NpyReader(header, tuple(column_positions(selection.fields, found).tolist()), selection.block_dtype)
    # in C order the columns that are not selected lie between the others, and are read with them
    n_read = len(reader.positions) if header.fortran_order else header.n_columns
    return Source.of_rows(
        location,
        NPY,
        selection,
        reader,
        n_rows=header.n_rows,
        step=policy.rows(data, header.n_rows, len(selection.fields)),
        identity=(location.source, location.version()),
        bytes_per_pass=header.n_rows * n_read * header.dtype.itemsize,
        read_bytes=max(READ_BYTES, header.n_columns * header.dtype.itemsize),
    )


def _read_header(location: Location) -> _Header:
    path = location.source
    n_bytes = location.size()
    beginning = io.BytesIO(location.read(0, min(HEADER_BYTES, n_bytes)))
    try:
        version = npy.read_magic(beginning)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read(beginning)
    except ValueError as error:
        raise UserError(
            f"data.source: {path} is not a valid NPY file: {str(error).rstrip('.')}. Write it with numpy.save."
        ) from None
    offset = beginning.tell()
    if len(shape) not in (1, 2):
        raise UserError(f"data.source: {path} must hold an array of shape (n_rows, n_columns); its shape is {shape}.")
    n_rows, n_columns = shape if len(shape) == 2 else (*shape, 1)
    expected = n_rows * n_columns * dtype.itemsize
    if n_bytes - offset < expected and not dtype.hasobject:
        raise UserError(
            f"data.source: {path} is truncated: its header promises {expected} bytes of numbers, "
            f"and {n_bytes - offset} are there. Copy or write it again."
        )
    return _Header(location, n_rows, n_columns, fortran_order, dtype, offset)


@dataclass(frozen=True)
class _NpyReader:
    """Reads rows of an NPY file, by offset.

    Cached pages of a memory map would count as this process's memory, and a file that is cut short would end it.
    """

    header: _Header
    positions: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, piece: Span) -> Block:
        """Return rows ``piece``, (n_rows, n_fields)."""
        if self.header.fortran_order:
            block = np.empty((len(piece), len(self.positions)), dtype=self.dtype)
            for field, column in enumerate(self.positions):
                block[:, field] = self._numbers(column * self.header.n_rows + piece.start, len(piece))
            return block
        width = self.header.n_columns
        if self.positions == tuple(range(width)):
            return np.ascontiguousarray(self._rows(piece), dtype=self.dtype)
        block = np.empty((len(piece), len(self.positions)), dtype=self.dtype)
        for span in spans_read(piece, width * self.header.dtype.itemsize):
            block[span.start - piece.start : span.stop - piece.start] = self._rows(span)[:, self.positions]
        return block

    def _rows(self, span: Span) -> NDArray[Any]:
        width = self.header.n_columns
        return self._numbers(span.start * width, len(span) * width).reshape(len(span), width)

    def _numbers(self, first: int, count: int) -> NDArray[Any]:
        numbers = np.empty(count, dtype=self.header.dtype)
        self.header.location.fill(self.header.offset + first * numbers.itemsize, numbers)
        return numbers
