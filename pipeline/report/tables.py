"""The tables of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gmm_dask.em.loop import Status
from gmm_dask.formatting import counted, decimals, listed, number
from gmm_dask.plotting.drawing import color_of
from gmm_dask.plotting.feature_pairs import separating_features
from gmm_dask.selection.criteria import CRITERIA, KASS_RAFTERY
from gmm_dask.selection.diagnostics import compares_starts
from pipeline.report.contents import ReportContents, rows_of
from pipeline.report.phrases import NOTHING, difference
from pipeline.sources.column_facts import column_facts

MOST_CLOSEST = 8
MOST_COUNTS = 24
MOST_COMPONENTS = 24
MOST_FEATURES = 8
MOST_COLUMNS = 30
STARTS_NOTE = (
    "Starts agree if they end at the likelihood of the best one; apart: how far below it the worst one ends, in "
    "log-likelihood per row."
)
# a shade of the means' table is as dark as this at two standard deviations from the overall mean
DARKEST = 0.45


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a smaller text below, and how it looks."""

    text: str
    below: str = ""
    kind: str = ""
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table: its caption, its column heads, its rows (the first cell of each is its head), and a note."""

    caption: str
    head: list[str]
    rows: list[list[Cell]]
    note: str = ""


def _cells(*texts: Any) -> list[Cell]:
    return [text if isinstance(text, Cell) else Cell(str(text)) for text in texts]


# -- the choice ----------------------------------------------------------------------------------------------


def closest_table(report: ReportContents) -> Table:
    """The winner and the candidates next to it, with all criteria."""
    criterion = CRITERIA[report.criterion]
    label, scale = criterion.label, criterion.graded_scale
    rows = [report.winner, *report.others][:MOST_CLOSEST]
    notes = []
    columns: dict[str, list[Any]] = {
        "candidate": [Cell(row["name"], kind="best" if row["name"] == report.best else "") for row in rows],
        f"Δ{label}": [difference(row["delta"]) for row in rows],
    }
    if criterion.error:
        columns["std. error"] = [difference(row[criterion.error]) for row in rows]
        notes.append("The candidate with the fewest parameters wins of those whose Δ is at most its standard error.")
    if scale:
        columns["evidence"] = [scale.level(row["delta"]).label if row["delta"] > 0.0 else "" for row in rows]
        *levels, last = scale.levels
        uppers = ", ".join(f"{level.label} up to {level.upper:g}" for level in levels)
        notes.append(f"Evidence against a candidate, compared to the best, by Δ{label}: {uppers}, {last.label} above.")
    for name in sorted(report.criteria, key=lambda name: name != report.criterion):
        columns[CRITERIA[name].label] = [number(row[name], 1) for row in rows]
    columns["parameters"] = [f"{row['n_parameters']:,}" for row in rows]
    columns["iterations"] = [row["n_iter"] for row in rows]
    if compares_starts(report.table):
        columns["starts agree"] = [_agreed(row) for row in rows]
        columns["apart"] = [_apart(row["spread"]) for row in rows]
        notes.append(STARTS_NOTE)
    cells = [_cells(*row) for row in zip(*columns.values(), strict=True)]
    return Table(f"The candidates closest by {label}", list(columns), cells, " ".join(notes))


def _agreed(row: dict[str, Any]) -> str:
    return NOTHING if np.isnan(row["agreed"]) else f"{row['agreed']:.0f} of {row['starts']:.0f}"


def _apart(spread: float) -> str:
    if np.isnan(spread):
        return NOTHING
    return "0" if spread < 1e-12 else f"{spread:.2g}"  # rounding is no distance


def matrix_table(report: ReportContents) -> Table:
    """All candidates: the distance from the smallest criterion, one row per number of components."""
    label, table = CRITERIA[report.criterion].label, report.table
    kinds = list(dict.fromkeys(table["covariance_type"]))
    counts = sorted(set(table["n_components"]))
    best_first = table.groupby("n_components")["delta"].min().sort_values(kind="stable").index[:MOST_COUNTS]
    shown = [k for k in counts if k in set(best_first)]
    found = {(row["n_components"], row["covariance_type"]): row for row in rows_of(table)}
    rows = [[Cell(str(k)), *(_delta_cell(report, found.get((k, kind))) for kind in kinds)] for k in shown]
    notes = ["Darker is closer to the best."]
    if Status.MAX_ITER in report.troubled:
        notes.append("* stopped at max_iter before it converged.")
    if len(shown) < len(counts):
        notes.append(
            f"The best {len(shown)} of {len(counts)} numbers of components are shown; gmm-dask show lists all."
        )
    return Table(f"All candidates: {label} above the smallest", ["K", *kinds], rows, " ".join(notes))


def _delta_cell(report: ReportContents, row: dict[str, Any] | None) -> Cell:
    if row is None:
        return Cell("")
    if np.isnan(row["delta"]):
        return Cell(row["status"], kind="bad")
    star = "" if row["status"] == Status.CONVERGED.value else "*"
    kind = "best" if row["name"] == report.best else f"near{KASS_RAFTERY.position(row['delta'])}"
    return Cell(difference(row["delta"]) + star, kind=kind)


def troubled_table(report: ReportContents) -> Table | None:
    """The candidates that did not converge, with causes and remedies."""
    rows = [
        [Cell(status.value, below=counted(len(names), "candidate")), *_cells(listed(names), status.remedy)]
        for status, names in report.troubled.items()
    ]
    return (
        Table("Candidates that did not converge", ["status", "candidates", "cause and remedy"], rows) if rows else None
    )


# -- the components ------------------------------------------------------------------------------------------


def components_table(report: ReportContents) -> Table:
    """One row per component: its weight, and mean and standard deviation by feature, in the units of the data."""
    components = report.components
    n_components, n_features = components.means.shape
    features = np.sort(separating_features(components)[:MOST_FEATURES])
    shown = np.argsort(-components.weights, kind="stable")[:MOST_COMPONENTS]
    places = [decimals(components.deviations[d]) for d in features]
    rows = []
    for k in shown:
        weight, below = components.weights[k], f"≈ {report.sizes[k]:,.0f} {report.size_unit}"
        values = [_mean_cell(report, k, d, digits) for d, digits in zip(features, places, strict=True)]
        part = 100.0 * weight / components.weights.max()
        bar = Cell(f"{weight:.1%}", below, kind="bar", style=f"--part:{part:.1f}%")
        rows.append([Cell(str(k), kind="swatch", style=f"--swatch:{color_of(k)}"), bar, *values])
    head = ["component", "weight", *(components.names[d] for d in features)]
    colors = "; red lies above the overall mean, blue below" if n_components > 1 else ""
    notes = [f"Mean ± standard deviation{colors}."]
    if n_features > len(features):
        notes.append(f"Of {n_features} features, the {len(features)} in which the components differ most are shown.")
    if n_components > len(shown):
        rest = 1.0 - components.weights[shown].sum()
        notes.append(f"{n_components - len(shown)} smaller components, of {rest:.1%} together, are left out.")
    return Table("The components, the heaviest first", head, rows, " ".join(notes))


def _mean_cell(report: ReportContents, k: int, d: int, places: int | None) -> Cell:
    components = report.components
    mean, deviation = components.means[k, d], float(np.sqrt(components.variances[k, d]))
    z = (mean - components.center[d]) / components.deviations[d]
    shade = DARKEST * min(1.0, abs(z) / 2.0) if len(components.weights) > 1 else 0.0
    red_green_blue = "178,24,43" if z > 0.0 else "33,102,172"
    return Cell(
        number(mean, places), f"± {number(deviation, places)}", style=f"background:rgba({red_green_blue},{shade:.2f})"
    )


# -- data and software ---------------------------------------------------------------------------------------


def columns_table(report: ReportContents) -> Table:
    """One row per column of the data: mean, standard deviation and range, the step of its values and what repeats."""
    data, resolution = report.store.data, report.resolution
    rows = []
    for column in column_facts(data["columns"], data["contents"], data["missing"])[:MOST_COLUMNS]:
        mean, deviation, least, largest = map(
            column.text, (column.mean, column.deviation, column.minimum, column.maximum)
        )
        rows.append(
            _cells(
                column.name,
                mean,
                deviation,
                Cell(least, below=f"to {largest}"),
                Cell(column.step_text or NOTHING, below=f"{column.ties_text} tied"),
                Cell(column.frequent_text, below=column.frequent_share_text) if column.ties else NOTHING,
            )
        )
    notes = [
        "Step: what the values are rounded to, from a sample of the rows; tied: the share of its rows whose value "
        "another one has; mode: the most frequent value, and its share. "
        f"{resolution.copies:.1%} of its rows are exact copies of another row."
    ]
    if len(data["columns"]) > len(rows):
        notes.insert(0, f"The first {len(rows)} of {len(data['columns'])} columns are shown.")
    return Table("The columns", ["column", "mean", "std. dev.", "range", "step", "mode"], rows, " ".join(notes))


def software_table(report: ReportContents) -> Table:
    """The versions of the first run."""
    rows = [_cells(name, version) for name, version in report.store.software.items()]
    return Table("Software", ["package", "version"], rows)
