"""Noise: a covariance family beside a uniform component, for rows that belong to none of the Gaussians.

The uniform density is a constant, and a constant is linear in the feature map: ``log weight - log volume`` at the
monomial 1. So noise is one more line of coefficients and of sums, the last one, in every pass (Banfield and Raftery
1993, "Model-based Gaussian and non-Gaussian clustering").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import get_family
from gmm_dask.families.base import Array, Family, Noise, NoiseSums, Parameters, Statistics, slices_of
from gmm_dask.kernels.constants import LEAST_WEIGHT, TINY


@cache
def with_noise(family: Family, log_volume: float) -> WithNoise:
    """The family beside noise in a box of this volume: the same value each time, so that its models form one group."""
    return WithNoise(family, log_volume)


def family_of(covariance_type: str, parameters: Parameters) -> Family:
    """The family of a covariance type, beside noise where the parameters have it."""
    family, noise = get_family(covariance_type), parameters.noise
    return family if noise is None else with_noise(family, noise.log_volume)


def gaussians_of(family: Family, parameters: Parameters) -> tuple[Family, Parameters]:
    """The Gaussians of a mixture as one of their own, whose weights add up to one."""
    if parameters.noise is None:
        return family, parameters
    return family.gaussians, replace(parameters, weights=parameters.weights / parameters.weights.sum(), noise=None)


class WithNoise(Family):
    """A covariance family beside noise. What is about covariances alone is the family's own.

    Of tied covariances the quadratic term, which noise does not share, takes part: the fit needs all columns.
    """

    def __init__(self, family: Family, log_volume: float) -> None:
        self.family = family
        self.log_volume = log_volume
        self.name = family.name
        self.description = family.description
        self.structure = family.structure
        self.is_shared = family.is_shared
        self.kind = family.kind
        self.constraint = family.constraint
        self.sklearn_type = family.sklearn_type

    @property
    def gaussians(self) -> Family:
        return self.family

    # -- what noise adds -------------------------------------------------------------------------------------
    def n_parameters(self, n_components: int, n_features: int) -> int:
        return self.family.n_parameters(n_components, n_features) + 1

    def natural(self, parameters: Parameters, center: Array) -> Array:
        coefficients = self.family.natural(parameters, center if center.ndim == 1 else center[:-1])
        noise = np.zeros((1, coefficients.shape[1]))
        noise[0, self._constant(center.shape[-1])] = self._log_weight(parameters) - self.log_volume
        return np.concatenate([coefficients, noise])

    def naturals(self, models: Sequence[Parameters], center: Array, answers: bool) -> Array:
        return np.concatenate([self.natural(parameters, center) for parameters in models])

    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        return self.unpack_centred(sums, np.broadcast_to(center, (len(sums) - 1, len(center))))

    def unpack_centred(self, sums: Array, means: Array) -> Statistics:
        constant, d = self._constant(means.shape[1]), means.shape[1]
        linear = sums[-1, constant + 1 : constant + 1 + d]
        noise = NoiseSums(float(sums[-1, constant]), linear, means[0])
        return replace(self.family.unpack_centred(sums[:-1], means[: len(sums) - 1]), noise=noise)

    def unpack_all(self, sums: Array, edges: NDArray[np.int64], center: Array, scatter: Array) -> list[Statistics]:
        return [self.unpack(sums[place], center, scatter) for place in slices_of(edges)]

    def own_origins(self, parameters: Parameters) -> Array:
        # the noise has no mean; its constant is the same about any origin
        return np.concatenate([parameters.means, parameters.means[:1]])

    def maximise_all(
        self,
        statistics: Sequence[Statistics],
        reg_covar: float | Array,
        previous: Sequence[Parameters | None] | None = None,
    ) -> list[Parameters | None]:
        found = self.family.maximise_all(statistics, reg_covar, previous)
        return [one and self.beside_noise(one, sums) for one, sums in zip(found, statistics, strict=True)]

    def beside_noise(self, gaussians: Parameters, statistics: Statistics) -> Parameters:
        assert statistics.noise is not None
        s0 = statistics.noise.s0
        return self._with_weight(gaussians, float(s0 / (s0 + statistics.s0.sum())))

    def parameters(self, weights: Array, means: Array, covariances: Array) -> Parameters:
        return replace(
            self.family.parameters(weights[:-1], means, covariances), noise=Noise(float(weights[-1]), self.log_volume)
        )

    def nearest(self, weights: Array, means: Array, covariances: Array, like: Parameters | None = None) -> Parameters:
        return replace(
            self.family.nearest(weights[:-1], means, covariances, like),
            noise=Noise(float(weights[-1]), self.log_volume),
        )

    def without(self, parameters: Parameters, k: int) -> Parameters:
        return self._with_weight(self.family.without(parameters, k), self._weight(parameters))

    def unscaled(self, parameters: Parameters, center: Array, scale: Array) -> tuple[str, Parameters]:
        name, found = self.family.unscaled(parameters, center, scale)
        return name, replace(found, noise=Noise(self._weight(parameters), self.log_volume + float(np.log(scale).sum())))

    def _with_weight(self, parameters: Parameters, weight: float) -> Parameters:
        """Gaussians whose weights add up to one, beside noise of this weight."""
        # noise that takes all rows leaves the Gaussians weights of which there is a logarithm
        weights = parameters.weights * max(1.0 - weight, LEAST_WEIGHT)
        return replace(parameters, weights=weights, noise=Noise(weight, self.log_volume))

    def _constant(self, n_features: int) -> int:
        """Position of the monomial 1, the second of the feature map, among the columns."""
        return 1 - int(self.density_columns(n_features).start)

    @staticmethod
    def _weight(parameters: Parameters) -> float:
        assert parameters.noise is not None
        return parameters.noise.weight

    def _log_weight(self, parameters: Parameters) -> float:
        return math.log(max(self._weight(parameters), TINY))

    # -- the family's own ------------------------------------------------------------------------------------
    @property
    def constrain_address(self) -> int:
        return self.family.constrain_address

    def common(self, weights: Array, covariances: Array, like: Parameters | None = None) -> Array:
        return self.family.common(weights, covariances, like)

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return self.family.covariance_shape(n_components, n_features)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        return self.family.n_covariance_parameters(n_components, n_features)

    def density_columns(self, n_features: int) -> slice:
        return self.family.density_columns(n_features)

    def log_det(self, precisions_cholesky: Array, n_features: int) -> Array:
        return self.family.log_det(precisions_cholesky, n_features)

    def precision_diagonals(self, parameters: Parameters) -> Array:
        return self.family.precision_diagonals(parameters)

    def kappas(self, models: Sequence[Parameters], center: Array) -> Array:
        return self.family.kappas(models, center)

    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        return self.family.covariances(s2, nk, shift, reg_covar)

    def precisions_cholesky(self, covariances: Array) -> Array:
        return self.family.precisions_cholesky(covariances)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return self.family.precisions(precisions_cholesky)

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        return self.family.from_precisions(precisions)

    def mode_numbers(self, n_components: int, n_features: int) -> int:
        return self.family.mode_numbers(n_components, n_features)

    def from_matrix(self, matrix: Array) -> Array:
        return self.family.from_matrix(matrix)

    def log_wishart_integral(self, degrees_of_freedom: Array | float, log_det: Array | float, n_features: int) -> Array:
        return self.family.log_wishart_integral(degrees_of_freedom, log_det, n_features)

    def whitening_error(self, parameters: Parameters) -> float:
        return self.family.whitening_error(parameters)

    def full_covariances(self, parameters: Parameters) -> Array:
        return self.family.full_covariances(parameters)

    def standardized(self, sums: Array, origins: Array, parameters: Parameters) -> Array:
        return self.family.standardized(sums[:-1], origins[:-1], parameters)

    def draw(self, rng: np.random.RandomState, parameters: Parameters, k: int, n_rows: int) -> Array:
        return self.family.draw(rng, parameters, k, n_rows)
