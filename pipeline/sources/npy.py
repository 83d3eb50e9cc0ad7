"""NPY files: an array of shape (n_rows, n_columns), in C or Fortran order, read by offset."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from pipeline.config.job import DataConfig
from pipeline.sources.base import (
    Block,
    Chunks,
    Source,
    Span,
    column_positions,
    cut,
    numbered_columns,
    refuse_empty,
    select_columns,
)
from pipeline.sources.chunk_policy import ChunkPolicy
from pipeline.sources.location import Place

# more than any header takes
HEADER_BYTES = 2**16


@dataclass(frozen=True)
class _Header:
    """Where and how a file holds its numbers."""

    place: Place
    n_rows: int
    n_columns: int
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int


def open_npy(data: DataConfig, place: Place, policy: ChunkPolicy) -> Source:
    """Open an NPY file; see :func:`pipeline.sources.open_source`."""
    header = _read_header(place)
    found = numbered_columns((header.n_rows, header.n_columns), header.dtype)
    selection = select_columns(found, data)
    reader = _NpyReader(header, tuple(column_positions(selection.fields, found).tolist()), selection.block_dtype)
    pieces = list(cut(header.n_rows, policy.rows(data, header.n_rows, len(selection.fields))))
    chunks = Chunks(reader, pieces, list(map(len, pieces)), (place.source, place.version()))
    n_read = len(reader.positions) if header.fortran_order else header.n_columns
    n_bytes = header.n_rows * n_read * header.dtype.itemsize
    return Source(place, "npy", selection, chunks, header.n_rows, max(map(len, pieces)), n_bytes)


def _read_header(place: Place) -> _Header:
    path = place.source
    n_bytes = place.size()
    beginning = io.BytesIO(place.read(0, min(HEADER_BYTES, n_bytes)))
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
    if not n_rows:
        refuse_empty(path)
    expected = n_rows * n_columns * dtype.itemsize
    if n_bytes - offset < expected and not dtype.hasobject:
        raise UserError(
            f"data.source: {path} is truncated: its header promises {expected} bytes of numbers, "
            f"and {n_bytes - offset} are there. Copy or write it again."
        )
    return _Header(place, n_rows, n_columns, fortran_order, dtype, offset)


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
        numbers = np.empty(count, dtype=self.header.dtype)
        self.header.place.fill(self.header.offset + first * numbers.itemsize, numbers)
        return numbers
