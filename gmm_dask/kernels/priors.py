"""Conjugate priors in compiled fits: what an M-step makes of their numbers, and their terms of the bound.

They compute what :class:`gmm_dask.em.prior.DefaultPrior` and :class:`gmm_dask.variational.inference.Variational` do
with NumPy. Fits find the functions by their addresses, so that those without a prior compile nothing of them. All take
a mixture as a vector, as in :mod:`gmm_dask.kernels.m_step`, its factors, and the numbers of a prior: what the constants
below name, the mean (D,), and the scale of the covariances, in the shape of one of them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from gmm_dask.kernels.compilation.jit import callback, compiled_part
from gmm_dask.kernels.constants import (
    CONCENTRATION,
    COUNTED,
    DIAG,
    FULL,
    IS_PROCESS,
    MEAN_PRECISION,
    PER_ROW,
    PRIOR_HEADER,
    SPHERICAL,
    TIED,
    TOTAL,
)
from gmm_dask.kernels.m_step import covariance_start

Array = NDArray[np.float64]

SIGNATURE = types.float64(*[types.int64] * 3, *[types.CPointer(types.float64), types.int64] * 3)

# from here on the asymptotic series of the digamma function is exact to rounding
LARGE = 10.0


@functools.cache
def mode_addresses() -> tuple[int, int]:
    """Where fits find :func:`move_to_prior` and :func:`log_prior`."""
    return callback(_move_to_prior, SIGNATURE), callback(_log_prior, SIGNATURE)


@functools.cache
def posterior_addresses() -> tuple[int, int]:
    """Where fits find :func:`update_posterior` and :func:`log_normalisers`."""
    return callback(_update_posterior, SIGNATURE), callback(_log_normalisers, SIGNATURE)


# -- the M-step ------------------------------------------------------------------------------------------------------


@compiled_part
def move_to_prior(kind: int, n_components: int, d: int, mixture: Array, prior: Array) -> None:
    """Move means and covariances of largest likelihood to those of largest posterior density, or to its parameters.

    In place of the weights stand the rows of each component.
    """
    precision, total, first = prior[MEAN_PRECISION], 0.0, n_components * (d + 1)
    for k in range(n_components):
        total += mixture[k]
    gap = np.empty(d)
    for k in range(n_components):
        nk, c = mixture[k], first + covariance_start(kind, k, d)
        for a in range(d):
            mean = mixture[n_components + k * d + a]
            gap[a] = mean - prior[PRIOR_HEADER + a]
            mixture[n_components + k * d + a] = (precision * prior[PRIOR_HEADER + a] + nk * mean) / (precision + nk)
        # the squares about the prior's mean take part by this share
        share = precision / (precision + nk) * (nk / total if kind == TIED else 1.0)
        if kind == FULL or kind == TIED:  # noqa: SIM109 - the compiler has no tuples to build
            for a in range(d):
                for b in range(d):
                    mixture[c + a * d + b] += share * gap[a] * gap[b]
        else:
            for a in range(d):
                mixture[c + a if kind == DIAG else c] += share * gap[a] * gap[a] / (1 if kind == DIAG else d)
    size = len(prior) - PRIOR_HEADER - d
    for k in range(1 if kind == TIED else n_components):
        numbers, c = prior[PER_ROW] * (total if kind == TIED else mixture[k]), first + k * size
        for j in range(size):
            scatter = prior[PRIOR_HEADER + d + j] + numbers * mixture[c + j]
            mixture[c + j] = scatter / (numbers + prior[COUNTED])


@compiled_part
def update_posterior(kind: int, n_components: int, d: int, mixture: Array, prior: Array) -> None:
    """:func:`move_to_prior`, and fill what is added to the log weights (Bishop 2006, 10.46 and 10.64 to 10.66)."""
    move_to_prior(kind, n_components, d, mixture, prior)
    total, last = 0.0, len(mixture) - n_components
    for k in range(n_components):
        total += mixture[k]
    left = 0.0
    for k in range(n_components):
        nk = mixture[k]
        if prior[IS_PROCESS] > 0.0:
            one, other = 1.0 + nk, prior[CONCENTRATION] + _after(n_components, k, mixture)
            both = _digamma(one + other)
            log_weight = left + _digamma(one) - both
            left += _digamma(other) - both
        else:
            concentration = prior[CONCENTRATION]
            log_weight = _digamma(concentration + nk) - _digamma(n_components * concentration + total)
        dof = prior[COUNTED] + prior[PER_ROW] * (total if kind == TIED else nk)
        excess = d * (math.log(2.0 / dof) - 1.0 / (prior[MEAN_PRECISION] + nk))
        for a in range(d):
            excess += _digamma(0.5 * (dof - a))
        mixture[last + k] = log_weight + 0.5 * excess - math.log(nk / total)


@compiled_part
def _after(n_components: int, k: int, rows: Array) -> float:
    """The rows of the components after k, added up from the last one."""
    total = 0.0
    for j in range(n_components - 1, k, -1):
        total += rows[j]
    return total


@compiled_part
def _digamma(x: float) -> float:
    """The derivative of the logarithm of the gamma function, of a positive number."""
    total = 0.0
    while x < LARGE:  # psi(x) = psi(x + 1) - 1 / x
        total -= 1.0 / x
        x += 1.0
    # Abramowitz and Stegun (1964), 6.3.18
    square = 1.0 / (x * x)
    series = 1.0 / 12.0 - square * (
        1.0 / 120.0
        - square * (1.0 / 252.0 - square * (1.0 / 240.0 - square * (1.0 / 132.0 - square * 691.0 / 32760.0)))
    )
    return total + math.log(x) - 0.5 / x - square * series


# -- the bound -------------------------------------------------------------------------------------------------------


@compiled_part
def log_prior(kind: int, n_components: int, d: int, mixture: Array, factors: Array, prior: Array) -> float:
    """Logarithm of the prior's density at a mixture, without its constants."""
    distances, log_det, trace = 0.0, 0.0, 0.0
    for k in range(n_components):
        u = covariance_start(kind, k, d)
        for b in range(d):
            whitened = 0.0
            for a in range(0 if kind == FULL or kind == TIED else b, b + 1):  # noqa: SIM109
                gap = mixture[n_components + k * d + a] - prior[PRIOR_HEADER + a]
                whitened += _factor(kind, d, factors, u, a, b) * gap
            distances += whitened * whitened
        if k == 0 or kind != TIED:
            # of a spherical covariance, the numbers of a row count as one
            log_det += 2.0 * _log_det(kind, d, factors, u) / (d if kind == SPHERICAL else 1)
            trace += _trace(kind, d, factors, u, prior)
    found: float = -0.5 * (prior[MEAN_PRECISION] * distances - prior[COUNTED] * log_det + trace)
    return found


