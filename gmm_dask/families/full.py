"""Full: a covariance matrix a component."""

from __future__ import annotations

import numpy as np

from gmm_dask import kernels
from gmm_dask.families.base import (
    Array,
    Family,
    Parameters,
    Statistics,
    invert,
    upper_factor,
)
from gmm_dask.families.matrices import add_to_diagonal, pack_quadratic, unpack_scatter
from gmm_dask.kernels.centred import mahalanobis_matrix, scatter_matrix
from gmm_dask.kernels.feature_map import n_monomials


class Full(Family):
    """Columns ``1 | z | z^2 | z_a z_b`` of the feature map."""

    name = "full"
    words = "each component has a covariance matrix of its own"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """A matrix a component."""
        return (n_components, n_features, n_features)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Half a matrix a component."""
        return n_components * n_features * (n_features + 1) // 2

    def density_columns(self, n_features: int) -> slice:
        """``1 | z | z^2 | z_a z_b``."""
        return slice(1, n_monomials(n_features))

    def natural(self, parameters: Parameters, center: Array) -> Array:
        """Coefficients ``constant | precision m | quadratic``."""
        factors = parameters.precisions_cholesky
        m = parameters.means - center
        whitened = np.einsum("kij,ki->kj", factors, m)
        linear = np.einsum("kij,kj->ki", factors, whitened)
        constant = self.log_weights(parameters) + self.log_norm(parameters) - 0.5 * np.sum(whitened**2, axis=1)
        return np.column_stack([constant, linear, pack_quadratic(self.precisions(factors))])

    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        """Read ``1 | z | z^2 | z_a z_b``."""
        d = len(center)
        return Statistics(
            sums[:, 0],
            sums[:, 1 : d + 1],
            unpack_scatter(sums[:, d + 1 :], d),
            np.broadcast_to(center, (len(sums), d)),
        )

    def mahalanobis(self, x: Array, parameters: Parameters, k: int) -> Array:
        """Squared distance in component k's metric."""
        return mahalanobis_matrix(x, parameters.means[k], parameters.precisions_cholesky[k])

    def zero_s2(self, n_components: int, n_features: int) -> Array:
        """A matrix a component."""
        return np.zeros((n_components, n_features, n_features))

    def add_s2(self, s2: Array, k: int, y: Array, resp: Array) -> None:
        """Add ``y y^T``."""
        s2[k] += scatter_matrix(y, resp)

    def log_det(self, precisions_cholesky: Array, n_features: int) -> Array:
        """``sum log u_aa`` of each component."""
        logs: Array = np.log(np.diagonal(precisions_cholesky, axis1=1, axis2=2)).sum(axis=1)
        return logs

    def precision_traces(self, parameters: Parameters) -> Array:
        """Squared Frobenius norm of each factor."""
        traces: Array = np.sum(parameters.precisions_cholesky**2, axis=(1, 2))
        return traces

    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        """Scatter about each mean."""
        matrices = s2 / nk[:, None, None] - shift[:, :, None] * shift[:, None, :]
        return add_to_diagonal(matrices, reg_covar)

    def precisions_cholesky(self, covariances: Array) -> Array:
        """A factor a component."""
        factors: Array = kernels.precision_factors(covariances.copy())
        return factors

    def precisions(self, precisions_cholesky: Array) -> Array:
        """``U U^T`` of each component."""
        return precisions_cholesky @ precisions_cholesky.transpose(0, 2, 1)

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Inverses, and upper factors."""
        return invert(precisions), np.stack([upper_factor(precision) for precision in precisions])

    def full_covariances(self, parameters: Parameters) -> Array:
        """As they are."""
        return parameters.covariances

    def draw(self, rng: np.random.RandomState, parameters: Parameters, k: int, n_rows: int) -> Array:
        """Multivariate normals."""
        return rng.multivariate_normal(parameters.means[k], parameters.covariances[k], n_rows)
