"""The rows of a source as a stage reads them: chunk by chunk, or held in memory if they are few."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.profile import Profile
from gmm_dask.scan import Rows, as_rows
from pipeline.sources import Source

# data of up to this many bytes are read once a stage and held in memory
HELD_BYTES = 16 << 20


def hold(source: Source) -> Rows:
    """The rows of a source; in memory if they are few."""
    if not is_held(source):
        return as_rows(source.array, source.weights)
    collections = [source.array] if source.weights is None else [source.array, source.weights]
    return as_rows(*dask.compute(*collections))


def is_held(source: Source) -> bool:
    """Whether the data are so small that a stage reads them once."""
    if source.n_rows is None:
        return source.bytes_per_pass <= HELD_BYTES
    return source.n_rows * len(source.columns) * 8 <= HELD_BYTES


def known_chunks(rows: Rows, profile: Profile) -> Rows:
    """Rows as a Dask array of chunks of known lengths: their own, or those that the profile found."""
    array = rows.array
    if rows.in_memory:
        return Rows(da.from_array(array, chunks=array.shape, name=False))
    if not np.isnan(array.shape[0]):
        return Rows(array)
    chunks = profile.chunk_rows, (rows.n_features,)
    return Rows(da.Array(array.dask, array.name, chunks=chunks, dtype=array.dtype))


def require_same_chunks(path: str, source: Source, profile: Profile) -> None:
    """Raise :class:`UserError` if an unfinished run's data are in other chunks now; those held are cut anew."""
    lengths = source.array.chunks[0]
    known = not np.isnan(source.array.shape[0])
    same = tuple(lengths) == profile.chunk_rows if known else len(lengths) == len(profile.chunk_rows)
    if same or is_held(source):
        return
    raise UserError(
        f"the result store {path} is unfinished, and its data are stored in other chunks than when the run began: "
        f"{len(profile.chunk_rows)} of up to {max(profile.chunk_rows):,} rows then, {len(lengths)} of up to "
        f"{source.chunk_rows:,} now. Going on needs the same chunks: store the data as they were, or start anew with "
        "--fresh (and data.chunk_rows for chunks of another size)."
    )
