"""Rows with missing values, by pattern: which columns are present.

The marginal of a Gaussian over the present columns is Gaussian, and the expectation of the missing ones is linear in
them. So the kernels of complete rows compute each pattern over its own columns, and what they add up gives the expected
sums over all columns (Ghahramani and Jordan 1994, "Supervised learning from incomplete data via an EM approach").
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.cholesky import factorise
from gmm_dask.kernels.chunks import add_chunk, predict_chunk
from gmm_dask.kernels.constants import DIAG, FULL, SPHERICAL, TIED
from gmm_dask.kernels.jit import compiled, compiled_part
from gmm_dask.kernels.m_step import covariance_start, fill_coefficients, fill_factors

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
        n_here = _split(present[p], here, gone)
        if n_here == 0:
            continue
        own = _own_origins(origins, here, n_here)
        marginal, factors = _marginal(kind, n_components, d, mixture, here, n_here)
        eta = _coefficients(kind, n_components, n_here, marginal, factors, own)
        n_monomials = _filled(eta.shape[1])
        part = _columns_of(rows, starts[p], starts[p + 1], here, n_here)
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
        n_here = _split(present[p], here, gone)
        if n_here == 0:
            continue
        own = _own_origins(origins, here, n_here)
        marginal, factors = _marginal(kind, n_components, d, mixture, here, n_here)
        eta = _coefficients(kind, n_components, n_here, marginal, factors, own)
        n_monomials = _filled(eta.shape[1])
        mine = slice(starts[p], starts[p + 1])
        predict_chunk(
            _columns_of(rows, starts[p], starts[p + 1], here, n_here),
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
        n_here = _split(present[p], here, gone)
        n_gone = d - n_here
        if n_here == 0:
            continue
        _, factors = _marginal(kind, n_components, d, mixture, here, n_here)
        slopes, rest = np.empty((n_gone, n_here)), np.empty((n_gone, n_gone))
        for i in range(starts[p], starts[p + 1]):
            for u in range(n_gone):
                mean[i, gone[u]] = variance[i, gone[u]] = 0.0
        weights = np.zeros(starts[p + 1] - starts[p])  # of the components so far
        for k in range(n_components):
            _regress(kind, k, d, mixture, factors, here, n_here, gone, slopes, rest)
            at = n_components + k * d
            for i in range(starts[p], starts[p + 1]):
                share = responsibility[i, k]
                weights[i - starts[p]] += share
                # of a row so far away that its shares are not known, neither is what it lacks
                step = 0.0 if share == 0.0 else share / weights[i - starts[p]]
                for u in range(n_gone):
                    expected = mixture[at + gone[u]]
                    for j in range(n_here):
                        expected += slopes[u, j] * (rows[i, here[j]] - mixture[at + here[j]])
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
    d, n_components = rows.shape[1], _n_components(kind, rows.shape[1], mixture)
    here, gone = np.empty(d, np.int64), np.empty(d, np.int64)
    for p in range(len(present)):
        n_here = _split(present[p], here, gone)
        n_gone = d - n_here
        _, factors = _marginal(kind, n_components, d, mixture, here, n_here)
        slopes, rest, root = np.empty((n_gone, n_here)), np.empty((n_gone, n_gone)), np.empty(n_gone * n_gone)
        for k in range(n_components):
            _regress(kind, k, d, mixture, factors, here, n_here, gone, slopes, rest)
            for u in range(n_gone):
                for v in range(n_gone):
                    root[u * n_gone + v] = rest[u, v]
            varies = factorise(root, n_gone)  # not where a column follows from others
            at = n_components + k * d
            for i in range(starts[p], starts[p + 1]):
                if chosen[i] != k:
                    continue
                for u in range(n_gone):
                    value = mixture[at + gone[u]]
                    for j in range(n_here):
                        value += slopes[u, j] * (rows[i, here[j]] - mixture[at + here[j]])
                    for v in range(u + 1):
                        value += root[v * n_gone + u] * normals[i, gone[v]] if varies else 0.0
                    drawn[i, gone[u]] = value


@compiled_part
def _split(present: NDArray[np.bool_], here: Positions, gone: Positions) -> int:
    """Fill the numbers of the columns that are present, and of those that are missing; how many are present."""
    n_here = 0
    for a in range(len(present)):
        if present[a]:
            here[n_here] = a
            n_here += 1
        else:
            gone[a - n_here] = a
    return n_here


@compiled_part
def _filled(n_columns: int) -> int:
    """The number of monomials, filled up to a multiple of 3."""
    return -(-n_columns // 3) * 3


@compiled_part
def _own_origins(origins: Array, here: Positions, n_here: int) -> Array:
    own = np.empty((len(origins), n_here))
    for g in range(len(origins)):
        for i in range(n_here):
            own[g, i] = origins[g, here[i]]
    return own


@compiled_part
def _columns_of(rows: NDArray[Any], start: int, stop: int, here: Positions, n_here: int) -> Array:
    """Some rows with the columns that are present, in double precision."""
    part = np.empty((stop - start, n_here))
    for i in range(stop - start):
        for j in range(n_here):
            part[i, j] = rows[start + i, here[j]]
    return part


@compiled_part
def _marginal(
    kind: int, n_components: int, d: int, mixture: Array, here: Positions, n_here: int
) -> tuple[Array, Array]:
    """The mixture of the present columns, and the factors of its precisions: a matrix for each component if tied."""
    first, own_first = n_components * (d + 1), n_components * (n_here + 1)
    size = n_here * n_here
    n_matrices = 1 if kind == TIED else n_components
    n_values = n_components if kind == SPHERICAL else n_components * (n_here if kind == DIAG else size)
    marginal, factors = np.empty(own_first + n_values), np.empty(n_values)
    for k in range(n_components):
        marginal[k] = mixture[k]
        for i in range(n_here):
            marginal[n_components + k * n_here + i] = mixture[n_components + k * d + here[i]]
    if kind == SPHERICAL:
        for k in range(n_components):
            marginal[own_first + k] = mixture[first + k]
    elif kind == DIAG:
        for k in range(n_components):
            for i in range(n_here):
                marginal[own_first + k * n_here + i] = mixture[first + k * d + here[i]]
    else:
        for k in range(n_matrices):
            for i in range(n_here):
                for j in range(n_here):
                    value = mixture[first + (k * d + here[i]) * d + here[j]]
                    marginal[own_first + (k * n_here + i) * n_here + j] = value
    sound = fill_factors(
        kind, n_components, n_here, marginal[: own_first + (n_matrices * size if kind == TIED else n_values)], factors
    )
    if kind == TIED:
        for k in range(1, n_components):
            for i in range(size):
                factors[k * size + i] = factors[i]
    if not sound:
        for i in range(len(factors)):
            factors[i] = np.nan
    return marginal, factors


@compiled_part
def _coefficients(kind: int, n_components: int, n_here: int, marginal: Array, factors: Array, own: Array) -> Array:
    """Coefficients of the log densities of the present columns, the quadratic term of tied covariances included."""
    n_columns = 1 + 2 * n_here
    if kind == SPHERICAL:
        n_columns = 2 + n_here
    elif kind != DIAG:
        n_columns += n_here * (n_here - 1) // 2
    eta = np.zeros((len(own), n_columns, n_components // len(own)))
    fill_coefficients(FULL if kind == TIED else kind, n_components, n_here, marginal, factors, own, eta)
    return eta


@compiled_part
def _regress(
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
    n_gone, n_components = len(slopes), _n_components(kind, d, mixture)
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


@compiled_part
def _n_components(kind: int, d: int, mixture: Array) -> int:
    """How many components a vector has."""
    if kind == SPHERICAL:
        return len(mixture) // (d + 2)
    if kind == DIAG:
        return len(mixture) // (2 * d + 1)
    return (len(mixture) - d * d) // (d + 1) if kind == TIED else len(mixture) // (1 + d + d * d)


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
            _regress(kind, k, d, mixture, factors, here, n_here, gone, slopes, rest)
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
