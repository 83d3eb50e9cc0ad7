"""Tied: one covariance matrix for all components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families.base import (
    Array,
    Parameters,
    Statistics,
    slices_of,
)
from gmm_dask.families.matrix_base import MatrixFamily, add_to_diagonal, pack_quadratic, unpack_scatter
from gmm_dask.kernels.constants import TIED


class Tied(MatrixFamily):
    """Columns ``1 | z`` of the feature map in a fit, all but the first for the density of a row.

    The quadratic term is the same for every component and cancels in the responsibilities. Over all rows it adds
    ``-tr(precision scatter) / 2`` to the log-likelihood, and the scatter never changes.
    """

    name = sklearn_type = "tied"
    structure = "EEE"
    description = "all components share one covariance matrix"
    kind = TIED
    is_shared = True

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def fit_columns(self, n_features: int) -> slice:
        return slice(1, n_features + 2)

    def natural(self, parameters: Parameters, center: Array) -> Array:
        quadratic = pack_quadratic(self.precisions(parameters.precisions_cholesky))
        columns = np.broadcast_to(quadratic, (len(parameters.weights), len(quadratic)))
        return np.concatenate([self._linear(parameters, center), columns], axis=1)

    def _linear(self, parameters: Parameters, center: Array) -> Array:
        """Coefficients ``constant | precision m``."""
        factor = parameters.precisions_cholesky
        whitened = (parameters.means - center) @ factor
        found = np.empty((len(whitened), parameters.means.shape[1] + 1))
        found[:, 0] = parameters.log_weights() + self.log_norm(parameters) - 0.5 * np.sum(whitened**2, axis=1)
        found[:, 1:] = whitened @ factor.T
        return found

    def naturals(self, models: Sequence[Parameters], center: Array, answers: bool) -> Array:
        found = self.natural if answers else self._linear
        return np.concatenate([found(parameters, center) for parameters in models])

    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        # over all components the responsibilities of a row add up to its weight, so that s2 = sum w z z', the data's
        # own scatter about the centre: no pass has to sum it again
        return Statistics(sums[:, 0], sums[:, 1:], scatter, np.broadcast_to(center, sums[:, 1:].shape))

    def unpack_centred(self, sums: Array, means: Array) -> Statistics:
        d = means.shape[1]
        return Statistics(sums[:, 0], sums[:, 1 : d + 1], unpack_scatter(sums[:, d + 1 :], d).sum(axis=0), means)

    def unpack_all(self, sums: Array, edges: NDArray[np.int64], center: Array, scatter: Array) -> list[Statistics]:
        return [self.unpack(sums[place], center, scatter) for place in slices_of(edges)]

    def log_likelihood_correction(self, parameters: Parameters, scatter: Array) -> float:
        # sum w z' P z = tr(P sum w z z'): the quadratic term that the fit's columns leave out, for all rows at once
        factor = parameters.precisions_cholesky
        return -0.5 * float(np.sum((factor.T @ scatter) * factor.T))

    def start_s2(self, s2: Array, origins: Array, unassigned: Callable[[], Array]) -> Array:
        # scikit-learn takes the raw second moments of all rows here, those that no component was given among them
        return s2 + unassigned()

    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        # as for full covariances, summed over the components: s2 - sum_k nk shift_k shift_k'
        return add_to_diagonal((s2 - (nk * shift.T) @ shift) / nk.sum(), reg_covar)

    def kappas(self, models: Sequence[Parameters], center: Array) -> Array:
        return np.array([self.kappa(parameters, center) for parameters in models])

    def _covariances_of(
        self, s2: Sequence[Array], nk: Array, shift: Array, edges: NDArray[np.int64], reg_covar: float | Array
    ) -> Array:
        # one covariance for all components takes the largest of what is added to each
        each = np.broadcast_to(reg_covar, shift.shape)
        places = [(one, at, each[at].max(axis=0)) for one, at in zip(s2, slices_of(edges), strict=True)]
        return np.stack([self.covariances(one, nk[at], shift[at], reg) for one, at, reg in places])

    def _pieces(self, edges: NDArray[np.int64]) -> Sequence[slice | int]:
        return range(len(edges) - 1)

    def mode_numbers(self, n_components: int, n_features: int) -> int:
        return n_features + 1 + n_components

    def full_covariances(self, parameters: Parameters) -> Array:
        return np.broadcast_to(parameters.covariances, (len(parameters.weights), *parameters.covariances.shape))

    def without(self, parameters: Parameters, k: int) -> Parameters:
        weights = np.delete(parameters.weights, k)
        return replace(parameters, weights=weights / weights.sum(), means=np.delete(parameters.means, k, axis=0))
