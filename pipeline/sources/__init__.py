"""Sources of rows: files and stores on a local disk or behind a URL, read lazily in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pkgutil import resolve_name
from typing import Any

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import ENDINGS, MANY_FILES, Format, format_of, having
from pipeline.sources.base import ChunkPolicy, MissingColumnsError, Source
from pipeline.sources.files import table_format
from pipeline.sources.grids.proposal import Proposal, propose
from pipeline.sources.location import Location, find_location, url_path
from pipeline.sources.retries import read_with_retries

AUTOMATIC = ChunkPolicy()


def open_source(data: DataConfig, policy: ChunkPolicy = AUTOMATIC) -> Source:
    """Open the data of a job; only headers are read.

    Parameters
    ----------
    data : DataConfig
        Path or URL, columns, weights and chunks.
    policy : ChunkPolicy
        How large automatic chunks are.

    Returns
    -------
    Source
        With a lazy array, one task per chunk.

    Raises
    ------
    MissingColumnsError
        If a column does not exist.
    UserError
        If the path does not exist or may not be read, if the format is not supported or the file not valid, if a
        column is not numeric, or if there are no rows.
    FaultError
        If the file system fails.
    """
    location = find_location(data)
    found = _format(location)
    if data.dataset is not None and not found.has_datasets:
        raise UserError(
            f"data.dataset: expected none for {data.shown}; only {having('has_datasets')} files have datasets."
        )
    if data.variables is not None and not found.has_grids:
        raise UserError(
            f"data.variables: expected none for {data.shown}; only {having('has_grids')} data have variables on a grid."
        )
    if data.version is not None and not found.has_versions:
        raise UserError(
            f"data.version: expected none for {data.shown}; only tables of {having('has_versions')} have versions."
        )
    if data.filter is not None and not found.has_filter:
        raise UserError(
            f"data.filter: expected none for {data.shown}; only rows of {having('has_filter')} can be filtered. Write "
            "the rows to fit as a file of their own, or set it to null."
        )
    if data.missing_chunks != "error" and not found.missing_chunks:
        raise UserError(
            f"data.missing_chunks: expected error for {data.shown}; only chunks of {having('missing_chunks')} data "
            "can be missing."
        )
    source: Source = resolve_name(found.opener)(data, location, policy)
    return source


def propose_grid(data: DataConfig) -> Proposal | None:
    """Return variables and feature dimensions to begin with, of data whose variables lie on a grid; None of others."""
    location = find_location(data)
    found = _format(location)
    if data.dataset is not None or data.columns is not None or data.variables is not None or not found.has_grids:
        return None
    return propose(resolve_name(str(found.variables))(data, location))


def _format(location: Location) -> Format:
    """Return the format that the path's ending tells; a folder is a table if it has a log, else one of files."""
    found = format_of(url_path(location))
    if found is not None and found.is_store:
        return found
    if found is MANY_FILES and (location.is_glob or location.is_web or not location.is_folder()):
        return found
    if found is not None and found.joins_files and location.is_glob:
        return found
    if not location.is_glob:
        if location.is_folder():
            return table_format(location) or MANY_FILES
        if found is not None:
            return found
    raise UserError(
        f"data.source: expected one path that ends in {', '.join(ENDINGS)}, a folder of {MANY_FILES.label} files, or "
        f"a glob that ends in {MANY_FILES.endings[0]}; got {location.source}."
    )


def open_keys(source: Source, names: Sequence[str], key: str = "output.key_columns") -> Any:
    """Open columns of any type of a source whose format has them, and which was opened before.

    ``key`` of the configuration names them, for messages.

    Returns
    -------
    callable
        From the number of a chunk to its columns, as a :class:`pyarrow.Table`.
    """
    opened = partial(resolve_name(str(source.format.key_opener)), source, key=key)
    return partial(read_with_retries, read_with_retries(opened, names))


__all__ = ["ChunkPolicy", "MissingColumnsError", "Source", "open_keys", "open_source", "propose_grid"]
