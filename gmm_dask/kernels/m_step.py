"""Compiled parameters of one mixture: the coefficients of its densities, and the M-step, for each covariance type.

They compute what the methods ``natural`` and ``maximise`` of :class:`gmm_dask.families.Family` do with NumPy, for which
many small arrays take longer than the arithmetic. Covariances and factors have three dimensions for every type:

========= ============================= =====================================
kind      covariances, factors           columns of the feature map
========= ============================= =====================================
FULL      (n_components, D, D)          ``1 | z | z_a^2 | z_a z_b (a < b)``
TIED      (1, D, D)                     ``1 | z``
DIAG      (n_components, 1, D)          ``1 | z | z_a^2``
SPHERICAL (n_components, 1, 1)          ``|z|^2 | 1 | z``
========= ============================= =====================================
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.cholesky import factorise, invert_upper
from gmm_dask.kernels.feature_map import DIAG, FULL, SPHERICAL, TIED
from gmm_dask.kernels.jit import compiled

Array = NDArray[np.float64]

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
# scikit-learn adds this to every component's weight so that an empty one divides by something
NK_FLOOR = 10.0 * float(np.finfo(np.float64).eps)
# a mean is off by up to about two ulps: one of the product and one of the sum that it is computed from
ROUNDING = 4.0
# the squares of larger numbers, and their sums, may overflow
LARGEST = 1e150


@compiled
def fill_coefficients(
    kind: int, weights: Array, means: Array, factors: Array, center: Array, eta: NDArray[Any]
) -> float:
    """Fill ``eta`` (n_columns, n_components) with the coefficients of ``log weight + log density``.

    Returns
    -------
    kappa : float
        The largest ``(sum_a |mean_a - center_a| sqrt(precision_aa))^2``, which bounds the rounding error of the map.
    """
    n_components, d = means.shape
    m, v, linear = np.empty(d), np.empty(d), np.empty(d)
    kappa = 0.0
    for k in range(n_components):
        u = factors[k if len(factors) > 1 else 0]
        for a in range(d):
            m[a] = means[k, a] - center[a]
        # the log density of z is  log w + log|U| - D/2 log(2 pi) - |U'm|^2 / 2  +  (U U'm)' z  -  |U'z|^2 / 2
        log_det, norm, terms = 0.0, 0.0, 0.0
        if kind == SPHERICAL:
            log_det = d * np.log(u[0, 0])
            for a in range(d):
                linear[a] = u[0, 0] * u[0, 0] * m[a]
                norm += linear[a] * m[a]
                terms += abs(m[a]) * u[0, 0]
        elif kind == DIAG:
            for a in range(d):
                log_det += np.log(u[0, a])
                linear[a] = u[0, a] * u[0, a] * m[a]
                norm += linear[a] * m[a]
                terms += abs(m[a]) * u[0, a]
        else:
            v[:] = 0.0
            linear[:] = 0.0
            for a in range(d):
                log_det += np.log(u[a, a])
                precision = 0.0
                for b in range(a, d):
                    precision += u[a, b] * u[a, b]
                    v[b] += u[a, b] * m[a]
                terms += abs(m[a]) * math.sqrt(precision)
            for b in range(d):
                norm += v[b] * v[b]
            for a in range(d):
                for b in range(a, d):
                    linear[a] += u[a, b] * v[b]
        kappa = max(kappa, terms * terms)
        constant = np.log(weights[k]) + log_det - d * HALF_LOG_2PI - 0.5 * norm
        first = 1 if kind == SPHERICAL else 0
        eta[first, k] = constant
        for a in range(d):
            eta[first + 1 + a, k] = linear[a]
        if kind == SPHERICAL:
            eta[0, k] = -0.5 * u[0, 0] * u[0, 0]
        elif kind == DIAG:
            for a in range(d):
                eta[1 + d + a, k] = -0.5 * u[0, a] * u[0, a]
        elif kind == FULL:
            column = 1 + 2 * d
            for a in range(d):
                for b in range(a, d):
                    precision = 0.0
                    for c in range(b, d):
                        precision += u[a, c] * u[b, c]
                    if a == b:
                        eta[1 + d + a, k] = -0.5 * precision
                    else:
                        eta[column, k] = -precision
                        column += 1
    return kappa


@compiled
def log_likelihood_correction(kind: int, factors: Array, scatter: Array) -> float:
    """``-tr(precision scatter) / 2`` of tied covariances, whose quadratic term the columns leave out; 0 for others."""
    total = 0.0
    if kind == TIED:
        u, d = factors[0], len(scatter)
        for b in range(d):
            for c in range(d):
                product = 0.0
                for a in range(b + 1):
                    product += u[a, b] * scatter[a, c]
                total += product * u[c, b]
    return -0.5 * total


@compiled
def maximise(
    kind: int,
    sums: Array,
    center: Array,
    scatter: Array,
    reg_covar: Array,
    weights: Array,
    means: Array,
    covariances: Array,
    factors: Array,
) -> bool:
    """Fill the parameters that the M-step makes of sums (n_components, n_columns) over the feature map.

    Parameters
    ----------
    kind : int
    sums : ndarray of shape (n_components, n_columns or more)
    center : ndarray of shape (n_features,)
    scatter : ndarray of shape (n_features, n_features)
        Of the data about the centre.
    reg_covar : ndarray of shape (n_features,)
        Added to the variances.
    weights, means, covariances, factors : ndarray
        Receive the parameters.

    Returns
    -------
    sound : bool
        False where a covariance is not positive definite.
    """
    n_components, d = means.shape
    zero = 1 if kind == SPHERICAL else 0
    shift, added = np.empty((n_components, d)), np.empty((n_components, d))
    all_positive = np.all(reg_covar > 0.0)
    total = 0.0
    for k in range(n_components):
        nk = sums[k, zero] + NK_FLOOR
        weights[k] = nk
        total += nk
        kept = sums[k, zero] / nk
        for a in range(d):
            shift[k, a] = sums[k, zero + 1 + a] / nk
            means[k, a] = center[a] * kept + shift[k, a]
            # no less than the rounding error of the mean, whose variance would have no density at its own rows
            added[k, a] = reg_covar[a]
            if all_positive:
                added[k, a] = max(reg_covar[a], ROUNDING * np.spacing(abs(means[k, a])) ** 2)
    for i in range(len(covariances)):
        c = covariances[i]
        if kind == FULL:
            column = 1 + 2 * d
            for a in range(d):
                c[a, a] = sums[i, 1 + d + a] / weights[i] - shift[i, a] * shift[i, a] + added[i, a]
                for b in range(a + 1, d):
                    c[a, b] = c[b, a] = sums[i, column] / weights[i] - shift[i, a] * shift[i, b]
                    column += 1
        elif kind == TIED:
            # over all components the responsibilities of a row add up to its weight: the scatter is the data's own
            for a in range(d):
                for b in range(a, d):
                    between = 0.0
                    for k in range(n_components):
                        between += weights[k] * shift[k, a] * shift[k, b]
                    c[a, b] = c[b, a] = (scatter[a, b] - between) / total
                c[a, a] += added[:, a].max()
        elif kind == DIAG:
            for a in range(d):
                c[0, a] = sums[i, 1 + d + a] / weights[i] - shift[i, a] * shift[i, a] + added[i, a]
        else:
            square = sums[i, 0] / weights[i]
            for a in range(d):
                square += added[i, a] - shift[i, a] * shift[i, a]
            c[0, 0] = square / d
    for k in range(n_components):
        weights[k] /= total
    return fill_factors(covariances, factors)


@compiled
def fill_factors(covariances: Array, factors: Array) -> bool:
    """Fill the factors U of the precisions; whether all covariances are positive definite, and far from overflow."""
    n_rows, d = covariances.shape[1], covariances.shape[2]
    if n_rows < d or d == 1:  # variances
        for i in range(len(covariances)):
            for a in range(d):
                if not 0.0 < covariances[i, 0, a] < np.inf:
                    return False
                factors[i, 0, a] = 1.0 / math.sqrt(covariances[i, 0, a])
                if not factors[i, 0, a] < LARGEST:
                    return False
        return True
    work = np.empty((d, d))
    for i in range(len(covariances)):
        work[:] = covariances[i]
        if not factorise(work):
            return False
        factors[i] = 0.0
        invert_upper(work, factors[i])
        for a in range(d):
            for b in range(a, d):
                if not abs(factors[i, a, b]) < LARGEST:
                    return False
    return True


@compiled
def largest_trace(kind: int, factors: Array, reg_covar: Array) -> float:
    """The largest ``tr(precision R)`` of the components, with ``reg_covar`` (n_features,) on the diagonal of R.

    It bounds ``1 / v``, for the smallest variance v of a component in any direction, in units of ``reg_covar``.
    """
    largest = 0.0
    for u in factors:
        trace = 0.0
        for a in range(len(reg_covar)):
            if kind == SPHERICAL:
                trace += u[0, 0] * u[0, 0] * reg_covar[a]
            elif kind == DIAG:
                trace += u[0, a] * u[0, a] * reg_covar[a]
            else:  # the precision is U U'
                for b in range(a, len(reg_covar)):
                    trace += u[a, b] * u[a, b] * reg_covar[a]
        if not trace <= largest:  # also NaN
            largest = trace
    return largest
