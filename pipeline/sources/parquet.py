"""Parquet: a file, a folder of files or a glob, read by row groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gmm_dask.errors import UserError
from pipeline.config.job import DataConfig
from pipeline.sources.arrow import arrow_column, table_block
from pipeline.sources.base import (
    Block,
    Chunks,
    Column,
    Source,
    Span,
    cut,
    refuse_empty,
    select_columns,
)
from pipeline.sources.chunk_policy import ChunkPolicy
from pipeline.sources.location import Place, matches

# rows that are decoded at once
BATCH_ROWS = 65_536


@dataclass(frozen=True)
class _Footer:
    """What the end of a file says about it.

    Attributes
    ----------
    place : Place
    schema : pyarrow.Schema
    group_rows : tuple of int
        Rows of each row group.
    group_bytes : tuple of dict
        Compressed bytes of each column, in each row group.
    identity : tuple
        What changes when the file does.
    """

    place: Place
    schema: pa.Schema
    group_rows: tuple[int, ...]
    group_bytes: tuple[dict[str, int], ...]
    identity: tuple[Any, ...]


@dataclass(frozen=True)
class _Part:
    """Rows ``span`` of some consecutive row groups of a file, counted from the first of them."""

    place: Place
    identity: tuple[Any, ...]
    groups: tuple[int, ...]
    span: Span


def open_parquet(data: DataConfig, place: Place, policy: ChunkPolicy) -> Source:
    """Open Parquet files; see :func:`pipeline.sources.open_source`."""
    footers = [_read_footer(file) for file in _files(place)]
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
    n_bytes = _bytes_read(pieces, selection.fields, {footer.place: footer.group_bytes for footer in footers})
    return Source(place, "parquet", selection, chunks, n_rows, max(lengths), n_bytes)


# -- files ---------------------------------------------------------------------------------------------------


def _files(place: Place) -> list[Place]:
    """The files of a path, a folder or a glob, in the order of their names."""
    found = matches(place) if place.is_glob else [place.path]
    files = [file for path in found for file in _files_under(place, path)]
    if not files:
        raise UserError(f"data.source: the folder {place.source} has no file that ends in .parquet.")
    return [place.at(file) for file in files]


def _files_under(place: Place, path: str) -> list[str]:
    """The path itself, or a folder's Parquet files, without hidden ones such as macOS leaves there."""
    if not place.at(path).is_folder():
        return [path]
    with place.reading():
        inside = Path(path).rglob("*.parquet") if place.is_local else map(PurePosixPath, place.fs.find(path))
        files = [file for file in inside if file.suffix == ".parquet" and not _is_hidden(file.relative_to(path))]
        return [str(file) for file in sorted(files) if not place.is_local or Path(file).is_file()]


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _read_footer(place: Place) -> _Footer:
    identity = place.version()
    metadata = _metadata(place, identity)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return _Footer(
        place,
        metadata.schema.to_arrow_schema(),
        tuple(group.num_rows for group in groups),
        tuple(_column_bytes(group) for group in groups),
        identity,
    )


@lru_cache(maxsize=256)
def _metadata(place: Place, identity: tuple[Any, ...]) -> parquet.FileMetaData:
    """A file's footer; kept, so that a chunk reads its columns and nothing else."""
    with _opened(place) as file:
        return file.metadata


@contextmanager
def _opened(place: Place, metadata: parquet.FileMetaData | None = None) -> Iterator[parquet.ParquetFile]:
    """An open file, a remote one without a cache; raises :class:`UserError` if it is not whole."""
    options = {"metadata": metadata, "pre_buffer": True, "page_checksum_verification": True}
    with place.reading():
        try:
            if place.is_local:
                with parquet.ParquetFile(place.path, **options) as file:
                    yield file
            else:
                with place.open() as opened:
                    yield parquet.ParquetFile(opened, **options)
        except pa.ArrowException as error:
            raise _not_valid(place, error) from None
        except OSError as error:
            # PyArrow's own, about the contents, has no number of the operating system's
            if type(error) is OSError and error.errno is None:
                raise _not_valid(place, error) from None
            raise


def _not_valid(place: Place, error: Exception) -> UserError:
    words = " ".join(str(error).split()).rstrip(".")
    return UserError(f"data.source: {place.source} is not a valid Parquet file: {words}. Copy or write it again.")


def _column_bytes(group: Any) -> dict[str, int]:
    columns = (group.column(i) for i in range(group.num_columns))
    return {column.path_in_schema: column.total_compressed_size for column in columns}


# -- columns -------------------------------------------------------------------------------------------------


