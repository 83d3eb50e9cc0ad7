"""Whether new rows are like those that a model was fitted to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from pipeline import store
from pipeline.score.row_pass import mean_log_density
from pipeline.store import ResultStore, StoredModel

Array = NDArray[np.float64]

# the rows are called different from those of the fit if the mean log density differs by more than this share of the
# standard deviation of the rows' log densities, or if more than this share of the rows moved between components ...
DENSITY_BOUND = 0.1
SHARE_BOUND = 0.05
# ... and by more standard errors than chance brings about
STANDARD_ERRORS = 4.0


@dataclass(frozen=True, eq=False)
class Fit:
    """What is known of the rows that a model was fitted to, each of them counted once, whatever its weight.

    ``mean`` is the mean of their log densities, ``deviation`` the standard deviation, ``shares`` (n_components,) the
    share of each label, and ``threshold`` the density under which the share ``quantile`` of them was marked.
    """

    mean: float
    deviation: float
    shares: Array
    quantile: float | None
    threshold: float | None


def fit_of(result: ResultStore, model: StoredModel) -> Fit:
    """What the store knows of its rows; if it has none of them, what the fit found stands for them.

    Then the mean is that of the fit, the components' weights are the shares of the labels, and D/2 is the variance.

    Raises
    ------
    UserError
        If the store has no rows and its fit had weights: new rows have none, and a mean with weights says nothing
        about rows without.
    """
    assert model.parameters is not None
    found = store.read_summary(result.path) or {}
    if not found and result.config["data"].get("weights"):
        raise UserError(
            f"{result.path} was fitted with data.weights and has no answers about its rows, so that new rows, which "
            "count once each, cannot be compared with them. Run its job again with output.labels: true."
        )
    mean = found.get("mean_log_density")
    counts = np.array(found.get("label_counts", ()), dtype=np.float64)
    return Fit(
        mean=mean_log_density(result.path, str(result.best)) if mean is None else mean,
        deviation=found.get("deviation_of_log_density") or math.sqrt(len(model.columns) / 2),
        shares=counts / counts.sum() if counts.any() else model.parameters.weights,
        quantile=found.get("anomaly_quantile"),
        threshold=found.get("anomaly_threshold"),
    )


def compare(summary: dict[str, Any], fit: Fit) -> dict[str, Any]:
    """The summary of the rows with that of the fit, and where they differ."""
    shares = label_shares(summary["label_counts"])
    return {
        **summary,
        "fit": {"mean_log_density": fit.mean, "label_shares": fit.shares.tolist()},
        "drift": [*drift_of_density(summary, fit), *drift_of_shares(shares, summary["usable"], fit)],
    }


def label_shares(counts: Sequence[int]) -> Array:
    """Share of each label among the rows that have one; zeros if no row has."""
    total = sum(counts)
    return np.array(counts, dtype=np.float64) / total if total else np.zeros(len(counts))


def drift_of_density(summary: dict[str, Any], fit: Fit) -> list[str]:
    """A line if the mean log density is not that of the fit, by more than the bounds."""
    mean, n_rows = summary["mean_log_density"], summary["usable"]
    if not n_rows:
        return []
    if mean is None:
        return ["there are rows so far from all components that their density is zero in float64"]
    bound = fit.deviation * max(DENSITY_BOUND, STANDARD_ERRORS / math.sqrt(n_rows))
    if abs(mean - fit.mean) <= bound:
        return []
    word = "lower" if mean < fit.mean else "higher"
    return [
        f"the mean log density is {mean:.4f} here and {fit.mean:.4f} in the fit: {abs(mean - fit.mean):.4f} {word}, "
        f"where {bound:.4f} is the bound"
    ]


def drift_of_shares(shares: Array, n_rows: int, fit: Fit) -> list[str]:
    """A line if the shares of the labels are not those of the fit, by more than the bounds."""
    if not n_rows:
        return []
    difference = shares - fit.shares
    moved = 0.5 * float(np.abs(difference).sum())
    # the mean of ``moved`` by chance is at most half the square root of the components by the rows
    bound = max(SHARE_BOUND, STANDARD_ERRORS * 0.5 * math.sqrt(len(shares) / n_rows))
    if moved <= bound:
        return []
    k = int(np.abs(difference).argmax())
    return [
        f"{moved:.1%} of the rows have moved between components, where {bound:.1%} is the bound; component {k} has "
        f"{shares[k]:.1%} of them here and {fit.shares[k]:.1%} in the fit"
    ]
