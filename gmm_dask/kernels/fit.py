"""A whole fit over rows in memory as one compiled call: passes, M-steps, acceleration and the decision when to stop.

It takes the path of :func:`gmm_dask.em.loop.run`, which explains the decisions. There, a fit of few rows spends its
time in Python around small arrays; here it has none.

A mixture is one vector, as in :mod:`gmm_dask.kernels.m_step`, so that it is copied and extrapolated as a whole. Its
end is the weight of the noise, where there is noise; of a variational posterior, what is added to the log weight of
each component (:mod:`gmm_dask.kernels.priors`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.arguments import Block, FitRows, FitSettings, Model, Monomials, Prior
from gmm_dask.kernels.chunks import add_chunk
from gmm_dask.kernels.compilation.jit import ZERO, compiled, compiled_part, inlined_part
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
    UNSOUND,
)
from gmm_dask.kernels.extrapolation import History, Mixture, copy, empty_mixture, extrapolate, remember
from gmm_dask.kernels.llvm.calls import call_prior
from gmm_dask.kernels.m_step import (
    covariance_start,
    fill_coefficients,
    fill_quadratic,
    fill_scatter,
    largest_trace,
    log_likelihood_correction,
    maximise,
)

Array = NDArray[np.float64]

# of a fit that has not ended
RUNNING = -1


class _Pass(NamedTuple):
    """A pass over the rows: the coefficients ``eta`` of the densities about some origins, and the sums.

    Arrays are those of :func:`gmm_dask.kernels.chunks.add_chunk`; ``scatter`` (n_features, n_features) is that of the
    rows about their origins.
    """

    origins: Array
    eta: NDArray[Any]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    edges: NDArray[np.int64]
    totals: Array
    sums: Array
    scatter: Array


@compiled
def fit_many(
    model: Model,
    prior: Prior,
    rows: FitRows,
    monomials: Monomials,
    centred_monomials: Monomials,
    block: Block,
    settings: FitSettings,
    mixtures: Array,
    all_factors: Array,
    prior_bounds: Array,
    most: NDArray[np.int64],
    bounds: Array,
    counts: NDArray[np.int64],
    traces: Array,
) -> None:
    """Run EM from several mixtures of one candidate, one after another, until each ends.

    Parameters
    ----------
    model, prior, rows, block, settings
        As in :mod:`gmm_dask.kernels.arguments`.
    monomials, centred_monomials : Monomials
        Those about the centre of the rows, beside noise those of the complete density; those about the components' own
        means.
    mixtures : ndarray of shape (n_fits, n_values)
        Where the fits begin; receives where they end.
    all_factors : ndarray of shape (n_fits, n_factor_values)
        Factors of the precisions; receives those of the ends.
    prior_bounds : ndarray of shape (n_fits,)
        Lower bounds that the first iterations are compared with.
    most : ndarray of shape (n_fits,)
        Iterations that each may take.
    bounds : ndarray of shape (n_fits, largest of ``most``)
        Receives the lower bounds of the accepted iterations.
    counts : ndarray of shape (n_fits, 4)
        Receives how each ended, and its numbers of lower bounds, of rejected extrapolations and of all extrapolations.
    traces : ndarray of shape (n_fits,)
        Receives :func:`gmm_dask.kernels.m_step.largest_trace` of each end.
    """
    for i in range(len(mixtures)):
        now = Mixture(mixtures[i], all_factors[i])
        _fit(
            model,
            prior,
            rows,
            monomials,
            centred_monomials,
            block,
            settings,
            now,
            prior_bounds[i],
            most[i],
            bounds[i],
            counts[i],
        )
        traces[i] = largest_trace(model.kind, model.n_components, model.n_features, now.factors, rows.reg_covar)


@inlined_part
def _fit(
    model: Model,
    prior: Prior,
    rows: FitRows,
    monomials: Monomials,
    centred_monomials: Monomials,
    block: Block,
    settings: FitSettings,
    now: Mixture,
    last_bound: float,
    most: int,
    bounds: Array,
    counts: NDArray[np.int64],
) -> None:
    """Run EM from a mixture, in its place, until it ends; see :func:`fit_many`."""
    n_values, n_factors = len(now.vector), len(now.factors)
    image = empty_mixture(n_values, n_factors)
    # without acceleration they hold nothing
    n_remembered_values, n_plain_factors = (n_values, n_factors) if settings.order else (ZERO, ZERO)
    plain = empty_mixture(n_remembered_values, n_plain_factors)
    size = settings.order + 1, n_remembered_values
    history = History(np.empty(size), np.empty(size))
    about_center = _pass_about_center(model, rows, monomials, block)
    # most fits do not need it
    about_means = _pass_about_means(ZERO, model, centred_monomials, block)
    end, n_bounds, n_falls, n_extrapolations, n_remembered = RUNNING, 0, 0, 0, ZERO
    extrapolated = False
    while end == RUNNING:
        kappa = _fill(model, prior, model.is_noisy, now.vector, now.factors, about_center.origins, about_center.eta)
        is_tight = not kappa <= settings.max_kappa
        if block.z.itemsize == 4 and (is_tight or not _is_safe(model, now, about_center, settings.max_single)):
            end = NEEDS_DOUBLE
            if extrapolated:  # it goes on from the last plain step
                copy(plain, now)
            break
        if is_tight and not len(about_means.sums):
            about_means = _pass_about_means(len(block.logits), model, centred_monomials, block)
        if is_tight:
            _fill_means(model, now, about_means)
            _fill(model, prior, True, now.vector, now.factors, about_means.origins, about_means.eta)
        this = about_means if is_tight else about_center
        inner, bound = _step(model, prior, rows, block, is_tight or model.is_noisy, this, now, image)
        is_sound = inner != UNSOUND
        n_extrapolations += extrapolated
        if extrapolated and (not is_sound or bound < last_bound):
            # EM's likelihood never falls: back to the plain step that was replaced
            copy(plain, now)
            extrapolated, n_remembered = False, 0
            n_falls += 1
            if n_bounds + n_falls >= most:
                end = MAX_ITER
            continue
        if not is_sound:
            end = FAILED if math.isnan(bound) else SINGULAR
            break
        change, last_bound = bound - last_bound, bound
        bounds[n_bounds] = bound
        n_bounds += 1
        if abs(change) < settings.tol and not extrapolated:
            end = CONVERGED if inner == SETTLED else INNER_MAX_ITER
        elif n_bounds + n_falls >= most:
            end = MAX_ITER
        elif settings.order and change < settings.begin:
            n_remembered = remember(now, image, settings, history, n_remembered)
            # a change below tol at an extrapolated point is confirmed by a plain step
            extrapolated = n_remembered > 1 and change >= settings.tol
            if extrapolated:
                copy(image, plain)
                extrapolated = extrapolate(model, history, n_remembered, settings, plain, image)
                if not extrapolated:
                    copy(plain, image)
        else:
            extrapolated, n_remembered = False, 0
        copy(image, now)
    counts[0], counts[1], counts[2], counts[3] = end, n_bounds, n_falls, n_extrapolations


# -- one iteration ---------------------------------------------------------------------------------------------------


@compiled_part
def _pass_about_center(model: Model, rows: FitRows, monomials: Monomials, block: Block) -> _Pass:
    """Return the memory of passes about the centre of the rows."""
    n_densities, n_columns, d = len(block.logits), len(monomials.first), model.n_features
    origins = np.empty((1, d))
    for a in range(d):
        origins[0, a] = rows.center[a]
    eta = np.zeros((1, n_columns, n_densities), dtype=block.z.dtype)
    sums, totals = np.empty((n_densities, n_columns)), np.empty((2, 1))
    # noise has no part in the quadratic term that tied components share
    scatter = np.empty((d, d)) if model.is_noisy else rows.scatter
    edges = np.array([0, n_densities])
    return _Pass(origins, eta, monomials.first, monomials.second, edges, totals, sums, scatter)


@compiled_part
def _pass_about_means(n_densities: int, model: Model, monomials: Monomials, block: Block) -> _Pass:
    """Return the memory of passes about the means of so many components; 0 takes none."""
    n_columns, d = len(monomials.first), model.n_features
    eta = np.zeros((n_densities, n_columns, 1), dtype=block.z.dtype)
    sums, totals = np.empty((n_densities, n_columns)), np.empty((2, 1))
    edges, origins = np.array([0, n_densities]), np.empty((n_densities, d))
    return _Pass(origins, eta, monomials.first, monomials.second, edges, totals, sums, np.empty((d, d)))


@compiled_part
def _fill_means(model: Model, now: Mixture, this: _Pass) -> None:
    """Let a pass be about the means of a mixture; the noise has none, and is the same about any."""
    k_all, d = model.n_components, model.n_features
    for k in range(len(this.origins)):
        for a in range(d):
            this.origins[k, a] = now.vector[k_all + k % k_all * d + a]


@compiled_part
def _fill(
    model: Model, prior: Prior, is_whole: bool, mixture: Array, factors: Array, origins: Array, eta: NDArray[Any]
) -> float:
    """Fill the coefficients of all densities, as :func:`fill_coefficients` does; all of them where they are whole."""
    kind, n_components, d = model.kind, model.n_components, model.n_features
    kappa = fill_coefficients(kind, n_components, d, mixture, factors, origins, eta)
    size, constant = eta.shape[2], 1 if kind == SPHERICAL else 0
    if is_whole and kind == TIED:
        for k in range(n_components):
            fill_quadratic(d, factors, covariance_start(kind, k, d), k, eta)
    if prior.is_posterior:
        for k in range(n_components):
            eta[k // size, constant, k % size] += mixture[len(mixture) - n_components + k]
    if model.is_noisy:
        weight = max(mixture[len(mixture) - 1], TINY)
        eta[n_components // size, constant, n_components % size] = math.log(weight) - model.log_volume
    return kappa


@inlined_part
def _step(
    model: Model, prior: Prior, rows: FitRows, block: Block, is_whole: bool, this: _Pass, now: Mixture, image: Mixture
) -> tuple[int, float]:
    """Fill the image of a mixture under EM; returns how the M-step ended, and the lower bound of the mixture."""
    kind, n_components, d = model.kind, model.n_components, model.n_features
    this.totals[:] = 0.0
    this.sums[:] = 0.0
    add_chunk(
        rows.x,
        rows.weights,
        this.origins,
        this.eta,
        this.first,
        this.second,
        this.edges,
        block.z,
        block.logits,
        block.shares,
        block.row_multiple,
        this.totals,
        this.sums,
    )
    if is_whole and kind == TIED:
        fill_scatter(n_components, d, this.sums, this.scatter)
    bound = this.totals[0, 0]
    if not is_whole:
        bound += log_likelihood_correction(kind, d, now.factors, this.scatter)
    inner = UNSOUND
    if math.isfinite(bound):
        inner = maximise(
            model, prior, rows.reg_covar, this.sums, this.origins, this.scatter, now.vector, image.vector, image.factors
        )
    if inner != UNSOUND:
        if model.is_noisy:
            _put_beside_noise(model, this.sums, image.vector)
        if prior.is_posterior:
            # the entropy of the responsibilities, and what the posteriors add
            bound = this.totals[0, 0] - _expected_log_joint(model, this.sums, this.eta)
            bound += call_prior(prior.terms_at, kind, n_components, d, image.vector, image.factors, prior.values)
        elif prior.terms_at != 0:
            bound += call_prior(prior.terms_at, kind, n_components, d, now.vector, now.factors, prior.values)
    return inner, bound / rows.total_weight


@compiled_part
def _put_beside_noise(model: Model, sums: Array, mixture: Array) -> None:
    """Fill the weight of the noise, and leave the others the rest."""
    n_components, zero, total = model.n_components, 1 if model.kind == SPHERICAL else 0, 0.0
    for k in range(n_components):
        total += sums[k, zero]
    weight = sums[n_components, zero] / (sums[n_components, zero] + total)
    for k in range(n_components):
        mixture[k] *= max(1.0 - weight, LEAST_WEIGHT)
    mixture[len(mixture) - 1] = weight


@compiled_part
def _expected_log_joint(model: Model, sums: Array, eta: NDArray[Any]) -> float:
    """``sum r (log weight + log density)`` over the rows and the components."""
    size, zero, total = eta.shape[2], 1 if model.kind == SPHERICAL else 0, 0.0
    for k in range(model.n_components):
        if sums[k, zero] > 0.0:  # the log weight of an empty component may be infinite
            for p in range(eta.shape[1]):
                total += eta[k // size, p, k % size] * sums[k, p]
    return total


@compiled_part
def _is_safe(model: Model, now: Mixture, this: _Pass, max_single: float) -> bool:
    """Whether the sizes of the terms of each log density, at its component's mean, stay below ``max_single`` in sum."""
    d = model.n_features
    lines = np.empty(d + 2)
    for k in range(model.n_components):
        lines[0], lines[d + 1] = 1.0, 0.0
        for a in range(d):
            lines[a + 1] = now.vector[model.n_components + k * d + a] - this.origins[0, a]
            lines[d + 1] += lines[a + 1] * lines[a + 1]
        terms = 0.0
        for p in range(this.eta.shape[1]):
            terms += abs(this.eta[0, p, k] * lines[this.first[p]] * lines[this.second[p]])
        # the constant of an empty component is minus infinity, and harms nothing. NaN is not below anything
        if now.vector[k] > 0.0 and not terms <= max_single:
            return False
    return True
