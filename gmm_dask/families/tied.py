"""Tied: one covariance matrix for all components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.families.base import (
    Array,
    Family,
    Parameters,
    Statistics,
    invert,
    places_of,
    upper_factor,
)
from gmm_dask.families.matrices import add_to_diagonal, pack_quadratic
from gmm_dask.kernels.centred import mahalanobis_matrix, scatter_matrix
from gmm_dask.kernels.feature_map import n_monomials


class Tied(Family):
    """Columns ``1 | z`` of the feature map in a fit, all but the first for answers.

    The quadratic term is the same for every component and cancels in the responsibilities. Over all rows it adds
    ``-tr(precision scatter) / 2`` to the log-likelihood, and the scatter never changes.
    """

    name = "tied"
    words = "all components share one covariance matrix"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """One matrix."""
        return (n_features, n_features)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Half a matrix."""
        return n_features * (n_features + 1) // 2

    def density_columns(self, n_features: int) -> slice:
        """``1 | z | z^2 | z_a z_b``."""
        return slice(1, n_monomials(n_features))

    def fit_columns(self, n_features: int) -> slice:
        """``1 | z``."""
        return slice(1, n_features + 2)

    def natural(self, parameters: Parameters, center: Array) -> Array:
        """Coefficients ``constant | precision m | quadratic``."""
        quadratic = pack_quadratic(self.precisions(parameters.precisions_cholesky))
        columns = np.broadcast_to(quadratic, (len(parameters.weights), len(quadratic)))
        return np.concatenate([self._linear(parameters, center), columns], axis=1)

    def _linear(self, parameters: Parameters, center: Array) -> Array:
        """Coefficients ``constant | precision m``."""
        factor = parameters.precisions_cholesky
        whitened = (parameters.means - center) @ factor
        found = np.empty((len(whitened), len(center) + 1))
        found[:, 0] = self.log_weights(parameters) + self.log_norm(parameters) - 0.5 * np.sum(whitened**2, axis=1)
        found[:, 1:] = whitened @ factor.T
        return found

    def naturals(self, models: Sequence[Parameters], center: Array, answers: bool) -> Array:
        """One mixture after the other, as each has a matrix for all of its components."""
        found = self.natural if answers else self._linear
        return np.concatenate([found(parameters, center) for parameters in models])

    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        """Read ``1 | z``; the quadratic part is the data's own scatter."""
        return Statistics(sums[:, 0], sums[:, 1:], scatter, np.broadcast_to(center, sums[:, 1:].shape))

    def unpack_all(self, sums: Array, edges: NDArray[np.int64], center: Array, scatter: Array) -> list[Statistics]:
        """One mixture after the other."""
        return [self.unpack(sums[place], center, scatter) for place in places_of(edges)]

    def log_likelihood_correction(self, parameters: Parameters, scatter: Array) -> float:
        """``-tr(precision scatter) / 2``."""
        factor = parameters.precisions_cholesky
        return -0.5 * float(np.sum((factor.T @ scatter) * factor.T))

    def together(self, parts: Sequence[Statistics]) -> Statistics:
        """The quadratic parts add up."""
        s0, s1, origins = (np.concatenate([getattr(part, name) for part in parts]) for name in ("s0", "s1", "origins"))
        return Statistics(s0, s1, np.sum([part.s2 for part in parts], axis=0), origins)

    def mahalanobis(self, x: Array, parameters: Parameters, k: int) -> Array:
        """Squared distance in the common metric."""
        return mahalanobis_matrix(x, parameters.means[k], parameters.precisions_cholesky)

    def zero_s2(self, n_components: int, n_features: int) -> Array:
        """One matrix."""
        return np.zeros((n_features, n_features))

    def add_s2(self, s2: Array, k: int, y: Array, resp: Array) -> None:
        """Add ``y y^T``."""
        s2 += scatter_matrix(y, resp)

    def start_s2(self, s2: Array, origins: Array, unassigned: Array) -> Array:
        """Count the unassigned rows too, about zero."""
        return s2 + unassigned

    def log_det(self, precisions_cholesky: Array, n_features: int) -> Array:
        """``sum log u_aa``, the same for every component."""
        logs: Array = np.log(np.diagonal(precisions_cholesky)).sum()
        return logs

    def precision_traces(self, parameters: Parameters) -> float:
        """Squared Frobenius norm of the factor."""
        return float(np.sum(parameters.precisions_cholesky**2))

    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        """Scatter about the means, pooled."""
        return add_to_diagonal((s2 - (nk * shift.T) @ shift) / nk.sum(), reg_covar)

    def kappas(self, models: Sequence[Parameters], center: Array) -> Array:
        """One mixture after the other."""
        return np.array([self.kappa(parameters, center) for parameters in models])

    def _covariances_of(
        self, s2: Sequence[Array], nk: Array, shift: Array, edges: NDArray[np.int64], reg_covar: float | Array
    ) -> Array:
        places = zip(s2, places_of(edges), strict=True)
        return np.stack([self.covariances(one, nk[at], shift[at], reg_covar) for one, at in places])

    def _pieces(self, edges: NDArray[np.int64]) -> Sequence[slice | int]:
        return range(len(edges) - 1)

    def precisions_cholesky(self, covariances: Array) -> Array:
        """A factor a matrix."""
        factors: Array = kernels.precision_factors(covariances.reshape(-1, *covariances.shape[-2:]).copy())
        return factors.reshape(covariances.shape)

    def precisions(self, precisions_cholesky: Array) -> Array:
        """``U U^T``."""
        return precisions_cholesky @ precisions_cholesky.T

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Inverse, and upper factor."""
        return invert(precisions), upper_factor(precisions)

    def full_covariances(self, parameters: Parameters) -> Array:
        """The same matrix for every component."""
        return np.broadcast_to(parameters.covariances, (len(parameters.weights), *parameters.covariances.shape))

    def without(self, parameters: Parameters, k: int) -> Parameters:
        """The matrix stays as it is."""
        weights = np.delete(parameters.weights, k)
        return replace(parameters, weights=weights / weights.sum(), means=np.delete(parameters.means, k, axis=0))

    def draw(self, rng: np.random.RandomState, parameters: Parameters, k: int, n_rows: int) -> Array:
        """Multivariate normals."""
        return rng.multivariate_normal(parameters.means[k], parameters.covariances, n_rows)
