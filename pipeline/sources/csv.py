"""CSV files: one header line, comma-separated, read in blocks of whole lines.

PyArrow's parser is used: it rounds numbers exactly, refuses lines with too few or too many fields, and releases the
GIL. A quoted field may not contain a line break.

A block is one range request that reads a little beyond its end, for the rest of the last line. fsspec's ``read_block``
looks for both ends first. Measured for 19.6 MB in 5 blocks on a local S3 server (moto, s3fs 2026.9, 27 November 2026):
it made 13 requests for 1.03 times the file, or 6 for 3.8 times with the default read-ahead. By its block size and
lookahead this module makes 5 for 1.004 times.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from pyarrow import csv

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import CSV
from pipeline.sources.arrow_tables import arrow_column, table_block
from pipeline.sources.base import (
    Block,
    ChunkPolicy,
    Chunks,
    Column,
    Selection,
    Source,
    Span,
    cut,
    refuse_empty,
    select_columns,
)
from pipeline.sources.location import Location

# the types of the columns and the length of a line are inferred from the beginning of the file
SAMPLE_BYTES = 2**20
# bytes that are read beyond a block, for the end of its last line
LOOKAHEAD_BYTES = 2**14
# lines elsewhere may be shorter than those of the sample by this factor: chunk_rows must not be too small
SHORTER_LINES = 1.25
# PyArrow's block size: so large that it infers a type from all lines and splits no line
_LARGEST_BLOCK = 2**30
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class _Sample:
    """The beginning of a file: its header, and some whole lines.

    Attributes
    ----------
    names : tuple of str
        The header's.
    offset : int
        Bytes before the first line of numbers.
    types : pyarrow.Schema
        As the lines suggest.
    line_bytes : float
        Mean length of a line.
    """

    names: tuple[str, ...]
    offset: int
    types: pa.Schema
    line_bytes: float


def open_csv(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open a CSV file; see :func:`pipeline.sources.open_source`."""
    size = location.size()
    sample = _read_sample(location, size)
    selection = select_columns([_column(field) for field in sample.types], data)
    n_rows = math.ceil((size - sample.offset) / sample.line_bytes)
    step = math.ceil(policy.rows(data, n_rows, len(selection.fields)) * sample.line_bytes)
    pieces = list(cut(size, step))
    # all but booleans are read as floats in every block: one block may hold 1 and 2, and the next 1.5
    inferred = {name: sample.types.field(name).type for name in selection.fields}
    types = {name: kind if pa.types.is_boolean(kind) else pa.float64() for name, kind in inferred.items()}
    reader = _CsvReader(location, sample.offset, size, sample.names, tuple(types.items()), selection)
    chunks = Chunks(reader, pieces, [math.nan] * len(pieces), (location.source, location.version()))
    chunk_rows = math.ceil(SHORTER_LINES * max(map(len, pieces)) / sample.line_bytes)
    return Source(location, CSV, selection, chunks, None, chunk_rows, size)


def _column(field: pa.Field) -> Column:
    """A column, as the sample suggests.

    One that is empty in the sample counts as numeric, as it must not be left out silently. One without a name holds
    the rows' numbers, as pandas and R write them.
    """
    if pa.types.is_null(field.type):
        return Column(field.name, "empty", np.dtype(np.float64))
    column = arrow_column(field)
    return column if field.name else replace(column, offered=False)


# -- the beginning of the file -------------------------------------------------------------------------------


def _read_sample(location: Location, size: int) -> _Sample:
    path, offset = location.source, _end_of_line(location, 0, size)
    names = _header_names(location.read(0, offset), path)
    lines = location.read(offset, _end_of_line(location, min(offset + SAMPLE_BYTES, size), size))
    if not lines.strip():
        refuse_empty(path)
    table = _parse(lines, path, names, None)
    return _Sample(names, offset, table.schema, len(lines) / max(1, table.num_rows))


