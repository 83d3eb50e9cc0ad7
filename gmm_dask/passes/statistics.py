"""The passes of a fit: sufficient statistics of a batch of models, and their log-likelihoods at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gmm_dask.families import Statistics
from gmm_dask.passes.data_summary import DataSummary
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


@dataclass(frozen=True, eq=False)
class _Shared:
    """What the driver sends to the chunks."""

    batch: ModelBatch
    holdout: Holdout | None


@dataclass(frozen=True, eq=False)
class _Split:
    """Sums over the rows that are fitted, and over those that are held out, if some are."""

    fitted: BatchSums
    held_out: BatchSums | None

    def __add__(self, other: _Split) -> _Split:
        held_out = self.held_out + other.held_out if self.held_out and other.held_out else None
        return _Split(self.fitted + other.fitted, held_out)


def collect_statistics(
    rows: Rows, data_summary: DataSummary, models: Sequence[Model], dtype: np.dtype[Any] | None = None
) -> list[Statistics]:
    """One pass: the sufficient statistics of every model, from one read, in ``dtype`` or the rows' precision."""
    batch = build_batch(models, data_summary.center, data_summary.scatter, dtype=dtype or rows.array.dtype)
    return unpack_sums(batch, map_reduce(rows, _statistics_of_chunk, _Shared(batch, rows.holdout), "statistics"))


def collect_totals(rows: Rows, data_summary: DataSummary, models: Sequence[Model]) -> list[Totals]:
    """The final pass: the log-likelihood of every model, from one read of the data, in double precision.

    Rows that are held out have a scatter of their own, so that each row's density is computed as a whole then.
    """
    # a tied model leaves out its quadratic term and adds -tr(Lambda scatter) / 2 at the end, from pass 0's scatter of
    # the fitted rows; of the rows held out no scatter is known, so that their densities are computed in full
    is_split = rows.holdout is not None
    scatter = np.zeros_like(data_summary.scatter) if is_split else data_summary.scatter
    batch = build_batch(models, data_summary.center, scatter, densities=is_split)
    sums = map_reduce(rows, _totals_of_chunk, _Shared(batch, rows.holdout), "log-likelihood")
    totals = unpack_totals(batch, sums.fitted)
    if sums.held_out is None:
        return totals
    pairs = zip(totals, unpack_totals(batch, sums.held_out), strict=True)
    return [fitted._replace(held_out=held_out.log_likelihood) for fitted, held_out in pairs]


def _statistics_of_chunk(rows: Any, weights: Any, shared: _Shared, number: int) -> BatchSums:
    chunk = _chunk(rows, weights)
    x, w = chunk if shared.holdout is None else shared.holdout.fitted(chunk, number)
    return chunk_sums(x, w, shared.batch)


def _totals_of_chunk(rows: Any, weights: Any, shared: _Shared, number: int) -> _Split:
    chunk = _chunk(rows, weights)
    if shared.holdout is None:
        return _Split(chunk_sums(*chunk, shared.batch, statistics=False), None)
    fitted, held_out = (
        chunk_sums(*part, shared.batch, statistics=False) for part in shared.holdout.split(chunk, number)
    )
    return _Split(fitted, held_out)


def _chunk(rows: Any, weights: Any) -> Weighted:
    return np.asarray(rows), None if weights is None else np.asarray(weights)
