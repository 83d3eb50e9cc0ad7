"""The box that noise is uniform in: around all rows, along the columns or along their principal axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.holdout import Holdout
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import Rows

Array = NDArray[np.float64]

# a principal axis whose variance is a smaller share of the largest is lost in the rounding of the scatter
LEAST_SHARE = 1e-13
# variances that differ by a smaller share differ by their rounding
ISOTROPIC = 1e-9


@dataclass(frozen=True, eq=False)
class Box:
    """A box in the space of the features, with right angles.

    Attributes
    ----------
    corner : ndarray of shape (n_features,)
    edges : ndarray of shape (n_features, n_features)
        One edge a line, from the corner on.
    """

    corner: Array
    edges: Array

    @property
    def log_volume(self) -> float:
        """Natural logarithm of the volume; minus infinity where an edge is zero."""
        with np.errstate(divide="ignore"):
            return float(np.log(np.linalg.norm(self.edges, axis=1)).sum())

    def scaled_to(self, log_volume: float) -> Self:
        """Return the box of another volume, with the same centre and shape."""
        factor = math.exp((log_volume - self.log_volume) / len(self.corner))
        center = self.corner + 0.5 * self.edges.sum(axis=0)
        return type(self)(center + factor * (self.corner - center), factor * self.edges)

    def unscaled(self, center: Array, scale: Array) -> Self:
        """Return the image of the box, a parallelepiped, for rows ``z * scale + center``."""
        return type(self)(self.corner * scale + center, self.edges * scale)

    def draw(self, random: np.random.RandomState, n_rows: int) -> Array:
        """Draw rows (n_rows, n_features) from the box."""
        rows: Array = self.corner + random.uniform(size=(n_rows, len(self.corner))) @ self.edges
        return rows


@dataclass(frozen=True, eq=False)
class _Extremes:
    """The smallest and largest of some columns."""

    low: Array
    high: Array

    def __add__(self, other: _Extremes) -> _Extremes:
        return _Extremes(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def noise_box(
    rows: Callable[[], Rows],
    data_summary: DataSummary,
    log_volume: float | None = None,
    columns: Sequence[object] | None = None,
) -> Box:
    """Return the box that noise is uniform in.

    It is the bounding box of the rows that are fitted, along the columns or along their principal axes: the one of the
    smaller volume, as of mclust's ``hypvol``. The principal axes take one more read of the rows. Where a volume is
    given, it is the box along the columns, scaled to that volume.

    Parameters
    ----------
    rows : callable
        Opens the rows for that read.
    data_summary : DataSummary
    log_volume : float, optional
        Natural logarithm of the volume that is given.
    columns : sequence, optional
        Names of the columns, for messages.

    Raises
    ------
    UserError
        If a column is constant, so that the box has no volume.
    """
    box = Box(data_summary.minimum, np.diag(data_summary.maximum - data_summary.minimum))
    if not np.diagonal(box.edges).all():
        constant = int(np.argmin(np.diagonal(box.edges)))
        name = constant if columns is None else repr(str(columns[constant]))
        raise UserError(
            f"noise: column {name} has the same value in all rows, so that the box around the rows has no volume. "
            "Leave the column out, or fit without noise."
        )
    if log_volume is not None:
        return box.scaled_to(log_volume)
    if len(data_summary.center) == 1:
        return box
    variances, axes = np.linalg.eigh(data_summary.scatter)
    if not variances[0] > LEAST_SHARE * variances[-1]:
        return box
    if variances[-1] - variances[0] <= ISOTROPIC * variances[-1]:  # whitened: any axes are principal ones
        return box
    opened = rows()
    shared = opened.holdout, data_summary.center, axes
    found: _Extremes = map_reduce(opened, _extremes_of_chunk, shared, "principal-axes")
    corner = data_summary.center + axes @ found.low
    principal = Box(corner, ((found.high - found.low) * axes).T)
    return min(box, principal, key=lambda one: one.log_volume)


def _extremes_of_chunk(rows: Any, weights: Any, shared: tuple[Holdout | None, Array, Array], number: int) -> _Extremes:
    holdout, center, axes = shared
    chunk = np.asarray(rows), None if weights is None else np.asarray(weights)
    x, w = chunk if holdout is None else holdout.fitted(chunk, number)
    x = x if w is None or w.all() else x[w > 0.0]
    if not len(x):
        nothing = np.full(len(center), np.inf)
        return _Extremes(nothing, -nothing)
    projected = (x - center) @ axes
    return _Extremes(projected.min(axis=0), projected.max(axis=0))
