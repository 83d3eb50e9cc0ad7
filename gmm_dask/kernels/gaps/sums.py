"""Rows with missing values, by pattern: which columns are present.

The marginal of a Gaussian over the present columns is Gaussian, and the expectation of the missing ones is linear in
them. So the kernels of complete rows compute each pattern over its own columns, and what they add up gives the expected
sums over all columns (Ghahramani and Jordan 1994, "Supervised learning from incomplete data via an EM approach").
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.chunks import add_chunk, predict_chunk
from gmm_dask.kernels.compilation.jit import compiled, compiled_part
from gmm_dask.kernels.constants import DIAG, FULL, SPHERICAL, TIED
from gmm_dask.kernels.gaps.conditional import regress
from gmm_dask.kernels.gaps.marginals import columns_of, densities_of, split

Array = NDArray[np.float64]
Positions = NDArray[np.int64]


@compiled
def add_incomplete(
    kind: int,
    rows: NDArray[Any],
    row_weights: Array,
    starts: Positions,
    present: NDArray[np.bool_],
    mixture: Array,
    origins: Array,
    first: Positions,
    second: Positions,
    z: Array,
    logits: Array,
    shares: Array,
    row_multiple: int,
    totals: Array,
    sums: Array,
) -> None:
    """Add the log-likelihoods and the expected sufficient statistics of rows with missing values.

    Parameters
    ----------
    kind : int
        As in :mod:`gmm_dask.kernels.m_step`.
    rows : ndarray of shape (n_rows, n_features)
        Pattern by pattern.
    row_weights : ndarray of shape (n_rows,), or (0,)
    starts : ndarray of shape (n_patterns + 1,)
        Where the rows of each pattern begin, and where the last one's end.
    present : ndarray of shape (n_patterns, n_features)
        Rows without any value add nothing.
    mixture : ndarray
        Weights, means and covariances, one after another.
    origins : ndarray of shape (n_origins, n_features)
        Of the feature map, as in :func:`gmm_dask.kernels.chunks.add_chunk`.
    first, second : ndarray of shape (n_features + 1, n_monomials)
        The factors of the monomials of each number of columns.
    z, logits, shares, row_multiple, totals
        As in :func:`gmm_dask.kernels.chunks.add_chunk`, of one mixture.
    sums : ndarray of shape (n_components, n_columns), or (0, n_columns)
        Added to; without components, no statistics are taken.
    """
    d, n_components = rows.shape[1], len(logits)
    edges, here, gone = np.array([0, n_components]), np.empty(d, np.int64), np.empty(d, np.int64)
    for p in range(len(present)):
        n_here = split(present[p], here, gone)
        if n_here == 0:
            continue
        own, eta, factors = densities_of(kind, n_components, d, mixture, origins, here, n_here)
        n_monomials = _filled(eta.shape[1])
        part = columns_of(rows, starts[p], starts[p + 1], here, n_here)
        weights = row_weights[starts[p] : starts[p + 1]] if len(row_weights) else row_weights
        found = np.zeros((len(sums), n_monomials))
        add_chunk(
            part,
            weights,
            own,
            eta,
            first[n_here, :n_monomials],
            second[n_here, :n_monomials],
            edges,
            z[: n_here + (2 if kind == SPHERICAL else 1)],
            logits,
            shares,
            row_multiple,
            totals,
            found,
        )
        if len(sums):
            if kind == FULL or kind == TIED:  # noqa: SIM109 - the compiler has no tuples to build
                _add_expected(kind, d, mixture, factors, origins, here, n_here, gone, found, sums)
            else:
                _add_expected_diagonal(kind, d, mixture, origins, here, n_here, gone, found, sums)


@compiled
def predict_incomplete(
    kind: int,
    rows: NDArray[Any],
    starts: Positions,
    present: NDArray[np.bool_],
    mixture: Array,
    origins: Array,
    first: Positions,
    second: Positions,
    z: Array,
    logits: Array,
    shares: Array,
    row_multiple: int,
    label: Positions,
    log_density: Array,
    responsibility: Array,
) -> None:
    """Answers about rows with missing values, by what they have; those without any value get none.

    The parameters are those of :func:`add_incomplete` and :func:`gmm_dask.kernels.chunks.predict_chunk`.
    """
    d, n_components = rows.shape[1], len(logits)
    here, gone = np.empty(d, np.int64), np.empty(d, np.int64)
    for p in range(len(present)):
        n_here = split(present[p], here, gone)
        if n_here == 0:
            continue
        own, eta, _ = densities_of(kind, n_components, d, mixture, origins, here, n_here)
        n_monomials = _filled(eta.shape[1])
        mine = slice(starts[p], starts[p + 1])
        predict_chunk(
            columns_of(rows, starts[p], starts[p + 1], here, n_here),
            own,
            eta,
            first[n_here, :n_monomials],
            second[n_here, :n_monomials],
            z[: n_here + (2 if kind == SPHERICAL else 1)],
            logits,
            shares,
            row_multiple,
            label[mine],
            log_density[mine],
            responsibility[mine],
        )


@compiled_part
def _filled(n_columns: int) -> int:
    """The number of monomials, filled up to a multiple of 3."""
    return -(-n_columns // 3) * 3


@compiled_part
def _column(d: int, a: int, b: int) -> int:
    """Where ``z_a z_b`` is among ``1 | z | z_a^2 | z_a z_b (a < b)`` of d features."""
    if a == b:
        return 1 + d + a
    low, high = min(a, b), max(a, b)
    return 1 + 2 * d + low * d - low * (low + 1) // 2 + high - low - 1


@compiled_part
def _add_expected(
    kind: int,
    d: int,
    mixture: Array,
    factors: Array,
    origins: Array,
    here: Positions,
    n_here: int,
    gone: Positions,
    found: Array,
    sums: Array,
) -> None:
    """Add the expected sums over all columns, from those over the present ones, of components with matrices."""
    n_components, n_gone = len(sums), d - n_here
    size = n_components // len(origins)
    slopes, rest = np.empty((n_gone, n_here)), np.empty((n_gone, n_gone))
    shift, expected, crossed = np.empty(n_gone), np.empty(n_gone), np.empty((n_gone, n_here))
    for k in range(n_components):
        if k == 0 or kind != TIED:
            regress(kind, k, d, mixture, factors, here, n_here, gone, slopes, rest)
        g, mean, s0 = k // size, n_components + k * d, found[k, 0]
        sums[k, 0] += s0
        for i in range(n_here):
            sums[k, 1 + here[i]] += found[k, 1 + i]
            for j in range(i, n_here):
                sums[k, _column(d, here[i], here[j])] += found[k, _column(n_here, i, j)]
        # with z the rows about the origin, and m the component's mean: E[z_m] = a + B z_o, where a = m_m - B m_o
        for u in range(n_gone):
            shift[u] = mixture[mean + gone[u]] - origins[g, gone[u]]
            for i in range(n_here):
                shift[u] -= slopes[u, i] * (mixture[mean + here[i]] - origins[g, here[i]])
            expected[u] = s0 * shift[u]
            for i in range(n_here):
                expected[u] += slopes[u, i] * found[k, 1 + i]
            sums[k, 1 + gone[u]] += expected[u]
            for j in range(n_here):
                crossed[u, j] = shift[u] * found[k, 1 + j]
                for i in range(n_here):
                    crossed[u, j] += slopes[u, i] * found[k, _column(n_here, i, j)]
                sums[k, _column(d, gone[u], here[j])] += crossed[u, j]
        # E[z_m z_m'] = E[z_m] E[z_m]' + the covariance that is left
        for u in range(n_gone):
            for v in range(u, n_gone):
                square = s0 * rest[u, v] + expected[u] * shift[v]
                for j in range(n_here):
                    square += crossed[u, j] * slopes[v, j]
                sums[k, _column(d, gone[u], gone[v])] += square


@compiled_part
def _add_expected_diagonal(
    kind: int,
    d: int,
    mixture: Array,
    origins: Array,
    here: Positions,
    n_here: int,
    gone: Positions,
    found: Array,
    sums: Array,
) -> None:
    """The same of components without correlations: the present columns tell nothing of the others."""
    n_components, zero = len(sums), 1 if kind == SPHERICAL else 0
    first, size = n_components * (d + 1), n_components // len(origins)
    for k in range(n_components):
        s0 = found[k, zero]
        sums[k, zero] += s0
        if kind == SPHERICAL:
            sums[k, 0] += found[k, 0]
        for i in range(n_here):
            sums[k, zero + 1 + here[i]] += found[k, zero + 1 + i]
            if kind == DIAG:
                sums[k, 1 + d + here[i]] += found[k, 1 + n_here + i]
        for u in range(d - n_here):
            a = gone[u]
            shift = mixture[n_components + k * d + a] - origins[k // size, a]
            variance = mixture[first + k] if kind == SPHERICAL else mixture[first + k * d + a]
            sums[k, zero + 1 + a] += s0 * shift
            sums[k, 0 if kind == SPHERICAL else 1 + d + a] += s0 * (shift * shift + variance)
