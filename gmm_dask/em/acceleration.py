"""Fewer passes: Anderson acceleration of EM, which falls back to the plain step where the likelihood would fall.

EM converges linearly; from the last few steps the point can be extrapolated where they lead to (Anderson 1965; for EM
with monotonicity: Henderson and Varadhan 2019, "Damped Anderson acceleration with restarts and monotonicity control").
A pass at the extrapolated point brings its likelihood and its plain step at once. If the likelihood is lower there, the
fit goes on from the plain step of the point before, as if nothing had been tried but for the pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import SingularError
from gmm_dask.families import Family, Parameters

Array = NDArray[np.float64]

# steps that an extrapolation is made from
ORDER = 5
# it begins when the lower bound changes by less: earlier, it may lead to another and a worse optimum
BEGIN = 1e-3
# keeps the least-squares problem solvable, relative to its size
RIDGE = 1e-10
# a point where no model is possible is tried again at a quarter of the distance, so many times in all
TRIES = 3


@dataclass(frozen=True, eq=False)
class Units:
    """What parameters are measured in: the data's centre (n_features,) and standard deviations (n_features,)."""

    center: Array
    widths: Array

    @classmethod
    def of(cls, center: Array, scatter: Array, total_weight: float) -> Units:
        """The units of data with such a scatter; columns of one value alone are taken as they are."""
        variances = np.diag(scatter) / total_weight
        return cls(center, np.sqrt(np.where(variances > 0.0, variances, 1.0)))


@dataclass(frozen=True, eq=False)
class Memory:
    """What an accelerated fit remembers.

    Attributes
    ----------
    points, images : ndarray of shape (n_remembered, n_values)
        Parameters of the last passes, and what a plain step makes of each, as :func:`to_vector` has them.
    plain : Parameters or None
        The plain step that the state's extrapolated parameters replace; None if they are not extrapolated.
    """

    points: Array
    images: Array
    plain: Parameters | None = None


def to_vector(family: Family, parameters: Parameters, units: Units) -> Array:
    """Weights, means and covariances in the data's own units, one after another."""
    means = (parameters.means - units.center) / units.widths
    covariances = parameters.covariances / _squares(family, units)
    return np.concatenate([parameters.weights, means.ravel(), covariances.ravel()])


def from_vector(family: Family, vector: Array, like: Parameters, units: Units) -> Parameters:
    """Parameters of the shapes of ``like``; raises :class:`SingularError` where there is no such mixture."""
    k, d = like.means.shape
    weights, means, covariances = np.split(vector, [k, k + k * d])
    if not (np.isfinite(vector).all() and weights.min() > 0.0):
        raise SingularError("a weight is not positive")
    return family.parameters(
        weights / weights.sum(),
        means.reshape(k, d) * units.widths + units.center,
        covariances.reshape(like.covariances.shape) * _squares(family, units),
    )


@lru_cache(maxsize=8)
def _squares(family: Family, units: Units) -> Array:
    """The units of covariances: the squares of one row at the data's widths, in the family's shape."""
    squares = family.zero_s2(1, len(units.widths))
    family.add_s2(squares, 0, units.widths[:, None], np.ones(1))
    return squares


def accelerated(
    family: Family, memory: Memory | None, point: Parameters, image: Parameters, change: float, units: Units
) -> tuple[Parameters, Memory | None]:
    """Where a fit goes next from ``point``, whose plain step is ``image``, with what it remembers.

    ``change`` is how much the lower bound grew. The steps must become shorter: where they do not, as when EM leaves a
    plateau, what came before is forgotten.
    """
    if not change < BEGIN:
        return image, None
    # after a plain step the point is the last image
    x = memory.images[-1] if memory is not None and memory.plain is None else to_vector(family, point, units)
    g = to_vector(family, image, units)
    points, images = x[None], g[None]
    if memory is not None:
        shrinks = np.linalg.norm(g - x) <= np.linalg.norm(memory.images[-1] - memory.points[-1])
        if shrinks:
            points = np.concatenate([memory.points, points])[-ORDER - 1 :]
            images = np.concatenate([memory.images, images])[-ORDER - 1 :]
    found = _extrapolated(family, points, images, image, units) if len(points) > 1 else None
    remembered = Memory(points, images, None if found is None else image)
    return (image if found is None else found), remembered


def _extrapolated(family: Family, points: Array, images: Array, image: Parameters, units: Units) -> Parameters | None:
    """The combination of the images whose residual is least, by linear extrapolation; None where none is a mixture."""
    residuals = images - points
    steps = np.diff(residuals, axis=0)
    products = steps @ steps.T
    products[np.diag_indices(len(products))] += RIDGE * np.trace(products)
    try:
        shares = np.linalg.solve(products, steps @ residuals[-1])
    except np.linalg.LinAlgError:  # the last steps are equal
        return None
    move = -shares @ np.diff(images, axis=0)
    for attempt in range(TRIES):
        try:
            return from_vector(family, images[-1] + move / 4.0**attempt, image, units)
        except SingularError:
            continue
    return None
