"""A whole fit over rows in memory as one compiled call: passes, M-steps, acceleration and the decision when to stop.

It takes the path of :func:`gmm_dask.em.loop.run`, which explains the decisions. There, a fit of few rows spends its
time in Python around small arrays; here it has none.

A mixture is one vector, so that it is copied, compared and extrapolated as a whole: weights (n_components,), means
(n_components, n_features) and covariances, one after another.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.cholesky import factorise
from gmm_dask.kernels.chunks import add_chunk
from gmm_dask.kernels.jit import compiled
from gmm_dask.kernels.m_step import (
    fill_coefficients,
    fill_factors,
    largest_trace,
    log_likelihood_correction,
    maximise,
)

Array = NDArray[np.float64]

# how a fit ends: the last three need another method to go on, from the parameters that it leaves
CONVERGED, MAX_ITER, SINGULAR, FAILED, TOO_TIGHT, NEEDS_DOUBLE = range(6)


@compiled
def fit(
    kind: int,
    rows: NDArray[Any],
    row_weights: Array,
    total_weight: float,
    center: Array,
    scatter: Array,
    reg_covar: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    max_kappa: float,
    max_single: float,
    tol: float,
    prior_bound: float,
    begin: float,
    order: int,
    regularization: float,
    origin: Array,
    scale: Array,
    vector: Array,
    factors: Array,
    z: NDArray[Any],
    logits: NDArray[Any],
    shares: NDArray[Any],
    row_multiple: int,
    bounds: Array,
) -> tuple[int, int, int, int]:
    """Run EM from one mixture until it ends.

    Parameters
    ----------
    kind : int
        Of :mod:`gmm_dask.kernels.m_step`.
    rows : ndarray of shape (n_rows, n_features)
    row_weights : ndarray of shape (n_rows,), or (0,)
    total_weight : float
    center, scatter : ndarray
        Of the rows: the origin of the feature map, and the scatter about it.
    reg_covar : ndarray of shape (n_features,)
    first, second : ndarray
        The factors of the monomials, filled up to a multiple of 3.
    max_kappa, max_single : float
        The fit ends where the feature map, or single precision, would lose too much.
    tol, prior_bound : float
    begin, order, regularization : float, int, float
        Of the acceleration, as in :mod:`gmm_dask.em.acceleration`; an order of 0 is plain EM.
    origin, scale : ndarray of shape (n_values,)
        Extrapolation works on ``(vector - origin) / scale``.
    vector : ndarray of shape (n_values,)
        The mixture that the fit begins with; receives that of its end.
    factors : ndarray
        Its precisions' factors; receives those of the end.
    z, logits, shares : ndarray
        Memory of a block.
    row_multiple : int
    bounds : ndarray of shape (max_iter,)
        Receives the lower bounds of the accepted iterations.

    Returns
    -------
    end, n_bounds, n_falls, n_extrapolations : int
        How it ended, the number of lower bounds, of rejected extrapolations, and of all extrapolations.
    """
    n_components, d = len(logits), rows.shape[1]
    n_means, n_values = n_components * (d + 1), len(vector)
    n_columns = len(first)
    single = z.itemsize == 4
    edges = np.array([0, n_components])
    eta = np.empty((n_columns, n_components), dtype=z.dtype)
    eta[:] = 0.0
    sums, totals = np.empty((n_components, n_columns)), np.empty((2, 1))
    image, image_factors = np.empty(n_values), np.empty_like(factors)
    plain, plain_factors = np.empty(n_values), np.empty_like(factors)
    points, images = np.empty((order + 1, n_values)), np.empty((order + 1, n_values))
    n_remembered = n_bounds = n_falls = n_extrapolations = 0
    extrapolated = False
    while True:
        weights, means, _ = _parts(vector, n_components, d, factors)
        kappa = fill_coefficients(kind, weights, means, factors, center, eta)
        too_tight = not kappa <= max_kappa
        if too_tight or (single and not _is_safe(eta, weights, means, center, first, second, max_single)):
            if extrapolated:  # another method goes on from the last plain step
                vector[:] = plain
                factors[:] = plain_factors
            return TOO_TIGHT if too_tight else NEEDS_DOUBLE, n_bounds, n_falls, n_extrapolations
        sums[:] = 0.0
        totals[:] = 0.0
        add_chunk(rows, row_weights, center, eta, first, second, edges, z, logits, shares, row_multiple, totals, sums)
        bound = (totals[0, 0] + log_likelihood_correction(kind, factors, scatter)) / total_weight
        sound = False
        if math.isfinite(bound):
            parts = _parts(image, n_components, d, factors)
            sound = maximise(kind, sums, center, scatter, reg_covar, *parts, image_factors)
        n_extrapolations += extrapolated
        if extrapolated and (not sound or bound < bounds[n_bounds - 1]):
            # EM's likelihood never falls: back to the plain step that was replaced
            vector[:] = plain
            factors[:] = plain_factors
            extrapolated, n_remembered = False, 0
            n_falls += 1
            if n_bounds + n_falls >= len(bounds):
                return MAX_ITER, n_bounds, n_falls, n_extrapolations
            continue
        if not sound:
            return FAILED if math.isnan(bound) else SINGULAR, n_bounds, n_falls, n_extrapolations
        change = bound - (bounds[n_bounds - 1] if n_bounds else prior_bound)
        bounds[n_bounds] = bound
        n_bounds += 1
        ended = abs(change) < tol and not extrapolated
        if ended or n_bounds + n_falls >= len(bounds):
            vector[:] = image
            factors[:] = image_factors
            return CONVERGED if ended else MAX_ITER, n_bounds, n_falls, n_extrapolations
        extrapolated = False
        if order and change < begin:
            n_remembered = _remember(vector, image, origin, scale, points, images, n_remembered)
            # a change below tol at an extrapolated point is confirmed by a plain step
            if n_remembered > 1 and change >= tol:
                plain[:] = image
                plain_factors[:] = image_factors
                extrapolated = _extrapolate(
                    points[:n_remembered],
                    images[:n_remembered],
                    regularization,
                    origin,
                    scale,
                    n_components,
                    n_means,
                    image,
                    image_factors,
                )
                if not extrapolated:
                    image[:] = plain
                    image_factors[:] = plain_factors
        else:
            n_remembered = 0
        vector[:] = image
        factors[:] = image_factors


@compiled
def fit_many(
    kind: int,
    rows: NDArray[Any],
    row_weights: Array,
    total_weight: float,
    center: Array,
    scatter: Array,
    reg_covar: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    max_kappa: float,
    max_single: float,
    tol: float,
    prior_bounds: Array,
    begin: float,
    order: int,
    regularization: float,
    origin: Array,
    scale: Array,
    vectors: Array,
    factors: Array,
    z: NDArray[Any],
    logits: NDArray[Any],
    shares: NDArray[Any],
    row_multiple: int,
    most: NDArray[np.int64],
    bounds: Array,
    counts: NDArray[np.int64],
    traces: Array,
) -> None:
    """Run :func:`fit` from several mixtures of one candidate, one after another.

    Parameters
    ----------
    prior_bounds : ndarray of shape (n_fits,)
    vectors : ndarray of shape (n_fits, n_values)
    factors : ndarray of shape (n_fits, ...)
    most : ndarray of shape (n_fits,)
        Iterations that each may take.
    bounds : ndarray of shape (n_fits, largest of ``most``)
    counts : ndarray of shape (n_fits, 4)
        Receives what :func:`fit` returns.
    traces : ndarray of shape (n_fits,)
        Receives :func:`gmm_dask.kernels.m_step.largest_trace` of each end.
    kind, rows, row_weights, ...
        The others are those of :func:`fit`.
    """
    for i in range(len(vectors)):
        end, n_bounds, n_falls, n_extrapolations = fit(
            kind,
            rows,
            row_weights,
            total_weight,
            center,
            scatter,
            reg_covar,
            first,
            second,
            max_kappa,
            max_single,
            tol,
            prior_bounds[i],
            begin,
            order,
            regularization,
            origin,
            scale,
            vectors[i],
            factors[i],
            z,
            logits,
            shares,
            row_multiple,
            bounds[i, : most[i]],
        )
        counts[i, 0], counts[i, 1], counts[i, 2], counts[i, 3] = end, n_bounds, n_falls, n_extrapolations
        traces[i] = largest_trace(kind, factors[i], reg_covar)


@compiled
def _parts(vector: Array, n_components: int, d: int, like: Array) -> tuple[Array, Array, Array]:
    """Weights, means and covariances of a mixture, as views."""
    n_means = n_components * (d + 1)
    return (
        vector[:n_components],
        vector[n_components:n_means].reshape((n_components, d)),
        vector[n_means:].reshape(like.shape),
    )


@compiled
def _is_safe(
    eta: NDArray[Any],
    weights: Array,
    means: Array,
    center: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    max_single: float,
) -> bool:
    """Whether the sizes of the terms of each log density, at its component's mean, stay below ``max_single`` in sum."""
    n_components, d = means.shape
    lines = np.empty(d + 2)
    for k in range(n_components):
        lines[0], lines[d + 1] = 1.0, 0.0
        for a in range(d):
            lines[a + 1] = means[k, a] - center[a]
            lines[d + 1] += lines[a + 1] * lines[a + 1]
        terms = 0.0
        for p in range(len(eta)):
            terms += abs(eta[p, k] * lines[first[p]] * lines[second[p]])
        # the constant of an empty component is minus infinity, and harms nothing. NaN is not below anything
        if weights[k] > 0.0 and not terms <= max_single:
            return False
    return True


