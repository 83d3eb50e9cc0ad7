"""What the data look like where values are missing: moments by column and by pair of columns, and counts.

Means, extremes and variances are of the values that a column has, covariances of the rows that have both columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Moments by pair of columns, over the rows that have both; each of shape (n_features, n_features).

    Attributes
    ----------
    weight : ndarray
        Total weight of these rows.
    mean : ndarray
        In line a, column b: the mean of column a over the rows that have a and b.
    scatter : ndarray
        ``sum w (x_a - mean_ab)(x_b - mean_ba)``.
    """

    weight: Array
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None) -> Self:
        """Take them from rows (n_rows, n_features) with values that are not finite, and weights (n_rows,) or None."""
        d = x.shape[1]
        present = np.isfinite(x)
        counts = np.count_nonzero(present, axis=0)
        origin = x.sum(axis=0, where=present, dtype=np.float64) / np.maximum(counts, 1)
        weight, sums, products = np.zeros((d, d)), np.zeros((d, d)), np.zeros((d, d))
        with np.errstate(over="ignore", invalid="ignore"):  # values that overflow are refused by name, in the end
            for start in range(0, len(x), BLOCK_ROWS):
                block = slice(start, start + BLOCK_ROWS)
                here = present[block].astype(np.float64)
                y = np.where(present[block], x[block] - origin, 0.0)
                wy, wh = (y, here) if w is None else (y * w[block, None], here * w[block, None])
                weight += wh.T @ here
                sums += wy.T @ here
                products += wy.T @ y
            shift = np.divide(sums, weight, out=np.zeros((d, d)), where=weight > 0.0)
            return cls(weight, origin[:, None] + shift, products - weight * shift * shift.T)

    @classmethod
    def of_complete(cls, weight: float, mean: Array, scatter: Array) -> Self:
        """Those of rows without gaps, given their weight, mean and scatter."""
        d = len(mean)
        return cls(np.full((d, d), weight), np.broadcast_to(mean[:, None], (d, d)), scatter)

    def __add__(self, other: PairMoments) -> PairMoments:
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            # pair by pair as for all rows: the two scatters, and that of the two means about their common one
            delta = other.mean - self.mean
            scatter = self.scatter + other.scatter + delta * delta.T * (self.weight * share)
            return PairMoments(weight, self.mean + delta * share, scatter)

    def common_scatter(self, total_weight: float) -> Array:
        """The scatter of so much weight with the covariances of these pairs; no direction has a negative variance."""
        share = np.divide(total_weight, self.weight, out=np.zeros_like(self.weight), where=self.weight > 0.0)
        scatter = self.scatter * share
        if not np.isfinite(scatter).all():
            return scatter
        # covariances of different rows may contradict each other
        values, vectors = np.linalg.eigh(scatter)
        if values[0] >= 0.0:
            return scatter
        found: Array = (vectors * np.maximum(values, 0.0)) @ vectors.T
        return found


@dataclass(frozen=True, eq=False)
class GapSums:
    """Sums over the rows of some chunks that have gaps.

    Attributes
    ----------
    n_rows : int
    weight : float
        Of these rows.
    columns : ndarray of shape (n_features,)
        How many values each column lacks.
    moments : PairMoments
    """

    n_rows: int
    weight: float
    columns: NDArray[np.int64]
    moments: PairMoments

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None) -> Self:
        """Those of incomplete rows (n_rows, n_features), with weights (n_rows,) or None."""
        columns = np.count_nonzero(~np.isfinite(x), axis=0).astype(np.int64)
        return cls(len(x), float(len(x)) if w is None else float(w.sum()), columns, PairMoments.of(x, w))

    def __add__(self, other: GapSums) -> GapSums:
        return GapSums(
            self.n_rows + other.n_rows,
            self.weight + other.weight,
            self.columns + other.columns,
            self.moments + other.moments,
        )


def added(one: GapSums | None, other: GapSums | None) -> GapSums | None:
    """The sum of two, of which none, one or both are there."""
    return one + other if one and other else one or other


@dataclass(frozen=True, eq=False)
class Gaps:
    """The values that are missing in the rows of a fit, each of which has another.

    Attributes
    ----------
    n_rows : int
        Rows with a gap.
    columns : ndarray of shape (n_features,)
        How many values each column lacks.
    weights : ndarray of shape (n_features,)
        Total weight of the rows that have the column.
    variances : ndarray of shape (n_features,)
        Of the values that each column has.
    complete_scatter : ndarray of shape (n_features, n_features)
        The scatter of the rows without gaps about the centre of the data.
    """

    n_rows: int
    columns: NDArray[np.int64]
    weights: Array
    variances: Array
    complete_scatter: Array

    def scaled(self, scale: Array) -> Gaps:
        """The same of rows that are divided by ``scale`` (n_features,)."""
        complete = self.complete_scatter / np.outer(scale, scale)
        return replace(self, variances=self.variances / scale**2, complete_scatter=complete)
