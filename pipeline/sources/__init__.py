"""Sources of rows: CSV, NPY, Zarr and Parquet on local disk, read lazily in chunks."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Callable
from pathlib import Path, PurePath

from gmm_dask.errors import UserError
from pipeline.config import DataConfig
from pipeline.sources.base import Source

ENDINGS = (".csv", ".npy", ".zarr", ".parquet")

Opener = Callable[[DataConfig], Source]


def open_source(data: DataConfig) -> Source:
    """Open the data of a job; only headers are read.

    Parameters
    ----------
    data : DataConfig
        Path, columns, weights and chunks.

    Returns
    -------
    Source
        With a lazy array, one task a chunk.

    Raises
    ------
    UserError
        If the path or a column does not exist, if the format is not supported or the file not valid, if a
        column is not numeric, or if there are no rows.
    """
    _require_existing(data.source)
    return _opener(_ending(data.source))(data)


def last_modified(path: str) -> int:
    """When the newest file of a source was changed, in nanoseconds since 1970."""
    files = [Path(found) for found in glob.glob(path, recursive=True)] if glob.has_magic(path) else [Path(path)]
    below = (inside for file in files if file.is_dir() for inside in file.rglob("*"))
    return max((file.stat().st_mtime_ns for file in itertools.chain(files, below)), default=0)


def _require_existing(path: str) -> None:
    if "://" in path:
        raise UserError(f"data.source: expected a path on a local disk; got {path}. Copy the data there first.")
    if Path(path).exists() or (glob.has_magic(path) and glob.glob(path, recursive=True)):
        return
    missing = "no file matches" if glob.has_magic(path) else "there is no file or folder"
    raise UserError(
        f"data.source: {missing} {path}. A relative path is looked up from the current directory, {Path.cwd()}."
    )


def _ending(path: str) -> str:
    """The ending that tells the format; a folder that has none of them is one of Parquet files."""
    if any(part.endswith(".zarr") for part in PurePath(path).parts):
        return ".zarr"
    ending = PurePath(path).suffix
    if ending == ".parquet" or (ending in ENDINGS and Path(path).is_file()):
        return ending
    if Path(path).is_dir():
        return ".parquet"
    raise UserError(
        f"data.source: expected one path that ends in {', '.join(ENDINGS)}, a folder of Parquet files, "
        f"or a glob that ends in .parquet; got {path}."
    )


def _opener(ending: str) -> Opener:
    """The function that opens a format; its library is imported only now."""
    if ending == ".csv":
        from pipeline.sources.csv import open_csv

        return open_csv
    if ending == ".npy":
        from pipeline.sources.npy import open_npy

        return open_npy
    if ending == ".zarr":
        from pipeline.sources.zarr import open_zarr

        return open_zarr
    from pipeline.sources.parquet import open_parquet

    return open_parquet


__all__ = ["ENDINGS", "Source", "last_modified", "open_source"]