@compiled
def _remember(
    vector: Array, image: Array, origin: Array, scale: Array, points: Array, images: Array, n_remembered: int
) -> int:
    """Add a point and its image to the last ones, or begin anew; returns how many are remembered."""
    step, last = 0.0, 0.0
    for i in range(len(vector)):
        moved = (image[i] - vector[i]) / scale[i]
        step += moved * moved
    if n_remembered:
        for i in range(len(vector)):
            moved = images[n_remembered - 1, i] - points[n_remembered - 1, i]
            last += moved * moved
    # restart: where steps become longer, as when EM leaves a plateau, the linear model of the past does not hold
    if not (n_remembered and step <= last):
        n_remembered = 0
    if n_remembered == len(points):
        for j in range(1, n_remembered):
            points[j - 1] = points[j]
            images[j - 1] = images[j]
        n_remembered -= 1
    for i in range(len(vector)):
        points[n_remembered, i] = (vector[i] - origin[i]) / scale[i]
        images[n_remembered, i] = (image[i] - origin[i]) / scale[i]
    return n_remembered + 1


@compiled
def _extrapolate(
    points: Array,
    images: Array,
    regularization: float,
    origin: Array,
    scale: Array,
    n_components: int,
    n_means: int,
    found: Array,
    factors: Array,
) -> bool:
    """Fill the Anderson extrapolation of the last passes; whether it is a mixture."""
    # with differences dF of the residuals and dG of the images, gamma = argmin |f - gamma dF|^2 and x = g - gamma dG
    n, n_values = len(points) - 1, points.shape[1]
    products, gamma = np.empty((n, n)), np.empty(n)
    differences = np.empty((n, n_values))
    for j in range(n):
        for i in range(n_values):
            differences[j, i] = (images[j + 1, i] - points[j + 1, i]) - (images[j, i] - points[j, i])
    trace = 0.0
    for j in range(n):
        for k in range(j, n):
            total = 0.0
            for i in range(n_values):
                total += differences[j, i] * differences[k, i]
            products[j, k] = products[k, j] = total
        trace += products[j, j]
        gamma[j] = 0.0
        for i in range(n_values):
            gamma[j] += differences[j, i] * (images[n, i] - points[n, i])
    for j in range(n):
        products[j, j] += regularization * trace
    if not factorise(products):  # the last steps are equal
        return False
    for j in range(n):  # R' R gamma = dF f
        for k in range(j):
            gamma[j] -= products[k, j] * gamma[k]
        gamma[j] /= products[j, j]
    for j in range(n - 1, -1, -1):
        for k in range(j + 1, n):
            gamma[j] -= products[j, k] * gamma[k]
        gamma[j] /= products[j, j]
    move = np.zeros(n_values)
    for j in range(n):
        for i in range(n_values):
            move[i] -= gamma[j] * (images[j + 1, i] - images[j, i])
    # a step out of the parameter space is damped, towards the plain step
    damping = 1.0
    for _ in range(3):
        for i in range(n_values):
            found[i] = (images[n, i] + damping * move[i]) * scale[i] + origin[i]
        damping *= 0.25
        if _is_mixture(found, n_components) and fill_factors(found[n_means:].reshape(factors.shape), factors):
            return True
    return False


@compiled
def _is_mixture(vector: Array, n_components: int) -> bool:
    """Whether all numbers are finite and all weights positive; normalises the weights."""
    for value in vector:
        if not math.isfinite(value):
            return False
    total = 0.0
    for k in range(n_components):
        if not vector[k] > 0.0:
            return False
        total += vector[k]
    for k in range(n_components):
        vector[k] /= total
    return True
