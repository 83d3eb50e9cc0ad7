"""Diag: a variance for each component and feature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import gammaln

from gmm_dask.families.base import Array, Parameters, Statistics
from gmm_dask.families.diagonal_base import DiagonalFamily
from gmm_dask.kernels.constants import DIAG, NK_FLOOR


class Diag(DiagonalFamily):
    """Columns ``1 | z | z^2`` of the feature map."""

    name = sklearn_type = "diag"
    structure = "VVI"
    description = "each component has variances of its own, and no correlations"
    kind = DIAG

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def density_columns(self, n_features: int) -> slice:
        return slice(1, 2 * n_features + 2)

    def natural(self, parameters: Parameters, center: Array) -> Array:
        # as for full covariances with P diagonal: the products z_a z_b do not occur
        precisions = parameters.precisions_cholesky**2
        m = parameters.means - center
        constant = parameters.log_weights() + self.log_norm(parameters) - 0.5 * np.sum(precisions * m * m, axis=1)
        return np.column_stack([constant, precisions * m, -0.5 * precisions])

    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        d = center.shape[-1]
        return Statistics(sums[:, 0], sums[:, 1 : d + 1], sums[:, d + 1 :], np.broadcast_to(center, (len(sums), d)))

    def start_s2(self, s2: Array, origins: Array, unassigned: Callable[[], Array]) -> Array:
        # scikit-learn's variances are E[x^2] - mean^2 with nk + 10 eps in the mean's denominator: beside ours, as if
        # each component had 10 eps of a row at zero
        return s2 + NK_FLOOR * origins**2

    def log_det(self, precisions_cholesky: Array, n_features: int) -> Array:
        logs: Array = np.log(precisions_cholesky).sum(axis=1)
        return logs

    def precision_diagonals(self, parameters: Parameters) -> Array:
        return parameters.precisions_cholesky**2

    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        return s2 / nk[:, None] - shift**2 + reg_covar

    def log_wishart_integral(self, degrees_of_freedom: Array | float, log_det: Array | float, n_features: int) -> Array:
        # a Gamma distribution of the precision of each feature
        dof, d = np.asarray(degrees_of_freedom), n_features
        return np.asarray(0.5 * dof * (d * math.log(2.0) - log_det) + d * gammaln(0.5 * dof))

    def mode_numbers(self, n_components: int, n_features: int) -> int:
        return 3

    def from_matrix(self, matrix: Array) -> Array:
        return np.diagonal(matrix).copy()

    def full_covariances(self, parameters: Parameters) -> Array:
        full: Array = parameters.covariances[:, :, None] * np.eye(parameters.means.shape[1])
        return full

    def standardized(self, sums: Array, origins: Array, parameters: Parameters) -> Array:
        # as for full covariances, with the diagonal alone
        d = origins.shape[1]
        s0, s1, s2 = sums[:, :1], sums[:, 1 : d + 1], sums[:, d + 1 :]
        m, factors = parameters.means - origins, parameters.precisions_cholesky
        about = s2 - 2.0 * m * s1 + s0 * m * m
        return np.column_stack([s0, factors * (s1 - s0 * m), factors**2 * about - s0])

    def unscaled(self, parameters: Parameters, center: Array, scale: Array) -> tuple[str, Parameters]:
        return self.name, replace(
            parameters,
            means=parameters.means * scale + center,
            covariances=parameters.covariances * scale**2,
            precisions_cholesky=parameters.precisions_cholesky / scale,
        )
