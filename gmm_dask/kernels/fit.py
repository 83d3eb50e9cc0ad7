"""A whole fit over rows in memory as one compiled call: passes, M-steps, acceleration and the decision when to stop.

It takes the path of :func:`gmm_dask.em.loop.run`, which explains the decisions. There, a fit of few rows spends its
time in Python around small arrays; here it has none.

A mixture is one vector, as in :mod:`gmm_dask.kernels.m_step`, so that it is copied and extrapolated as a whole. Its
end is the weight of the noise, where there is noise; of a variational posterior, what is added to the log weight of
each component (:mod:`gmm_dask.kernels.priors`).
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
    LEAST_WEIGHT,
    MAX_ITER,
    NEEDS_DOUBLE,
    SETTLED,
    SINGULAR,
    SPHERICAL,
    TIED,
    TINY,
    TRIES,
    UNCONSTRAINED,
    UNSOUND,
)
from gmm_dask.kernels.jit import ZERO, compiled, compiled_part
from gmm_dask.kernels.llvm.calls import call_prior
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
    n_components: int,
    log_volume: float,
    prior_at: int,
    terms_at: int,
    is_posterior: int,
    prior: Array,
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
    n_components : int
    log_volume : float
        Minus the log density of the noise, which there is where ``logits`` have a line more than there are components.
    prior_at, terms_at, is_posterior, prior : int, int, int, ndarray
        The addresses of what moves parameters towards a prior and of its terms of the bound, 0 without a prior; whether
        mixtures are variational posteriors; the numbers of the prior (:mod:`gmm_dask.kernels.priors`).
    rows : ndarray of shape (n_rows, n_features)
    row_weights : ndarray of shape (n_rows,), or (0,)
    total_weight : float
    center, scatter : ndarray
        Of the rows: the origin of the feature map, and the scatter about it.
    reg_covar : ndarray of shape (n_features,)
    first, second : ndarray
        The factors of the monomials, filled up to a multiple of 3; beside noise those of the complete density.
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
    n_densities, d = len(logits), rows.shape[1]
    # noise has no part in the quadratic term that tied components share
    is_noisy, zero = n_densities > n_components, 1 if kind == SPHERICAL else 0
    n_columns, n_values, n_factors = len(first), mixtures.shape[1], all_factors.shape[1]
    edges = np.array([0, n_densities])
    origins, means = np.empty((1, d)), np.empty((n_densities, d))
    for a in range(d):
        origins[0, a] = center[a]
    eta = np.zeros((1, n_columns, n_densities), dtype=z.dtype)
    sums, totals, within = np.empty((n_densities, n_columns)), np.empty((2, 1)), np.empty((d, d))
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
            kappa = _fill(kind, n_components, d, is_noisy, log_volume, is_posterior, mixture, factors, origins, eta)
            is_tight = not kappa <= max_kappa
            if z.itemsize == 4 and (
                is_tight or not _is_safe(eta, n_components, mixture, d, center, first, second, max_single)
            ):
                end = NEEDS_DOUBLE
                if extrapolated:  # it goes on from the last plain step
                    _copy(plain, plain_factors, mixture, factors)
                break
            if is_tight:
                if not len(centred_sums):
                    centred_eta = np.zeros((n_densities, len(centred_first), 1), dtype=z.dtype)
                    centred_sums = np.empty((n_densities, len(centred_first)))
                for k in range(n_densities):  # the noise has no mean; it is the same about any
                    for a in range(d):
                        means[k, a] = mixture[n_components + k % n_components * d + a]
                _fill(kind, n_components, d, is_tight, log_volume, is_posterior, mixture, factors, means, centred_eta)
                now = means, centred_eta, centred_first, centred_second, centred_sums, within
            else:
                now = origins, eta, first, second, sums, within if is_noisy else scatter
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
            is_whole = is_tight or is_noisy
            if is_whole and kind == TIED:
                fill_scatter(n_components, d, found, within)
            bound = totals[0, 0] if is_whole else totals[0, 0] + log_likelihood_correction(kind, d, factors, scatter)
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
                    prior_at,
                    prior,
                    mixture,
                    image,
                    image_factors,
                )
            sound = inner != UNSOUND
            if sound and is_noisy:
                _put_beside_noise(n_components, zero, found, image)
            if sound and is_posterior:
                # the entropy of the responsibilities, and what the posteriors add
                bound = totals[0, 0] - _expected_log_joint(n_components, zero, found, coefficients)
                bound += call_prior(terms_at, kind, n_components, d, image, image_factors, prior)
            elif sound and terms_at != 0:
                bound += call_prior(terms_at, kind, n_components, d, mixture, factors, prior)
            bound /= total_weight
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
                        is_noisy,
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
def _fill(
    kind: int,
    n_components: int,
    d: int,
    is_whole: bool,
    log_volume: float,
    is_posterior: int,
    mixture: Array,
    factors: Array,
    origins: Array,
    eta: NDArray[Any],
) -> float:
    """Fill the coefficients of all densities, as :func:`fill_coefficients` does; all of them where they are whole."""
    kappa = fill_coefficients(kind, n_components, d, mixture, factors, origins, eta)
    size, constant = eta.shape[2], 1 if kind == SPHERICAL else 0
    if is_whole and kind == TIED:
        for k in range(n_components):
            fill_quadratic(d, factors, covariance_start(kind, k, d), k, eta)
    if is_posterior:
        for k in range(n_components):
            eta[k // size, constant, k % size] += mixture[len(mixture) - n_components + k]
    if len(eta) * size > n_components:
        weight = max(mixture[len(mixture) - 1], TINY)
        eta[n_components // size, constant, n_components % size] = math.log(weight) - log_volume
    return kappa


@compiled_part
def _put_beside_noise(n_components: int, zero: int, sums: Array, mixture: Array) -> None:
    """Fill the weight of the noise, and leave the others the rest; column ``zero`` of the sums is that of 1."""
    total = 0.0
    for k in range(n_components):
        total += sums[k, zero]
    weight = sums[n_components, zero] / (sums[n_components, zero] + total)
    for k in range(n_components):
        mixture[k] *= max(1.0 - weight, LEAST_WEIGHT)
    mixture[len(mixture) - 1] = weight


@compiled_part
def _expected_log_joint(n_components: int, zero: int, sums: Array, eta: NDArray[Any]) -> float:
    """``sum r (log weight + log density)`` over the rows and the components."""
    size, total = eta.shape[2], 0.0
    for k in range(n_components):
        if sums[k, zero] > 0.0:  # the log weight of an empty component may be infinite
            for p in range(eta.shape[1]):
                total += eta[k // size, p, k % size] * sums[k, p]
    return total


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
    n_components: int,
    mixture: Array,
    d: int,
    center: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    max_single: float,
) -> bool:
    """Whether the sizes of the terms of each log density, at its component's mean, stay below ``max_single`` in sum."""
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
    is_noisy: bool,
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
        if not (_is_mixture(found, n_components, is_noisy) and fill_factors(kind, n_components, d, found, factors)):
            continue
        # sums of covariances of a model need not be of it: what describes them best is taken
        if constraint == UNCONSTRAINED or (
            constrained(constraint, constrain_at, n_components, d, found, plain) != UNSOUND
            and fill_factors(kind, n_components, d, found, factors)
        ):
            return True
    return False


@compiled_part
def _is_mixture(mixture: Array, n_components: int, is_noisy: bool) -> bool:
    """Whether all numbers are finite and all weights positive; normalises the weights."""
    for i in range(len(mixture)):
        if not math.isfinite(mixture[i]):
            return False
    total, noise = 0.0, len(mixture) - 1
    for k in range(n_components):
        if not mixture[k] > 0.0:
            return False
        total += mixture[k]
    if is_noisy:
        if not mixture[noise] > 0.0:
            return False
        total += mixture[noise]
        mixture[noise] /= total
    for k in range(n_components):
        mixture[k] /= total
    return True
