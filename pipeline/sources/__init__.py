"""Sources of rows: CSV, NPY, Zarr, Parquet and HDF5, on a local disk or behind a URL, read lazily in chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from gmm_dask.errors import UserError
from pipeline.config.job import DataConfig
from pipeline.sources.base import Source
from pipeline.sources.chunk_policy import ChunkPolicy
from pipeline.sources.location import Place, find_place, is_zarr, last_modified, url_path

ENDINGS = (".csv", ".npy", ".zarr", ".parquet", ".h5", ".hdf5")
HDF5 = (".h5", ".hdf5")
AUTOMATIC = ChunkPolicy()

Opener = Callable[[DataConfig, Place, ChunkPolicy], Source]


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
        With a lazy array, one task a chunk.

    Raises
    ------
    UserError
        If the path or a column does not exist or may not be read, if the format is not supported or the file not
        valid, if a column is not numeric, or if there are no rows.
    FaultError
        If the file system fails.
    """
    place = find_place(data)
    ending = _ending(place)
    if data.dataset is not None and ending not in HDF5:
        raise UserError(f"data.dataset: expected none for {data.source}; only an HDF5 file has datasets.")
    if data.missing_chunks != "error" and ending != ".zarr":
        raise UserError(f"data.missing_chunks: expected error for {data.source}; only Zarr data have such chunks.")
    return _opener(ending)(data, place, policy)


def _ending(place: Place) -> str:
    """The ending that tells the format; a folder that has none of them is one of Parquet files."""
    if is_zarr(place):
        return ".zarr"
    ending = PurePosixPath(url_path(place)).suffix
    if ending == ".parquet" or (not place.is_glob and place.is_folder()):
        return ".parquet"
    if ending in ENDINGS and not place.is_glob:
        return ending
    raise UserError(
        f"data.source: expected one path that ends in {', '.join(ENDINGS)}, a folder of Parquet files, "
        f"or a glob that ends in .parquet; got {place.source}."
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
    if ending in HDF5:
        from pipeline.sources.hdf5 import open_hdf5

        return open_hdf5
    from pipeline.sources.parquet import open_parquet

    return open_parquet


__all__ = ["ENDINGS", "ChunkPolicy", "Source", "last_modified", "open_source"]
