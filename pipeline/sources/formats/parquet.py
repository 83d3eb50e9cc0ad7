"""Parquet: a file, a folder of files or a glob, read by row groups."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gmm_dask.errors import UserError
from gmm_dask.formatting import counted, listed
from pipeline.config.data import DataConfig
from pipeline.config.formats import PARQUET, Format
from pipeline.config.row_filter import Condition, columns_of, parse_filter, renamed
from pipeline.sources.base import (
    LISTED,
    READ_BYTES,
    Block,
    ChunkPolicy,
    Chunks,
    Column,
    Source,
    Span,
    cut,
    first_rows,
    select_columns,
)
from pipeline.sources.files import find_files
from pipeline.sources.formats.arrow_tables import arrow_column, table_block
from pipeline.sources.formats.hive import Constants, is_number, partition_columns
from pipeline.sources.formats.row_filter import given, passing, require_columns, row_groups
from pipeline.sources.location import Location

# metadata of the files that gmm-dask writes, which are no data unless they are named: results may lie beside data
OWN_FILES = b"gmm-dask"
_OWN_NAMES = "part-*.parquet"
# metadata of a column: the number by which Iceberg knows it, whatever its name is
FIELD_ID = b"PARQUET:field_id"
# rows that are decoded at once, if they are not more than READ_BYTES
BATCH_ROWS = 65_536
# the columns of a chunk are fetched at once if they are no larger than this as they are stored; else through buffers,
# of so many bytes for all columns together
FETCHED_BYTES, BUFFER_BYTES = 32 * 2**20, 16 * 2**20
# a page, and a column's dictionary, as writers size them by default. A read of a column holds a page as it is stored
# and as it is decoded, and the dictionary; for 2,000 columns of 27 kB PyArrow 26 held 147 MiB, the process 222 MiB.
PAGE_BYTES, PAGE_COPIES = 2**20, 4


@dataclass(frozen=True)
class TableFile:
    """A file of a table.

    Attributes
    ----------
    location : Location
    constants : tuple of (str, pyarrow.Scalar)
        Columns that have one value in all of the file, which does not hold them.
    condition : Condition or None
        What its rows must meet to be read; None where all do.
    stored_names : tuple of (str, str) or None
        The table's columns that the file stores, each with its name in the file; None where all names are the same.
    """

    location: Location
    constants: Constants = ()
    condition: Condition | None = None
    stored_names: tuple[tuple[str, str], ...] | None = None

    def read_fields(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Return the columns that a read of some takes: with those of the condition."""
        condition = self.condition
        return tuple(dict.fromkeys((*fields, *(() if condition is None else columns_of(condition)))))


@dataclass(frozen=True)
class Table:
    """What a table says of its files.

    Attributes
    ----------
    format : Format
    schema : pyarrow.Schema
        Of all columns; those that a file lacks have no value in it.
    partitioned_by : tuple of str
        Columns that are only selected by name.
    version : int
    """

    format: Format
    schema: pa.Schema
    partitioned_by: tuple[str, ...]
    version: int


@dataclass(frozen=True)
class _Footer:
    """The metadata in a file's footer.

    Attributes
    ----------
    file : TableFile
        Without the constants that the file holds itself.
    schema : pyarrow.Schema
        Of the file's columns and the constants.
    groups : tuple of int
        Numbers of the row groups that are read: those of which some row may meet the condition.
    group_rows : tuple of int
        Rows of each row group.
    group_bytes : tuple of dict
        Bytes of each column in each row group, compressed and decoded.
    identity : tuple
        Values that change when the file does.
    digest : str
        Hash of the footer, which knows the extremes and places of all columns.
    is_output : bool
        Whether it is a row output of gmm-dask that was not named, and is no data.
    """

    file: TableFile
    schema: pa.Schema
    groups: tuple[int, ...]
    group_rows: tuple[int, ...]
    group_bytes: tuple[dict[str, tuple[int, int]], ...]
    identity: tuple[Any, ...]
    digest: str
    is_output: bool

    @property
    def location(self) -> Location:
        """Where the file is."""
        return self.file.location

    @property
    def told(self) -> frozenset[str]:
        """Columns that the file does not store."""
        return frozenset(name for name, _ in self.file.constants)

    @property
    def stored(self) -> frozenset[str]:
        """Columns that it does."""
        return frozenset(self.schema.names) - self.told


