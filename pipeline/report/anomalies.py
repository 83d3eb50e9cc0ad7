"""How likely the rows are: the distribution of their log densities, and the least likely ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.formatting import decimals, number, short_time
from gmm_dask.passes.row_outputs import NOISE_LABEL
from gmm_dask.plotting.feature_pairs import Components
from pipeline.printable import printable
from pipeline.report.contents import ReportContents
from pipeline.report.phrases import NOTHING
from pipeline.report.tables import NOISE, Cell, Table
from pipeline.store import Sample
from pipeline.store.rows.grid import read_grid
from pipeline.store.rows.unlikely import UnlikelyRow, least_likely_rows

Array = NDArray[np.float64]

SHOWN_ROWS = 10
BINS = 60
# log densities of so many rows of the sample make the distribution, those of so many stored rows are read for the least
MOST_DRAWN, MOST_READ = 10_000, 20_000_000
# the axis reaches so many times the distance of the lower quartile from the median below it; what is less is counted
REACH = 5.0
# part of the axis that lies below the threshold, if there are rows
ROOM = 0.15
# a value so many standard deviations away from its component's mean is unusual by itself
UNUSUAL, UNUSUAL_HEAD = 2.5, "furthest from its component"


@dataclass(frozen=True)
class Histogram:
    """The distribution of log densities of sampled rows.

    Attributes
    ----------
    heights : list of float
        Of the bars, as parts of the highest one.
    ends : (float, float)
        The log densities where the first bar begins and the last one ends.
    below : int
        Rows that lie below.
    threshold : float or None
        The log density of the threshold, if anomalies are marked.
    """

    heights: list[float]
    ends: tuple[float, float]
    below: int
    threshold: float | None

    @property
    def marked(self) -> int:
        """Number of the bars that lie below the threshold."""
        return round(BINS * self.threshold_part)

    @property
    def threshold_part(self) -> float:
        """Where the threshold lies between the ends, as a part of their distance; 0 if there is none."""
        low, high = self.ends
        return 0.0 if self.threshold is None else min(1.0, max(0.0, (self.threshold - low) / (high - low)))


def log_densities(components: Components, rows: Array) -> Array:
    """Return the log densities (n_rows,) of rows by a mixture; raises LinAlgError if a covariance is singular.

    That of a row with missing values is the marginal density of the others.
    """
    patterns, which = np.unique(np.isfinite(rows), axis=0, return_inverse=True)
    found = np.empty(len(rows))
    for p, here in enumerate(patterns):
        covariances = components.covariances[:, here][:, :, here]
        mine = np.ravel(which) == p
        found[mine] = _complete(components.weights, components.means[:, here], covariances, rows[mine][:, here])
    if (noise := components.noise) is None:
        return found
    uniform = np.log(max(noise.weight, np.finfo(np.float64).tiny)) - noise.log_volume
    return np.asarray(np.logaddexp(found, uniform))


def _complete(weights: Array, means: Array, covariances: Array, rows: Array) -> Array:
    """The same of rows without gaps."""
    logs = np.empty((len(weights), len(rows)))
    for k, (weight, mean, covariance) in enumerate(zip(weights, means, covariances, strict=True)):
        factor = np.linalg.cholesky(covariance)
        z = np.linalg.solve(factor, (rows - mean).T)
        log_norm = np.log(np.diagonal(factor)).sum() + 0.5 * len(mean) * np.log(2.0 * np.pi)
        logs[k] = np.log(max(weight, np.finfo(np.float64).tiny)) - log_norm - 0.5 * (z * z).sum(axis=0)
    total: Array = np.logaddexp.reduce(logs, axis=0)
    return total


@dataclass(frozen=True, eq=False)
class Anomalies:
    """What a report shows of the likelihood of rows.

    Attributes
    ----------
    histogram : Histogram
    least : Table
    """

    histogram: Histogram
    least: Table


def read_anomalies(report: ReportContents) -> Anomalies | None:
    """Return the distribution and the least likely rows; None if the covariances are singular."""
    sample = _thinned(report.sample)
    try:
        found = log_densities(report.components, sample.rows)
        if not report.model.transform.folds:  # in the user's units, as the threshold is
            found = found + report.model.transform.log_slopes(_thinned(report.source_sample).rows)
    except np.linalg.LinAlgError:
        return None
    if len(found) < 2 or found.min() == found.max():
        return None
    threshold = report.rows.anomaly_threshold if report.rows else None
    return Anomalies(_histogram(found, threshold), _least_table(report, sample, found))


def _thinned(sample: Sample) -> Sample:
    step = -(-len(sample.rows) // MOST_DRAWN)
    return replace(sample, **{name: getattr(sample, name)[::step] for name in ("rows", "label", "uncertainty")})


def _histogram(log_density: Array, threshold: float | None) -> Histogram:
    lower, middle = np.quantile(log_density, [0.25, 0.5])
    low, high = max(log_density.min(), middle - REACH * (middle - lower)), log_density.max()
    if threshold is not None:
        low = min(low, max(log_density.min(), threshold - ROOM * (high - threshold)))
    counts, _ = np.histogram(log_density, bins=BINS, range=(low, high))
    heights = (counts / counts.max()).tolist()
    return Histogram(heights, (float(low), float(high)), int((log_density < low).sum()), threshold)


# -- the least likely rows -----------------------------------------------------------------------------------


def _least_table(report: ReportContents, sample: Sample, log_density: Array) -> Table:
    """The least likely rows: the stored ones by their positions and keys, or those of the sample."""
    stored = _stored(report)
    if not stored:
        least = np.argsort(log_density, kind="stable")[:SHOWN_ROWS].tolist()
        titles = (*report.titles, NOISE)  # that of the label -1 is the last
        rows = [
            [Cell(number(log_density[i], 2)), Cell(titles[sample.label[i]]), _unusual_cell(report, sample, i)]
            for i in least
        ]
        note = f"Of {len(log_density):,} sampled rows."
        if not report.store.config["output"]["log_density"]:
            note += (
                " With output.log_density: true, the report shows the least likely ones of all rows, by their positions"
                " and key columns."
            )
        return Table("The least likely rows of the sample", ["log density", "component", UNUSUAL_HEAD], rows, note)
    # in their order, if the sample is all of them
    on_grid = read_grid(report.store.store) is not None
    has_values = report.rows is not None and len(report.sample.rows) == report.rows.n_rows and not on_grid
    named = {NOISE_LABEL: NOISE} | dict(zip(report.components.numbers, report.titles, strict=True))
    rows = [
        [
            *([] if on_grid else [Cell(f"{row.position:,}")]),
            *(Cell(_key(value)) for value in row.keys.values()),
            Cell(number(row.log_density, 2)),
            Cell(NOTHING if row.label is None else named[row.label]),
            *([_unusual_cell(report, report.sample, row.position)] if has_values else []),
        ]
        for row in stored
    ]
    keys = map(printable, stored[0].keys)
    first = [] if on_grid else ["row"]
    head = [*first, *keys, "log density", "component", *([UNUSUAL_HEAD] if has_values else [])]
    note = "Rows are named by their coordinates." if on_grid else "Rows are counted from 0, as in the data."
    return Table("The least likely rows", head, rows, note)


def _key(value: Any) -> str:
    return short_time(str(value)) if isinstance(value, datetime) else printable(str(value))


def _stored(report: ReportContents) -> list[UnlikelyRow]:
    """Return the least likely of the stored rows; none if log densities are not stored, or too many to be read."""
    if report.rows is None or report.rows.n_rows > MOST_READ:
        return []
    output = report.store.config["output"]
    keys = output["key_columns"] if output["rows"] == "parquet" else None
    found = least_likely_rows(report.store.store, SHOWN_ROWS, keys)
    report.require_labels(np.array([row.label for row in found if row.label is not None]))
    return found


def _unusual_cell(report: ReportContents, sample: Sample, i: int) -> Cell:
    """Describe in which feature a row is furthest from the mean of its component, in its standard deviations."""
    components, row, k = report.components, sample.rows[i], sample.label[i]
    if k == NOISE_LABEL:
        return Cell(NOTHING)
    z = (row - components.means[k]) / np.sqrt(components.variances[k])
    d = int(np.nanargmax(np.abs(z)))
    if abs(z[d]) < UNUSUAL:
        return Cell("the combination of its values", kind="text")
    value = number(row[d], decimals(components.deviations[d]))
    side = "above" if z[d] > 0.0 else "below"
    return Cell(f"{components.names[d]} {value}: {abs(z[d]):.1f} std. dev. {side}", kind="text")
