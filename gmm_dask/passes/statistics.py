"""The passes of a fit: sufficient statistics of a batch of models, and their log-likelihoods at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import Statistics
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.gaps.chunks import sums_of_chunk
from gmm_dask.passes.held_out_densities import HeldOutDensities, held_out_batches
from gmm_dask.passes.holdout import Holdout, Weighted
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.model_batch import (
    BatchSums,
    Model,
    ModelBatch,
    Totals,
    build_batch,
    unpack_sums,
    unpack_totals,
)
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.unchanged import RowSums, require_unchanged, require_unchanged_statistics

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Shared:
    """What the driver sends to the chunks.

    ``adds_up_rows`` says whether the sums are taken that tell whether the rows are those of pass 0.
    """

    batch: ModelBatch
    holdout: Holdout | None
    adds_up_rows: bool
    held_out: tuple[ModelBatch, ...] = ()


@dataclass(frozen=True, eq=False)
class _PassSums:
    """Sums over the rows that are fitted, and over those that are held out, if some are.

    ``rows`` tells whether the rows are those of pass 0; None where that is not checked.
    """

    fitted: BatchSums
    rows: RowSums | None = None
    held_out: HeldOutDensities | None = None

    def __add__(self, other: _PassSums) -> _PassSums:
        held_out = self.held_out + other.held_out if self.held_out and other.held_out else None
        rows = self.rows + other.rows if self.rows and other.rows else None
        return _PassSums(self.fitted + other.fitted, rows, held_out)


def collect_statistics(
    rows: Rows, data_summary: DataSummary, models: Sequence[Model], dtype: np.dtype[Any] | None = None
) -> list[Statistics]:
    """One pass: the sufficient statistics of every model, from one read, in ``dtype`` or the rows' precision.

    Raises
    ------
    ChangedRowsError
        If the rows are not those of the data summary.
    """
    dtype = dtype or rows.array.dtype
    batch = build_batch(models, data_summary.center, data_summary.complete_scatter, dtype=dtype, gaps=rows.gaps)
    # what is expected of missing values depends on the models, so that their sums do not tell whether rows changed
    shared = _Shared(batch, rows.holdout, rows.gaps and not rows.in_memory)
    sums: _PassSums = map_reduce(rows, _statistics_of_chunk, shared, "statistics")
    statistics = unpack_sums(batch, sums.fitted)
    if sums.rows is not None:
        require_unchanged(sums.rows, data_summary, rows.array.dtype)
    elif not rows.in_memory:
        require_unchanged_statistics(statistics, rows, data_summary, dtype)
    return statistics


def collect_totals(rows: Rows, data_summary: DataSummary, models: Sequence[Model]) -> list[Totals]:
    """The final pass: the log-likelihood of every model, from one read of the data, in double precision.

    Raises
    ------
    ChangedRowsError
        If the rows are not those of the data summary.
    """
    batch = build_batch(models, data_summary.center, data_summary.complete_scatter, gaps=rows.gaps)
    held_out = () if rows.holdout is None else held_out_batches(models, rows.gaps)
    shared = _Shared(batch, rows.holdout, not rows.in_memory, held_out)
    sums: _PassSums = map_reduce(rows, _totals_of_chunk, shared, "log-likelihood")
    if sums.rows is not None:
        require_unchanged(sums.rows, data_summary, rows.array.dtype)
    totals = unpack_totals(batch, sums.fitted)
    return totals if sums.held_out is None else sums.held_out.added_to(totals)


def _statistics_of_chunk(rows: Any, weights: Any, shared: _Shared, number: int) -> _PassSums:
    chunk = _chunk(rows, weights)
    x, w = chunk if shared.holdout is None else shared.holdout.fitted(chunk, number)
    return _PassSums(sums_of_chunk(x, w, shared.batch), _row_sums((x, w), shared))


def _totals_of_chunk(rows: Any, weights: Any, shared: _Shared, number: int) -> _PassSums:
    chunk = _chunk(rows, weights)
    fitted, held_out = (chunk, None) if shared.holdout is None else shared.holdout.split(chunk, number)
    return _PassSums(
        sums_of_chunk(*fitted, shared.batch, statistics=False),
        _row_sums(fitted, shared),
        None if held_out is None else HeldOutDensities.of(held_out, shared.held_out),
    )


def _row_sums(fitted: Weighted, shared: _Shared) -> RowSums | None:
    return RowSums.of(*fitted, shared.batch.gaps) if shared.adds_up_rows else None


def _chunk(rows: Any, weights: Any) -> Weighted:
    return np.asarray(rows), None if weights is None else np.asarray(weights)
