"""The reference of a score run: the rows that the model was fitted to, by which new rows are compared."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.leave_one_out import leave_one_out_quantile
from gmm_dask.passes.component_sums import ComponentSums, Floor, n_sums
from gmm_dask.passes.model_batch import ModelBatch, origins_of_model
from gmm_dask.passes.predict import count_labels, predict_rows, prediction_batch
from gmm_dask.passes.row_outputs import LABEL, LOG_DENSITY
from gmm_dask.passes.rows import sampled_rows
from pipeline.score.completion import Scored
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
    shares : ndarray of shape (n_densities,)
        Share of each label, that of the noise last.
    n_labels : int
        Rows that have one.
    quantile : float or None
        The share of them that was marked as anomalies.
    threshold : float or None
        The log density that this share of rows is under which took no part in the fit.
    n_sampled : int or None
        Rows of the sample that stand for all rows; None if mean, shares and threshold are those of all rows.
    floor : Floor
    sums : ComponentSums
        Of the store's sample of rows, with their gaps filled.
    groups : tuple of ComponentSums
        Of parts of the sample.
    has_prior : bool
        Whether the fit had one, so that its end is not where the rows alone are most likely.
    """

    model: StoredModel
    n_fitted: int
    mean: float
    shares: Array
    n_labels: int
    quantile: float | None
    threshold: float | None
    n_sampled: int | None
    floor: Floor
    sums: ComponentSums
    groups: tuple[ComponentSums, ...]
    has_prior: bool = False

    @property
    def compared_shares(self) -> tuple[Array, int]:
        """Share of each label, and the rows that have one, as new rows are compared: of rows with gaps when filled."""
        if self.sums.missing.any():
            return self.sums.labels / self.sums.n_rows, self.sums.n_rows
        return self.shares, self.n_labels

    @cached_property
    def batch(self) -> ModelBatch:
        """The batch whose sums these are."""
        return prediction_batch(*self.model.model)

    def standardized(self, sums: ComponentSums) -> Array:
        """Return sums as each component sees them, (n_components, n_numbers)."""
        family, parameters = self.model.model
        return family.standardized(sums.sums, origins_of_model(self.batch), parameters)


def read_reference(result: Result, model: StoredModel) -> Reference:
    """Read the reference from a complete result store: the sample of rows, and the summary of its row outputs.

    The row outputs are those of the chosen model. The sample stands for the rows of the fit where the store has none,
    and for any other model.
    """
    assert result.sample is not None
    assert result.n_rows is not None
    rows, quantile = result.sample.rows, result.config["output"]["anomaly_quantile"]
    known = result.row_summary if model.candidate.name == result.best else None
    has_prior = model.priors is not None or result.config["search"]["prior"] != "none"
    return replace(make_reference(model, rows, result.n_rows, known, quantile), has_prior=has_prior)


def make_reference(
    model: StoredModel, rows: Array, n_fitted: int, known: RowSummary | None = None, quantile: float | None = None
) -> Reference:
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
    quantile : float, optional
        The share of rows to mark as anomalies, where the sample stands in.
    """
    x = model.transform.rows(rows)
    batch = prediction_batch(*model.model, gaps=not np.isfinite(x).all())
    found = predict_rows(sampled_rows(x), *model.model, (LABEL.name, LOG_DENSITY.name))
    density = found[LOG_DENSITY.name] + model.transform.log_slopes(rows)
    mean = float(density[np.isfinite(density)].mean())
    shares = count_labels(found[LABEL.name], model.model[1]) / len(x)
    n_labels, threshold = len(x), None
    n_sampled = len(x) if len(x) < n_fitted else None
    if known is not None and known.usable:
        mean = mean if known.mean_log_density is None else known.mean_log_density
        shares, n_labels, n_sampled = np.array(known.label_shares), known.usable, None
        quantile, threshold = known.anomaly_quantile, known.anomaly_threshold
    if quantile is not None:
        # without the row itself, which took part in the fit
        lower = leave_one_out_quantile(x, density, model.model, n_fitted, quantile)
        if threshold is None:
            threshold = lower
        else:
            # that of all rows; how much lower it is for rows that were left out, the sample shows
            place = min(round(quantile * len(x)), len(x) - 1)
            threshold += min(0.0, lower - float(np.partition(density, place)[place]))
    scored = Scored(rows, x, density, found[LABEL.name], np.arange(len(x)))
    shift = mean
    if not scored.complete:
        full = scored.filled(model, batch)
        x, density = full.images.astype(np.float64), full.log_density
        shift = float(density[np.isfinite(density)].mean())
    floor = Floor(leave_one_out_quantile(x, density, model.model, n_fitted, OUTLIERS), shift)
    groups = tuple(
        scored[part].sums(model, floor, batch)
        for part in np.array_split(np.arange(len(x)), min(_n_groups(batch), len(x)))
    )
    total = functools.reduce(operator.add, groups)
    return Reference(model, n_fitted, mean, shares, n_labels, quantile, threshold, n_sampled, floor, total, groups)


def _n_groups(batch: ModelBatch) -> int:
    return max(FEWEST_GROUPS, min(GROUPS, GROUPS_BYTES // (8 * n_sums(batch))))
