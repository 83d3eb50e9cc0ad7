"""CSV files: one header line, comma-separated, read in blocks of whole lines.

PyArrow's parser is used: it rounds numbers exactly, refuses lines with too few or too many fields, passes over blank
lines, and releases the GIL. A quoted field may not contain a line break: a block could begin within it.

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
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import CSV
from pipeline.sources.base import (
    Block,
    ChunkPolicy,
    Chunks,
    Column,
    Selection,
    Source,
    Span,
    cut,
    select_columns,
)
from pipeline.sources.formats.arrow_tables import arrow_column, table_block
from pipeline.sources.location import Location

# the types of the columns and the length of a line are inferred from the beginning of the file
SAMPLE_BYTES = 2**20
# bytes that are read beyond a block, for the end of its last line
LOOKAHEAD_BYTES = 2**14
# the longest line that is read
LINE_BYTES = 2**24
# copies of the text of a block: as it is read, cut into lines, and parsed into all its cells, with their places
TEXT_COPIES = 3
# what PyArrow keeps beside that, and for each column of the file. With PyArrow 26 a read of 2 of 2,000 columns, 8.2 MB
# of text, took 25 to 38 MB; of all columns, 5.6 and 3.3 MB of text, it took 32 and 31 MB beside the rows.
KEPT_BYTES, COLUMN_BYTES = 8 * 2**20, 12 * 2**10
# lines elsewhere may be shorter than those of the sample by this factor: chunk_rows must not be too small
SHORTER_LINES = 1.25
# a column of text of which at least this share are numbers is one of numbers with cells that are none
MOSTLY_NUMBERS = 0.5
# PyArrow's block size: so large that it infers a type from all lines and splits no line
_LARGEST_BLOCK = 2**30
_BOM = b"\xef\xbb\xbf"
_LF, _CR, _QUOTE = b'\n\r"'
_NUMBER = r"^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"
# a quote that opens a field, and no other before the line break
_BREAK_IN_QUOTES = re.compile(rb'(?:^|,)"(?:[^"]|"")*?\n', re.MULTILINE)
# bytes that are read at a time to find the number of a line
_COUNTED_BYTES = 2**24


@dataclass(frozen=True)
class _Sample:
    """The beginning of a file: its header, and some whole lines.

    Attributes
    ----------
    names : tuple of str
        The header's.
    offset : int
        Bytes before the first line of numbers.
    lines : bytes
    table : pyarrow.Table
        The lines, with the types that they suggest.
    """

    names: tuple[str, ...]
    offset: int
    lines: bytes
    table: pa.Table

    @property
    def line_bytes(self) -> float:
        """Mean length of a line."""
        n_rows: int = self.table.num_rows
        return max(1, len(self.lines)) / max(1, n_rows)


def open_csv(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open a CSV file; see :func:`pipeline.sources.open_source`."""
    size = location.size()
    sample = _read_sample(location, size)
    selection = select_columns(list(map(_column, sample.names, sample.table.columns)), data)
    n_rows = math.ceil((size - sample.offset) / sample.line_bytes)
    wanted = policy.rows(data, n_rows, len(selection.fields), TEXT_COPIES * sample.line_bytes)
    step = math.ceil(wanted * sample.line_bytes)
    # all but booleans are read as floats in every block: one block may hold 1 and 2, and the next 1.5
    inferred = {name: sample.table.column(name).type for name in selection.fields}
    types = {name: kind if pa.types.is_boolean(kind) else pa.float64() for name, kind in inferred.items()}
    if any(map(pa.types.is_string, inferred.values())):  # a cell that is no number is named at once
        _parse(sample.lines, location, sample.names, types, sample.offset)
    reader = _CsvReader(location, sample.offset, size, sample.names, tuple(types.items()), selection)
    is_empty = not sample.table.num_rows
    pieces = [Span(0, size)] if is_empty else list(cut(size, step))
    lengths = [0.0 if is_empty else math.nan] * len(pieces)
    chunks = Chunks(reader, pieces, lengths, (location.source, location.version()))
    largest = max(map(len, pieces))
    chunk_rows = math.ceil(SHORTER_LINES * largest / sample.line_bytes)
    return Source(
        location,
        CSV,
        selection,
        chunks,
        n_rows=0 if is_empty else None,
        chunk_rows=chunk_rows,
        bytes_per_pass=size,
        read_bytes=TEXT_COPIES * (largest + LOOKAHEAD_BYTES) + KEPT_BYTES + COLUMN_BYTES * len(sample.names),
    )


