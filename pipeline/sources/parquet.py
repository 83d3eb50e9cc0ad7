"""Parquet: a file, a folder of files or a glob, read by row groups."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gmm_dask.errors import UserError
from pipeline.config import DataConfig
from pipeline.sources.arrow import arrow_column, table_block
from pipeline.sources.base import (
    Block,
    Column,
    Source,
    Span,
    cut,
    lazy_rows,
    refuse_empty,
    rows_per_chunk,
    select_columns,
)

# rows that are decoded at once
BATCH_ROWS = 65_536
# a row group larger than this, as float64, is read in parts, each of which decodes it from its beginning
GROUP_BYTES = 128 * 2**20


@dataclass(frozen=True)
class _Footer:
    """What the end of a file says about it.

    Attributes
    ----------
    path : str
    schema : pyarrow.Schema
    group_rows : tuple of int
        Rows of each row group.
    group_bytes : tuple of dict
        Compressed bytes of each column, in each row group.
    identity : tuple of int
        Size and time of the file.
    """

    path: str
    schema: pa.Schema
    group_rows: tuple[int, ...]
    group_bytes: tuple[dict[str, int], ...]
    identity: tuple[int, int]


@dataclass(frozen=True)
class _Part:
    """Rows ``span`` of some consecutive row groups of a file, counted from the first of them."""

    path: str
    groups: tuple[int, ...]
    span: Span


def open_parquet(data: DataConfig) -> Source:
    """Open Parquet files; see :func:`pipeline.sources.open_source`."""
    footers = [_read_footer(path) for path in _files(data.source)]
    found = _columns(footers[0].schema)
    selection = select_columns(found, data)
    named = selection.fields if data.columns is not None else (*selection.fields, *_numeric(footers))
    _require_one_schema(footers, dict.fromkeys(named), data.source)
    n_rows = sum(sum(footer.group_rows) for footer in footers)
    if not n_rows:
        refuse_empty(data.source)
    wanted = rows_per_chunk(data, n_rows, len(selection.fields))
    fits = max(1, GROUP_BYTES // (8 * len(selection.fields)))
    largest = max(wanted, fits) if data.chunk_rows == "auto" else wanted
    pieces = [part for footer in footers for part in _parts(footer, wanted, largest)]
    lengths = [len(part.span) for part in pieces]
    reader = _ParquetReader(selection.fields, selection.block_dtype)
    array, weights = lazy_rows(reader, pieces, lengths, selection, [f.identity for f in footers])
    n_bytes = _bytes_read(footers, pieces, selection.fields)
    return Source(array, weights, selection.columns, n_rows, max(lengths), n_bytes, data.source, "parquet")


# -- files ---------------------------------------------------------------------------------------------------


def _files(source: str) -> list[str]:
    """The files of a path, a folder or a glob, in the order of their names."""
    matches = [source] if Path(source).exists() else sorted(glob.glob(source, recursive=True))
    files = [file for match in matches for file in _files_under(Path(match))]
    if not files:
        raise UserError(f"data.source: the folder {source} has no file that ends in .parquet.")
    return files


def _files_under(path: Path) -> list[str]:
    """The path itself, or a folder's Parquet files, without hidden ones such as macOS leaves there."""
    if not path.is_dir():
        return [str(path)]
    return [
        str(file)
        for file in sorted(path.rglob("*.parquet"))
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    ]


def _read_footer(path: str) -> _Footer:
    try:
        with parquet.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"data.source: {path} is not a valid Parquet file: {error}.") from None
    stat = Path(path).stat()
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return _Footer(
        path,
        schema,
        tuple(group.num_rows for group in groups),
        tuple(_column_bytes(group) for group in groups),
        (stat.st_size, stat.st_mtime_ns),
    )


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
                    f"data.source: the files of {path} differ: the column {name!r} is {ours} in {first.path} "
                    f"and {theirs} in {footer.path}. Write them alike, or list those that are in data.columns."
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
            yield _Part(footer.path, tuple(groups), Span(0, rows))
            groups, rows = [], 0
        if n_rows > largest:
            step = math.ceil(n_rows / math.ceil(n_rows / largest))
            yield from (_Part(footer.path, (group,), span) for span in cut(n_rows, step))
        elif n_rows:
            groups.append(group)
            rows += n_rows
    if groups:
        yield _Part(footer.path, tuple(groups), Span(0, rows))


def _bytes_read(footers: Sequence[_Footer], parts: Sequence[_Part], fields: Sequence[str]) -> int:
    by_path = {footer.path: footer.group_bytes for footer in footers}
    return sum(by_path[part.path][group].get(name, 0) for part in parts for group in part.groups for name in fields)


@dataclass(frozen=True)
class _ParquetReader:
    """Reads parts of Parquet files, batch by batch into one block."""

    fields: tuple[str, ...]
    dtype: np.dtype[Any]

    def read(self, piece: _Part) -> Block:
        """The part's rows, (n_rows, n_fields)."""
        block = np.empty((len(piece.span), len(self.fields)), dtype=self.dtype)
        position = -piece.span.start
        with parquet.ParquetFile(piece.path) as file:
            for batch in self._batches(file, piece):
                rows = batch.slice(max(0, -position), len(block) - max(0, position))
                if rows.num_rows:
                    first = max(0, position)
                    block[first : first + rows.num_rows] = table_block(rows, self.fields, self.dtype)
                position += batch.num_rows
                if position >= len(block):
                    return block
        raise UserError(f"data.source: {piece.path} was changed while it was read.")

    def _batches(self, file: parquet.ParquetFile, piece: _Part) -> Iterator[pa.Table]:
        batches = file.iter_batches(BATCH_ROWS, row_groups=piece.groups, columns=self.fields, use_threads=False)
        return (pa.Table.from_batches([batch]) for batch in batches)
