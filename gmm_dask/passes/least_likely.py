"""The least likely rows of all, by one model: a small group that no sample of the rows holds is among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.holdout import Holdout, usable_rows
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.model_batch import Model, ModelBatch
from gmm_dask.passes.predict import kernel_outputs, prediction_batch
from gmm_dask.passes.row_outputs import LOG_DENSITY
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.unchanged import RowSums, require_unchanged

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LeastLikely:
    """The rows of the smallest log densities, in the order of the data; the sum of two is that of all their rows.

    Of rows that are equally likely the earlier ones are taken, so that the sum is associative.

    Attributes
    ----------
    most : int
        How many rows are kept.
    log_density : ndarray of shape (n_rows,)
    rows : ndarray of shape (n_rows, n_features)
    weights : ndarray of shape (n_rows,)
    """

    most: int
    log_density: Array
    rows: Array
    weights: Array

    def __add__(self, other: LeastLikely) -> LeastLikely:
        log_density = np.concatenate([self.log_density, other.log_density])
        rows, weights = np.concatenate([self.rows, other.rows]), np.concatenate([self.weights, other.weights])
        return LeastLikely(self.most, log_density, rows, weights)._smallest()

    def _smallest(self) -> LeastLikely:
        chosen = np.sort(np.argsort(self.log_density, kind="stable")[: self.most])
        return LeastLikely(self.most, self.log_density[chosen], self.rows[chosen], self.weights[chosen])

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None, batch: ModelBatch, most: int) -> LeastLikely:
        """Take them from rows (n_rows, n_features) with weights (n_rows,) or None; those of weight zero are absent."""
        if w is not None and not w.all():
            x, w = x[w > 0.0], w[w > 0.0]
        density = kernel_outputs(x, batch, (LOG_DENSITY.name,))[LOG_DENSITY.name]
        if len(x) > most:  # those above the threshold need no sorting
            few = np.flatnonzero(density <= np.partition(density, most - 1)[most - 1])
            x, density, w = x[few], density[few], None if w is None else w[few]
        weights = np.ones(len(x)) if w is None else w
        return cls(most, density, x.astype(np.float64), weights)._smallest()


@dataclass(frozen=True, eq=False)
class _Shared:
    """What the driver sends to the chunks."""

    batch: ModelBatch
    most: int
    holdout: Holdout | None


@dataclass(frozen=True, eq=False)
class _Part:
    """The least likely rows of some chunks, and the sums that tell whether the rows are those of pass 0."""

    least: LeastLikely
    rows: RowSums

    def __add__(self, other: _Part) -> _Part:
        return _Part(self.least + other.least, self.rows + other.rows)


def least_likely(rows: Rows, data_summary: DataSummary, model: Model, most: int) -> LeastLikely:
    """One pass: the ``most`` rows of a fit, without those with gaps, that a model finds least likely.

    Raises
    ------
    ChangedRowsError
        If the rows are not those of the data summary.
    """
    shared = _Shared(prediction_batch(*model, gaps=rows.gaps), most, rows.holdout)
    found: _Part = map_reduce(rows, _of_chunk, shared, "least-likely")
    require_unchanged(found.rows, data_summary, rows.array.dtype)
    return found.least


def _of_chunk(rows: Any, weights: Any, shared: _Shared, number: int) -> _Part:
    chunk = np.asarray(rows), None if weights is None else np.asarray(weights, dtype=np.float64)
    x, w = chunk if shared.holdout is None else shared.holdout.fitted(chunk, number)
    sums = RowSums.of(x, w, shared.batch.gaps)
    if shared.batch.gaps and not (complete := usable_rows(x)).all():
        # densities of different columns cannot be compared
        x, w = x[complete], None if w is None else w[complete]
    return _Part(LeastLikely.of(x, w, shared.batch, shared.most), sums)