def _header_names(line: bytes, path: str) -> tuple[str, ...]:
    line = line.removeprefix(_BOM).strip() + b"\n"
    if not line.strip():
        raise UserError(f"data.source: {path} is empty; expected a header line with the columns' names.")
    try:
        table = csv.read_csv(pa.py_buffer(line), read_options=csv.ReadOptions(use_threads=False))
        names = tuple(name.strip() for name in table.schema.names)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(f"data.source: the first line of {path} is not a CSV header: {error}.") from None
    if _are_numbers(names):
        raise UserError(
            f"data.source: the first line of {path} holds numbers ({', '.join(names[:5])}); "
            "expected a header line with the columns' names. Add one."
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"data.source: the header of {path} names the column {repeated[0]!r} twice. Rename one.")
    return names


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether a header is a row of numbers; pandas' names 0, 1, 2, ... of unnamed columns are not."""
    numbers = all(re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", name) for name in names)
    return numbers and list(names) != [str(i) for i in range(len(names))]


# -- blocks --------------------------------------------------------------------------------------------------


def _end_of_line(location: Location, position: int, size: int) -> int:
    """Return the position just after the first line feed at or after ``position``."""
    while position < size:
        found = location.read(position, min(position + LOOKAHEAD_BYTES, size))
        end = found.find(b"\n")
        if end >= 0 or not found:
            return position + end + 1
        position += len(found)
    return size


@dataclass(frozen=True)
class _CsvReader:
    """Reads blocks of a CSV file: the lines that begin in a span of bytes."""

    location: Location
    offset: int
    size: int
    names: tuple[str, ...]
    types: tuple[tuple[str, pa.DataType], ...]
    selection: Selection

    def read(self, piece: Span) -> Block:
        """Return the rows of the lines that begin in bytes ``piece``, (n_rows, n_fields)."""
        start, lines = self._lines(piece)
        if not lines:
            return np.empty((0, len(self.selection.fields)), dtype=self.selection.block_dtype)
        table = _parse(lines, self.location.source, self.names, dict(self.types), start)
        return table_block(table, self.selection.fields, self.selection.block_dtype)

    def count_lines(self, piece: Span) -> int:
        """Return the number of lines, without the header, that begin in bytes ``piece``.

        A line begins just after a line feed, so that these are the line feeds of the bytes one earlier.
        """
        return self.location.read(max(piece.start, self.offset) - 1, piece.stop - 1).count(b"\n")

    def _lines(self, piece: Span) -> tuple[int, bytes]:
        """Return the position of a piece's first line, and all its lines, the last one whole."""
        # from one byte earlier: a line that begins exactly at the start is known by the line feed before it
        first = max(piece.start, self.offset) - 1
        found = self.location.read(first, min(piece.stop + LOOKAHEAD_BYTES, self.size))
        begin = found.find(b"\n") + 1
        stop = found.find(b"\n", piece.stop - 1 - first) + 1
        if not begin or first + begin >= piece.stop:
            return piece.stop, b""
        if stop:
            return first + begin, found[begin:stop]
        end = first + len(found)
        return first + begin, found[begin:] + self.location.read(end, _end_of_line(self.location, end, self.size))


def _parse(
    lines: bytes, path: str, names: Sequence[str], types: dict[str, pa.DataType] | None, offset: int = 0
) -> pa.Table:
    """Return a table of lines, with the columns of ``types``; None takes all columns and infers their types."""
    try:
        return csv.read_csv(
            pa.py_buffer(lines),
            read_options=csv.ReadOptions(column_names=list(names), use_threads=False, block_size=_LARGEST_BLOCK),
            convert_options=csv.ConvertOptions(column_types=types, include_columns=list(types or ())),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(
            f"data.source: {path} cannot be read as CSV, in the lines from byte {offset} on: "
            f"{_with_name(str(error), names)}. Correct the file, or list the columns to read in data.columns."
        ) from None


def _with_name(message: str, names: Sequence[str]) -> str:
    """Return PyArrow's message with the column's name instead of its number."""
    match = re.search(r"In CSV column #(\d+):", message)
    if not match:
        return message.rstrip(".")
    return message.replace(match.group(0), f"in the column {names[int(match.group(1))]!r}:").rstrip(".")
