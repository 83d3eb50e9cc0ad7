"""What the rows add up to, component by component: the sums by which rows are compared with those of a fit.

Outliers are counted, and take no other part: a single row far away would decide every sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.model_batch import BatchSums, ModelBatch, chunk_sums, sums_of_model
from gmm_dask.passes.predict import count_labels

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
    labels : ndarray of shape (n_densities,)
        Rows with each label, that of the noise last.
    missing : ndarray of shape (n_features,)
        Rows that lacked the value of each column, before it was filled.
    sums : ndarray of shape (n_densities, n_density_columns)
        Over the feature map about the origins of the batch, without the outliers.
    """

    n_rows: int
    n_outliers: int
    log_density: float
    labels: Array
    missing: Array
    sums: Array

    @classmethod
    def of(
        cls,
        x: NDArray[np.floating[Any]],
        log_density: Array,
        labels: NDArray[np.int64],
        floor: Floor,
        batch: ModelBatch,
        missing: Array | None = None,
    ) -> Self:
        """Add up complete rows, by a batch of one model.

        Parameters
        ----------
        x : ndarray of shape (n_rows, n_features)
        log_density : ndarray of shape (n_rows,)
        labels : ndarray of shape (n_rows,)
        floor : Floor
        batch : ModelBatch
        missing : ndarray of shape (n_features,), optional
            How many values of each column were filled; none by default.
        """
        inside = log_density >= floor.log_density
        found = BatchSums.zeros(batch, statistics=True)
        for start in range(0, len(x), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            found += chunk_sums(x[block][inside[block]], None, batch)
        above = log_density[inside] - floor.shift
        return cls(
            n_rows=len(x),
            n_outliers=int(len(x) - np.count_nonzero(inside)),
            log_density=float(above.sum()),
            labels=count_labels(labels, batch.models[0][1]).astype(np.float64),
            missing=np.zeros(x.shape[1]) if missing is None else missing,
            sums=sums_of_model(batch, found),
        )

    def __add__(self, other: ComponentSums) -> ComponentSums:
        return ComponentSums(
            self.n_rows + other.n_rows,
            self.n_outliers + other.n_outliers,
            self.log_density + other.log_density,
            self.labels + other.labels,
            self.missing + other.missing,
            self.sums + other.sums,
        )

    def to_array(self) -> Array:
        """As one array."""
        numbers = self.n_rows, self.n_outliers, self.log_density
        return np.array([*numbers, *self.labels, *self.missing, *self.sums.ravel()], dtype=np.float64)

    @classmethod
    def from_array(cls, values: Array, n_densities: int, n_features: int) -> Self:
        """From one array."""
        labels, missing, sums = np.split(values[3:], [n_densities, n_densities + n_features])
        return cls(int(values[0]), int(values[1]), float(values[2]), labels, missing, sums.reshape(n_densities, -1))


def n_sums(batch: ModelBatch) -> int:
    """Return the length of :class:`ComponentSums` as an array, for a batch of one model."""
    no_labels = np.zeros(0, dtype=np.int64)
    none = ComponentSums.of(np.zeros((0, len(batch.center))), np.zeros(0), no_labels, Floor(0.0, 0.0), batch)
    return len(none.to_array())
