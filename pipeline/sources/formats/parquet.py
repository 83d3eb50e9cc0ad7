"""Parquet: a file, a folder of files or a glob, read by row groups."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import PARQUET
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
    select_columns,
)
from pipeline.sources.formats.arrow_tables import arrow_column, table_block
from pipeline.sources.location import Location, files_below, matches

# metadata of the files that gmm-dask writes, which are no data unless they are named: results may lie beside data
OWN_FILES = b"gmm-dask"
_OWN_NAMES = "part-*.parquet"
# rows that are decoded at once, if they are not more than READ_BYTES
BATCH_ROWS = 65_536
# the columns of a chunk are fetched at once if they are no larger than this as they are stored; else through buffers,
# of so many bytes for all columns together
FETCHED_BYTES, BUFFER_BYTES = 32 * 2**20, 16 * 2**20
# a page as it is decoded, with the column's dictionary, as writers size them by default
PAGE_BYTES = 2 * 2**20


@dataclass(frozen=True)
class _Footer:
    """The metadata in a file's footer.

    Attributes
    ----------
    location : Location
    schema : pyarrow.Schema
    group_rows : tuple of int
        Rows of each row group.
    group_bytes : tuple of dict
        Bytes of each column in each row group, compressed and decoded.
    identity : tuple
        Values that change when the file does.
    digest : str
        Hash of the footer, which knows the extremes and places of all columns.
    is_own : bool
        Whether gmm-dask wrote the file.
    """

    location: Location
    schema: pa.Schema
    group_rows: tuple[int, ...]
    group_bytes: tuple[dict[str, tuple[int, int]], ...]
    identity: tuple[Any, ...]
    digest: str
    is_own: bool


@dataclass(frozen=True)
class _Part:
    """Rows ``span`` of some consecutive row groups of a file, counted from the first of them.

    ``is_large`` tells whether they are read through buffers.
    """

    location: Location
    identity: tuple[Any, ...]
    groups: tuple[int, ...]
    span: Span
    is_large: bool = False


def open_parquet(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open Parquet files; see :func:`pipeline.sources.open_source`."""
    footers, notes = _without_own(location, [_read_footer(file) for file in _files(location)])
    selection = select_columns(_columns_of_all(footers), data)
    selection = replace(selection, notes=(*selection.notes, *notes))
    named = selection.fields if data.columns is not None else (*selection.fields, *_numeric(footers))
    _require_one_schema(footers, dict.fromkeys(named), data.source)
    n_rows = sum(sum(footer.group_rows) for footer in footers)
    sizes = data, n_rows, len(selection.fields)
    wanted, largest = policy.rows(*sizes), policy.largest(*sizes)
    pieces = [part for footer in footers for part in _parts(footer, selection.fields, wanted, largest)]
    if not pieces:
        pieces = [_Part(footers[0].location, footers[0].identity, (), Span(0, 0))]
    lengths = [len(part.span) for part in pieces]
    reader = _ParquetReader(selection.fields, selection.block_dtype)
    files = [(footer.location.source, footer.identity, footer.digest) for footer in footers]
    chunks = Chunks(reader, pieces, lengths, (hashlib.sha256(repr(files).encode()).hexdigest(),))
    by_file = {footer.location: footer for footer in footers}
    sizes_of = {footer.location: _stored_bytes(footer, selection.fields) for footer in footers}
    return Source(
        location,
        PARQUET,
        selection,
        chunks,
        n_rows=n_rows,
        chunk_rows=max(lengths),
        bytes_per_pass=sum(sizes_of[part.location][group] for part in pieces for group in part.groups),
        read_bytes=max(_read_bytes(by_file[part.location], part, selection.fields) for part in pieces),
        decodes=max(Counter((part.location, part.groups) for part in pieces).values()),
    )


# -- files ---------------------------------------------------------------------------------------------------


def _files(location: Location) -> list[Location]:
    """The files of a path, a folder or a glob, in the order of their names."""
    found = matches(location) if location.is_glob else [location.path]
    files = [file for path in found for file in files_below(location, path)]
    if not files:
        raise UserError(f"data.source: the folder {location.source} has no file that ends in .parquet.")
    return [location.at(file) for file in files]


def _read_footer(location: Location) -> _Footer:
    identity = location.version()
    metadata = _metadata(location, identity)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return _Footer(
        location,
        metadata.schema.to_arrow_schema(),
        tuple(group.num_rows for group in groups),
        tuple(_column_bytes(group) for group in groups),
        identity,
        _digest(metadata),
        OWN_FILES in (metadata.metadata or {}) and PurePosixPath(location.path).match(_OWN_NAMES),
    )


def _digest(metadata: parquet.FileMetaData) -> str:
    footer = pa.BufferOutputStream()
    metadata.write_metadata_file(footer)
    return hashlib.sha256(footer.getvalue()).hexdigest()


def _without_own(location: Location, footers: Sequence[_Footer]) -> tuple[list[_Footer], list[str]]:
    """Return the footers without those of row outputs of gmm-dask, unless these are named, and a note of them."""
    path = PurePosixPath(location.path)
    named = {path, path.parent} if location.is_glob else {path}
    kept, left_out = [], set()
    for footer in footers:
        file = PurePosixPath(footer.location.path)
        if footer.is_own and not named & {file, file.parent}:
            left_out.add(str(PurePosixPath(footer.location.source).parent))
        else:
            kept.append(footer)
    folders = ", ".join(sorted(left_out)[:LISTED])
    if not kept:
        raise UserError(
            f"data.source: {location.source} has no data, only row outputs of gmm-dask ({folders}). Name their folder "
            "itself to read them as data."
        )
    note = f"left out, row outputs of gmm-dask: {folders}; they are read where their folder is named"
    return kept, [note] if left_out else []


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


