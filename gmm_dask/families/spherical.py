"""Spherical: a variance for each component."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import gammaln

from gmm_dask.families.base import Array, Parameters, Statistics
from gmm_dask.families.diag import Diag
from gmm_dask.families.diagonal_base import DiagonalFamily
from gmm_dask.kernels.constants import NK_FLOOR, SPHERICAL


class Spherical(DiagonalFamily):
    """Columns ``|z|^2 | 1 | z`` of the feature map."""

    name = sklearn_type = "spherical"
    structure = "VII"
    description = "each component is equally wide in all directions"
    kind = SPHERICAL

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def density_columns(self, n_features: int) -> slice:
        return slice(0, n_features + 2)

    def natural(self, parameters: Parameters, center: Array) -> Array:
        # as for diagonal covariances with one precision p: sum_a z_a^2 is the single monomial |z|^2
        precisions = parameters.precisions_cholesky**2
        m = parameters.means - center
        constant = parameters.log_weights() + self.log_norm(parameters) - 0.5 * precisions * np.sum(m * m, axis=1)
        return np.column_stack([-0.5 * precisions, constant, m * precisions[:, None]])

    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        return Statistics(sums[:, 1], sums[:, 2:], sums[:, 0], np.broadcast_to(center, sums[:, 2:].shape))

    def start_s2(self, s2: Array, origins: Array, unassigned: Callable[[], Array]) -> Array:
        # as for diagonal covariances, over all features
        floors: Array = NK_FLOOR * np.sum(origins**2, axis=1)
        return s2 + floors

    def log_det(self, precisions_cholesky: Array, n_features: int) -> Array:
        logs: Array = n_features * np.log(precisions_cholesky)
        return logs

    def precision_diagonals(self, parameters: Parameters) -> Array:
        return parameters.precisions_cholesky[:, None] ** 2

    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        # the maximum of the likelihood is the mean over the features of their variances
        squares: Array = s2 / nk - np.sum(shift * shift, axis=1)
        variances: Array = squares / shift.shape[1] + np.mean(np.atleast_1d(reg_covar), axis=-1)
        return variances

    def log_wishart_integral(self, degrees_of_freedom: Array | float, log_det: Array | float, n_features: int) -> Array:
        # a Gamma distribution of the one precision, which each feature of a row tells of: of the trace of the scatter
        dof, d = np.asarray(degrees_of_freedom), n_features
        return np.asarray(0.5 * dof * (d * math.log(2.0 / d) - log_det) + gammaln(0.5 * d * dof))

    def numbers_per_row(self, n_features: int) -> int:
        return n_features

    def mode_numbers(self, n_components: int, n_features: int) -> int:
        return n_features + 2

    def from_matrix(self, matrix: Array) -> Array:
        return np.asarray(np.trace(matrix) / len(matrix))

    def full_covariances(self, parameters: Parameters) -> Array:
        full: Array = parameters.covariances[:, None, None] * np.eye(parameters.means.shape[1])
        return full

    def standardized(self, sums: Array, origins: Array, parameters: Parameters) -> Array:
        # as for full covariances, with the mean of the diagonal alone
        s2, s0, s1 = sums[:, 0], sums[:, 1], sums[:, 2:]
        m, factors = parameters.means - origins, parameters.precisions_cholesky
        about = s2 - 2.0 * np.sum(m * s1, axis=1) + s0 * np.sum(m * m, axis=1)
        linear = factors[:, None] * (s1 - s0[:, None] * m)
        return np.column_stack([s0, linear, factors**2 * about / origins.shape[1] - s0])

    def unscaled(self, parameters: Parameters, center: Array, scale: Array) -> tuple[str, Parameters]:
        # columns of different scales give one variance different sizes: a diagonal covariance
        return Diag.name, replace(
            parameters,
            means=parameters.means * scale + center,
            covariances=parameters.covariances[:, None] * scale**2,
            precisions_cholesky=parameters.precisions_cholesky[:, None] / scale,
        )
