"""Compiled parameters of one mixture: the coefficients of its densities, and the M-step, for each covariance type.

They compute what the methods ``natural`` and ``maximise_all`` of :class:`gmm_dask.families.Family` do with NumPy, for
which many small arrays take longer than the arithmetic. All arrays are flat, and indices are written out: views and
array expressions would take most of the time that Numba compiles.

A mixture is a vector: weights (n_components,), means (n_components, D), covariances, and what a fit keeps beside
(:mod:`gmm_dask.kernels.fit`). Covariances, and the factors U of the precisions ``U U'``, are

========= ========================= =====================================
kind      covariances, factors      columns of the feature map
========= ========================= =====================================
FULL      (n_components, D, D)      ``1 | z | z_a^2 | z_a z_b (a < b)``
TIED      (D, D)                    ``1 | z``
DIAG      (n_components, D)         ``1 | z | z_a^2``
SPHERICAL (n_components,)           ``|z|^2 | 1 | z``
========= ========================= =====================================
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.arguments import Model, Prior
from gmm_dask.kernels.cholesky import factorise, invert_upper
from gmm_dask.kernels.compilation.jit import compiled, compiled_part, inlined_part
from gmm_dask.kernels.constants import (
    DIAG,
    FULL,
    LARGEST,
    LOG_2PI,
    NK_FLOOR,
    ROUNDING,
    SETTLED,
    SPHERICAL,
    TIED,
    UNCONSTRAINED,
    UNSOUND,
)
from gmm_dask.kernels.llvm.calls import call_constrain, call_prior

Array = NDArray[np.float64]


@compiled_part
def covariance_start(kind: int, k: int, d: int) -> int:
    """Where the covariance of component k begins among all, and its factor among all factors."""
    if kind == FULL:
        return k * d * d
    if kind == DIAG:
        return k * d
    return k if kind == SPHERICAL else 0


@compiled_part
def fill_coefficients(
    kind: int,
    n_components: int,
    d: int,
    mixture: Array,
    factors: Array,
    origins: Array,
    eta: NDArray[Any],
) -> float:
    """Fill the coefficients of ``log weight + log density``, ``eta`` (n_origins, n_columns, n_components / n_origins).

    ``origins`` (n_origins, n_features) are those of the feature map: one for all components, or one for each. Of tied
    covariances the quadratic term, which components share, is left out: :func:`fill_quadratic`.

    Returns
    -------
    kappa : float
        The largest ``(sum_a |mean_a - origin_a| sqrt(precision_aa))^2``, which bounds the rounding error of the map.
    """
    m, v, linear = np.empty(d), np.empty(d), np.empty(d)
    size, kappa = eta.shape[2], 0.0
    for k in range(n_components):
        u, g, i = covariance_start(kind, k, d), k // size, k % size
        for a in range(d):
            m[a] = mixture[n_components + k * d + a] - origins[g, a]
        # the log density of z is  log w + log|U| - D/2 log(2 pi) - |U'm|^2 / 2  +  (U U'm)' z  -  |U'z|^2 / 2
        log_det, norm, terms = 0.0, 0.0, 0.0
        if kind == SPHERICAL or kind == DIAG:  # noqa: SIM109 - the compiler has no tuples to build
            for a in range(d):
                root = factors[u + a] if kind == DIAG else factors[u]
                log_det += math.log(root)
                linear[a] = root * root * m[a]
                norm += linear[a] * m[a]
                terms += abs(m[a]) * root
        else:
            for b in range(d):
                v[b] = 0.0
                for a in range(b + 1):
                    v[b] += factors[u + a * d + b] * m[a]
                norm += v[b] * v[b]
            for a in range(d):
                log_det += math.log(factors[u + a * d + a])
                linear[a], precision = 0.0, 0.0
                for b in range(a, d):
                    linear[a] += factors[u + a * d + b] * v[b]
                    precision += factors[u + a * d + b] * factors[u + a * d + b]
                terms += abs(m[a]) * math.sqrt(precision)
        kappa = max(kappa, terms * terms)
        constant = 1 if kind == SPHERICAL else 0
        eta[g, constant, i] = math.log(mixture[k]) + log_det - 0.5 * d * LOG_2PI - 0.5 * norm
        for a in range(d):
            eta[g, constant + 1 + a, i] = linear[a]
        if kind == SPHERICAL:
            eta[g, 0, i] = -0.5 * factors[u] * factors[u]
        elif kind == DIAG:
            for a in range(d):
                eta[g, 1 + d + a, i] = -0.5 * factors[u + a] * factors[u + a]
        elif kind == FULL:
            fill_quadratic(d, factors, u, k, eta)
    return kappa


@compiled_part
def fill_quadratic(d: int, factors: Array, u: int, k: int, eta: NDArray[Any]) -> None:
    """Fill the coefficients of component k in the columns ``z_a^2 | z_a z_b (a < b)``; its factor begins at ``u``."""
    g, i, column = k // eta.shape[2], k % eta.shape[2], 1 + 2 * d
    for a in range(d):
        for b in range(a, d):
            precision = 0.0
            for c in range(b, d):
                precision += factors[u + a * d + c] * factors[u + b * d + c]
            if a == b:
                eta[g, 1 + d + a, i] = -0.5 * precision
            else:
                eta[g, column, i] = -precision
                column += 1


@compiled_part
def log_likelihood_correction(kind: int, d: int, factors: Array, scatter: Array) -> float:
    """``-tr(precision scatter) / 2`` of tied covariances, whose quadratic term the columns leave out; 0 for others."""
    total = 0.0
    if kind == TIED:
        for b in range(d):
            for c in range(b + 1):
                product = 0.0
                for a in range(b + 1):
                    product += factors[a * d + b] * scatter[a, c]
                total += product * factors[c * d + b]
    return -0.5 * total


@compiled_part
def maximise(
    model: Model,
    prior: Prior,
    reg_covar: Array,
    sums: Array,
    origins: Array,
    scatter: Array,
    previous: Array,
    mixture: Array,
    factors: Array,
) -> int:
    """Fill the mixture that the M-step makes of sums over the feature map.

    Parameters
    ----------
    model : Model
    prior : Prior
    reg_covar : ndarray of shape (n_features,)
        Added to the variances.
    sums : ndarray of shape (n_components, n_columns or more)
    origins : ndarray of shape (n_origins, n_features)
        What the sums are about: one for all components, or one for each.
    scatter : ndarray of shape (n_features, n_features)
        Of the data, each row's about the origins of its components; upper triangle.
    previous : ndarray of the shape of mixture, or (0,)
        The mixture before.
    mixture, factors : ndarray
        Receive the parameters.

    Returns
    -------
    end : int
        UNSOUND where a covariance is not positive definite, else how the iterations within the M-step ended.
    """
    kind, n_components, d = model.kind, model.n_components, model.n_features
    shift, added = np.empty((n_components, d)), np.empty((n_components, d))
    total = _fill_means(model, prior, reg_covar, sums, origins, mixture, shift, added)
    if kind == TIED:
        _fill_shared_covariance(n_components, d, scatter, total, shift, added, mixture)
    else:
        _fill_covariances(kind, n_components, d, sums, shift, added, mixture)
    if prior.move_at != 0:
        call_prior(prior.move_at, kind, n_components, d, mixture, factors, prior.values)
    for k in range(n_components):
        mixture[k] /= total
    end = constrained(model, mixture, previous)
    sound = end != UNSOUND and fill_factors(kind, n_components, d, mixture, factors)
    return end if sound else UNSOUND


@inlined_part
def _fill_means(
    model: Model,
    prior: Prior,
    reg_covar: Array,
    sums: Array,
    origins: Array,
    mixture: Array,
    shift: Array,
    added: Array,
) -> float:
    """Fill the rows of each component in place of its weight, and its mean; returns the rows of all.

    ``shift`` (n_components, n_features) receives the means about their origins, ``added`` what variances are given.
    """
    n_components, d, zero = model.n_components, model.n_features, 1 if model.kind == SPHERICAL else 0
    size, total = n_components if len(origins) == 1 else 1, 0.0
    all_positive = prior.move_at == 0  # a prior keeps all covariances wide
    for a in range(d):
        all_positive &= reg_covar[a] > 0.0
    for k in range(n_components):
        nk = sums[k, zero] + NK_FLOOR
        mixture[k] = nk
        total += nk
        for a in range(d):
            shift[k, a] = sums[k, zero + 1 + a] / nk
            mean = origins[k // size, a] * (sums[k, zero] / nk) + shift[k, a]
            mixture[n_components + k * d + a] = mean
            # no less than the rounding error of the mean: a smaller variance would have no density at its own rows
            added[k, a] = max(reg_covar[a], ROUNDING * np.spacing(abs(mean)) ** 2) if all_positive else reg_covar[a]
    return total


@inlined_part
def _fill_shared_covariance(
    n_components: int, d: int, scatter: Array, total: float, shift: Array, added: Array, mixture: Array
) -> None:
    """Fill the covariance that tied components share, from what :func:`_fill_means` leaves."""
    # over all components the responsibilities of a row add up to its weight: the scatter is the data's own
    first = n_components * (d + 1)
    for a in range(d):
        for b in range(a, d):
            between = 0.0
            for k in range(n_components):
                between += mixture[k] * shift[k, a] * shift[k, b]
            value = (scatter[a, b] - between) / total
            if a == b:
                largest = 0.0
                for k in range(n_components):
                    largest = max(largest, added[k, a])
                value += largest
            mixture[first + a * d + b] = value
            mixture[first + b * d + a] = value


@inlined_part
def _fill_covariances(
    kind: int, n_components: int, d: int, sums: Array, shift: Array, added: Array, mixture: Array
) -> None:
    """Fill the covariance of each component, from what :func:`_fill_means` leaves."""
    first = n_components * (d + 1)
    for k in range(n_components):
        c, nk = first + covariance_start(kind, k, d), mixture[k]
        if kind == FULL:
            column = 1 + 2 * d
            for a in range(d):
                mixture[c + a * d + a] = sums[k, 1 + d + a] / nk - shift[k, a] * shift[k, a] + added[k, a]
                for b in range(a + 1, d):
                    value = sums[k, column] / nk - shift[k, a] * shift[k, b]
                    mixture[c + a * d + b] = value
                    mixture[c + b * d + a] = value
                    column += 1
        elif kind == DIAG:
            for a in range(d):
                mixture[c + a] = sums[k, 1 + d + a] / nk - shift[k, a] * shift[k, a] + added[k, a]
        else:
            square = sums[k, 0] / nk
            for a in range(d):
                square += added[k, a] - shift[k, a] * shift[k, a]
            mixture[c] = square / d


@inlined_part
def constrained(model: Model, mixture: Array, previous: Array) -> int:
    """Give the covariances of a mixture what those of its model have in common.

    Returns as :func:`gmm_dask.kernels.parsimonious.constrain` does, by UNSOUND, SETTLED or UNSETTLED. ``previous``, of
    the same shape or (0,), is the mixture before.
    """
    if model.constraint == UNCONSTRAINED:
        return SETTLED
    n_components, d = model.n_components, model.n_features
    found: int = call_constrain(model.constrain_at, model.constraint, n_components, d, mixture, previous)
    return found


@compiled_part
def fill_scatter(n_components: int, d: int, sums: Array, scatter: Array) -> None:
    """Fill the upper triangle of the scatter that sums over the columns of full covariances give in all."""
    column = 1 + 2 * d
    for a in range(d):
        for b in range(a, d):
            monomial = 1 + d + a if a == b else column
            column += a != b
            scatter[a, b] = 0.0
            for k in range(n_components):
                scatter[a, b] += sums[k, monomial]


@compiled_part
def fill_factors(kind: int, n_components: int, d: int, mixture: Array, factors: Array) -> bool:
    """Fill the factors U of the precisions; whether all covariances are positive definite, and far from overflow."""
    first = n_components * (d + 1)
    if kind == DIAG or kind == SPHERICAL:  # noqa: SIM109
        for i in range(covariance_start(kind, n_components, d)):
            if not 0.0 < mixture[first + i] < np.inf:
                return False
            factors[i] = 1.0 / math.sqrt(mixture[first + i])
            if not factors[i] < LARGEST:
                return False
        return True
    work = np.empty(d * d)
    for i in range(1 if kind == TIED else n_components):
        c = i * d * d
        for j in range(d * d):
            work[j] = mixture[first + c + j]
        if not factorise(work, d):
            return False
        invert_upper(work, d, factors, c)
        for j in range(c, c + d * d):
            if not abs(factors[j]) < LARGEST:
                return False
    return True


@compiled
def largest_trace(kind: int, n_components: int, d: int, factors: Array, reg_covar: Array) -> float:
    """The largest ``tr(precision R)`` of the components, with ``reg_covar`` (n_features,) on the diagonal of R.

    It bounds ``1 / v``, for the smallest variance v of a component in any direction, in units of ``reg_covar``.
    """
    largest = 0.0
    for k in range(n_components):
        u, trace = covariance_start(kind, k, d), 0.0
        for a in range(d):
            if kind == SPHERICAL:
                trace += factors[u] * factors[u] * reg_covar[a]
            elif kind == DIAG:
                trace += factors[u + a] * factors[u + a] * reg_covar[a]
            else:  # the precision is U U'
                for b in range(a, d):
                    trace += factors[u + a * d + b] * factors[u + a * d + b] * reg_covar[a]
        if not trace <= largest:  # also NaN
            largest = trace
    return largest
