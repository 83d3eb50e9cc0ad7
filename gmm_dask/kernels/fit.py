"""A whole fit over rows in memory as one compiled call: passes, M-steps, acceleration and the decision when to stop.

It takes the path of :func:`gmm_dask.em.loop.run`, which explains the decisions. There, a fit of few rows spends its
time in Python around small arrays; here it has none.

A mixture is one vector, as in :mod:`gmm_dask.kernels.m_step`, so that it is copied and extrapolated as a whole.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.cholesky import factorise
from gmm_dask.kernels.chunks import add_chunk
from gmm_dask.kernels.constants import (
    CONVERGED,
    FAILED,
    INNER_MAX_ITER,
    MAX_ITER,
    NEEDS_DOUBLE,
    SETTLED,
    SINGULAR,
    TIED,
    TRIES,
    UNCONSTRAINED,
    UNSOUND,
)
from gmm_dask.kernels.jit import ZERO, compiled, compiled_part
from gmm_dask.kernels.m_step import (
    constrained,
    covariance_start,
    fill_coefficients,
    fill_factors,
    fill_quadratic,
    fill_scatter,
    largest_trace,
    log_likelihood_correction,
    maximise,
)

Array = NDArray[np.float64]

# of a fit that has not ended
RUNNING = -1


@compiled
def fit_many(
    kind: int,
    constraint: int,
    constrain_at: int,
    rows: NDArray[Any],
    row_weights: Array,
    total_weight: float,
    center: Array,
    scatter: Array,
    reg_covar: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    centred_first: NDArray[np.int64],
    centred_second: NDArray[np.int64],
    max_kappa: float,
    max_single: float,
    tol: float,
    prior_bounds: Array,
    begin: float,
    order: int,
    regularization: float,
    origin: Array,
    scale: Array,
    mixtures: Array,
    all_factors: Array,
    z: NDArray[Any],
    logits: NDArray[Any],
    shares: NDArray[Any],
    row_multiple: int,
    most: NDArray[np.int64],
    bounds: Array,
    counts: NDArray[np.int64],
    traces: Array,
) -> None:
    """Run EM from several mixtures of one candidate, one after another, until each ends.

    Parameters
    ----------
    kind, constraint, constrain_at : int
        As in :mod:`gmm_dask.kernels.m_step`.
    rows : ndarray of shape (n_rows, n_features)
    row_weights : ndarray of shape (n_rows,), or (0,)
    total_weight : float
    center, scatter : ndarray
        Of the rows: the origin of the feature map, and the scatter about it.
    reg_covar : ndarray of shape (n_features,)
    first, second : ndarray
        The factors of the monomials, filled up to a multiple of 3.
    centred_first, centred_second : ndarray
        The same of the monomials about the components' own means.
    max_kappa, max_single : float
        Where the feature map about one centre would lose too much, components are computed about their own means; a fit
        ends where single precision would.
    tol : float
    prior_bounds : ndarray of shape (n_fits,)
        Lower bounds that the first iterations are compared with.
    begin, order, regularization : float, int, float
        Of the acceleration, as in :mod:`gmm_dask.em.acceleration`; an order of 0 is plain EM.
    origin, scale : ndarray of shape (n_values,)
        Extrapolation works on ``(mixture - origin) / scale``.
    mixtures : ndarray of shape (n_fits, n_values)
        Where the fits begin; receives where they end.
    all_factors : ndarray of shape (n_fits, n_factor_values)
        Factors of the precisions; receives those of the ends.
    z, logits, shares : ndarray
        Memory of a block.
    row_multiple : int
    most : ndarray of shape (n_fits,)
        Iterations that each may take.
    bounds : ndarray of shape (n_fits, largest of ``most``)
        Receives the lower bounds of the accepted iterations.
    counts : ndarray of shape (n_fits, 4)
        Receives how each ended, and its numbers of lower bounds, of rejected extrapolations and of all extrapolations.
    traces : ndarray of shape (n_fits,)
        Receives :func:`gmm_dask.kernels.m_step.largest_trace` of each end.
    """
    n_components, d = len(logits), rows.shape[1]
    n_columns, n_values, n_factors = len(first), mixtures.shape[1], all_factors.shape[1]
    edges = np.array([0, n_components])
    origins, means = np.empty((1, d)), np.empty((n_components, d))
    for a in range(d):
        origins[0, a] = center[a]
    eta = np.zeros((1, n_columns, n_components), dtype=z.dtype)
    sums, totals, within = np.empty((n_components, n_columns)), np.empty((2, 1)), np.empty((d, d))
    # of a pass about the components' own means, which most fits do not need
    centred_eta, centred_sums = np.empty((0, 0, 0), dtype=z.dtype), np.empty((0, 0))
    mixture, factors = np.empty(n_values), np.empty(n_factors)
    image, image_factors = np.empty(n_values), np.empty(n_factors)
    # without acceleration they hold nothing
    n_remembered_values = n_values if order else 0
    plain, plain_factors = np.empty(n_remembered_values), np.empty(n_factors if order else 0)
    points, images = np.empty((order + 1, n_remembered_values)), np.empty((order + 1, n_remembered_values))
    for i in range(len(mixtures)):
        _copy(mixtures[i], all_factors[i], mixture, factors)
        end, n_bounds, n_falls, n_extrapolations, n_remembered = RUNNING, 0, 0, 0, ZERO
        extrapolated = False
        while end == RUNNING:
            kappa = fill_coefficients(kind, n_components, d, mixture, factors, origins, eta)
            is_tight = not kappa <= max_kappa
            if z.itemsize == 4 and (is_tight or not _is_safe(eta, mixture, d, center, first, second, max_single)):
                end = NEEDS_DOUBLE
                if extrapolated:  # it goes on from the last plain step
                    _copy(plain, plain_factors, mixture, factors)
                break
            if is_tight:
                if not len(centred_sums):
                    centred_eta = np.zeros((n_components, len(centred_first), 1), dtype=z.dtype)
                    centred_sums = np.empty((n_components, len(centred_first)))
                _fill_centred(kind, mixture, factors, means, centred_eta)
                now = means, centred_eta, centred_first, centred_second, centred_sums, within
            else:
                now = origins, eta, first, second, sums, scatter
            about, coefficients, one, other, found, spread = now
            totals[:] = 0.0
            found[:] = 0.0
            add_chunk(
                rows,
                row_weights,
                about,
                coefficients,
                one,
                other,
                edges,
                z,
                logits,
                shares,
                row_multiple,
                totals,
                found,
            )
            if is_tight and kind == TIED:
                fill_scatter(n_components, d, found, within)
            bound = totals[0, 0] if is_tight else totals[0, 0] + log_likelihood_correction(kind, d, factors, scatter)
            bound /= total_weight
            inner = UNSOUND
            if math.isfinite(bound):
                inner = maximise(
                    kind,
                    constraint,
                    constrain_at,
                    n_components,
                    d,
                    found,
                    about,
                    spread,
                    reg_covar,
                    mixture,
                    image,
                    image_factors,
                )
            sound = inner != UNSOUND
            n_extrapolations += extrapolated
            if extrapolated and (not sound or bound < bounds[i, n_bounds - 1]):
                # EM's likelihood never falls: back to the plain step that was replaced
                _copy(plain, plain_factors, mixture, factors)
                extrapolated, n_remembered = False, 0
                n_falls += 1
                if n_bounds + n_falls >= most[i]:
                    end = MAX_ITER
                continue
            if not sound:
                end = FAILED if math.isnan(bound) else SINGULAR
                break
            change = bound - (bounds[i, n_bounds - 1] if n_bounds else prior_bounds[i])
            bounds[i, n_bounds] = bound
            n_bounds += 1
            if abs(change) < tol and not extrapolated:
                end = CONVERGED if inner == SETTLED else INNER_MAX_ITER
            elif n_bounds + n_falls >= most[i]:
                end = MAX_ITER
            elif order and change < begin:
                n_remembered = _remember(mixture, image, origin, scale, points, images, n_remembered)
                # a change below tol at an extrapolated point is confirmed by a plain step
                extrapolated = n_remembered > 1 and change >= tol
                if extrapolated:
                    _copy(image, image_factors, plain, plain_factors)
                    extrapolated = _extrapolate(
                        kind,
                        constraint,
                        constrain_at,
                        n_components,
                        d,
                        points,
                        images,
                        n_remembered,
                        regularization,
                        origin,
                        scale,
                        plain,
                        image,
                        image_factors,
                    )
                    if not extrapolated:
                        _copy(plain, plain_factors, image, image_factors)
            else:
                extrapolated, n_remembered = False, 0
            _copy(image, image_factors, mixture, factors)
        _copy(mixture, factors, mixtures[i], all_factors[i])
        counts[i, 0], counts[i, 1], counts[i, 2], counts[i, 3] = end, n_bounds, n_falls, n_extrapolations
        traces[i] = largest_trace(kind, n_components, d, factors, reg_covar)


@compiled_part
def _fill_centred(kind: int, mixture: Array, factors: Array, means: Array, eta: NDArray[Any]) -> None:
    """Fill the means of the components, and the coefficients of their complete log densities about them."""
    n_components, d = means.shape
    for k in range(n_components):
        for a in range(d):
            means[k, a] = mixture[n_components + k * d + a]
    fill_coefficients(kind, n_components, d, mixture, factors, means, eta)
    if kind == TIED:
        for k in range(n_components):
            fill_quadratic(d, factors, covariance_start(kind, k, d), k, eta)


@compiled_part
def _copy(mixture: Array, factors: Array, to_mixture: Array, to_factors: Array) -> None:
    """Copy a mixture with its factors."""
    for i in range(len(mixture)):
        to_mixture[i] = mixture[i]
    for i in range(len(factors)):
        to_factors[i] = factors[i]


@compiled_part
def _is_safe(
    eta: NDArray[Any],
    mixture: Array,
    d: int,
    center: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    max_single: float,
) -> bool:
    """Whether the sizes of the terms of each log density, at its component's mean, stay below ``max_single`` in sum."""
    n_components = eta.shape[2]
    lines = np.empty(d + 2)
    for k in range(n_components):
        lines[0], lines[d + 1] = 1.0, 0.0
        for a in range(d):
            lines[a + 1] = mixture[n_components + k * d + a] - center[a]
            lines[d + 1] += lines[a + 1] * lines[a + 1]
        terms = 0.0
        for p in range(eta.shape[1]):
            terms += abs(eta[0, p, k] * lines[first[p]] * lines[second[p]])
        # the constant of an empty component is minus infinity, and harms nothing. NaN is not below anything
        if mixture[k] > 0.0 and not terms <= max_single:
            return False
    return True


