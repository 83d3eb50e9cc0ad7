"""Fewer passes: Anderson acceleration of EM, which falls back to the plain step where the likelihood would fall.

EM is a fixed-point iteration x -> g(x) that converges linearly. With the residuals f_i = g(x_i) - x_i of the last few
passes, Anderson (1965, "Iterative procedures for nonlinear integral equations") takes the next point where a linear
model of f is zero. For EM, restarts and a check that the likelihood rises make it safe (Henderson and Varadhan 2019,
"Damped Anderson acceleration with restarts and monotonicity control").

A pass at the extrapolated point gives its likelihood and its plain step at once. If the likelihood is lower there, the
fit resumes from the plain step of the point before, and has lost one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import SingularError
from gmm_dask.families import Family, Parameters
from gmm_dask.kernels.constants import TRIES
from gmm_dask.kernels.feature_map import factors
from gmm_dask.passes.data_summary import DataSummary

Array = NDArray[np.float64]

# differences that an extrapolation is made from, the m of the literature, where 5 to 10 are usual
ORDER = 5
# extrapolation begins when the lower bound changes by less: earlier, it may lead to another and a worse optimum
BEGIN = 1e-3
# Tikhonov term of the least-squares problem, relative to its trace: the last residuals are almost parallel
REGULARIZATION = 1e-10


@dataclass(frozen=True, eq=False)
class FeatureScale:
    """The scale in which parameters are compared, so that extrapolation does not depend on units.

    Attributes
    ----------
    center : ndarray of shape (n_features,)
        Of the data.
    deviations : ndarray of shape (n_features,)
        Standard deviations of the data; 1 for a constant column.
    """

    center: Array
    deviations: Array

    @classmethod
    def of(cls, data_summary: DataSummary) -> Self:
        """Return the scale of these data."""
        variances = np.diag(data_summary.scatter) / data_summary.total_weight
        return cls(data_summary.center, np.sqrt(np.where(variances > 0.0, variances, 1.0)))


@dataclass(frozen=True, eq=False)
class History:
    """The last passes of an accelerated fit.

    Attributes
    ----------
    points, images : ndarray of shape (n_remembered, n_values)
        The parameters x_i of the last passes and what a plain step makes of them, g(x_i), as :func:`to_vector` returns
        them.
    plain : Parameters or None
        The plain step that the state's extrapolated parameters replace; None if they are not extrapolated.
    """

    points: Array
    images: Array
    plain: Parameters | None = None


def to_vector(family: Family, parameters: Parameters, scale: FeatureScale) -> Array:
    """Return weights, means and covariances, scaled, one after another."""
    means = (parameters.means - scale.center) / scale.deviations
    covariances = parameters.covariances / covariance_scale(family, scale)
    return np.concatenate([parameters.all_weights, means.ravel(), covariances.ravel()])


def from_vector(family: Family, vector: Array, like: Parameters, scale: FeatureScale) -> Parameters:
    """Return parameters that may be near ``like``; raises :class:`SingularError` where there is no such mixture.

    Sums of covariances of a family need not be of it: those that describe them best are taken.
    """
    k, d = like.means.shape
    n_weights = like.n_densities
    weights, means, covariances = np.split(vector, [n_weights, n_weights + k * d])
    if not (np.isfinite(vector).all() and weights.min() > 0.0):
        raise SingularError("a weight is not positive")
    return family.nearest(
        weights / weights.sum(),
        means.reshape(k, d) * scale.deviations + scale.center,
        covariances.reshape(like.covariances.shape) * covariance_scale(family, scale),
        like,
    )


@lru_cache(maxsize=8)
def covariance_scale(family: Family, scale: FeatureScale) -> Array:
    """Return the scale of covariances, in the family's shape: the second moments of one row at the deviations."""
    d = scale.deviations
    lines = np.concatenate([[1.0], d, [d @ d]])
    first, second = (part[family.density_columns(len(d))] for part in factors(len(d)))
    return family.gaussians.unpack_centred((lines[first] * lines[second])[None, :], np.zeros((1, len(d)))).s2


def extrapolate(
    family: Family, history: History | None, point: Parameters, image: Parameters, change: float, scale: FeatureScale
) -> tuple[Parameters, History | None]:
    """Return where an accelerated fit goes next from ``point``, whose plain step is ``image``, and its new history.

    ``change`` is how much the lower bound rose. The next parameters are the image itself where no extrapolation is
    possible.
    """
    if not change < BEGIN:
        return image, None
    # after a plain step the point is the last image, so its vector is known
    x = history.images[-1] if history is not None and history.plain is None else to_vector(family, point, scale)
    g = to_vector(family, image, scale)
    points, images = x[None], g[None]
    # restart: where steps become longer, as when EM leaves a plateau, the linear model of the past does not hold
    if history is not None and np.linalg.norm(g - x) <= np.linalg.norm(history.images[-1] - history.points[-1]):
        points = np.concatenate([history.points, points])[-ORDER - 1 :]
        images = np.concatenate([history.images, images])[-ORDER - 1 :]
    found = _anderson_point(family, points, images, image, scale) if len(points) > 1 else None
    extended = History(points, images, None if found is None else image)
    return (image if found is None else found), extended


def _anderson_point(
    family: Family, points: Array, images: Array, image: Parameters, scale: FeatureScale
) -> Parameters | None:
    """Return the Anderson extrapolation of the last passes; None where it leads to no mixture."""
    # with the differences dF of the residuals and dG of the images (one row for each pair of consecutive passes),
    # gamma = argmin |f - gamma dF|^2 makes the linear model of the residual smallest: (dF dF' + e I) gamma = dF f
    residuals = images - points
    differences = np.diff(residuals, axis=0)
    products = differences @ differences.T
    products[np.diag_indices(len(products))] += REGULARIZATION * np.trace(products)
    try:
        gamma = np.linalg.solve(products, differences @ residuals[-1])
    except np.linalg.LinAlgError:  # the last steps are equal
        return None
    # the next point is g(x) - gamma dG. A step out of the parameter space (a weight or a covariance that is not
    # positive) is damped, towards the plain step g(x)
    move = -gamma @ np.diff(images, axis=0)
    for attempt in range(TRIES):
        try:
            return from_vector(family, images[-1] + move / 4.0**attempt, image, scale)
        except SingularError:
            continue
    return None