@dataclass(frozen=True)
class TextReader:
    """Reads a column as text, by the number of a chunk; tasks of the graph hold it."""

    reader: _CsvReader
    pieces: tuple[Span, ...]
    name: str

    def __call__(self, number: int) -> pa.ChunkedArray:
        """Return the column of a chunk."""
        return self.reader.read_text(self.pieces[number], self.name)


def open_text(source: Source, name: str) -> TextReader:
    """Open a column of a CSV file as text; raises :class:`UserError` if there is none of that name, or several."""
    reader: _CsvReader = source.chunks.reader
    if (count := reader.names.count(name)) != 1:
        raise UserError(
            f"data.by: {source.path} has {count or 'no'} column {name!r}; its columns are {', '.join(reader.names)}."
        )
    return TextReader(reader, tuple(source.chunks.pieces), name)


def _column(name: str, values: pa.ChunkedArray) -> Column:
    """A column, as the sample suggests.

    One that is empty in the sample counts as numeric, as it must not be left out silently, and so does one in which
    most cells are numbers. One without a name holds the rows' numbers, as pandas and R write them, or nothing, where
    each line ends with a comma.
    """
    if pa.types.is_null(values.type):
        column = Column(name, "empty", np.dtype(np.float64))
    elif pa.types.is_string(values.type) and _are_mostly_numbers(values):
        column = Column(name, str(values.type), np.dtype(np.float64))
    else:
        column = arrow_column(pa.field(name, values.type))
    return column if name else replace(column, offered=False)


def _are_mostly_numbers(values: pa.ChunkedArray) -> bool:
    share = pc.mean(pc.match_substring_regex(values, _NUMBER)).as_py()
    return share is not None and share >= MOSTLY_NUMBERS


# -- the beginning of the file -------------------------------------------------------------------------------


def _read_sample(location: Location, size: int) -> _Sample:
    offset = _end_of_line(location, 0, size)
    names = _header_names(location.read(0, offset), location.source)
    lines = location.read(offset, _end_of_line(location, min(offset + SAMPLE_BYTES, size), size))
    return _Sample(names, offset, lines, _parse(lines, location, names, None, offset))


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
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
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
    first, n_bytes = position, LOOKAHEAD_BYTES
    while position < size:
        if position - first >= LINE_BYTES:
            raise UserError(
                f"data.source: {location.source} has no line feed within {LINE_BYTES >> 20} MiB from byte {first:,} "
                "on; expected a line for each row. Write the rows as lines that end in a line feed, or as Parquet."
            )
        found = location.read(position, min(position + n_bytes, size))
        end = found.find(b"\n")
        if end >= 0 or not found:
            return position + end + 1
        position, n_bytes = position + len(found), min(2 * n_bytes, 2**20)
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
        table = _parse(lines, self.location, self.names, dict(self.types), start)
        return table_block(table, self.selection.fields, self.selection.block_dtype)

    def count_rows(self, piece: Span) -> int:
        """Return the number of lines, without the header and blank ones, that begin in bytes ``piece``."""
        # a line begins just after a line feed: from one byte earlier; whether it is blank, two bytes of it tell
        first = max(piece.start, self.offset) - 1
        found = self.location.read(first, min(piece.stop + 1, self.size))
        begins = _line_begins(found)
        return int(np.count_nonzero(begins < piece.stop - first))

    def read_text(self, piece: Span, name: str) -> pa.ChunkedArray:
        """Return a column of the lines that begin in bytes ``piece``, as text."""
        start, lines = self._lines(piece)
        types = {name: pa.string()}
        if not lines:
            return pa.chunked_array([], pa.string())
        return _parse(lines, self.location, self.names, types, start).column(name)

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


