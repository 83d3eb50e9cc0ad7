"""What the full and the tied family share: covariance matrices, packed as the feature map has them."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from gmm_dask import kernels
from gmm_dask.families.base import Array, Family, Parameters, invert, upper_factor
from gmm_dask.kernels.feature_map import n_monomials


class MatrixFamily(Family):
    """Families whose ``covariances`` are matrices, (n_components, D, D) or one of shape (D, D).

    The factor U of a precision is upper triangular, ``precision = U U^T``. With it a squared Mahalanobis distance is
    ``|U^T (x - mean)|^2``, and ``log |precision| = 2 sum_a log u_aa``.
    """

    def density_columns(self, n_features: int) -> slice:
        return slice(1, n_monomials(n_features))

    def log_det(self, precisions_cholesky: Array, n_features: int) -> Array:
        logs: Array = np.log(np.diagonal(precisions_cholesky, axis1=-2, axis2=-1)).sum(axis=-1)
        return logs

    def precision_diagonals(self, parameters: Parameters) -> Array:
        # the diagonal of U U^T
        diagonals: Array = np.sum(parameters.precisions_cholesky**2, axis=-1)
        return diagonals

    def precisions_cholesky(self, covariances: Array) -> Array:
        # the kernel overwrites the matrices that it factorises
        factors: Array = kernels.precision_factors(covariances.reshape(-1, *covariances.shape[-2:]).copy())
        return factors.reshape(covariances.shape)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky @ np.swapaxes(precisions_cholesky, -2, -1)

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        matrices = precisions.reshape(-1, *precisions.shape[-2:])
        return invert(precisions), np.stack([upper_factor(one) for one in matrices]).reshape(precisions.shape)

    def log_wishart_integral(self, degrees_of_freedom: Array | float, log_det: Array | float, n_features: int) -> Array:
        dof, d = np.asarray(degrees_of_freedom), n_features
        halves = 0.5 * (dof[..., None] - np.arange(d))
        gammas = gammaln(halves).sum(axis=-1) + 0.25 * d * (d - 1) * math.log(math.pi)
        return np.asarray(0.5 * dof * (d * math.log(2.0) - log_det) + gammas)

    def from_matrix(self, matrix: Array) -> Array:
        return matrix

    def whitening_error(self, parameters: Parameters) -> float:
        factors = parameters.precisions_cholesky
        if not (np.diagonal(factors, axis1=-2, axis2=-1) > 0.0).all():
            return math.nan
        with np.errstate(over="ignore", invalid="ignore"):
            whitened = np.swapaxes(factors, -2, -1) @ parameters.covariances @ factors
        return float(np.abs(whitened - np.eye(factors.shape[-1])).max())

    def standardized(self, sums: Array, origins: Array, parameters: Parameters) -> Array:
        k, d = origins.shape
        s0, s1, s2 = sums[:, 0], sums[:, 1 : d + 1], unpack_scatter(sums[:, d + 1 :], d)
        # with y = z - m: sum r y = s1 - s0 m, and sum r y y' = s2 - s1 m' - m s1' + s0 m m'
        m = parameters.means - origins
        crossed = s1[:, :, None] * m[:, None, :]
        about = s2 - crossed - np.swapaxes(crossed, 1, 2) + s0[:, None, None] * m[:, :, None] * m[:, None, :]
        factors = np.broadcast_to(parameters.precisions_cholesky, (k, d, d))
        linear = np.einsum("kij,ki->kj", factors, s1 - s0[:, None] * m)
        matrices = np.swapaxes(factors, 1, 2) @ about @ factors - s0[:, None, None] * np.eye(d)
        return np.column_stack([s0, linear, matrices[:, *np.triu_indices(d)]])

    def draw(self, rng: np.random.RandomState, parameters: Parameters, k: int, n_rows: int) -> Array:
        return rng.multivariate_normal(parameters.means[k], self.full_covariances(parameters)[k], n_rows)


@lru_cache(maxsize=16)
def _pairs(n_features: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the entries above the diagonal."""
    a, b = np.triu_indices(n_features, k=1)
    return a, b


def pack_quadratic(precision: Array) -> Array:
    """Coefficients of ``-z^T precision z / 2`` in the columns ``z_a^2 | z_a z_b (a < b)``.

    Parameters
    ----------
    precision : ndarray of shape (..., n_features, n_features)
        Symmetric.

    Returns
    -------
    coefficients : ndarray of shape (..., n_features (n_features + 1) / 2)
    """
    upper = _pairs(precision.shape[-1])
    squares = -0.5 * np.diagonal(precision, axis1=-2, axis2=-1)
    return np.concatenate([squares, -precision[..., upper[0], upper[1]]], axis=-1)


def unpack_scatter(sums: Array, n_features: int) -> Array:
    """Symmetric matrices (..., n_features, n_features) from sums of ``z_a^2 | z_a z_b (a < b)``."""
    matrices = np.empty((*sums.shape[:-1], n_features, n_features))
    diagonal = np.arange(n_features)
    upper = _pairs(n_features)
    matrices[..., diagonal, diagonal] = sums[..., :n_features]
    matrices[..., upper[0], upper[1]] = sums[..., n_features:]
    matrices[..., upper[1], upper[0]] = sums[..., n_features:]
    return matrices


def add_to_diagonal(matrices: Array, value: float | Array) -> Array:
    """Matrices (..., n, n) with ``value``, a number or n, added to each diagonal, in place."""
    diagonal = np.arange(matrices.shape[-1])
    matrices[..., diagonal, diagonal] += value
    return matrices
