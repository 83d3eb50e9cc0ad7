"""The rows of a source as a stage reads them: chunk by chunk, or held in memory if they are few."""

from __future__ import annotations

from dataclasses import replace

import dask
import dask.array as da
import numpy as np

from gmm_dask.errors import UnusableError, UserError
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.rows import Rows, as_rows, hold_out
from pipeline.config.job import JobConfig
from pipeline.sources import Source
from pipeline.sources.preparation import Preparation

# data of up to this many bytes are read once a stage and held in memory
HELD_BYTES = 16 << 20


def hold(source: Source) -> Rows:
    """The rows of a source as they are; in memory if they are few."""
    return _held(source, source.array, source.weights)


def hold_prepared(config: JobConfig, source: Source, preparation: Preparation, data_summary: DataSummary) -> Rows:
    """The rows of a source as they are fitted, in the chunks that pass 0 found; in memory if they are few."""
    share, drop = config.search.held_out, preparation.drop
    lengths = data_summary.chunk_rows
    if share:  # a row is known by its number among all rows, so that the passes leave out those that are dropped
        preparation, lengths = replace(preparation, drop=False), data_summary.read_rows
    rows = _held(source, *source.prepared(preparation, None if is_held(source) else lengths))
    return hold_out(rows, share, config.search.random_state, drop=drop)


def _held(source: Source, array: da.Array, weights: da.Array | None) -> Rows:
    if not is_held(source):
        return as_rows(array, weights)
    return as_rows(*dask.compute(*([array] if weights is None else [array, weights])))


def is_held(source: Source) -> bool:
    """Whether the data are so small that a stage reads them once."""
    if source.n_rows is None:
        return source.bytes_per_pass <= HELD_BYTES
    return source.n_rows * len(source.columns) * 8 <= HELD_BYTES


def read_data_summary(config: JobConfig, source: Source) -> DataSummary:
    """Pass 0 over the rows as they are.

    Lines of a CSV are counted first, if they are not held: which rows are drawn for the seeding follows from their
    numbers, so that it does not depend on the format.

    Raises
    ------
    UserError
        As :func:`gmm_dask.passes.data_summary.summarize_rows`; values that are missing, unless they are dropped.
    """
    drop = config.data.missing == "drop"
    starts = None if is_held(source) else source.first_rows()
    seed = config.search.random_state
    rows = hold_out(hold(source), config.search.held_out, seed, starts=starts, drop=drop)
    try:
        return summarize_rows(rows, seed, source.columns, drop=drop, starts=starts)
    except UnusableError as error:
        raise UserError(
            f"data.missing: {source.path} has rows that cannot be used. {error} Or take data.missing: drop, which "
            "leaves them out of the fit and keeps their places in the result."
        ) from None


def require_same_chunks(path: str, source: Source, data_summary: DataSummary) -> None:
    """Raise :class:`UserError` if an unfinished run's data are in other chunks now; those held are cut anew."""
    lengths = source.array.chunks[0]
    known = not np.isnan(source.array.shape[0])
    same = tuple(lengths) == data_summary.read_rows if known else len(lengths) == len(data_summary.read_rows)
    if same or is_held(source):
        return
    raise UserError(
        f"the result store {path} is unfinished, and its data are stored in other chunks than when the run began: "
        f"{len(data_summary.read_rows)} of up to {max(data_summary.read_rows):,} rows then, {len(lengths)} of up to "
        f"{source.chunk_rows:,} now. Going on needs the same chunks: store the data as they were, or start anew with "
        "--fresh (and data.chunk_rows for chunks of another size)."
    )
