"""Scores of new rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.terminal.console import console_for, print_line, print_paragraph
from gmm_dask.formatting import counted
from pipeline.printable import printable

if TYPE_CHECKING:
    from pipeline.score.new_rows import ScoreSummary


def show_score(summary: ScoreSummary) -> None:
    """Print how new rows compare with the rows of the fit."""
    if summary.reused:
        print_line("The scores are complete: nothing was computed.")
    console_for().print(_shares_table(summary))
    without = f", {summary.rows.unusable:,} of them without a label" if summary.rows.unusable else ""
    print_line(f"{counted(summary.rows.n_rows, 'row')}{without}, by {summary.model}")
    rows = summary.rows
    if rows.usable:
        print_paragraph(
            f"  mean log density {summary.mean_log_density:.4f} per row, {summary.fit_mean_log_density:.4f} in the fit "
            f"({summary.mean_log_density - summary.fit_mean_log_density:+.4f})"
        )
    if rows.anomalies is not None:
        share = rows.anomalies / rows.usable if rows.usable else 0.0
        origin = "the rows of the fit" if summary.threshold_of_fit else "these rows"
        print_paragraph(
            f"  anomalies: {rows.anomalies:,} ({share:.3g} of the rows), below the quantile "
            f"{rows.anomaly_quantile:.3g} of the densities of {origin}"
        )
    if summary.fit_sample is not None:
        print_paragraph(f"  the fit is represented by a sample of {counted(summary.fit_sample, 'row')} of it")
    if summary.gain is not None:
        print_paragraph(
            f"  one M-step on these rows gains {summary.gain:.4f} per row; about {summary.chance_gain:.4f} is chance"
        )
    for line in summary.missing_lines:
        print_paragraph(f"  {line}")
    for line in summary.drift:
        print_paragraph(f"drift: {line}", "bold yellow")
    if summary.drift:
        print_paragraph("If the new rows are right and here to stay, fit the model again.", "bold yellow")
    print_line(f"scores: {summary.out}, {summary.seconds:.1f} s")
    if summary.page:
        print_line(f"report: {summary.page}")


def _shares_table(summary: ScoreSummary) -> Table:
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("component", "share here", "in the fit", "difference"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("moved")
    for one in summary.components:
        difference = f"{one.share - one.fit_share:+.2%}"
        moved = ", ".join(one.moved)
        grid.add_row(printable(one.title), f"{one.share:.2%}", f"{one.fit_share:.2%}", difference, moved)
    if (noise := summary.noise) is not None:
        shares = f"{noise.share:.2%}", f"{noise.fit_share:.2%}", f"{noise.share - noise.fit_share:+.2%}"
        grid.add_row("noise", *shares, ", ".join(noise.moved))
    return grid
