"""Parquet: a file, a folder of files or a glob, read by row groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import PARQUET
from pipeline.sources.arrow_tables import arrow_column, table_block
from pipeline.sources.base import (
    Block,
    ChunkPolicy,
    Chunks,
    Column,
    Source,
    Span,
    cut,
    refuse_empty,
    select_columns,
)
from pipeline.sources.location import Location, matches

# rows that are decoded at once
BATCH_ROWS = 65_536
# files and folders whose names begin so are not data
_HIDDEN = frozenset("._")


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
        Compressed bytes of each column, in each row group.
    identity : tuple
        Values that change when the file does.
    """

    location: Location
    schema: pa.Schema
    group_rows: tuple[int, ...]
    group_bytes: tuple[dict[str, int], ...]
    identity: tuple[Any, ...]


@dataclass(frozen=True)
class _Part:
    """Rows ``span`` of some consecutive row groups of a file, counted from the first of them."""

    location: Location
    identity: tuple[Any, ...]
    groups: tuple[int, ...]
    span: Span


def open_parquet(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open Parquet files; see :func:`pipeline.sources.open_source`."""
    footers = [_read_footer(file) for file in _files(location)]
    found = _columns(footers[0].schema)
    selection = select_columns(found, data)
    named = selection.fields if data.columns is not None else (*selection.fields, *_numeric(footers))
    _require_one_schema(footers, dict.fromkeys(named), data.source)
    n_rows = sum(sum(footer.group_rows) for footer in footers)
    if not n_rows:
        refuse_empty(data.source)
    sizes = data, n_rows, len(selection.fields)
    wanted, largest = policy.rows(*sizes), policy.largest(*sizes)
    pieces = [part for footer in footers for part in _parts(footer, wanted, largest)]
    lengths = [len(part.span) for part in pieces]
    reader = _ParquetReader(selection.fields, selection.block_dtype)
    chunks = Chunks(reader, pieces, lengths, ())
    sizes_of = {footer.location: footer.group_bytes for footer in footers}
    groups = [sizes_of[part.location][group] for part in pieces for group in part.groups]
    n_bytes = sum(group.get(name, 0) for group in groups for name in selection.fields)
    return Source(location, PARQUET, selection, chunks, n_rows, max(lengths), n_bytes)


# -- files ---------------------------------------------------------------------------------------------------


def _files(location: Location) -> list[Location]:
    """The files of a path, a folder or a glob, in the order of their names."""
    found = matches(location) if location.is_glob else [location.path]
    files = [file for path in found for file in _files_under(location, path)]
    if not files:
        raise UserError(f"data.source: the folder {location.source} has no file that ends in .parquet.")
    return [location.at(file) for file in files]


def _files_under(location: Location, path: str) -> list[str]:
    """Return the path itself, or a folder's Parquet files without hidden ones, such as macOS writes."""
    if not location.at(path).is_folder():
        return [path]
    with location.reading():
        inside = Path(path).rglob("*.parquet") if location.is_local else map(PurePosixPath, location.fs.find(path))
        files = [
            file
            for file in inside
            if file.suffix == ".parquet" and not _HIDDEN.intersection(p[0] for p in file.relative_to(path).parts)
        ]
        return [str(file) for file in sorted(files) if not location.is_local or Path(file).is_file()]


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
    )


@lru_cache(maxsize=256)
def _metadata(location: Location, identity: tuple[Any, ...]) -> parquet.FileMetaData:
    """Return a file's footer, cached so that a chunk reads nothing but its columns."""
    with _opened(location) as file:
        return file.metadata


@contextmanager
def _opened(location: Location, metadata: parquet.FileMetaData | None = None) -> Iterator[parquet.ParquetFile]:
    """Open a file, a remote one without a cache; raises :class:`UserError` if it is not valid."""
    options = {"metadata": metadata, "pre_buffer": True, "page_checksum_verification": True}
    with location.reading():
        try:
            if location.is_local:
                with parquet.ParquetFile(location.path, **options) as file:
                    yield file
            else:
                with location.open() as opened:
                    yield parquet.ParquetFile(opened, **options)
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


def _column_bytes(group: Any) -> dict[str, int]:
    columns = (group.column(i) for i in range(group.num_columns))
    return {column.path_in_schema: column.total_compressed_size for column in columns}


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


def _numeric(footers: Sequence[_Footer]) -> Iterator[str]:
    """Yield the numeric columns of all files."""
    for footer in footers:
        yield from (column.name for column in _columns(footer.schema) if column.dtype is not None and column.offered)


def _require_one_schema(footers: Sequence[_Footer], names: Sequence[str] | dict[str, None], path: str) -> None:
    first = footers[0]
    for footer in footers[1:]:
        for name in names:
            ours, theirs = _type_name(first.schema, name), _type_name(footer.schema, name)
            if ours != theirs:
                raise UserError(
                    f"data.source: the files of {path} differ: the column {name!r} is {ours} in "
                    f"{first.location.source} and {theirs} in {footer.location.source}. Write all files with the same "
                    "types, or list other columns in data.columns."
                )


def _type_name(schema: pa.Schema, name: str) -> str:
    return str(schema.field(name).type) if name in schema.names else "missing"


# -- chunks --------------------------------------------------------------------------------------------------


def _parts(footer: _Footer, wanted: int, largest: int) -> Iterator[_Part]:
    """Yield the chunks of a file: row groups of up to ``wanted`` rows together, or parts of one beyond ``largest``."""
    groups: list[int] = []
    rows = 0
    for group, n_rows in enumerate(footer.group_rows):
        if groups and rows + n_rows > wanted:
            yield _Part(footer.location, footer.identity, tuple(groups), Span(0, rows))
            groups, rows = [], 0
        if n_rows > largest:
            step = math.ceil(n_rows / math.ceil(n_rows / largest))
            yield from (_Part(footer.location, footer.identity, (group,), span) for span in cut(n_rows, step))
        elif n_rows:
            groups.append(group)
            rows += n_rows
    if groups:
        yield _Part(footer.location, footer.identity, tuple(groups), Span(0, rows))


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
    position = -piece.span.start
    with _opened(piece.location, _metadata(piece.location, piece.identity)) as file:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=piece.groups, columns=names, use_threads=False):
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
        tables = [rows for _, rows in _batches(self.parts[number], self.names)]
        return pa.concat_tables(tables).select(list(self.names))


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
            if name not in schema.names:
                raise UserError(
                    f"output.key_columns: {location.source} has no column {name!r}; its columns are "
                    f"{', '.join(schema.names)}."
                )
            if schema.field(name).type != first.field(name).type:
                raise UserError(
                    f"output.key_columns: the column {name!r} is {schema.field(name).type} in {location.source} and "
                    f"{first.field(name).type} in the first file. Write all files "
                    "with the same type, or leave the column out."
                )
    return KeyReader(parts, tuple(names))
