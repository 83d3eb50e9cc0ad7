"""The tables of a report."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.loop import Status
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.families.structure import group_of
from gmm_dask.formatting import counted, decimals, listed, number
from gmm_dask.plotting.drawing import FAINT, UNCERTAINTY, uncertainty_shares
from gmm_dask.plotting.feature_pairs import separating_features
from gmm_dask.plotting.marks import color_of, style_number
from gmm_dask.selection.criteria import CRITERIA, KASS_RAFTERY
from gmm_dask.selection.diagnostics import compares_starts
from gmm_dask.selection.distinct import alike, distinct, kinds_of, same_models
from pipeline.printable import printable
from pipeline.report.contents import ReportContents, rows_of
from pipeline.report.phrases import MOST_FORMS, NOTHING, SURE, difference, size, size_words
from pipeline.sources.column_facts import column_facts

MOST_CLOSEST = 8
MOST_COUNTS = 24
# from so many columns on, covariance types have heads for spherical, diagonal and ellipsoidal components
FEWEST_GROUPED = 5
MOST_COMPONENTS = 100
MOST_FEATURES = 8
MOST_COLUMNS = 100
# of more rows a table shows the first ones, if at least so many more can be folded away
MOST_ROWS, FEWEST_FOLDED = 12, 4
STARTS_NOTE = (
    "Starts agree if they end at the likelihood of the best one; apart: how far below it the worst one ends, in "
    "log-likelihood per row."
)
RESAMPLES_NOTE = (
    "In {} resamples of the rows: the standard error of Δ, how much the labels agree with those here (stable, mean "
    "adjusted Rand index, 1 if all rows have the same), and the share that the candidate wins."
)
# a shade of the means' table is as dark as this at two standard deviations from the overall mean
DARKEST = 0.45
UNDONE_QUANTILES = (0.05, 0.5, 0.95)
# so many bands of uncertainty are those of sure labels
SURE_BANDS = sum(band.upper <= SURE for band in UNCERTAINTY)


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a smaller text below, how it looks, and how many columns it takes."""

    text: str
    below: str = ""
    kind: str = ""
    style: str = ""
    span: int = 1


@dataclass(frozen=True)
class Table:
    """A table: its caption, its column heads, its rows (the first cell of each is its head), and a note.

    ``groups`` are the heads above those of the columns, after the first column, with the number of columns of each. Of
    more rows than ``least_open``, the others may be folded away.
    """

    caption: str
    head: list[str]
    rows: list[list[Cell]]
    note: str = ""
    groups: list[tuple[str, int]] = field(default_factory=list)
    least_open: int = MOST_ROWS

    @property
    def n_open(self) -> int:
        """Number of rows that are shown at first; the others are folded away."""
        return self.least_open if len(self.rows) >= self.least_open + FEWEST_FOLDED else len(self.rows)


def _cells(*texts: Any) -> list[Cell]:
    return [text if isinstance(text, Cell) else Cell(str(text)) for text in texts]


# -- the choice ----------------------------------------------------------------------------------------------


