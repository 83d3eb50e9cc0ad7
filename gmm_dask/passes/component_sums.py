"""What the rows add up to, component by component: the sums by which rows are compared with those of a fit.

Outliers are counted, and take no other part: a single row far away would decide every sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.gaps.chunks import sums_of_chunk
from gmm_dask.passes.model_batch import BatchSums, ModelBatch, sums_of_model

Array = NDArray[np.float64]
# rows are taken in blocks, so that there is no copy of a chunk without its outliers
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Floor:
    """Which rows are outliers.

    Attributes
    ----------
    log_density : float
        Rows with a smaller log density are.
    shift : float
        Subtracted from the log densities that are added up: their mean, or near it.
    """

    log_density: float
    shift: float


@dataclass(frozen=True, eq=False)
class ComponentSums:
    """Sums over some rows; the sum of two is that of all their rows.

    Attributes
    ----------
    n_rows, n_outliers : int
        All rows, and the outliers among them.
    log_density : float
        Sum of the log densities less the floor's ``shift``, without the outliers.
    sums : ndarray of shape (n_densities, n_density_columns)
        Over the feature map about the origins of the batch, without the outliers.
    """

    n_rows: int
    n_outliers: int
    log_density: float
    sums: Array

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], log_density: Array, floor: Floor, batch: ModelBatch) -> Self:
        """Add up rows (n_rows, n_features) with their log densities (n_rows,), by a batch of one model."""
        inside = log_density >= floor.log_density
        found = BatchSums.zeros(batch, statistics=True)
        for start in range(0, len(x), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            found += sums_of_chunk(x[block][inside[block]], None, batch)
        above = log_density[inside] - floor.shift
        return cls(len(x), int(len(x) - np.count_nonzero(inside)), float(above.sum()), sums_of_model(batch, found))

    def __add__(self, other: ComponentSums) -> ComponentSums:
        return ComponentSums(
            self.n_rows + other.n_rows,
            self.n_outliers + other.n_outliers,
            self.log_density + other.log_density,
            self.sums + other.sums,
        )

    def to_array(self) -> Array:
        """As one array."""
        return np.array([self.n_rows, self.n_outliers, self.log_density, *self.sums.ravel()], dtype=np.float64)

    @classmethod
    def from_array(cls, values: Array, n_densities: int) -> Self:
        """From one array."""
        return cls(int(values[0]), int(values[1]), float(values[2]), values[3:].reshape(n_densities, -1))


def n_sums(batch: ModelBatch) -> int:
    """Return the length of :class:`ComponentSums` as an array, for a batch of one model."""
    return len(ComponentSums.of(np.zeros((0, len(batch.center))), np.zeros(0), Floor(0.0, 0.0), batch).to_array())