@dataclass(frozen=True)
class _Part:
    """Rows ``span`` of some row groups of a file, counted from the first of them, before the condition is applied.

    ``is_large`` tells whether they are read through buffers.
    """

    file: TableFile
    identity: tuple[Any, ...]
    groups: tuple[int, ...]
    span: Span
    is_large: bool = False

    @property
    def location(self) -> Location:
        """Where the file is."""
        return self.file.location

    @property
    def n_rows(self) -> float:
        """How many rows are read; NaN where only a read tells."""
        return len(self.span) if self.file.condition is None else math.nan


def open_parquet(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open Parquet files; see :func:`pipeline.sources.open_source`."""
    found = find_files(location)
    if not found.paths:
        raise UserError(
            f"data.source: the folder {location.source} has no file that ends in {' or '.join(PARQUET.endings)}."
        )
    constants = partition_columns(location, found.paths)
    files = [TableFile(location.at(path), constants[i]) for i, path in enumerate(found.paths)]
    return open_files(data, location, policy, files, tuple(found.notes))


def open_files(
    data: DataConfig,
    location: Location,
    policy: ChunkPolicy,
    files: Sequence[TableFile],
    notes: Sequence[str] = (),
    table: Table | None = None,
) -> Source:
    """Open Parquet files, of which a filter leaves some; ``table`` is None where only the files describe them."""
    footers, own_notes = _read_footers(location, files, data, table)
    notes = (*notes, *own_notes, *_filter_notes(data, len(files), footers))
    if table is None:
        notes = (*notes, *_partition_notes(footers))
    columns = _columns_of_all(footers) if table is None else _columns_of_table(table)
    selection = select_columns(columns, data)
    selection = replace(selection, notes=(*selection.notes, *notes))
    named = selection.fields if data.columns is not None else (*selection.fields, *_numeric(footers, columns))
    _require_one_schema(footers, dict.fromkeys(named), data.source)
    n_read = sum(footer.group_rows[group] for footer in footers for group in footer.groups)
    sizes = data, n_read, len(selection.fields)
    wanted, largest = policy.rows(*sizes), policy.largest(*sizes)
    parts = [list(_parts(footer, selection.fields, wanted, largest)) for footer in footers]
    pieces, n_chunks = list(itertools.chain.from_iterable(parts)), list(map(len, parts))
    if not pieces:
        pieces = [_Part(TableFile(footers[0].location), footers[0].identity, (), Span(0, 0))]
    lengths = [part.n_rows for part in pieces]
    n_rows = sum(lengths)
    reader = _ParquetReader(selection.fields, selection.block_dtype)
    known = [(footer.location.source, footer.identity, footer.digest) for footer in footers]
    identity = known if data.filter is None else (known, data.filter)
    chunks = Chunks(reader, pieces, lengths, (hashlib.sha256(repr(identity).encode()).hexdigest(),))
    by_file = {footer.location: footer for footer in footers}
    sizes_of = {footer.location: _stored_bytes(footer, selection.fields) for footer in footers}
    return Source(
        location,
        PARQUET if table is None else table.format,
        selection,
        chunks,
        n_rows=None if math.isnan(n_rows) else int(n_rows),
        chunk_rows=max(len(part.span) for part in pieces),
        bytes_per_pass=sum(sizes_of[part.location][group] for part in pieces for group in part.groups),
        read_bytes=max(_read_bytes(by_file[part.location], part, selection.fields) for part in pieces),
        decodes=max(Counter((part.location, part.groups) for part in pieces).values()),
        file_chunks=tuple((file.location.source, n) for file, n in zip(footers, first_rows(n_chunks), strict=True)),
        version=None if table is None else table.version,
    )


# -- files ---------------------------------------------------------------------------------------------------


def _read_footers(
    location: Location, files: Sequence[TableFile], data: DataConfig, table: Table | None
) -> tuple[list[_Footer], list[str]]:
    """Read the footers of the files that a filter leaves by their constants, of one at least; and what to say of it.

    A column that some file stores is one of files: no folder's name rules out another that may store it, too.
    """
    condition = None if data.filter is None else parse_filter(data.filter)
    found: dict[Location, _Footer] = {}

    def read(file: TableFile) -> _Footer:
        if file.location not in found:
            found[file.location] = _read_footer(file, condition, location, table)
        return found[file.location]

    def outputs() -> str:
        folders = {str(PurePosixPath(each.location.source).parent) for each in found.values() if each.is_output}
        return ", ".join(sorted(folders)[:LISTED])

    first = next((footer for footer in map(read, files) if not footer.is_output), None)
    if first is None:
        raise UserError(
            f"data.source: {location.source} has no data, only row outputs of gmm-dask ({outputs()}). Name their "
            "folder itself to read them as data."
        )
    names, stored = {name for file in files for name, _ in file.constants}, first.stored
    while True:
        names -= stored
        footers = [read(file) for file in files if _may_pass(file, names, condition)]
        footers = [footer for footer in footers if not footer.is_output]
        stored = frozenset(name for footer in footers for name in names & footer.stored)
        if not stored or condition is None:
            break
    left_out = outputs()
    note = f"left out, row outputs of gmm-dask: {left_out}; they are read where their folder is named"
    return footers or [replace(first, groups=())], [note] if left_out else []


def _may_pass(file: TableFile, names: Set[str], condition: Condition | None) -> bool:
    """Whether some row of a file may meet a condition, by its constants of these names."""
    constants = tuple((name, value) for name, value in file.constants if name in names)
    return condition is None or given(condition, constants) is not False


def _read_footer(file: TableFile, condition: Condition | None, within: Location, table: Table | None) -> _Footer:
    location, identity = file.location, file.location.version()
    metadata = _metadata(location, identity)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    stored_names = None if table is None else _stored_names(metadata.schema.to_arrow_schema(), table.schema)
    stored = _with_names(metadata.schema.to_arrow_schema(), stored_names)
    constants = tuple((name, value) for name, value in file.constants if name not in stored.names)
    if table is not None:
        known = {*stored.names, *(name for name, _ in constants)}
        constants += tuple((each.name, pa.scalar(None, each.type)) for each in table.schema if each.name not in known)
    schema = _with_constants(stored, constants)
    left, is_output = tuple(range(len(groups))), _is_output(location, metadata, within)
    if is_output:
        condition = None
    if condition is not None:
        require_columns(condition, schema, location.source)
        of_file = given(condition, constants)
        if of_file is False:
            left = ()
        elif of_file is not True:
            left = row_groups(renamed(of_file, dict(stored_names or ())), metadata)
        condition = None if isinstance(of_file, bool) else of_file
    return _Footer(
        TableFile(location, constants, condition, stored_names),
        schema,
        left,
        tuple(group.num_rows for group in groups),
        tuple(_column_bytes(group, stored_names) for group in groups),
        identity,
        _digest(metadata),
        is_output,
    )


def _is_output(file: Location, metadata: parquet.FileMetaData, within: Location) -> bool:
    """Whether a file is a row output of gmm-dask, and neither it nor its folder is named."""
    path, parent = PurePosixPath(within.path), PurePosixPath(file.path).parent
    named = {path, path.parent} if within.is_glob else {path}
    is_own = OWN_FILES in (metadata.metadata or {}) and PurePosixPath(file.path).match(_OWN_NAMES)
    return is_own and not named & {PurePosixPath(file.path), parent}


def _stored_names(stored: pa.Schema, table: pa.Schema) -> tuple[tuple[str, str], ...] | None:
    """Return the columns of a table with their names in a file, by the numbers that Iceberg gives to columns.

    Empty where the file stores none of the columns; None where the table has no such numbers, or the file has none, or
    all names are the same.
    """
    in_file = {(field.metadata or {}).get(FIELD_ID): field.name for field in stored}
    ids = {field.name: (field.metadata or {}).get(FIELD_ID) for field in table}
    if None in (*ids.values(), *in_file):
        return None
    found = tuple((name, in_file[number]) for name, number in ids.items() if number in in_file)
    return None if [one for one, _ in found] == [other for _, other in found] == stored.names else found


def _with_names(stored: pa.Schema, stored_names: Sequence[tuple[str, str]] | None) -> pa.Schema:
    """Return the schema of a file's columns under the names of the table, without those that it has no more."""
    if stored_names is None:
        return stored
    return pa.schema([stored.field(other).with_name(name) for name, other in stored_names], stored.metadata)


def _with_constants(schema: pa.Schema, constants: Constants) -> pa.Schema:
    for name, value in constants:
        schema = schema.append(pa.field(name, value.type))
    return schema


def _filter_notes(data: DataConfig, n_files: int, footers: Sequence[_Footer]) -> Iterator[str]:
    """Yield what a filter leaves to read; files that it rules out by their constants were not opened."""
    if data.filter is None:
        return
    left = [footer for footer in footers if footer.groups]
    n_groups, n_left = (sum(map(len, each)) for each in ([f.group_rows for f in footers], [f.groups for f in left]))
    yield (
        f"data.filter: {len(left):,} of {counted(n_files, 'file')} may have rows that pass, and {n_left:,} of the "
        f"{counted(n_groups, 'row group')} in the files that were opened; the others are not read"
    )


def _partition_notes(footers: Sequence[_Footer]) -> Iterator[str]:
    """Yield the columns that the names of folders tell of some files only, and those of numbers and other texts."""
    n_told, n_stored = (
        Counter(itertools.chain.from_iterable(names))
        for names in ([f.told for f in footers], [f.stored for f in footers])
    )
    for name, told in n_told.items():
        lacking = len(footers) - told - n_stored[name]
        if told < len(footers):
            yield (
                f"the names of folders tell the column {name!r} of {told:,} of {counted(len(footers), 'file')}; "
                f"{n_stored[name]:,} store it, {lacking:,} have none"
            )
        values = dict.fromkeys(value.as_py() for f in footers for each, value in f.file.constants if each == name)
        texts = [value for value in values if isinstance(value, str)]
        others = [text for text in texts if not is_number(text)]
        if 0 < len(others) < len(texts):
            yield f"the names of folders tell the column {name!r} as text, as not all are numbers: {listed(others)}"


def _digest(metadata: parquet.FileMetaData) -> str:
    footer = pa.BufferOutputStream()
    metadata.write_metadata_file(footer)
    return hashlib.sha256(footer.getvalue()).hexdigest()


@lru_cache(maxsize=256)
def _metadata(location: Location, identity: tuple[Any, ...]) -> parquet.FileMetaData:
    """Return a file's footer, cached so that a chunk reads nothing but its columns."""
    with _opened(location) as file:
        return file.metadata


@contextmanager
def _opened(location: Location, **options: Any) -> Iterator[parquet.ParquetFile]:
    """Open a file, a remote one without a cache; raises :class:`UserError` if it is not valid."""
    with location.reading():
        try:
            with (
                nullcontext(location.path) if location.is_local else location.open() as opened,
                parquet.ParquetFile(opened, page_checksum_verification=True, **options) as file,
            ):
                yield file
        except pa.ArrowException as error:
            raise _not_valid(location, error) from None
        except OSError as error:
            # PyArrow raises OSError itself, without an errno, for contents that are not valid
            if type(error) is OSError and error.errno is None:
                raise _not_valid(location, error) from None
            raise


def _not_valid(location: Location, error: Exception) -> UserError:
    words = " ".join(str(error).split()).rstrip(".")
    return UserError(f"data.source: {location.source} is not a valid Parquet file: {words}. Copy or write it again.")


def _column_bytes(group: Any, stored_names: Sequence[tuple[str, str]] | None) -> dict[str, tuple[int, int]]:
    """Return the bytes of each column, compressed and decoded, under the names of the table."""
    columns = [group.column(i) for i in range(group.num_columns)]
    sizes = {one.path_in_schema: (one.total_compressed_size, one.total_uncompressed_size) for one in columns}
    if stored_names is None:
        return sizes
    return {name: sizes[other] for name, other in stored_names if other in sizes}


# -- columns -------------------------------------------------------------------------------------------------


def _columns(footer: _Footer) -> list[Column]:
    """Return the columns; the index of a pandas data frame and names of folders are only selected by name."""
    pandas = footer.schema.pandas_metadata or {}
    index = {name for name in pandas.get("index_columns", ()) if isinstance(name, str)}
    roles = dict.fromkeys(index, "an index") | {name: "a partition column" for name, _ in footer.file.constants}
    columns = [arrow_column(field) for field in footer.schema]
    return [replace(one, offered=False, role=roles[one.name]) if one.name in roles else one for one in columns]


def _columns_of_table(table: Table) -> list[Column]:
    """Return the columns of a table; those that it is partitioned by are only selected by name."""
    columns = [(arrow_column(field), field.name in table.partitioned_by) for field in table.schema]
    return [replace(one, offered=False, role="a partition column") if is_key else one for one, is_key in columns]


def _columns_of_all(footers: Sequence[_Footer]) -> list[Column]:
    """Return the columns of all files; numeric ones whose types differ are read as float64."""
    first, *others = footers
    columns = _columns(first)
    for footer in others:
        if footer.schema.equals(first.schema) and footer.told == first.told:
            continue
        theirs = {column.name: column for column in _columns(footer)}
        columns = [_of_both(column, theirs.pop(column.name, column)) for column in columns] + [*theirs.values()]
    return columns


def _of_both(column: Column, other: Column) -> Column:
    """Return what a column is in two files; it is only selected by name if it is so in one of them."""
    if other.dtype is not None and column.dtype is not None and other.dtype != column.dtype:
        column = replace(column, dtype=np.dtype(np.float64))
    return column if other.offered else replace(column, offered=False, role=other.role)


def _numeric(footers: Sequence[_Footer], columns: Sequence[Column]) -> Iterator[str]:
    """Yield the columns that are numeric in some file, without those that are only selected by name."""
    by_name = {column.name for column in columns if not column.offered}
    for footer in footers:
        yield from (one.name for one in _columns(footer) if one.dtype is not None and one.name not in by_name)


def _require_one_schema(footers: Sequence[_Footer], names: Sequence[str] | dict[str, None], path: str) -> None:
    first = footers[0]
    for footer in footers[1:]:
        if footer.schema.equals(first.schema):
            continue
        for name in names:
            ours, theirs = _type_name(first.schema, name), _type_name(footer.schema, name)
            if ours != theirs and not (_is_numeric(first.schema, name) and _is_numeric(footer.schema, name)):
                raise UserError(
                    f"data.source: the files of {path} differ: the column {name!r} is {ours} in "
                    f"{first.location.source} and {theirs} in {footer.location.source}. Write all files with the same "
                    "types, or list other columns in data.columns."
                )


def _type_name(schema: pa.Schema, name: str) -> str:
    return ", ".join(str(field.type) for field in schema if field.name == name) or "missing"


def _is_numeric(schema: pa.Schema, name: str) -> bool:
    """Whether a file has one column of a name, and it is numeric."""
    found = [arrow_column(field) for field in schema if field.name == name]
    return len(found) == 1 and found[0].dtype is not None


# -- chunks --------------------------------------------------------------------------------------------------


def _parts(footer: _Footer, fields: Sequence[str], wanted: int, largest: int) -> Iterator[_Part]:
    """Yield the chunks of a file: row groups of up to ``wanted`` rows together, or parts of one beyond ``largest``."""
    groups: list[int] = []
    rows = n_bytes = 0
    sizes = _stored_bytes(footer, fields)
    for group in footer.groups:
        n_rows, group_bytes = footer.group_rows[group], sizes[group]
        if groups and rows + n_rows > wanted:
            yield _Part(footer.file, footer.identity, tuple(groups), Span(0, rows), n_bytes > FETCHED_BYTES)
            groups, rows, n_bytes = [], 0, 0
        if n_rows > largest:
            step = math.ceil(n_rows / math.ceil(n_rows / largest))
            for span in cut(n_rows, step):
                yield _Part(footer.file, footer.identity, (group,), span, group_bytes > FETCHED_BYTES)
        elif n_rows:
            groups.append(group)
            rows += n_rows
            n_bytes += group_bytes
    if groups:
        yield _Part(footer.file, footer.identity, tuple(groups), Span(0, rows), n_bytes > FETCHED_BYTES)


def _stored_bytes(footer: _Footer, fields: Sequence[str]) -> list[int]:
    """Return the bytes that a read of some columns takes of each row group, as they are stored."""
    names = footer.file.read_fields(fields)
    return [sum(sizes[name][0] for name in names if name in sizes) for sizes in footer.group_bytes]


def _read_bytes(footer: _Footer, part: _Part, fields: Sequence[str]) -> int:
    """What the read of a part holds beside its rows: what is fetched, pages of each column, and a batch."""
    fields = footer.file.read_fields(fields)
    groups = [footer.group_bytes[group] for group in part.groups]
    columns = [[sizes[name] for sizes in groups if name in sizes] for name in fields]
    fetched = sum(stored for sizes in columns for stored, _ in sizes)
    if part.is_large:
        fetched = len(fields) * _buffer_bytes(len(fields))
    pages = sum(PAGE_COPIES * min(PAGE_BYTES, max(decoded for _, decoded in sizes)) for sizes in columns if sizes)
    batches = 2 * 8 * len(fields) * min(_batch_rows(len(fields)), len(part.span))
    return fetched + pages + batches


def _batch_rows(n_fields: int) -> int:
    return max(1, min(BATCH_ROWS, READ_BYTES // (8 * n_fields)))


def _buffer_bytes(n_fields: int) -> int:
    return max(4096, BUFFER_BYTES // n_fields)


@dataclass(frozen=True)
class _ParquetReader:
    """Reads parts of Parquet files, batch by batch into one block."""

    fields: tuple[str, ...]
    dtype: np.dtype[Any]

    def read(self, piece: _Part) -> Block:
        """Return the part's rows, (n_rows, n_fields)."""
        block = np.empty((len(piece.span), len(self.fields)), dtype=self.dtype)
        n_rows = 0
        for rows in _batches(piece, self.fields):
            block[n_rows : n_rows + rows.num_rows] = table_block(rows, self.fields, self.dtype)
            n_rows += rows.num_rows
        # a copy, where rows did not pass: memory is for those that did
        return block if n_rows == len(block) else block[:n_rows].copy()

    def count_rows(self, piece: _Part) -> int:
        """Return how many of the part's rows pass the filter, which takes a read of its columns."""
        if piece.file.condition is None:
            return len(piece.span)
        return sum(rows.num_rows for rows in _batches(piece, ()))


def _batches(piece: _Part, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of a part's rows that pass the filter, in batches."""
    if piece.location.version() != piece.identity:
        raise UserError(
            f"data.source: {piece.location.source} was changed while it was read. Run the job again when it is whole."
        )
    options: dict[str, Any] = {"pre_buffer": True}
    if piece.is_large:
        options = {"pre_buffer": False, "buffer_size": _buffer_bytes(len(piece.file.read_fields(names)))}
    constants = dict(piece.file.constants)
    stored = [name for name in piece.file.read_fields(names) if name not in constants]
    name_in_file = dict(piece.file.stored_names or ())
    name_in_table = {other: name for name, other in name_in_file.items()}
    columns = [name_in_file.get(name, name) for name in stored]
    if not stored:  # the folders tell all of it
        yield pa.table({name: pa.repeat(constants[name], len(piece.span)) for name in names})
        return
    position, batch_rows = -piece.span.start, _batch_rows(len(stored))
    with _opened(piece.location, metadata=_metadata(piece.location, piece.identity), **options) as file:
        for batch in file.iter_batches(batch_rows, row_groups=piece.groups, columns=columns, use_threads=False):
            rows = pa.Table.from_batches([batch]).slice(max(0, -position), len(piece.span) - max(0, position))
            rows = rows.rename_columns([name_in_table.get(name, name) for name in rows.column_names])
            for name, value in constants.items():
                rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
            if piece.file.condition is not None:
                rows = passing(rows, piece.file.condition)
            if rows.num_rows:
                yield rows.select(list(names))
            position += batch.num_rows
            if position >= len(piece.span):
                break


# -- key columns ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyReader:
    """Reads columns of any type, chunk by chunk; each task of the graph holds it."""

    parts: tuple[_Part, ...]
    names: tuple[str, ...]

    def __call__(self, number: int) -> pa.Table:
        """Return the columns of a chunk."""
        part = self.parts[number]
        none = _schema(part).empty_table().select(list(self.names)).replace_schema_metadata()
        tables = [rows.replace_schema_metadata() for rows in _batches(part, self.names)]
        return pa.concat_tables([none, *tables])


def _schema(part: _Part) -> pa.Schema:
    stored = _metadata(part.location, part.identity).schema.to_arrow_schema()
    return _with_constants(_with_names(stored, part.file.stored_names), part.file.constants)


def open_keys(source: Source, names: Sequence[str], key: str = "output.key_columns") -> KeyReader:
    """Return a reader of key columns for the chunks of a source; ``key`` of the configuration names them.

    Raises
    ------
    UserError
        If a file lacks one of them, or has it with another type than the first file.
    """
    parts = tuple(source.chunks.pieces)
    schemas = {part.location: _schema(part) for part in parts}
    first = next(iter(schemas.values()))
    for location, schema in schemas.items():
        for name in names:
            if schema.names.count(name) != 1:
                raise UserError(
                    f"{key}: {location.source} has {schema.names.count(name) or 'no'} column {name!r}; "
                    f"its columns are {', '.join(schema.names)}."
                )
            if schema.field(name).type != first.field(name).type:
                raise UserError(
                    f"{key}: the column {name!r} is {schema.field(name).type} in {location.source} and "
                    f"{first.field(name).type} in the first file. Write all files "
                    "with the same type, or leave the column out."
                )
    return KeyReader(parts, tuple(names))
