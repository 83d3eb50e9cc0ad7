"""The rows of a source as a stage reads them: chunk by chunk, or loaded into memory if they are few."""

from __future__ import annotations

from dataclasses import replace

import dask
import dask.array as da
import numpy as np

from gmm_dask.errors import UnusableError, UserError
from gmm_dask.memory import release_freed
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.rows import Rows, as_rows, hold_out
from pipeline.config.job import JobConfig
from pipeline.sources import Source
from pipeline.sources.preparation import Preparation

# data of up to this many bytes are read once per stage and stay in memory: passes over them need no graph
IN_MEMORY_BYTES = 16 << 20


def open_rows(source: Source) -> Rows:
    """Return the rows as they are stored; in memory if they are few."""
    return _load_if_small(source, source.array, source.weights)


def open_prepared_rows(config: JobConfig, source: Source, preparation: Preparation, data_summary: DataSummary) -> Rows:
    """Return the rows as they are fitted, in the chunks that pass 0 found; in memory if they are few."""
    share, drop = config.search.held_out, preparation.drop
    lengths = data_summary.chunk_rows
    if share:  # a held-out row is known by its number among all rows: the passes drop rows, and not the read
        preparation, lengths = replace(preparation, drop=False), data_summary.read_rows
    rows = _load_if_small(source, *source.prepared(preparation, None if fits_in_memory(source) else lengths))
    return hold_out(rows, share, config.search.random_state, drop=drop)


def _load_if_small(source: Source, array: da.Array, weights: da.Array | None) -> Rows:
    if not fits_in_memory(source):
        return replace(as_rows(array, weights), on_read=source.reads.add)
    source.reads.add(len(array.chunks[0]))
    return as_rows(*dask.compute(*([array] if weights is None else [array, weights])))


def fits_in_memory(source: Source) -> bool:
    """Whether the data are so small that a stage loads them into memory."""
    if source.n_rows is None:
        return source.bytes_per_pass <= IN_MEMORY_BYTES
    return source.n_rows * len(source.columns) * 8 <= IN_MEMORY_BYTES


def read_data_summary(config: JobConfig, source: Source) -> DataSummary:
    """Run pass 0 over the rows as they are stored.

    Lines of a CSV that is not in memory are counted first: the sample of rows is drawn by row number, so that it does
    not depend on the format.

    Raises
    ------
    UserError
        As :func:`gmm_dask.passes.data_summary.summarize_rows`; values that are missing, unless they are dropped.
    """
    drop = config.data.missing == "drop"
    starts = None if fits_in_memory(source) else source.first_rows()
    seed = config.search.random_state
    rows = hold_out(open_rows(source), config.search.held_out, seed, starts=starts, drop=drop)
    try:
        found = summarize_rows(rows, seed, source.columns, drop=drop, starts=starts)
    except UnusableError as error:
        raise UserError(
            f"data.missing: {source.path} has rows that cannot be used. {error} Or set data.missing: drop, "
            "which leaves them out of the fit; they keep their rows in the result."
        ) from None
    release_freed()
    return found


def require_same_chunks(path: str, source: Source, data_summary: DataSummary) -> None:
    """Raise :class:`UserError` if the data of an unfinished run are in other chunks now, unless they fit in memory."""
    lengths = source.array.chunks[0]
    known = not np.isnan(source.array.shape[0])
    same = tuple(lengths) == data_summary.read_rows if known else len(lengths) == len(data_summary.read_rows)
    if same or fits_in_memory(source):
        return
    raise UserError(
        f"the result store {path} is unfinished, and its data are stored in other chunks than when the run began: "
        f"{len(data_summary.read_rows)} of up to {max(data_summary.read_rows):,} rows then, {len(lengths)} of up to "
        f"{source.chunk_rows:,} now. Resuming needs the same chunks: store the data as they were, or start over with "
        "--fresh (and set data.chunk_rows for chunks of another size)."
    )
