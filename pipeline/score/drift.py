"""Drift: whether new rows differ from the reference, the rows that a model was fitted to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from pipeline.store import Result, RowSummary, StoredModel

Array = NDArray[np.float64]

# rows drift if their mean log density differs from the reference by more than this part of the standard deviation of
# the reference's log densities, or if more than this part of the rows is in other components ...
DENSITY_BOUND = 0.1
SHARE_BOUND = 0.05
# ... and by more standard errors than sampling explains: few rows vary by themselves
STANDARD_ERRORS = 4.0


@dataclass(frozen=True, eq=False)
class Reference:
    """The rows that a model was fitted to, each counted once, whatever its weight.

    Attributes
    ----------
    mean, deviation : float
        Mean and standard deviation of their log densities.
    shares : ndarray of shape (n_components,)
        Share of each label.
    quantile, threshold : float or None
        The share of them that was marked as anomalies, and the log density under which these lie.
    """

    mean: float
    deviation: float
    shares: Array
    quantile: float | None
    threshold: float | None


def read_reference(result: Result, model: StoredModel) -> Reference:
    """Read the reference from a result store.

    If the store has no row outputs, the fit stands in for them: its mean log-likelihood for the mean of the log
    densities, its weights for the shares of the labels. The variance is then D/2, that of a Gaussian's log density:
    minus half a chi-squared variable of D degrees of freedom, whose variance is 2 D.

    Raises
    ------
    UserError
        If the store has no row outputs and its fit had weights: new rows have none, and a weighted mean says nothing
        about rows that count once each.
    """
    assert model.parameters is not None
    found = result.row_summary
    fit_mean, fit_deviation = result.mean_log_likelihood, math.sqrt(len(model.columns) / 2)
    if found is None:
        if result.config["data"].get("weights"):
            raise UserError(
                f"{result.store} was fitted with data.weights and has no outputs of its rows, so that new rows, which "
                "count once each, cannot be compared with them. Run its job again with output.labels: true."
            )
        return Reference(fit_mean, fit_deviation, model.parameters.weights, None, None)
    return Reference(
        # neither is known where the density of some row is zero
        mean=fit_mean if found.mean_log_density is None else found.mean_log_density,
        deviation=found.deviation_of_log_density or fit_deviation,
        shares=np.array(found.label_shares) if found.usable else model.parameters.weights,
        quantile=found.anomaly_quantile,
        threshold=found.anomaly_threshold,
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """New rows compared with the reference.

    Attributes
    ----------
    rows : RowSummary
        Of the new rows.
    fit_mean_log_density : float
        Mean log density of the reference.
    fit_shares : tuple of float
        Share of each label in the reference.
    drift : tuple of str
        A sentence for each difference beyond the bounds.
    """

    rows: RowSummary
    fit_mean_log_density: float
    fit_shares: tuple[float, ...]
    drift: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as it is stored."""
        fit = {"mean_log_density": self.fit_mean_log_density, "label_shares": list(self.fit_shares)}
        return {**self.rows.to_dict(), "fit": fit, "drift": list(self.drift)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a stored comparison."""
        return cls(
            rows=RowSummary.from_dict(values),
            fit_mean_log_density=values["fit"]["mean_log_density"],
            fit_shares=tuple(values["fit"]["label_shares"]),
            drift=tuple(values["drift"]),
        )

    @property
    def mean_log_density(self) -> float:
        """Mean over the usable rows: minus infinity if the density of one is zero, NaN without any."""
        mean = self.rows.mean_log_density
        if mean is None:
            return -math.inf if self.rows.usable else math.nan
        return mean

    @property
    def threshold_of_fit(self) -> bool:
        """Whether the threshold of anomalies is that of the fit, and not a quantile of these rows."""
        return self.rows.anomaly_rank_error is None


def compare(rows: RowSummary, reference: Reference) -> Comparison:
    """Compare new rows with the reference."""
    return Comparison(
        rows=rows,
        fit_mean_log_density=reference.mean,
        fit_shares=tuple(reference.shares.tolist()),
        drift=(*_drift_of_density(rows, reference), *_drift_of_shares(rows, reference)),
    )


def _drift_of_density(rows: RowSummary, reference: Reference) -> list[str]:
    if not rows.usable:
        return []
    mean = rows.mean_log_density
    if mean is None:
        return ["some rows are so far from all components that their density is zero in float64"]
    bound = reference.deviation * max(DENSITY_BOUND, STANDARD_ERRORS / math.sqrt(rows.usable))
    difference = mean - reference.mean
    if abs(difference) <= bound:
        return []
    word = "lower" if difference < 0 else "higher"
    return [
        f"the mean log density is {mean:.4f} here and {reference.mean:.4f} in the fit: {abs(difference):.4f} {word}, "
        f"over the bound {bound:.4f}"
    ]


def _drift_of_shares(rows: RowSummary, reference: Reference) -> list[str]:
    if not rows.usable:
        return []
    shares = np.array(rows.label_shares)
    difference = shares - reference.shares
    # the total variation distance of the two distributions of labels
    moved = 0.5 * float(np.abs(difference).sum())
    # for n rows drawn from the reference its mean is at most sqrt(K / n) / 2, by Jensen's and Cauchy's inequalities
    bound = max(SHARE_BOUND, STANDARD_ERRORS * 0.5 * math.sqrt(len(shares) / rows.usable))
    if moved <= bound:
        return []
    k = int(np.abs(difference).argmax())
    return [
        f"{moved:.1%} of the rows have moved between components, over the bound {bound:.1%}; component {k} has "
        f"{shares[k]:.1%} of them here and {reference.shares[k]:.1%} in the fit"
    ]
