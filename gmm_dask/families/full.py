"""Full: a covariance matrix for each component."""

from __future__ import annotations

import numpy as np

from gmm_dask.families.base import (
    Array,
    Parameters,
    Statistics,
)
from gmm_dask.families.matrix_base import MatrixFamily, add_to_diagonal, pack_quadratic, unpack_scatter
from gmm_dask.kernels.constants import FULL


class Full(MatrixFamily):
    """Columns ``1 | z | z^2 | z_a z_b`` of the feature map."""

    name = sklearn_type = "full"
    structure = "VVV"
    description = "each component has a covariance matrix of its own"
    kind = FULL

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def natural(self, parameters: Parameters, center: Array) -> Array:
        # with m = mean - c and P = U U^T, the log density of z is
        #   log w + log|P|/2 - D/2 log(2 pi) - (z - m)' P (z - m) / 2
        #   = [log w + log|P|/2 - D/2 log(2 pi) - m' P m / 2]  +  (P m)' z  -  z' P z / 2
        # which is linear in the monomials 1 | z | z^2 | z_a z_b; m' P m = |U' m|^2 is never negative through rounding
        factors = parameters.precisions_cholesky
        m = parameters.means - center
        whitened = np.einsum("kij,ki->kj", factors, m)
        linear = np.einsum("kij,kj->ki", factors, whitened)
        constant = parameters.log_weights() + self.log_norm(parameters) - 0.5 * np.sum(whitened**2, axis=1)
        return np.column_stack([constant, linear, pack_quadratic(self.precisions(factors))])

    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        d = center.shape[-1]
        return Statistics(
            sums[:, 0],
            sums[:, 1 : d + 1],
            unpack_scatter(sums[:, d + 1 :], d),
            np.broadcast_to(center, (len(sums), d)),
        )

    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        # sum r (x - mean)(x - mean)' = sum r y y' - nk shift shift', with y = x - origin and shift = mean - origin
        matrices = s2 / nk[:, None, None] - shift[:, :, None] * shift[:, None, :]
        return add_to_diagonal(matrices, reg_covar)

    def mode_numbers(self, n_components: int, n_features: int) -> int:
        return n_features + 2

    def full_covariances(self, parameters: Parameters) -> Array:
        return parameters.covariances
