"""The rows of a source as a stage reads them: chunk by chunk, or loaded into memory if they are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import dask
import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import TooLargeError, UnusableError, UserError
from gmm_dask.kernels.constants import LARGEST
from gmm_dask.memory import release_freed
from gmm_dask.passes.data_summary import TASK, DataSummary, draw_of, finish_summary, summarize_rows
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import Rows, as_rows, hold_out
from pipeline.config.job import JobConfig
from pipeline.config.transforms import TransformStep
from pipeline.sources import Source
from pipeline.sources.base import first_rows, no_rows
from pipeline.sources.preparation import Preparation
from pipeline.transforms import Chain
from pipeline.transforms.fitting import first_steps, fit_steps
from pipeline.transforms.sums import TransformedPart, TransformedSums, sum_transformed, summarize_transformed

if TYPE_CHECKING:
    import dask.array as da

# data of up to this many bytes are read once per stage and stay in memory: passes over them need no graph
IN_MEMORY_BYTES = 16 << 20
# that a fit needs
LEAST_ROWS = 2


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
    rows = data_summary.known(replace(rows, gaps=config.data.has_gaps))
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


@dataclass(frozen=True, eq=False)
class FirstRead:
    """What pass 0 finds.

    Attributes
    ----------
    summary : DataSummary
        Of the rows as they are stored.
    transformed : DataSummary
        Of the rows after the transforms that do not depend on them, with which ``data.transform`` begins.
    outside : tuple of int
        For each column, the finite values that a transform does not take; rows with one are left out, or with
        ``data.missing: likelihood`` such values count as missing.
    """

    summary: DataSummary
    transformed: DataSummary
    outside: tuple[int, ...]

    def notes(self, config: JobConfig, columns: Sequence[str]) -> list[str]:
        """Return remarks about the values that no transform takes."""
        chain = first_steps(config.data.steps, columns)
        return [
            f"the column {name!r} has {count:,} values that {chain.domain_of(i)[1]} does not take, which are not "
            f"{chain.domain_of(i)[0]}; {'they count as missing' if config.data.has_gaps else 'their rows are left out'}"
            for i, (name, count) in enumerate(zip(columns, self.outside, strict=True))
            if count
        ]


def first_read(config: JobConfig, source: Source) -> FirstRead:
    """Run pass 0 over the rows as they are stored, and as the first transforms leave them.

    Lines of a CSV that is not in memory are counted first: the sample of rows is drawn by row number, so that it does
    not depend on the format.

    Raises
    ------
    UserError
        As :func:`gmm_dask.passes.data_summary.summarize_rows`; values that are missing, or that a transform does not
        take, unless they are dropped.
    """
    drop, steps = config.data.drops, config.data.steps
    counted = None if fits_in_memory(source) else source.counted()
    starts = None if counted is None else counted.first_rows()
    seed, found_rows = config.search.random_state, replace(open_rows(source), gaps=config.data.has_gaps)
    if not (len(found_rows.array) if counted is None else counted.n_rows):
        raise no_rows(source, config.data.filter)
    rows = hold_out(found_rows, config.search.held_out, seed, starts=starts, drop=drop)
    try:
        found = read_first(rows, steps, source.columns, seed, drop=drop, starts=starts, path=source.path)
    except TooLargeError as error:
        or_filter = f" Or leave such rows out by data.filter, such as COLUMN < {LARGEST:g}."
        raise UserError(
            f"{error} Do that where {source.path} is written: data.scale and data.transform come after the sums of the "
            f"columns as they are stored.{or_filter * source.format.has_filter}"
        ) from None
    except UnusableError as error:
        raise UserError(
            f"data.missing: {source.path} has rows that cannot be used. {error} Or set data.missing: drop, "
            "which leaves them out of the fit, or likelihood, by which they take part with the values that they have; "
            "they keep their rows in the result."
        ) from None
    release_freed()
    return found


def read_first(
    rows: Rows,
    steps: Sequence[TransformStep],
    columns: Sequence[str],
    seed: int,
    *,
    drop: bool,
    path: str,
    starts: Sequence[int] | None = None,
) -> FirstRead:
    """Run pass 0 over rows as they are stored; errors are those of :func:`first_read`, and name ``path``."""
    chain = first_steps(steps, columns)
    if not chain.steps:
        summary = summarize_rows(rows, seed, columns, drop=drop, starts=starts)
        return FirstRead(summary, summary, (0,) * len(columns))
    draw = draw_of(rows, seed, drop=drop, starts=starts)
    part: TransformedPart = map_reduce(rows, summarize_transformed, (draw, chain), TASK)
    held_out = part.summary.held_out
    n_fitted = sum(part.summary.chunk_rows) - (held_out.n_rows if held_out else 0)
    if part.outside.any() and (not drop or n_fitted < LEAST_ROWS):
        raise UserError(_not_taken(part.outside, chain, columns, path, n_fitted if drop else None))
    summary = finish_summary(part.summary, columns, drop, rows.gaps)
    return FirstRead(summary, part.transformed.summary(summary, chain), tuple(part.outside.tolist()))


def _not_taken(outside: NDArray[np.int64], chain: Chain, columns: Sequence[str], path: str, n_left: int | None) -> str:
    """Return the error about values that a transform does not take; ``n_left`` rows are left without them, if known."""
    named = ", ".join(
        f"{outside[i]:,} in {columns[i]!r}, where {chain.domain_of(i)[1]} takes values {chain.domain_of(i)[0]}"
        for i in np.flatnonzero(outside).tolist()
    )
    found = f"data.transform: {path} has values that cannot be transformed: {named}."
    if n_left is not None:
        return (
            f"{found} Without the rows that cannot be used, which data.missing: drop leaves out, {n_left or 'no'} "
            f"{'row is' if n_left == 1 else 'rows are'} left, and a fit needs at least two. Take another transform, "
            "such as arcsinh, or name other columns by its columns."
        )
    return (
        f"{found} Take another transform, such "
        "as arcsinh or log1p, or set data.missing: drop, which leaves their rows out of the fit; they keep their rows "
        "in the result."
    )


def read_data_summary(config: JobConfig, source: Source) -> DataSummary:
    """Run pass 0 over the rows as they are stored: the summary of :func:`first_read`."""
    return first_read(config, source).summary


def fit_transform(config: JobConfig, source: Source, found: FirstRead) -> tuple[Chain, DataSummary]:
    """Fit ``data.transform``; returns it and the data summary in the units after it.

    Raises
    ------
    UserError
        As :func:`pipeline.transforms.fitting.fit_steps`.
    """

    def read(chain: Chain) -> DataSummary:
        rows, starts = replace(open_rows(source), gaps=config.data.has_gaps), first_rows(found.summary.read_rows)
        drop = config.data.missing == "drop"
        rows = hold_out(rows, config.search.held_out, config.search.random_state, starts=starts, drop=drop)
        summary = read_transformed(rows, found, chain)
        release_freed()
        return summary

    return fit_steps(config.data.steps, source.columns, found.transformed, read)


def read_transformed(rows: Rows, found: FirstRead, chain: Chain) -> DataSummary:
    """Read rows as they are stored once more, for their summary in the units after a chain."""
    shared = chain, rows.holdout, rows.gaps
    sums: TransformedSums = map_reduce(rows, sum_transformed, shared, "transformed-summary")
    return sums.summary(found.summary, chain)


def source_sample(data_summary: DataSummary, chain: Chain) -> NDArray[np.float64]:
    """Return the sample of a data summary in the units of the fit as the data have it."""
    return chain.undo(data_summary.sample) if data_summary.source_sample is None else data_summary.source_sample


def with_whole_sample(data_summary: DataSummary, found: DataSummary, chain: Chain) -> DataSummary:
    """Return a stored data summary in the units of the fit with all rows of the sample, which pass 0 found again."""
    return replace(
        data_summary,
        sample=chain.rows(found.sample),
        sample_weights=found.sample_weights,
        source_sample=None if data_summary.source_sample is None else found.sample,
    )


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
