"""The metrics of a run: its size, its cost, the winner's criteria, and the decision of a refresh."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gmm_dask.selection.criteria import CRITERIA
from pipeline.metrics import Gauge
from pipeline.store import GroupsResult

if TYPE_CHECKING:
    from pipeline.fit.job import GroupsSummary, Summary


def run_metrics(summary: Summary | GroupsSummary) -> Iterator[Gauge]:
    """Yield the metrics of a run."""
    if isinstance(summary, GroupsResult):
        yield from _metrics_of_groups(summary)
        return
    row = summary.row()
    yield Gauge("seconds", "Duration of the run.", summary.run_seconds)
    yield Gauge("rows", "Rows of the fits.", summary.n_rows)
    yield Gauge("passes", "Reads of the data, by all runs of the store.", summary.passes)
    yield Gauge("read_bytes", "Bytes of data that were read, by all runs of the store.", summary.bytes_read)
    yield Gauge("candidates", "Candidates of the search.", len(summary.table))
    yield Gauge("components", "Components of the winner.", row["n_components"], {"model": str(summary.best)})
    yield Gauge("noise_weight", "Weight of the winner's noise, if it has some.", summary.noise_weight)
    for name in CRITERIA:
        yield Gauge("criterion", "Criteria of the winner.", row[name], {"criterion": name})
    yield Gauge("mean_log_likelihood", "Log-likelihood of the winner per row.", summary.mean_log_likelihood)
    yield Gauge("remarks", "What to know before the choice is trusted.", len(summary.remarks))
    yield Gauge("reused", "1 if the store was complete before, so that nothing was computed.", summary.reused)
    if decision := summary.refresh:
        yield Gauge("searched", "1 if a refresh has made the search again, 0 if it kept the winner.", decision.searched)
        yield Gauge("gain", "Mean log-likelihood per held-out row that the refit gains.", decision.gain)
        yield Gauge("gained", "Sum of the gains since the last search.", decision.gained)
        yield Gauge("drift_bound", "refresh.drift, above which the search is made again.", decision.bound)
        yield Gauge("drifted", "1 if the gains exceed the bound.", decision.drifted)


def _metrics_of_groups(summary: GroupsSummary) -> Iterator[Gauge]:
    """Yield the metrics of a run that makes a search for each group."""
    yield Gauge("seconds", "Duration of the run.", summary.run_seconds)
    yield Gauge("rows", "Rows of the fits.", summary.n_rows)
    yield Gauge("passes", "Reads of the data, by all runs of the store.", summary.passes)
    yield Gauge("read_bytes", "Bytes of data that were read, by all runs of the store.", summary.bytes_read)
    yield Gauge("candidates", "Candidates of the search.", len(summary.found.candidates))
    for status, count in summary.statuses.items():
        yield Gauge("groups", "Groups whose winner has a status; failed without one.", count, {"status": status})
    yield Gauge("reused", "1 if the store was complete before, so that nothing was computed.", summary.reused)