@compiled_part
def log_normalisers(kind: int, n_components: int, d: int, mixture: Array, factors: Array, prior: Array) -> float:
    """What a posterior adds to the entropy: see :func:`gmm_dask.variational.evidence.log_normalisers`."""
    total, found, concentrations = prior[TOTAL], 0.0, 0.0
    rows = np.empty(n_components)
    for k in range(n_components):
        rows[k] = mixture[k] * total
    for k in range(n_components):
        dof = prior[COUNTED] + prior[PER_ROW] * (total if kind == TIED else rows[k])
        log_det = _log_det(kind, d, factors, covariance_start(kind, k, d)) - 0.5 * d * math.log(dof)
        found += dof * (log_det + 0.5 * d * math.log(2.0)) - 0.5 * d * math.log(prior[MEAN_PRECISION] + rows[k])
        for a in range(d):
            found += math.lgamma(0.5 * (dof - a))
        if prior[IS_PROCESS] > 0.0:
            one, other = 1.0 + rows[k], prior[CONCENTRATION] + _after(n_components, k, rows)
            found += math.lgamma(one) + math.lgamma(other) - math.lgamma(one + other)
        else:
            found += math.lgamma(prior[CONCENTRATION] + rows[k])
            concentrations += prior[CONCENTRATION] + rows[k]
    return found if prior[IS_PROCESS] > 0.0 else found - math.lgamma(concentrations)


@compiled_part
def _factor(kind: int, d: int, factors: Array, u: int, a: int, b: int) -> float:
    """An entry of the factor U that begins at u."""
    place = u if kind == SPHERICAL else u + a
    found: float = factors[place if kind == DIAG or kind == SPHERICAL else u + a * d + b]  # noqa: SIM109
    return found


@compiled_part
def _log_det(kind: int, d: int, factors: Array, u: int) -> float:
    """Logarithm of the determinant of the factor that begins at u."""
    total = 0.0
    for a in range(d):
        total += math.log(_factor(kind, d, factors, u, a, a))
    return total


@compiled_part
def _trace(kind: int, d: int, factors: Array, u: int, prior: Array) -> float:
    """``tr(P S)`` of the precision P of the factor that begins at u, with the scale S of the prior."""
    scale, total = PRIOR_HEADER + d, 0.0
    if kind == FULL or kind == TIED:  # noqa: SIM109
        for c in range(d):
            for a in range(c + 1):
                for b in range(c + 1):
                    total += factors[u + a * d + c] * prior[scale + a * d + b] * factors[u + b * d + c]
    else:
        for j in range(len(prior) - scale):
            total += factors[u + j] * factors[u + j] * prior[scale + j]
    return total


# -- by address: each takes a mixture, its factors and a prior, which lie at addresses --------------------------------


def _move_to_prior(
    kind: int, n_components: int, d: int, mixture: Any, n: int, factors: Any, n_factors: int, prior: Any, n_prior: int
) -> float:
    move_to_prior(kind, n_components, d, numba.carray(mixture, (n,)), numba.carray(prior, (n_prior,)))
    return 0.0


def _update_posterior(
    kind: int, n_components: int, d: int, mixture: Any, n: int, factors: Any, n_factors: int, prior: Any, n_prior: int
) -> float:
    update_posterior(kind, n_components, d, numba.carray(mixture, (n,)), numba.carray(prior, (n_prior,)))
    return 0.0


def _log_prior(
    kind: int, n_components: int, d: int, mixture: Any, n: int, factors: Any, n_factors: int, prior: Any, n_prior: int
) -> float:
    arrays = numba.carray(mixture, (n,)), numba.carray(factors, (n_factors,)), numba.carray(prior, (n_prior,))
    found: float = log_prior(kind, n_components, d, *arrays)
    return found


def _log_normalisers(
    kind: int, n_components: int, d: int, mixture: Any, n: int, factors: Any, n_factors: int, prior: Any, n_prior: int
) -> float:
    arrays = numba.carray(mixture, (n,)), numba.carray(factors, (n_factors,)), numba.carray(prior, (n_prior,))
    found: float = log_normalisers(kind, n_components, d, *arrays)
    return found
