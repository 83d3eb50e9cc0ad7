"""The passes of a fit: sufficient statistics of a batch of models, and their log-likelihoods at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import Statistics
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.held_out_densities import HeldOutDensities, held_out_batches
from gmm_dask.passes.holdout import Holdout, Weighted
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.model_batch import (
    BatchSums,
    Model,
    ModelBatch,
    Totals,
    build_batch,
    chunk_sums,
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
    adds_up_rows: bool = False
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
    batch = build_batch(models, data_summary.center, data_summary.scatter, dtype=dtype)
    sums: _PassSums = map_reduce(rows, _statistics_of_chunk, _Shared(batch, rows.holdout), "statistics")
    statistics = unpack_sums(batch, sums.fitted)
    if not rows.in_memory:
        require_unchanged_statistics(statistics, rows, data_summary, dtype)
    return statistics


def collect_totals(rows: Rows, data_summary: DataSummary, models: Sequence[Model]) -> list[Totals]:
    """The final pass: the log-likelihood of every model, from one read of the data, in double precision.

    Raises
    ------
    ChangedRowsError
        If the rows are not those of the data summary.
    """
    batch = build_batch(models, data_summary.center, data_summary.scatter)
    held_out = () if rows.holdout is None else held_out_batches(models)
    shared = _Shared(batch, rows.holdout, not rows.in_memory, held_out)
    sums: _PassSums = map_reduce(rows, _totals_of_chunk, shared, "log-likelihood")
    if sums.rows is not None:
        require_unchanged(sums.rows, data_summary, rows.array.dtype)
    totals = unpack_totals(batch, sums.fitted)
    if sums.held_out is None:
        return totals
    found = zip(totals, sums.held_out.log_likelihood.tolist(), sums.held_out.errors().tolist(), strict=True)
    return [of_model._replace(held_out=held_out, held_out_errors=tuple(errors)) for of_model, held_out, errors in found]


def _statistics_of_chunk(rows: Any, weights: Any, shared: _Shared, number: int) -> _PassSums:
    chunk = _chunk(rows, weights)
    x, w = chunk if shared.holdout is None else shared.holdout.fitted(chunk, number)
    return _PassSums(chunk_sums(x, w, shared.batch))


def _totals_of_chunk(rows: Any, weights: Any, shared: _Shared, number: int) -> _PassSums:
    chunk = _chunk(rows, weights)
    fitted, held_out = (chunk, None) if shared.holdout is None else shared.holdout.split(chunk, number)
    return _PassSums(
        chunk_sums(*fitted, shared.batch, statistics=False),
        RowSums.of(*fitted) if shared.adds_up_rows else None,
        None if held_out is None else HeldOutDensities.of(held_out, shared.held_out),
    )


def _chunk(rows: Any, weights: Any) -> Weighted:
    return np.asarray(rows), None if weights is None else np.asarray(weights)