def _columns(schema: pa.Schema) -> list[Column]:
    """The columns; those that hold the index of a pandas data frame are only taken by name."""
    pandas = schema.pandas_metadata or {}
    index = {name for name in pandas.get("index_columns", ()) if isinstance(name, str)}
    columns = [arrow_column(field) for field in schema]
    return [
        Column(column.name, column.type, column.dtype, column.offered and column.name not in index)
        for column in columns
    ]


def _numeric(footers: Sequence[_Footer]) -> Iterator[str]:
    """The numeric columns of any of the files."""
    for footer in footers:
        yield from (column.name for column in _columns(footer.schema) if column.dtype is not None and column.offered)


def _require_one_schema(footers: Sequence[_Footer], names: Sequence[str] | dict[str, None], path: str) -> None:
    first = footers[0]
    for footer in footers[1:]:
        for name in names:
            ours, theirs = _type_name(first.schema, name), _type_name(footer.schema, name)
            if ours != theirs:
                raise UserError(
                    f"data.source: the files of {path} differ: the column {name!r} is {ours} in {first.place.source} "
                    f"and {theirs} in {footer.place.source}. Write them alike, or list those that are in data.columns."
                )


def _type_name(schema: pa.Schema, name: str) -> str:
    return str(schema.field(name).type) if name in schema.names else "missing"


# -- chunks --------------------------------------------------------------------------------------------------


def _parts(footer: _Footer, wanted: int, largest: int) -> Iterator[_Part]:
    """Chunks of a file: whole row groups up to ``wanted`` rows together, parts of one beyond ``largest``."""
    groups: list[int] = []
    rows = 0
    for group, n_rows in enumerate(footer.group_rows):
        if groups and rows + n_rows > wanted:
            yield _Part(footer.place, footer.identity, tuple(groups), Span(0, rows))
            groups, rows = [], 0
        if n_rows > largest:
            step = math.ceil(n_rows / math.ceil(n_rows / largest))
            yield from (_Part(footer.place, footer.identity, (group,), span) for span in cut(n_rows, step))
        elif n_rows:
            groups.append(group)
            rows += n_rows
    if groups:
        yield _Part(footer.place, footer.identity, tuple(groups), Span(0, rows))


def _bytes_read(parts: Sequence[_Part], fields: Sequence[str], sizes: dict[Place, tuple[dict[str, int], ...]]) -> int:
    return sum(sizes[part.place][group].get(name, 0) for part in parts for group in part.groups for name in fields)


@dataclass(frozen=True)
class _ParquetReader:
    """Reads parts of Parquet files, batch by batch into one block."""

    fields: tuple[str, ...]
    dtype: np.dtype[Any]

    def read(self, piece: _Part) -> Block:
        """The part's rows, (n_rows, n_fields)."""
        block = np.empty((len(piece.span), len(self.fields)), dtype=self.dtype)
        for first, rows in _batches(piece, self.fields):
            block[first : first + rows.num_rows] = table_block(rows, self.fields, self.dtype)
        return block


def _batches(piece: _Part, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """A part's columns, batch by batch, each with the number of its first row in the part."""
    if piece.place.version() != piece.identity:
        raise UserError(
            f"data.source: {piece.place.source} was changed while it was read. Run the job again when it is whole."
        )
    position = -piece.span.start
    with _opened(piece.place, _metadata(piece.place, piece.identity)) as file:
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
    """Reads columns of any type, chunk by chunk; a task of the graph holds it."""

    parts: tuple[_Part, ...]
    names: tuple[str, ...]

    def __call__(self, number: int) -> pa.Table:
        """The columns of a chunk."""
        tables = [rows for _, rows in _batches(self.parts[number], self.names)]
        return pa.concat_tables(tables).select(list(self.names))


def open_keys(source: Source, names: Sequence[str]) -> KeyReader:
    """A reader of key columns for the chunks of a source.

    Raises
    ------
    UserError
        If a file does not have one of them, or not in the type of the first.
    """
    parts = tuple(source.chunks.pieces)
    schemas = {part.place: _metadata(part.place, part.identity).schema.to_arrow_schema() for part in parts}
    first = next(iter(schemas.values()))
    for place, schema in schemas.items():
        for name in names:
            if name not in schema.names:
                raise UserError(
                    f"output.key_columns: {place.source} has no column {name!r}; its columns are "
                    f"{', '.join(schema.names)}."
                )
            if schema.field(name).type != first.field(name).type:
                raise UserError(
                    f"output.key_columns: the column {name!r} is {schema.field(name).type} in {place.source} and "
                    f"{first.field(name).type} in the first file. Write the files alike, or leave it out."
                )
    return KeyReader(parts, tuple(names))