@compiled_part
def _remember(
    mixture: Array, image: Array, origin: Array, scale: Array, points: Array, images: Array, n_remembered: int
) -> int:
    """Add a point and its image to the last ones, or begin anew; returns how many are remembered."""
    step, last = 0.0, 0.0
    for i in range(len(mixture)):
        moved = (image[i] - mixture[i]) / scale[i]
        step += moved * moved
    if n_remembered:
        for i in range(len(mixture)):
            moved = images[n_remembered - 1, i] - points[n_remembered - 1, i]
            last += moved * moved
    # restart: where steps become longer, as when EM leaves a plateau, the linear model of the past does not hold
    if not (n_remembered and step <= last):
        n_remembered = 0
    if n_remembered == len(points):
        n_remembered -= 1
        for j in range(n_remembered):
            for i in range(len(mixture)):
                points[j, i] = points[j + 1, i]
                images[j, i] = images[j + 1, i]
    for i in range(len(mixture)):
        points[n_remembered, i] = (mixture[i] - origin[i]) / scale[i]
        images[n_remembered, i] = (image[i] - origin[i]) / scale[i]
    return n_remembered + 1


@compiled_part
def _extrapolate(
    kind: int,
    constraint: int,
    constrain_at: int,
    n_components: int,
    d: int,
    points: Array,
    images: Array,
    n_remembered: int,
    regularization: float,
    origin: Array,
    scale: Array,
    plain: Array,
    found: Array,
    factors: Array,
) -> bool:
    """Fill the Anderson extrapolation of the last passes and its factors; whether it is a mixture.

    ``plain`` is the plain step that it replaces.
    """
    # with differences dF of the residuals and dG of the images, gamma = argmin |f - gamma dF|^2 and x = g - gamma dG
    n, n_values = n_remembered - 1, points.shape[1]
    products, gamma, move = np.zeros(n * n), np.zeros(n), np.zeros(n_values)
    trace = 0.0
    for j in range(n):
        for k in range(j, n):
            for i in range(n_values):
                one = images[j + 1, i] - points[j + 1, i] - images[j, i] + points[j, i]
                other = images[k + 1, i] - points[k + 1, i] - images[k, i] + points[k, i]
                products[j * n + k] += one * other
            products[k * n + j] = products[j * n + k]
        trace += products[j * n + j]
        for i in range(n_values):
            one = images[j + 1, i] - points[j + 1, i] - images[j, i] + points[j, i]
            gamma[j] += one * (images[n, i] - points[n, i])
    for j in range(n):
        products[j * n + j] += regularization * trace
    if not factorise(products, n):  # the last steps are equal
        return False
    for j in range(n):  # R' R gamma = dF f
        for k in range(j):
            gamma[j] -= products[k * n + j] * gamma[k]
        gamma[j] /= products[j * n + j]
    for j in range(n - 1, -1, -1):
        for k in range(j + 1, n):
            gamma[j] -= products[j * n + k] * gamma[k]
        gamma[j] /= products[j * n + j]
        for i in range(n_values):
            move[i] -= gamma[j] * (images[j + 1, i] - images[j, i])
    # a step out of the parameter space is damped, towards the plain step
    damping = 1.0
    for _ in range(TRIES):
        for i in range(n_values):
            found[i] = (images[n, i] + damping * move[i]) * scale[i] + origin[i]
        damping *= 0.25
        if not (_is_mixture(found, n_components) and fill_factors(kind, n_components, d, found, factors)):
            continue
        # sums of covariances of a model need not be of it: what describes them best is taken
        if constraint == UNCONSTRAINED or (
            constrained(constraint, constrain_at, n_components, d, found, plain) != UNSOUND
            and fill_factors(kind, n_components, d, found, factors)
        ):
            return True
    return False


@compiled_part
def _is_mixture(mixture: Array, n_components: int) -> bool:
    """Whether all numbers are finite and all weights positive; normalises the weights."""
    for i in range(len(mixture)):
        if not math.isfinite(mixture[i]):
            return False
    total = 0.0
    for k in range(n_components):
        if not mixture[k] > 0.0:
            return False
        total += mixture[k]
    for k in range(n_components):
        mixture[k] /= total
    return True
