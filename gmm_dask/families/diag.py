"""Diag: one variance a component and feature."""

from __future__ import annotations

import numpy as np

from gmm_dask.families.base import NK_FLOOR, Array, Parameters, Statistics
from gmm_dask.families.diagonal import DiagonalFamily
from gmm_dask.kernels.centred import mahalanobis_diagonal, scatter_diagonal


class Diag(DiagonalFamily):
    """Columns ``1 | z | z^2`` of the feature map."""

    name = "diag"
    words = "each component has variances of its own, and no correlations"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """One variance a component and feature."""
        return (n_components, n_features)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """One a component and feature."""
        return n_components * n_features

    def density_columns(self, n_features: int) -> slice:
        """``1 | z | z^2``."""
        return slice(1, 2 * n_features + 2)

    def natural(self, parameters: Parameters, center: Array) -> Array:
        """Coefficients ``constant | precision m | -precision/2``."""
        precisions = parameters.precisions_cholesky**2
        m = parameters.means - center
        constant = self.log_weights(parameters) + self.log_norm(parameters) - 0.5 * np.sum(precisions * m * m, axis=1)
        return np.column_stack([constant, precisions * m, -0.5 * precisions])

    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        """Read ``1 | z | z^2``."""
        d = len(center)
        return Statistics(sums[:, 0], sums[:, 1 : d + 1], sums[:, d + 1 :], np.broadcast_to(center, (len(sums), d)))

    def mahalanobis(self, x: Array, parameters: Parameters, k: int) -> Array:
        """Squared distance, each feature by its own precision."""
        return mahalanobis_diagonal(x, parameters.means[k], parameters.precisions_cholesky[k])

    def zero_s2(self, n_components: int, n_features: int) -> Array:
        """One sum a component and feature."""
        return np.zeros((n_components, n_features))

    def add_s2(self, s2: Array, k: int, y: Array, resp: Array) -> None:
        """Add ``y_a^2``."""
        s2[k] += scatter_diagonal(y, resp)

    def start_s2(self, s2: Array, origins: Array, unassigned: Array) -> Array:
        """The floor of a component's weight acts as a row at zero."""
        return s2 + NK_FLOOR * origins**2

    def log_det(self, precisions_cholesky: Array, n_features: int) -> Array:
        """``sum log u`` of each component."""
        logs: Array = np.log(precisions_cholesky).sum(axis=1)
        return logs

    def precision_traces(self, parameters: Parameters) -> Array:
        """Sum of the precisions."""
        traces: Array = np.sum(parameters.precisions_cholesky**2, axis=1)
        return traces

    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        """Variance of each feature."""
        return s2 / nk[:, None] - shift**2 + reg_covar

    def full_covariances(self, parameters: Parameters) -> Array:
        """Diagonal matrices."""
        full: Array = parameters.covariances[:, :, None] * np.eye(parameters.means.shape[1])
        return full

    def unscaled(self, parameters: Parameters, center: Array, scale: Array) -> tuple[str, Parameters]:
        """Each variance in its column's units."""
        return self.name, Parameters(
            weights=parameters.weights,
            means=parameters.means * scale + center,
            covariances=parameters.covariances * scale**2,
            precisions_cholesky=parameters.precisions_cholesky / scale,
        )

    def draw(self, rng: np.random.RandomState, parameters: Parameters, k: int, n_rows: int) -> Array:
        """Scaled standard normals."""
        normals = rng.standard_normal(size=(n_rows, parameters.means.shape[1]))
        rows: Array = parameters.means[k] + normals * np.sqrt(parameters.covariances[k])
        return rows
