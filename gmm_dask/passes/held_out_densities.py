"""Log densities of the rows that are held out, of all models of a pass, and how much their differences vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.holdout import Weighted
from gmm_dask.passes.model_batch import Model, ModelBatch, Totals
from gmm_dask.passes.predict import kernel_outputs, prediction_batch
from gmm_dask.passes.row_outputs import LOG_DENSITY

Array = NDArray[np.float64]

# rows whose log densities by all models are in memory at a time
BLOCK_ROWS = 1024
# a log density is no farther below the row's largest: squares must not overflow
FARTHEST = 1e100


@dataclass(frozen=True, eq=False)
class HeldOutDensities:
    """Sums over rows that are held out; the sum of two is that of all their rows.

    Attributes
    ----------
    weight : float
        Of the rows.
    log_likelihood : ndarray of shape (n_models,)
    below : ndarray of shape (n_models,)
        ``sum w d``, with d how far the row's log density is below the largest of all models.
    products : ndarray of shape (n_models, n_models)
        ``sum w d d^T``.
    """

    weight: float
    log_likelihood: Array
    below: Array
    products: Array

    @classmethod
    def of(cls, chunk: Weighted, batches: Sequence[ModelBatch]) -> Self:
        """Add up the rows of a chunk, by batches of one model."""
        rows, weights = chunk
        n = len(batches)
        weight, log_likelihood, below, products = 0.0, np.zeros(n), np.zeros(n), np.zeros((n, n))
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            w = np.ones(len(block)) if weights is None else weights[start : start + BLOCK_ROWS]
            found = [kernel_outputs(block, batch, (LOG_DENSITY.name,))[LOG_DENSITY.name] for batch in batches]
            densities = np.array(found)
            with np.errstate(invalid="ignore"):
                d = np.fmax(densities - densities.max(axis=0), -FARTHEST)
            weight += float(w.sum())
            log_likelihood += densities @ w
            below += d @ w
            products += (d * w) @ d.T
        return cls(weight, log_likelihood, below, products)

    def __add__(self, other: HeldOutDensities) -> HeldOutDensities:
        return HeldOutDensities(
            self.weight + other.weight,
            self.log_likelihood + other.log_likelihood,
            self.below + other.below,
            self.products + other.products,
        )

    def errors(self) -> Array:
        """Return the standard errors (n_models, n_models) of the differences of any two models' log-likelihoods."""
        # of the same rows: what makes a row unlikely by both models cancels in the difference
        squares = np.diagonal(self.products)
        total = squares[:, None] + squares - 2.0 * self.products
        difference = self.below[:, None] - self.below
        variances: Array = total - difference**2 / self.weight
        return np.sqrt(np.maximum(variances, 0.0))

    def added_to(self, totals: Sequence[Totals]) -> list[Totals]:
        """Return the totals of the models, with what these have over the rows that are held out."""
        found = zip(totals, self.log_likelihood.tolist(), self.errors().tolist(), strict=True)
        return [one._replace(held_out=held_out, held_out_errors=tuple(errors)) for one, held_out, errors in found]


def held_out_batches(models: Sequence[Model], gaps: bool = False) -> tuple[ModelBatch, ...]:
    """Return a batch for each model; ``gaps`` tells whether rows may have missing values."""
    return tuple(prediction_batch(*model, gaps=gaps) for model in models)
