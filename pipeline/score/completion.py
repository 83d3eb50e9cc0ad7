"""Rows whose gaps are filled with draws, so that rows with other gaps can be compared.

A marginal density has another size for each pattern of gaps, and fewer values tell less of the component. So rows are
compared as complete ones: what is missing is drawn from the model, given what is there. If the model is right and
values are missing at random (Rubin 1976), filled rows have the distribution of complete ones, whatever their gaps; and
rows whose values are missing in the same way are filled in the same way, even if neither holds.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.component_sums import BLOCK_ROWS, ComponentSums, Floor
from gmm_dask.passes.gaps.chunks import draw_by_row
from gmm_dask.passes.model_batch import ModelBatch
from gmm_dask.passes.predict import kernel_outputs
from gmm_dask.passes.row_outputs import LABEL, LOG_DENSITY
from pipeline.store import StoredModel

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scored:
    """Rows with what a model gives them.

    Attributes
    ----------
    rows, images : ndarray of shape (n_rows, n_columns), (n_rows, n_features)
        In the user's units, and in those of the fit.
    log_density : ndarray of shape (n_rows,)
        In the user's units; minus infinity of rows that are too far away for a number.
    labels : ndarray of shape (n_rows,)
        Positions of the components.
    numbers : ndarray of shape (n_rows,)
        Of the rows among all rows, ascending.
    """

    rows: NDArray[np.floating[Any]]
    images: NDArray[np.floating[Any]]
    log_density: Array
    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @property
    def complete(self) -> bool:
        """Whether no value is missing."""
        return bool(np.isfinite(self.images).all())

    def __getitem__(self, part: Any) -> Scored:
        return Scored(self.rows[part], self.images[part], self.log_density[part], self.labels[part], self.numbers[part])

    def filled(self, model: StoredModel, batch: ModelBatch) -> Scored:
        """Return them without gaps, by the batch of their model."""
        drawn = draw_by_row(self.images.astype(np.float64), *model.model, self.numbers)
        rows = model.transform.filled(self.rows, self.images, drawn)
        found = kernel_outputs(drawn, batch, (LABEL.name, LOG_DENSITY.name))
        density = found[LOG_DENSITY.name] + model.transform.log_slopes(rows)
        density[np.isnan(density)] = -np.inf
        return Scored(rows, drawn, density, found[LABEL.name], self.numbers)

    def sums(self, model: StoredModel, floor: Floor, batch: ModelBatch) -> ComponentSums:
        """Return what they add up to, filled where they have gaps."""
        if self.complete:
            return ComponentSums.of(self.images, self.log_density, self.labels, floor, batch)
        # blocks of as many numbers: draws, and the random numbers for them, are not held for a whole chunk
        cuts = np.searchsorted(self.numbers, np.arange(self.numbers[0], self.numbers[-1] + 1, BLOCK_ROWS))
        parts = (self[a:b] for a, b in zip(cuts, [*cuts[1:], len(self.numbers)], strict=True) if a < b)
        return functools.reduce(operator.add, (part._sums(model, floor, batch) for part in parts))

    def _sums(self, model: StoredModel, floor: Floor, batch: ModelBatch) -> ComponentSums:
        missing = np.count_nonzero(~np.isfinite(self.images), axis=0).astype(np.float64)
        full = self.filled(model, batch)
        return ComponentSums.of(full.images, full.log_density, full.labels, floor, batch, missing)
