"""The parsimonious models: mclust's ten beside full, tied, diag and spherical, whose covariances have parts in common.

A covariance is ``lambda D A D'``, of a volume lambda, a shape A (diagonal, of determinant one) and an orientation D
(Banfield and Raftery 1993; Celeux and Govaert 1995, "Gaussian parsimonious clustering models"). The letters of a name
stand for the three, in this order: E where the components share one, V where each has its own, I where there is none.

A model has the arrays, the columns of the feature map and the densities of spherical, diag or full. Its M-step is that
of these, and then finds the covariances of the model that describe these best (:mod:`gmm_dask.kernels.parsimonious`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.families.base import Array, Family, Parameters, Statistics, slices_of
from gmm_dask.families.diag import Diag
from gmm_dask.families.full import Full
from gmm_dask.families.spherical import Spherical
from gmm_dask.kernels import constants

NONE = np.zeros(0)


class Parsimonious(Family):
    """What the models share, whatever the shape of their arrays."""

    unscaled_name: str  # the model of rows whose columns are each multiplied by a number

    @property
    def constrain_address(self) -> int:
        address: int = kernels.constrain_address()
        return address

    def _constrained(
        self, covariances: Array, weights: Array, edges: NDArray[np.int64], previous: Sequence[Parameters | None]
    ) -> tuple[Array, list[bool]]:
        settled = []
        for place, before in zip(slices_of(edges), previous, strict=True):
            covariances[place], end = self._common(weights[place], covariances[place], before)
            settled.append(end != constants.UNSETTLED)
        return covariances, settled

    def common(self, weights: Array, covariances: Array, like: Parameters | None = None) -> Array:
        return self._common(weights, covariances, like)[0]

    def _common(self, weights: Array, covariances: Array, like: Parameters | None) -> tuple[Array, int]:
        """The covariances, and how the iterations that find them ended."""
        k, d = len(weights), covariances.shape[-1] if covariances.ndim > 1 else 1
        found = np.array(covariances.ravel())
        begin = NONE if like is None else np.ascontiguousarray(like.covariances.ravel())
        end = kernels.constrain(self.constraint, k, d, np.ascontiguousarray(weights), found, begin)
        sound = end != constants.UNSOUND
        return found.reshape(covariances.shape) if sound else np.full(covariances.shape, np.nan), end

    def unscaled(self, parameters: Parameters, center: Array, scale: Array) -> tuple[str, Parameters]:
        _, found = super().unscaled(parameters, center, scale)
        return self.unscaled_name, found


class SharedVariances(Parsimonious):
    """One covariance for all components, along the features: passes take the columns ``1 | z``, as those of tied.

    The quadratic term is the same for every component: it cancels in the responsibilities, and the M-step needs the
    squares over all rows alone, which the data's scatter has.
    """

    def fit_columns(self, n_features: int) -> slice:
        return slice(1, n_features + 2)

    def in_memory_columns(self, n_features: int) -> slice:
        # compiled fits know the columns by the shapes of the arrays, and over few rows the sums cost little
        return self.density_columns(n_features)

    def unpack_all(self, sums: Array, edges: NDArray[np.int64], center: Array, scatter: Array) -> list[Statistics]:
        return [self._unpack_shared(sums[place], center, scatter) for place in slices_of(edges)]

    def _unpack_shared(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        # the responsibilities of a row add up to its weight, so that the squares of all components are those of the
        # rows. Each gets its share by weight: no M-step asks for more than their sum
        s0 = sums[:, 0]
        shares = (s0 / (s0.sum() or 1.0)).reshape(-1, *[1] * len(self.shape_of_one(len(center))))
        return Statistics(s0, sums[:, 1:], shares * self._squares(scatter), np.broadcast_to(center, sums[:, 1:].shape))

    def log_likelihood_correction(self, parameters: Parameters, scatter: Array) -> float:
        precision = self.precisions(parameters.precisions_cholesky[0])
        return -0.5 * float(np.sum(precision * self._squares(scatter)))

    def _squares(self, scatter: Array) -> Array:
        """The squares of the rows as the covariances count them, from their scatter: of each feature, or in all."""
        diagonal = np.diagonal(scatter)
        return diagonal if self.shape_of_one(len(diagonal)) else np.asarray(diagonal.sum())


class EII(SharedVariances, Spherical):
    """One variance for all components and features."""

    name = structure = "EII"
    description = "all components are equally wide in all directions"
    constraint = constants.EII
    # columns of different scales give the one variance different sizes
    unscaled_name = "EEI"


class EEI(SharedVariances, Diag):
    """One variance of each feature."""

    name = structure = unscaled_name = "EEI"
    description = "all components share one variance of each column, and have no correlations"
    constraint = constants.EEI


class VEI(Parsimonious, Diag):
    """Variances of the features in the same proportions, and a volume for each component."""

    name = structure = unscaled_name = "VEI"
    description = "components are ellipsoids along the columns, of one shape and different volumes"
    constraint = constants.VEI


class EVI(Parsimonious, Diag):
    """Variances of the features in proportions of each component's own, and one volume."""

    name = structure = unscaled_name = "EVI"
    description = "components are ellipsoids along the columns, of one volume and different shapes"
    constraint = constants.EVI


class VEE(Parsimonious, Full):
    """One matrix, multiplied by a volume for each component."""

    name = structure = unscaled_name = "VEE"
    description = "components are ellipsoids of one shape and orientation, and different volumes"
    constraint = constants.VEE


class EVE(Parsimonious, Full):
    """Common axes and one volume."""

    name = structure = "EVE"
    description = "components are ellipsoids along common axes, of one volume and different shapes"
    constraint = constants.EVE
    # columns of different scales tilt axes, and leave equal volumes equal
    unscaled_name = "EVV"


class VVE(Parsimonious, Full):
    """Common axes."""

    name = structure = "VVE"
    description = "components are ellipsoids along common axes, of different volumes and shapes"
    constraint = constants.VVE
    unscaled_name = Full.name


class EEV(Parsimonious, Full):
    """One volume and shape, turned in each component."""

    name = structure = "EEV"
    description = "components are ellipsoids of one volume and shape, and different orientations"
    constraint = constants.EEV
    unscaled_name = "EVV"


class VEV(Parsimonious, Full):
    """One shape, turned in each component, and a volume for each."""

    name = structure = "VEV"
    description = "components are ellipsoids of one shape, and different volumes and orientations"
    constraint = constants.VEV
    unscaled_name = Full.name


class EVV(Parsimonious, Full):
    """One volume."""

    name = structure = unscaled_name = "EVV"
    description = "components are ellipsoids of one volume, and different shapes and orientations"
    constraint = constants.EVV
