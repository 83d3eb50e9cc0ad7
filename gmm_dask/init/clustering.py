"""Clusterings that a search for starts begins from: k-means, and the nearest of rows that lie far from each other.

They draw what scikit-learn's ``KMeans`` and ``kmeans_plusplus`` draw, and k-means ends where ``KMeans`` ends. To import
those takes a second, an eighth of a small job, most of it for parts of SciPy that nothing here calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.map_reduce import one_blas_thread

Array = NDArray[np.float64]
Labels = NDArray[np.intp]

# those of scikit-learn's KMeans: k-means ends when the squared shifts of all centers add up to no more than this part
# of the mean variance of a column
MAX_ITER, TOL = 300, 1e-4
# so many distances at a time
BLOCK_VALUES = 1 << 16


def k_means(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Labels:
    """Return the cluster (n_rows,) of each row: Lloyd's algorithm from a greedy k-means++ start.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_features)
    weights : ndarray of shape (n_rows,) or None
    k : int
        At most n_rows.
    random : RandomState
        Is drawn from.
    """
    if k == 1:  # whatever is drawn
        return np.zeros(len(x), dtype=np.intp)
    shares = np.ones(len(x)) if weights is None else weights
    x = np.asfortranarray(x - x.mean(axis=0))  # sums are taken column by column
    tol = TOL * float(x.var(axis=0).mean())
    with one_blas_thread():
        centers = x[_distant_rows(x, shares, k, random, 2 + int(np.log(k)))]
        labels = np.full(len(x), -1)
        for _ in range(MAX_ITER):
            before, labels = labels, _nearest(x, centers)
            filled = _without_empty(x, shares, labels, centers)
            totals = np.bincount(filled, weights=shares, minlength=k)
            sums = np.stack([np.bincount(filled, weights=shares * column, minlength=k) for column in x.T], axis=1)
            held = totals > 0.0
            moved = np.where(held[:, None], sums / np.where(held, totals, 1.0)[:, None], centers)
            shift, centers = np.sum((moved - centers) ** 2), moved
            if np.array_equal(labels, before):
                return labels
            if shift <= tol:
                break
        return _nearest(x, centers)


def nearest_of_distant_rows(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Labels:
    """Return which of k rows, drawn far from each other (k-means++), each row is nearest to; see :func:`k_means`."""
    with one_blas_thread():
        shares = np.ones(len(x)) if weights is None else weights
        return _nearest(x, x[_distant_rows(x, shares, k, random, 1)])


def _nearest(x: Array, centers: Array) -> Labels:
    """Return the center that each row is nearest to."""
    labels = np.empty(len(x), dtype=np.intp)
    # |x - c|^2 without |x|^2, which all centers share
    squares, doubled = np.sum(centers**2, axis=1), -2.0 * centers.T
    step = max(1, BLOCK_VALUES // len(centers))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        (x[rows] @ doubled + squares).argmin(axis=1, out=labels[rows])
    return labels


def _without_empty(x: Array, shares: Array, labels: Labels, centers: Array) -> Labels:
    """Return labels that give each cluster without weight one of the rows farthest from their centers."""
    empty = np.flatnonzero(np.bincount(labels, weights=shares, minlength=len(centers)) == 0.0)
    if not len(empty):
        return labels
    distances = np.sum((x - centers[labels]) ** 2, axis=1) * (shares > 0.0)
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    if distances[farthest[0]] == 0.0:  # fewer distinct rows than clusters: some stay empty
        return labels
    filled = labels.copy()
    filled[farthest] = empty
    return filled


def _distant_rows(x: Array, shares: Array, k: int, random: np.random.RandomState, n_trials: int) -> NDArray[Any]:
    """Return positions of k rows far from each other (k-means++, Arthur and Vassilvitskii 2007).

    Of ``n_trials`` rows, drawn in proportion to weight and squared distance from the nearest one so far, the next is
    the one that leaves the smallest sum of them.
    """
    norms = np.sum(x**2, axis=1)

    def squared_distances(chosen: Any) -> Array:
        distances: Array = np.maximum(-2.0 * (x[chosen] @ x.T) + norms[chosen, None] + norms, 0.0)
        distances[np.arange(len(chosen)), chosen] = 0.0
        return distances

    found = [int(random.choice(len(x), p=shares / shares.sum()))]
    nearest = squared_distances(np.array(found))[0]
    for _ in range(1, k):
        weighted = np.cumsum(shares * nearest)
        drawn = np.searchsorted(weighted, random.uniform(size=n_trials) * (nearest @ shares))
        drawn = np.minimum(drawn, len(x) - 1)
        after = np.minimum(nearest, squared_distances(drawn))
        best = int(np.argmin(after @ shares))
        found.append(int(drawn[best]))
        nearest = after[best]
    return np.array(found)