def closest_table(report: ReportContents) -> Table:
    """The winner and the candidates next to it, with all criteria."""
    criterion = CRITERIA[report.criterion]
    label, scale = criterion.label, criterion.graded_scale
    rows = report.ranking[:MOST_CLOSEST]
    if not any(report.name in (row["name"], *row["also"]) for row in rows):
        rows.append({**report.row, "also": []})
    notes = []
    columns: dict[str, list[Any]] = {
        "candidate": [_name_cell(report, row) for row in rows],
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
    if report.store.n_resamples:
        columns |= _in_resamples(rows)
        notes.append(RESAMPLES_NOTE.format(report.store.n_resamples))
    cells = [_cells(*row) for row in zip(*columns.values(), strict=True)]
    return Table(f"The candidates closest by {label}", list(columns), cells, " ".join(notes))


def _in_resamples(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What the fits to resamples say about candidates."""
    return {
        "Δ error": [NOTHING if np.isnan(row["delta_error"]) else number(row["delta_error"], 1) for row in rows],
        "stable": [NOTHING if np.isnan(row["stability"]) else f"{row['stability']:.2f}" for row in rows],
        "wins": [f"{row['wins']:.0%}" for row in rows],
    }


def _name_cell(report: ReportContents, row: dict[str, Any]) -> Cell:
    shown = not report.is_winner and report.name in (row["name"], *row["also"])
    below = [f"also {listed(row['also'], MOST_FORMS)}"] if row["also"] else []
    kind = "best" if report.best in (row["name"], *row["also"]) else ""
    return Cell(row["name"], below=", ".join([*below, *(["shown here"] if shown else [])]), kind=kind)


def _agreed(row: dict[str, Any]) -> str:
    return NOTHING if np.isnan(row["agreed"]) else f"{row['agreed']:.0f} of {row['starts']:.0f}"


def _apart(spread: float) -> str:
    if np.isnan(spread):
        return NOTHING
    return "0" if spread < 1e-12 else f"{spread:.2g}"  # rounding is no distance


def matrix_table(report: ReportContents) -> Table:
    """All candidates: the distance from the smallest criterion, one row per number of components.

    Covariance types that are one model, for this number or for all, share a cell or a column.
    """
    label, table = CRITERIA[report.criterion].label, report.table
    columns, groups = _model_columns(report)
    counts = sorted(set(table["n_components"]))
    best_first = table.groupby("n_components")["delta"].min().sort_values(kind="stable").index[:MOST_COUNTS]
    shown = [k for k in counts if k in set(best_first)]
    found = _best_forms(report)
    rows = []
    for k in shown:
        of_count = [found.get(kinds[0]._replace(n_components=k).name) for kinds in columns]
        runs = [list(run) for _, run in itertools.groupby(of_count, key=lambda row: row and row["name"])]
        rows.append([Cell(str(k)), *(_delta_cell(report, run[0], len(run)) for run in runs)])
    notes = ["The stronger the colour, the closer to the best.", same_models(table, report.n_features)]
    if Status.MAX_ITER in report.troubled:
        notes.append("* stopped at max_iter before it converged.")
    if Status.INNER_MAX_ITER in report.troubled:
        notes.append("* converged, but for the iterations within its last M-step: see The fit.")
    if len(shown) < len(counts):
        notes.append(
            f"The best {len(shown)} of {len(counts)} numbers of components are shown; gmm-dask show lists all."
        )
    head = ["K", *map(_equal_names, columns)]
    note = " ".join(filter(None, notes))
    return Table(f"All candidates: {label} above the smallest", head, rows, note, groups)


def _model_columns(report: ReportContents) -> tuple[list[list[Candidate]], list[tuple[str, int]]]:
    """Return the kinds of each column, and names of groups of columns with their sizes; none of a few."""
    by_group: dict[str, list[list[Candidate]]] = {}
    for kinds in alike(kinds_of(report.table), report.n_features):
        by_group.setdefault(group_of(get_family(kinds[0].covariance_type).structure), []).append(kinds)
    columns = [kinds for group in by_group.values() for kinds in group]
    groups = [(name, len(group)) for name, group in by_group.items()] if len(columns) >= FEWEST_GROUPED else []
    return columns, groups


def _best_forms(report: ReportContents) -> dict[str, dict[str, Any]]:
    """Return the row of each candidate's best form, by the candidate's name."""
    rows = rows_of(distinct(report.table, report.criterion, report.n_features))
    return {name: row for row in rows for name in (row["name"], *row["also"])}


def _equal_names(kinds: list[Candidate]) -> str:
    return " = ".join([one.kind for one in kinds[:MOST_FORMS]] + (["…"] if len(kinds) > MOST_FORMS else []))


def _delta_cell(report: ReportContents, row: dict[str, Any] | None, span: int) -> Cell:
    if row is None:
        return Cell("", span=span)
    if np.isnan(row["delta"]):
        return Cell(row["status"], kind="bad", span=span)
    star = "" if row["status"] == Status.CONVERGED.value else "*"
    is_best = report.best in (row["name"], *row["also"])
    kind = "best" if is_best else f"near{KASS_RAFTERY.position(row['delta'])}"
    return Cell(difference(row["delta"]) + star, kind=kind, span=span)


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
    """One row per component: its weight, how sure its labels are, and mean and standard deviation by feature."""
    components = report.components
    n_components, n_features = components.means.shape
    features = np.sort(separating_features(components)[:MOST_FEATURES])
    shown = np.argsort(-components.weights, kind="stable")[:MOST_COMPONENTS]
    places = [decimals(components.deviations[d]) for d in features]
    sample, notes = report.sample, []
    sure = uncertainty_shares(sample.uncertainty, sample.label, n_components)
    has_doubts = bool((sure[:, 0] < 1.0).any())  # NaN where a component has no row
    found = report.store.errors if report.is_winner else None
    errors = [f" ± {error:.1%}" for error in found.weights] if found else [""] * n_components
    rows = []
    for k in shown:
        values = [_mean_cell(report, k, d, digits) for d, digits in zip(features, places, strict=True)]
        part = 100.0 * components.weights[k] / components.weights.max()
        weight = f"{components.weights[k]:.1%}{errors[k]}"
        bar = Cell(weight, size(report, k), kind="bar", style=f"--part:{part:.1f}%")
        rows.append(
            [
                swatch_cell(report.titles[k], components.numbers[k]),
                bar,
                *([_sure_cell(sure[k])] if has_doubts else []),
                *values,
            ]
        )
    if (noise := components.noise) is not None:
        part = 100.0 * noise.weight / components.weights.max()
        bar = Cell(
            f"{noise.weight:.1%}", size_words(report, report.noise_size), "bar", f"--part:{min(100.0, part):.1f}%"
        )
        rows.append([NOISE_CELL, bar, *([Cell(NOTHING)] if has_doubts else []), *[Cell(NOTHING)] * len(features)])
    head = ["component", "weight", *(["sure labels"] if has_doubts else []), *(components.names[d] for d in features)]
    colors = "; red lies above the overall mean, blue below" if n_components > 1 else ""
    notes.append(f"Mean ± standard deviation{colors}.")
    if found:
        notes.append("Weight ± standard error, over the resamples.")
    if has_doubts:
        bands = ", ".join(band.label for band in UNCERTAINTY)
        notes.append(
            "Sure labels: the sampled rows of the component whose label is at least 90% probable; in the bar, from "
            f"left to right, those that belong to another component with a probability of {bands}."
        )
    if n_features > len(features):
        notes.append(f"Of {n_features} features, the {len(features)} in which the components differ most are shown.")
    if n_components > len(shown):
        rest = components.weights.sum() - components.weights[shown].sum()
        notes.append(f"{n_components - len(shown)} smaller components, of {rest:.1%} together, are left out.")
    return Table("The components, the heaviest first", head, rows, " ".join(notes))


def undone_table(report: ReportContents) -> Table | None:
    """The components in the units of the data, where the features of the fit are others; else None.

    Of a linear transform, their means and standard deviations; of another one, quantiles of their sampled rows.
    """
    transform = report.model.transform
    if transform.folds:
        return None
    sample, names = report.source_sample, [printable(name) for name in report.model.sources]
    shown = np.argsort(-report.components.weights, kind="stable")[:MOST_COMPONENTS]
    found = {k: sample.rows[sample.label == k] for k in shown.tolist()}
    found = {k: rows for k, rows in found.items() if np.isfinite(rows).any(axis=0).all()}
    if not found:
        return None
    deviations = np.maximum(np.nanstd(sample.rows, axis=0), np.finfo(np.float64).tiny)
    middles = np.array([np.nanmedian(rows, axis=0) for rows in found.values()])
    columns = np.sort(np.argsort(-np.std(middles / deviations, axis=0), kind="stable")[:MOST_FEATURES])
    places = [decimals(deviations[d]) for d in columns]
    if transform.is_linear:
        means, covariances = transform.undone(report.components.means, report.components.covariances)
        spreads = np.sqrt(np.maximum(np.einsum("kii->ki", covariances), 0.0))
        cells = {
            k: [
                Cell(number(means[k, d], digits), f"± {number(spreads[k, d], digits)}")
                for d, digits in zip(columns, places, strict=True)
            ]
            for k in found
        }
        what = "Mean ± standard deviation"
        what += "." if transform.keeps_density else ", without what the dropped dimensions add."
    else:
        cells = {
            k: [
                Cell(number(middle, digits), f"{number(low, digits)} to {number(high, digits)}")
                for (low, middle, high), digits in zip(
                    np.nanquantile(rows[:, columns], UNDONE_QUANTILES, axis=0).T, places, strict=True
                )
            ]
            for k, rows in found.items()
        }
        what = "Median, and the 5% and 95% quantiles, of the sampled rows with the component's label."
    rows = [[swatch_cell(report.titles[k], report.components.numbers[k]), *row] for k, row in cells.items()]
    if len(names) > len(columns):
        what += f" Of {len(names)} columns, the {len(columns)} in which the components differ most are shown."
    return Table("The components in the units of the data", ["component", *(names[d] for d in columns)], rows, what)


# what the noise is called, and its mark, in the colour of its rows in pictures
NOISE = "noise"
NOISE_CELL = Cell(NOISE, kind="swatch style0", style=f"--swatch:{FAINT}")


def swatch_cell(title: str, number: int) -> Cell:
    """A component's title with its mark."""
    return Cell(title, kind=f"swatch style{style_number(number)}", style=f"--swatch:{color_of(number)}")


def _sure_cell(shares: NDArray[np.float64]) -> Cell:
    """The share of sure labels above a bar with a part for each band of uncertainty."""
    if np.isnan(shares).any():
        return Cell(NOTHING)
    ends = np.cumsum(100.0 * shares)
    return Cell(
        f"{shares[:SURE_BANDS].sum():.0%}",
        kind="parts",
        style="; ".join(f"--end{i}:{end:.1f}%" for i, end in enumerate(ends[:-1])),
    )


def _mean_cell(report: ReportContents, k: int, d: int, places: int | None) -> Cell:
    components = report.components
    mean, deviation = components.means[k, d], float(np.sqrt(components.variances[k, d]))
    z = (mean - components.center[d]) / components.deviations[d]
    shade = DARKEST * min(1.0, abs(z) / 2.0) if len(components.weights) > 1 else 0.0
    side = "high" if z > 0.0 else "low"
    return Cell(number(mean, places), f"± {number(deviation, places)}", kind=side, style=f"--shade:{shade:.2f}")


# -- data and software ---------------------------------------------------------------------------------------


def columns_table(report: ReportContents) -> Table:
    """One row per column of the data: mean, standard deviation and range, the step of its values and what repeats."""
    data, resolution = report.store.data, report.resolution
    missing, rows = data["missing"], []
    n_read = data["contents"]["n_rows"] + missing["rows"]
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
                *([f"{column.missing / n_read:.1%}"] if missing["columns"] else []),
            )
        )
    notes = [
        "Step: what the values are rounded to, from a sample of the rows; tied: the share of its rows whose value "
        "another one has; mode: the most frequent value, and its share. "
        f"{resolution.copies:.1%} of its rows are exact copies of another row."
    ]
    if len(data["columns"]) > len(rows):
        notes.insert(0, f"The first {len(rows)} of {len(data['columns'])} columns are shown.")
    head = ["column", "mean", "std. dev.", "range", "step", "mode", *(["missing"] if missing["columns"] else [])]
    if missing["columns"]:
        notes.append("Missing: the share of the rows that lack the value.")
    return Table("The columns", head, rows, " ".join(notes))


def software_table(report: ReportContents) -> Table:
    """The versions of the first run."""
    rows = [_cells(name, version) for name, version in report.store.software.items()]
    return Table("Software", ["package", "version"], rows)
