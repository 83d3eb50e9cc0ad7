"""The report of scores: new rows beside those of the fit, component by component, in one HTML file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from gmm_dask.formatting import counted, decimals, number
from pipeline.printable import printable
from pipeline.report.page import page_environment
from pipeline.report.phrases import NOTHING, duration
from pipeline.report.tables import (
    DARKEST,
    MOST_COMPONENTS,
    MOST_FEATURES,
    MOST_ROWS,
    NOISE_CELL,
    Cell,
    Table,
    swatch_cell,
)
from pipeline.store import place_of
from pipeline.store.arrays import writing
from pipeline.store.paths import PAGE, report_folder

if TYPE_CHECKING:
    from pipeline.score.drift import ComponentChange
    from pipeline.score.new_rows import ScoreSummary


def write_score_report(scores: ScoreSummary) -> str | None:
    """Write the report of scores, to ``OUT-report/index.html``; an earlier one stays until this one is whole.

    Parameters
    ----------
    scores : ScoreSummary

    Returns
    -------
    str or None
        Path of the page; None if ``output.report`` is false.

    Raises
    ------
    FaultError
        If the disk is full.
    """
    if not scores.reported:
        return None
    folder = report_folder(scores.out)
    with writing(folder, key="", resumes=False):
        place_of(folder).replace_files({PAGE: render_scores(scores).encode()})
    return f"{folder}/{PAGE}"


def render_scores(scores: ScoreSummary) -> str:
    """The page as HTML."""
    return (
        page_environment()
        .get_template("scores.html")
        .render(
            scores=scores,
            headline=headline(scores),
            drift=[typeset(line) for line in scores.drift],
            tiles=_tiles(scores),
            table=changes_table(scores),
            facts=_facts(scores),
        )
    )


def headline(scores: ScoreSummary) -> str:
    """Say in a sentence whether the rows have drifted."""
    if not scores.rows.usable:
        return "No row could be labelled"
    if not scores.drift:
        return "These rows are like those of the fit"
    moved = sum(bool(one.moved) for one in scores.components)
    of = f": {moved} of {counted(len(scores.components), 'component')} moved" if moved else ""
    if scores.noise and scores.noise.moved and not moved:
        of = ": the share of the noise differs"
    return f"These rows have drifted from those of the fit{of}"


def typeset(line: str) -> str:
    """Set a line of the log with an arrow and minus signs."""
    return re.sub(r"(?<!\S)-(?=\d)", "\N{MINUS SIGN}", line.replace(" -> ", " \N{RIGHTWARDS ARROW} "))


def _tiles(scores: ScoreSummary) -> list[tuple[str, str, str]]:
    rows = scores.rows
    without = f"{rows.unusable:,} of them without a label" if rows.unusable else "all with a label"
    tiles = [("rows", f"{rows.n_rows:,}", without)]
    if rows.usable:
        fit = f"{number(scores.fit_mean_log_density, 3)} in the fit"
        tiles.append(("mean log density", number(scores.mean_log_density, 3), fit))
    if rows.anomalies is not None and rows.anomaly_quantile is not None and rows.usable:
        expected = f"{rows.anomaly_quantile:.3g} expected" if scores.threshold_of_fit else "by their own quantile"
        tiles.append(("anomalies", f"{rows.anomalies / rows.usable:.3g}", f"{rows.anomalies:,} rows; {expected}"))
    if scores.gain is not None:
        tiles.append(("gain of a refit", number(scores.gain, 4), f"per row; {scores.chance_gain:.4f} is chance"))
    return tiles


def changes_table(scores: ScoreSummary) -> Table:
    """One row per component: its share, and means and standard deviations by feature, here and in the fit."""
    largest = sorted(scores.components, key=lambda one: -max(one.share, one.fit_share))
    # those that moved are shown in any case, and then the largest
    shown = sorted(largest, key=lambda one: not one.moved)[:MOST_COMPONENTS]
    features = _moved_features(scores)
    shares = [share for one in scores.components for share in (one.share, one.fit_share)]
    widest = max([*shares, *([scores.noise.share, scores.noise.fit_share] if scores.noise else [])])
    rows = [
        [
            swatch_cell(printable(one.title), one.number),
            _share_cell(one.share, widest),
            _share_cell(one.fit_share, widest),
            Cell(", ".join(one.moved) or NOTHING, kind="moved" if one.moved else ""),
            *(_mean_cell(one, d) for d in features),
        ]
        for one in shown
    ]
    if (noise := scores.noise) is not None:
        cells = (_share_cell(share, widest) for share in (noise.share, noise.fit_share))
        moved = Cell(", ".join(noise.moved) or NOTHING, kind="moved" if noise.moved else "")
        rows.append([NOISE_CELL, *cells, moved, *[Cell(NOTHING)] * len(features)])
    head = ["component", "share here", "in the fit", "moved", *(printable(scores.columns[d]) for d in features)]
    notes = [
        "By feature: mean ± standard deviation here, and below it in the fit; red where the mean is higher here, blue "
        "where it is lower, strongest from one standard deviation on. Moved: what differs by more than chance explains."
    ]
    if len(features) < len(scores.columns):
        notes.append(f"The {len(features)} of {len(scores.columns)} features whose means differ most are shown.")
    if len(shown) < len(scores.components):
        of = f"{len(shown)} of {len(scores.components)} components"
        notes.append(f"{of} are shown: those that moved, and the largest.")
    least_open = max(MOST_ROWS, sum(bool(one.moved) for one in shown))
    return Table("The components, here and in the fit", head, rows, " ".join(notes), least_open=least_open)


def _moved_features(scores: ScoreSummary) -> list[int]:
    """Return the positions of the features to show, in their order: those whose means differ most."""
    distances = np.zeros(len(scores.columns))
    for one in scores.components:
        if one.mean and one.fit_mean and one.fit_deviation:
            spread = np.maximum(np.array(one.fit_deviation), np.finfo(np.float64).tiny)
            distances = np.maximum(distances, np.abs(np.array(one.mean) - np.array(one.fit_mean)) / spread)
    return sorted(np.argsort(-distances, kind="stable")[:MOST_FEATURES].tolist())


def _share_cell(share: float, widest: float) -> Cell:
    part = 100.0 * share / widest if widest > 0.0 else 0.0
    return Cell(f"{share:.2%}", kind="bar", style=f"--part:{part:.1f}%")


def _mean_cell(one: ComponentChange, d: int) -> Cell:
    """Mean and standard deviation of a column here, and in the fit below."""
    here = (one.mean[d], one.deviation[d]) if one.mean and one.deviation else None
    fit = (one.fit_mean[d], one.fit_deviation[d]) if one.fit_mean and one.fit_deviation else None
    places = decimals((fit or here or (0.0, 0.0))[1])
    text, below = (_spread(pair, places) for pair in (here, fit))
    if here is None or fit is None:
        return Cell(text, below)
    z = (here[0] - fit[0]) / max(fit[1], np.finfo(np.float64).tiny)
    return Cell(text, below, kind="high" if z > 0.0 else "low", style=f"--shade:{DARKEST * min(1.0, abs(z)):.2f}")


def _spread(pair: tuple[float, float] | None, places: int | None) -> str:
    return NOTHING if pair is None else f"{number(pair[0], places)} ± {number(pair[1], places)}"


def _facts(scores: ScoreSummary) -> dict[str, str]:
    """The run, by name; empty texts are not shown."""
    sample = scores.fit_sample
    return {
        "rows": scores.data,
        "model": f"{scores.model} of {scores.store}",
        "scores": scores.out,
        "the fit": f"a sample of {counted(sample, 'row')} stands for it" if sample is not None else "",
        "gaps": "; ".join(typeset(line) for line in scores.missing_lines),
        "took": "complete before" if scores.reused else duration(scores.seconds),
    }
