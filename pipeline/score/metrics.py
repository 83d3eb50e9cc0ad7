"""The metrics of scores: their rows, and how they differ from those of the fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.metrics import Gauge

if TYPE_CHECKING:
    from pipeline.score.new_rows import ScoreSummary


def score_metrics(summary: ScoreSummary) -> Iterator[Gauge]:
    """Yield the metrics of a score run."""
    rows = summary.rows
    yield Gauge("seconds", "Duration of the run.", summary.seconds)
    yield Gauge("rows", "Rows that were scored.", rows.n_rows)
    yield Gauge("unlabelled_rows", "Rows without a label, for missing or unusable values.", rows.unusable)
    yield Gauge("anomalies", "Rows marked as anomalies.", rows.anomalies)
    yield Gauge("mean_log_density", "Mean log density per row.", summary.mean_log_density)
    yield Gauge("fit_mean_log_density", "Mean log density per row of the fit.", summary.fit_mean_log_density)
    yield Gauge("gain", "What one M-step on these rows adds to their mean log density.", summary.gain)
    yield Gauge("chance_gain", "What the gain would be about without drift.", summary.chance_gain)
    yield Gauge("drift", "Number of differences from the fit that chance does not explain.", len(summary.drift))
    if summary.noise:
        yield Gauge("noise_share", "Share of the rows that are of the noise.", summary.noise.share)
        yield Gauge("fit_noise_share", "The same of the rows of the fit.", summary.noise.fit_share)
    for one in summary.components:
        labels = {"component": str(one.number)}
        yield Gauge("share", "Share of the rows with the label of each component.", one.share, labels)
        yield Gauge("fit_share", "The same of the rows of the fit.", one.fit_share, labels)