def _column_bytes(group: Any) -> dict[str, tuple[int, int]]:
    columns = (group.column(i) for i in range(group.num_columns))
    return {column.path_in_schema: (column.total_compressed_size, column.total_uncompressed_size) for column in columns}


# -- columns -------------------------------------------------------------------------------------------------


def _columns(schema: pa.Schema) -> list[Column]:
    """Return the columns; those that hold the index of a pandas data frame are only selected by name."""
    pandas = schema.pandas_metadata or {}
    index = {name for name in pandas.get("index_columns", ()) if isinstance(name, str)}
    columns = [arrow_column(field) for field in schema]
    return [
        Column(column.name, column.type, column.dtype, column.offered and column.name not in index)
        for column in columns
    ]


def _columns_of_all(footers: Sequence[_Footer]) -> list[Column]:
    """Return the columns of the first file; one of another numeric type in another file is read as float64."""
    first = footers[0].schema
    others = [footer.schema for footer in footers if not footer.schema.equals(first)]
    differing = {field.name for schema in others for field in schema if field not in first}
    return [
        replace(column, dtype=np.dtype(np.float64)) if column.dtype is not None and column.name in differing else column
        for column in _columns(first)
    ]


def _numeric(footers: Sequence[_Footer]) -> Iterator[str]:
    """Yield the numeric columns of all files."""
    for footer in footers:
        yield from (column.name for column in _columns(footer.schema) if column.dtype is not None and column.offered)


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
    sizes = zip(footer.group_rows, _stored_bytes(footer, fields), strict=True)
    for group, (n_rows, group_bytes) in enumerate(sizes):
        if groups and rows + n_rows > wanted:
            yield _Part(footer.location, footer.identity, tuple(groups), Span(0, rows), n_bytes > FETCHED_BYTES)
            groups, rows, n_bytes = [], 0, 0
        if n_rows > largest:
            step = math.ceil(n_rows / math.ceil(n_rows / largest))
            for span in cut(n_rows, step):
                yield _Part(footer.location, footer.identity, (group,), span, group_bytes > FETCHED_BYTES)
        elif n_rows:
            groups.append(group)
            rows += n_rows
            n_bytes += group_bytes
    if groups:
        yield _Part(footer.location, footer.identity, tuple(groups), Span(0, rows), n_bytes > FETCHED_BYTES)


def _stored_bytes(footer: _Footer, fields: Sequence[str]) -> list[int]:
    """Return the bytes of some columns in each row group, as they are stored."""
    return [sum(sizes[name][0] for name in fields if name in sizes) for sizes in footer.group_bytes]


def _read_bytes(footer: _Footer, part: _Part, fields: Sequence[str]) -> int:
    """What the read of a part holds beside its rows: what is fetched, a page of each column, and a batch."""
    groups = [footer.group_bytes[group] for group in part.groups]
    columns = [[sizes[name] for sizes in groups if name in sizes] for name in fields]
    fetched = sum(stored for sizes in columns for stored, _ in sizes)
    if part.is_large:
        fetched = len(fields) * _buffer_bytes(len(fields))
    pages = sum(min(PAGE_BYTES, max(decoded for _, decoded in sizes)) for sizes in columns if sizes)
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
        for first, rows in _batches(piece, self.fields):
            block[first : first + rows.num_rows] = table_block(rows, self.fields, self.dtype)
        return block


def _batches(piece: _Part, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Yield a part's columns in batches, each with the position of its first row in the part."""
    if piece.location.version() != piece.identity:
        raise UserError(
            f"data.source: {piece.location.source} was changed while it was read. Run the job again when it is whole."
        )
    options: dict[str, Any] = {"pre_buffer": True}
    if piece.is_large:
        options = {"pre_buffer": False, "buffer_size": _buffer_bytes(len(names))}
    position, batch_rows = -piece.span.start, _batch_rows(len(names))
    with _opened(piece.location, metadata=_metadata(piece.location, piece.identity), **options) as file:
        for batch in file.iter_batches(batch_rows, row_groups=piece.groups, columns=names, use_threads=False):
            rows = pa.Table.from_batches([batch]).slice(max(0, -position), len(piece.span) - max(0, position))
            if rows.num_rows:
                yield max(0, position), rows
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
        schema = _metadata(part.location, part.identity).schema.to_arrow_schema()
        none = schema.empty_table().select(list(self.names)).replace_schema_metadata()
        tables = [rows.replace_schema_metadata() for _, rows in _batches(part, self.names)]
        return pa.concat_tables([none, *tables])


def open_keys(source: Source, names: Sequence[str]) -> KeyReader:
    """Return a reader of key columns for the chunks of a source.

    Raises
    ------
    UserError
        If a file lacks one of them, or has it with another type than the first file.
    """
    parts = tuple(source.chunks.pieces)
    schemas = {part.location: _metadata(part.location, part.identity).schema.to_arrow_schema() for part in parts}
    first = next(iter(schemas.values()))
    for location, schema in schemas.items():
        for name in names:
            if schema.names.count(name) != 1:
                raise UserError(
                    f"output.key_columns: {location.source} has {schema.names.count(name) or 'no'} column {name!r}; "
                    f"its columns are {', '.join(schema.names)}."
                )
            if schema.field(name).type != first.field(name).type:
                raise UserError(
                    f"output.key_columns: the column {name!r} is {schema.field(name).type} in {location.source} and "
                    f"{first.field(name).type} in the first file. Write all files "
                    "with the same type, or leave the column out."
                )
    return KeyReader(parts, tuple(names))