def _line_begins(text: bytes) -> NDArray[np.intp]:
    """Return where lines begin that are not blank, after the first line feed."""
    # at the end, a line would be one without a character
    characters = np.frombuffer(text + b"\n\n", dtype=np.uint8)
    begins = np.flatnonzero(characters[:-2] == _LF) + 1
    blank = (characters[begins] == _LF) | ((characters[begins] == _CR) & (characters[begins + 1] == _LF))
    kept: NDArray[np.intp] = begins[~blank]
    return kept


def _parse(
    lines: bytes, location: Location, names: Sequence[str], types: dict[str, pa.DataType] | None, offset: int
) -> pa.Table:
    """Return a table of lines, with the columns of ``types``; None takes all columns and infers their types."""
    if not lines or lines.isspace():
        return pa.table([pa.nulls(0)] * len(names), names=list(names))
    _refuse_breaks_in_quotes(lines, location, offset)
    try:
        return csv.read_csv(
            pa.py_buffer(lines),
            read_options=csv.ReadOptions(column_names=list(names), use_threads=False, block_size=_LARGEST_BLOCK),
            convert_options=csv.ConvertOptions(column_types=types, include_columns=list(types or ())),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _unreadable(str(error), lines, location, names, offset) from None


def _refuse_breaks_in_quotes(lines: bytes, location: Location, offset: int) -> None:
    """Raise :class:`UserError` if a quoted field holds a line break: rows are known by the line breaks between them."""
    if b'"' not in lines:
        return
    characters = np.frombuffer(lines, dtype=np.uint8)
    quotes, ends = np.flatnonzero(characters == _QUOTE), np.flatnonzero(characters == _LF)
    if not (np.searchsorted(quotes, ends) % 2).any():  # in no line a quote stays open
        return
    found = _BREAK_IN_QUOTES.search(lines)
    if found:
        raise _break_in_quotes(location, _line_number(location, offset + found.end() - 1))


def _break_in_quotes(location: Location, line: int) -> UserError:
    return UserError(
        f"data.source: {location.source} has a line break within quotes, in line {line:,}. Rows are told by line "
        "breaks, so that a file can be read in parts: take the breaks out, or write the rows as Parquet."
    )


def _unreadable(message: str, lines: bytes, location: Location, names: Sequence[str], offset: int) -> UserError:
    """Return the error for PyArrow's: with the line's number in the file, and the column's name."""
    column, row = re.search(r"In CSV column #(\d+): ", message), re.search(r"Row #(\d+): ", message)
    where = ""
    if row:
        begin = int(_line_begins(b"\n" + lines)[int(row.group(1)) - 1]) - 1
        line = _line_number(location, offset + begin)
        if lines[begin:].partition(b"\n")[0].count(b'"') % 2:  # the block begins within quotes
            return _break_in_quotes(location, line)
        where = f", in line {line:,}"
    if column:
        where += f", in the column {names[int(column.group(1))]!r}"
    for found in filter(None, (column, row)):
        message = message.replace(found.group(0), "")
    return UserError(
        f"data.source: {location.source} cannot be read as CSV{where}: {message.rstrip('.')}. Correct the file, or "
        "list the columns to read in data.columns. A missing value is an empty cell, NA or NaN."
    )


def _line_number(location: Location, position: int) -> int:
    """Return the number of the line at a position, counted from 1, the header."""
    spans = cut(position, _COUNTED_BYTES)
    return 1 + sum(location.read(span.start, span.stop).count(b"\n") for span in spans)
