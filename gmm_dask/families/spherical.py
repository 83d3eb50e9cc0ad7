"""Spherical: one variance a component."""

from __future__ import annotations

import numpy as np

from gmm_dask.families.base import NK_FLOOR, Array, Parameters, Statistics
from gmm_dask.families.diag import Diag
from gmm_dask.families.diagonal import DiagonalFamily
from gmm_dask.kernels.centred import mahalanobis_diagonal, scatter_diagonal


class Spherical(DiagonalFamily):
    """Columns ``|z|^2 | 1 | z`` of the feature map."""

    name = "spherical"
    words = "each component is equally wide in all directions"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """One variance a component."""
        return (n_components,)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """One a component."""
        return n_components

    def density_columns(self, n_features: int) -> slice:
        """``|z|^2 | 1 | z``."""
        return slice(0, n_features + 2)

    def natural(self, parameters: Parameters, center: Array) -> Array:
        """Coefficients ``-precision/2 | constant | precision m``."""
        precisions = parameters.precisions_cholesky**2
        m = parameters.means - center
        constant = self.log_weights(parameters) + self.log_norm(parameters) - 0.5 * precisions * np.sum(m * m, axis=1)
        return np.column_stack([-0.5 * precisions, constant, m * precisions[:, None]])

    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        """Read ``|z|^2 | 1 | z``."""
        return Statistics(sums[:, 1], sums[:, 2:], sums[:, 0], np.broadcast_to(center, sums[:, 2:].shape))

    def mahalanobis(self, x: Array, parameters: Parameters, k: int) -> Array:
        """Squared distance times the precision."""
        mean = parameters.means[k]
        return mahalanobis_diagonal(x, mean, np.full(len(mean), parameters.precisions_cholesky[k]))

    def zero_s2(self, n_components: int, n_features: int) -> Array:
        """One sum a component."""
        return np.zeros(n_components)

    def add_s2(self, s2: Array, k: int, y: Array, resp: Array) -> None:
        """Add ``|y|^2``."""
        s2[k] += scatter_diagonal(y, resp).sum()

    def start_s2(self, s2: Array, origins: Array, unassigned: Array) -> Array:
        """The floor of a component's weight acts as a row at zero."""
        floors: Array = NK_FLOOR * np.sum(origins**2, axis=1)
        return s2 + floors

    def log_det(self, precisions_cholesky: Array, n_features: int) -> Array:
        """``D log u`` of each component."""
        logs: Array = n_features * np.log(precisions_cholesky)
        return logs

    def precision_traces(self, parameters: Parameters) -> Array:
        """The precision: all eigenvalues are equal, so the largest is known."""
        return parameters.precisions_cholesky**2

    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        """Mean variance over the features."""
        squares: Array = s2 / nk - np.sum(shift * shift, axis=1)
        variances: Array = squares / shift.shape[1] + np.mean(reg_covar)
        return variances

    def full_covariances(self, parameters: Parameters) -> Array:
        """Variance times the identity."""
        full: Array = parameters.covariances[:, None, None] * np.eye(parameters.means.shape[1])
        return full

    def unscaled(self, parameters: Parameters, center: Array, scale: Array) -> tuple[str, Parameters]:
        """Variances that differ between columns of different scales: a diagonal."""
        return Diag.name, Parameters(
            weights=parameters.weights,
            means=parameters.means * scale + center,
            covariances=parameters.covariances[:, None] * scale**2,
            precisions_cholesky=parameters.precisions_cholesky[:, None] / scale,
        )

    def draw(self, rng: np.random.RandomState, parameters: Parameters, k: int, n_rows: int) -> Array:
        """Scaled standard normals."""
        normals = rng.standard_normal(size=(n_rows, parameters.means.shape[1]))
        rows: Array = parameters.means[k] + normals * np.sqrt(parameters.covariances[k])
        return rows
