"""Metrics of a run in the text format of OpenMetrics, for the textfile collector of Prometheus's node exporter.

A file has the last successful run of a job. That a job has not run, or fails, is seen from the age of
``gmm_dask_run_timestamp_seconds``.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.store.arrays import writing
from pipeline.store.places import place_of


@dataclass(frozen=True)
class Gauge:
    """A number of a run.

    Attributes
    ----------
    name : str
        Without the prefix, such as ``rows``; it ends in its unit, if it has one.
    description : str
        What the number means.
    value : float or None
        None and NaN are left out.
    labels : dict of str to str
        Beside ``job``.
    """

    name: str
    description: str
    value: float | None
    labels: Mapping[str, str] = field(default_factory=dict)


def require_folder(folder: str | None) -> None:
    """Make the folder for metrics and try to write to it, before a run that takes hours.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """
    if folder is None:
        return
    with writing(folder, key="output.metrics", resumes=False):
        place_of(folder).make()
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_metrics(folder: str, job: str, kind: str, gauges: Iterable[Gauge]) -> str:
    """Write the metrics of a run to ``FOLDER/gmm-dask-JOB-KIND.prom``, in one step; returns the path.

    Parameters
    ----------
    folder : str
    job : str
        The job's name, a label of each number.
    kind : str
        ``run`` or ``score``: names are ``gmm_dask_KIND_NAME``.
    gauges : iterable of Gauge

    Raises
    ------
    UserError
        If the folder cannot be written.
    """
    name = f"gmm-dask-{job}-{kind}.prom"
    now = Gauge("timestamp_seconds", "When the run ended, in seconds since 1970.", time.time())
    with writing(folder, key="output.metrics", resumes=False):
        place_of(folder).make()
        place_of(folder).write(name, exposition(job, kind, [now, *gauges]))
    return f"{folder.rstrip('/')}/{name}"


def exposition(job: str, kind: str, gauges: Iterable[Gauge]) -> bytes:
    """Return the text of the metrics."""
    from prometheus_client import CollectorRegistry
    from prometheus_client import Gauge as Metric
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry()
    metrics: dict[str, Metric] = {}
    for gauge in gauges:
        if gauge.value is None or math.isnan(gauge.value):
            continue
        name = f"gmm_dask_{kind}_{gauge.name}"
        if name not in metrics:
            metrics[name] = Metric(name, gauge.description, ["job", *gauge.labels], registry=registry)
        metrics[name].labels(job, *gauge.labels.values()).set(gauge.value)
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]
