"""What rows lack, given what they have: in each component a regression on the columns that are present."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.cholesky import factorise
from gmm_dask.kernels.compilation.jit import compiled, compiled_part
from gmm_dask.kernels.constants import DIAG, SPHERICAL
from gmm_dask.kernels.gaps.marginals import count_components, marginal_of, split
from gmm_dask.kernels.m_step import covariance_start

Array = NDArray[np.float64]
Positions = NDArray[np.int64]


@compiled
def condition_incomplete(
    kind: int,
    rows: NDArray[Any],
    starts: Positions,
    present: NDArray[np.bool_],
    mixture: Array,
    responsibility: Array,
    mean: Array,
    variance: Array,
) -> None:
    """Fill the mean and the variance of what is missing, given what is present.

    Parameters
    ----------
    kind, rows, starts, present, mixture
        As in :func:`add_incomplete`.
    responsibility : ndarray of shape (n_rows, n_components)
    mean, variance : ndarray of shape (n_rows, n_features)
        Receive both where a value is missing, of rows with any value.
    """
    d, n_components = rows.shape[1], responsibility.shape[1]
    here, gone = np.empty(d, np.int64), np.empty(d, np.int64)
    for p in range(len(present)):
        n_here = split(present[p], here, gone)
        n_gone = d - n_here
        if n_here == 0:
            continue
        _, factors = marginal_of(kind, n_components, d, mixture, here, n_here)
        slopes, rest = np.empty((n_gone, n_here)), np.empty((n_gone, n_gone))
        for i in range(starts[p], starts[p + 1]):
            for u in range(n_gone):
                mean[i, gone[u]] = variance[i, gone[u]] = 0.0
        weights = np.zeros(starts[p + 1] - starts[p])  # of the components so far
        for k in range(n_components):
            regress(kind, k, d, mixture, factors, here, n_here, gone, slopes, rest)
            at = n_components + k * d
            for i in range(starts[p], starts[p + 1]):
                share = responsibility[i, k]
                weights[i - starts[p]] += share
                # of a row so far away that its shares are not known, neither is what it lacks
                step = 0.0 if share == 0.0 else share / weights[i - starts[p]]
                for u in range(n_gone):
                    expected = _expected(mixture, at, rows[i], here, n_here, gone[u], slopes[u])
                    # the variance is that within components and that of their means, whose squares are added up as
                    # their mean is updated (West 1979, "Updating mean and variance estimates"): nothing cancels
                    deviation = expected - mean[i, gone[u]]
                    mean[i, gone[u]] += step * deviation
                    variance[i, gone[u]] += share * (rest[u, u] + deviation * (expected - mean[i, gone[u]]))


@compiled
def draw_incomplete(
    kind: int,
    rows: NDArray[Any],
    starts: Positions,
    present: NDArray[np.bool_],
    mixture: Array,
    chosen: Positions,
    normals: Array,
    drawn: Array,
) -> None:
    """Fill what is missing with draws, given what is present.

    Parameters
    ----------
    kind, rows, starts, present, mixture
        As in :func:`add_incomplete`, of rows with any value.
    chosen : ndarray of shape (n_rows,)
        The component that each row is drawn from.
    normals : ndarray of shape (n_rows, n_features)
        Standard normal numbers.
    drawn : ndarray of shape (n_rows, n_features)
        Receives the values that are missing.
    """
    d, n_components = rows.shape[1], count_components(kind, rows.shape[1], mixture)
    here, gone = np.empty(d, np.int64), np.empty(d, np.int64)
    for p in range(len(present)):
        n_here = split(present[p], here, gone)
        n_gone = d - n_here
        _, factors = marginal_of(kind, n_components, d, mixture, here, n_here)
        slopes, rest, root = np.empty((n_gone, n_here)), np.empty((n_gone, n_gone)), np.empty(n_gone * n_gone)
        for k in range(n_components):
            regress(kind, k, d, mixture, factors, here, n_here, gone, slopes, rest)
            for u in range(n_gone):
                for v in range(n_gone):
                    root[u * n_gone + v] = rest[u, v]
            varies = factorise(root, n_gone)  # not where a column follows from others
            at = n_components + k * d
            for i in range(starts[p], starts[p + 1]):
                if chosen[i] != k:
                    continue
                for u in range(n_gone):
                    value = _expected(mixture, at, rows[i], here, n_here, gone[u], slopes[u])
                    for v in range(u + 1):
                        value += root[v * n_gone + u] * normals[i, gone[v]] if varies else 0.0
                    drawn[i, gone[u]] = value


@compiled_part
def _expected(
    mixture: Array, at: int, row: NDArray[Any], here: Positions, n_here: int, column: int, slopes: Array
) -> float:
    """The expectation of a missing column of a row in a component, whose mean begins at ``at``."""
    value: float = mixture[at + column]
    for j in range(n_here):
        value += slopes[j] * (row[here[j]] - mixture[at + here[j]])
    return value


@compiled_part
def regress(
    kind: int,
    k: int,
    d: int,
    mixture: Array,
    factors: Array,
    here: Positions,
    n_here: int,
    gone: Positions,
    slopes: Array,
    rest: Array,
) -> None:
    """Fill the regression of the missing columns on the present ones, in component k.

    ``slopes`` (n_missing, n_present) are ``B = S_mo S_oo^-1``, ``rest`` (n_missing, n_missing) the covariances that are
    left, ``S_mm - B S_om``.
    """
    n_gone, n_components = len(slopes), count_components(kind, d, mixture)
    first = n_components * (d + 1) + covariance_start(kind, k, d)
    if kind == DIAG or kind == SPHERICAL:  # noqa: SIM109
        for u in range(n_gone):
            for j in range(n_here):
                slopes[u, j] = 0.0
            for v in range(n_gone):
                rest[u, v] = 0.0
            rest[u, u] = mixture[first] if kind == SPHERICAL else mixture[first + gone[u]]
        return
    at, whitened = k * n_here * n_here, np.empty(n_here)
    for u in range(n_gone):
        row = first + gone[u] * d
        for j in range(n_here):  # S_mo U, with S_oo^-1 = U U'
            whitened[j] = 0.0
            for i in range(j + 1):
                whitened[j] += mixture[row + here[i]] * factors[at + i * n_here + j]
        for i in range(n_here):
            slopes[u, i] = 0.0
            for j in range(i, n_here):
                slopes[u, i] += whitened[j] * factors[at + i * n_here + j]
        for v in range(n_gone):
            rest[u, v] = mixture[row + gone[v]]
            for i in range(n_here):
                rest[u, v] -= slopes[u, i] * mixture[first + gone[v] * d + here[i]]
