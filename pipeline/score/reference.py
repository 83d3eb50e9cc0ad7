"""The reference of a score run: the rows that the model was fitted to, by which new rows are compared."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.leave_one_out import leave_one_out_quantile
from gmm_dask.passes.component_sums import ComponentSums, Floor, n_sums
from gmm_dask.passes.model_batch import ModelBatch, origins_of_model
from gmm_dask.passes.predict import predict_rows, prediction_batch
from gmm_dask.passes.row_outputs import LABEL, LOG_DENSITY
from gmm_dask.passes.rows import Rows
from pipeline.sources.preparation import Preparation
from pipeline.store import Result, RowSummary, StoredModel

Array = NDArray[np.float64]

# rows that are less likely than this share of the fit's are outliers: they are counted, and decide no other number
OUTLIERS = 0.001
# the sample is cut into so many groups, whose sums show how much the sums of rows vary; into fewer, but no fewer than
# these, if their sums take more bytes
GROUPS, FEWEST_GROUPS, GROUPS_BYTES = 256, 32, 32 << 20


@dataclass(frozen=True, eq=False)
class Reference:
    """The rows that a model was fitted to, each counted once, whatever its weight.

    Attributes
    ----------
    model : StoredModel
    n_fitted : int
        Rows of the fit.
    mean : float
        Mean of their log densities.
    shares : ndarray of shape (n_components,)
        Share of each label.
    n_labels : int
        Rows that have one.
    quantile : float or None
        The share of them that was marked as anomalies.
    threshold : float or None
        The log density that this share of rows is under which took no part in the fit.
    floor : Floor
    sums : ComponentSums
        Of the store's sample of rows.
    groups : tuple of ComponentSums
        Of parts of the sample.
    """

    model: StoredModel
    n_fitted: int
    mean: float
    shares: Array
    n_labels: int
    quantile: float | None
    threshold: float | None
    floor: Floor
    sums: ComponentSums
    groups: tuple[ComponentSums, ...]

    @cached_property
    def batch(self) -> ModelBatch:
        """The batch whose sums these are."""
        return prediction_batch(*self.model.model)

    def standardized(self, sums: ComponentSums) -> Array:
        """Return sums as each component sees them, (n_components, n_numbers)."""
        family, parameters = self.model.model
        return family.standardized(sums.sums, origins_of_model(self.batch), parameters)


def read_reference(result: Result, model: StoredModel) -> Reference:
    """Read the reference from a complete result store: the sample of rows, and the summary of its row outputs."""
    assert result.sample is not None
    assert result.n_rows is not None
    return make_reference(model, result.sample.rows, result.n_rows, result.row_summary)


def make_reference(model: StoredModel, rows: Array, n_fitted: int, known: RowSummary | None = None) -> Reference:
    """Return the reference of a model from a sample of the rows that it was fitted to.

    Parameters
    ----------
    model : StoredModel
    rows : ndarray of shape (n_rows, n_features)
        The sample, in the user's units.
    n_fitted : int
        Rows of the fit.
    known : RowSummary, optional
        Of all rows; without one the sample stands in for them.
    """
    preparation, batch = Preparation(model.center, model.scale), prediction_batch(*model.model)
    x = np.asarray(preparation.rows(rows), dtype=np.float64)
    found = predict_rows(Rows(x), *model.model, (LABEL.name, LOG_DENSITY.name))
    density = found[LOG_DENSITY.name] - preparation.log_scale
    mean = float(density[np.isfinite(density)].mean())
    shares = np.bincount(found[LABEL.name], minlength=model.n_components) / len(x)
    n_labels, quantile, threshold = len(x), None, None
    if known is not None and known.usable:
        mean = mean if known.mean_log_density is None else known.mean_log_density
        shares, n_labels = np.array(known.label_shares), known.usable
        quantile, threshold = known.anomaly_quantile, known.anomaly_threshold
    if quantile is not None and threshold is not None:
        # the threshold is that of all rows; how much lower it is for rows that were left out, the sample shows
        place = min(round(quantile * len(x)), len(x) - 1)
        lower = leave_one_out_quantile(x, density, model.model, n_fitted, quantile)
        threshold += min(0.0, lower - float(np.partition(density, place)[place]))
    floor = Floor(leave_one_out_quantile(x, density, model.model, n_fitted, OUTLIERS), mean)
    groups = tuple(
        ComponentSums.of(x[part], density[part], floor, batch)
        for part in np.array_split(np.arange(len(x)), min(_n_groups(batch), len(x)))
    )
    total = functools.reduce(operator.add, groups)
    return Reference(model, n_fitted, mean, shares, n_labels, quantile, threshold, floor, total, groups)


def _n_groups(batch: ModelBatch) -> int:
    return max(FEWEST_GROUPS, min(GROUPS, GROUPS_BYTES // (8 * n_sums(batch))))
