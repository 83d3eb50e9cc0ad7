"""The mixture of the columns that a pattern has: the marginal of a Gaussian is Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.compilation.jit import compiled_part
from gmm_dask.kernels.constants import DIAG, FULL, SPHERICAL, TIED
from gmm_dask.kernels.m_step import fill_coefficients, fill_factors

Array = NDArray[np.float64]
Positions = NDArray[np.int64]


@compiled_part
def split(present: NDArray[np.bool_], here: Positions, gone: Positions) -> int:
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
def columns_of(rows: NDArray[Any], start: int, stop: int, here: Positions, n_here: int) -> Array:
    """Some rows with the columns that are present, in double precision."""
    part = np.empty((stop - start, n_here))
    for i in range(stop - start):
        for j in range(n_here):
            part[i, j] = rows[start + i, here[j]]
    return part


@compiled_part
def marginal_of(
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
def densities_of(
    kind: int, n_components: int, d: int, mixture: Array, origins: Array, here: Positions, n_here: int
) -> tuple[Array, Array, Array]:
    """The origins of the present columns, the coefficients of their log densities, and the factors of precisions.

    The coefficients include the quadratic term of tied covariances.
    """
    own = np.empty((len(origins), n_here))
    for g in range(len(origins)):
        for i in range(n_here):
            own[g, i] = origins[g, here[i]]
    marginal, factors = marginal_of(kind, n_components, d, mixture, here, n_here)
    n_columns = 1 + 2 * n_here
    if kind == SPHERICAL:
        n_columns = 2 + n_here
    elif kind != DIAG:
        n_columns += n_here * (n_here - 1) // 2
    eta = np.zeros((len(own), n_columns, n_components // len(own)))
    fill_coefficients(FULL if kind == TIED else kind, n_components, n_here, marginal, factors, own, eta)
    return own, eta, factors


@compiled_part
def count_components(kind: int, d: int, mixture: Array) -> int:
    """How many components a vector has."""
    if kind == SPHERICAL:
        return len(mixture) // (d + 2)
    if kind == DIAG:
        return len(mixture) // (2 * d + 1)
    return (len(mixture) - d * d) // (d + 1) if kind == TIED else len(mixture) // (1 + d + d * d)
