"""Results of a search for each group of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.terminal.candidates import rows_on_screen, status_style
from flows.terminal.console import console_for, print_line, print_paragraph
from flows.terminal.results import REPEAT, REUSED, how_unfinished, show_paths
from gmm_dask.formatting import counted
from pipeline.printable import printable

if TYPE_CHECKING:
    from pipeline.fit.job import GroupsSummary
    from pipeline.score.group_scores import GroupScores
    from pipeline.store import GroupsResult

# of groups without a model, whose reasons are printed below the table
_EXPLAINED = 5


def show_groups_summary(summary: GroupsSummary) -> None:
    """Print the result of a job over groups: the groups, what failed, and the paths of the store and the report."""
    from dask.utils import format_bytes

    if summary.reused:
        print_line(REUSED)
    show_groups(summary, rows_on_screen(console_for()), with_store=False)
    if summary.row_summary and summary.row_summary.unusable:
        rows = counted(summary.row_summary.unusable, "row")
        print_paragraph(f"  {rows} without a label: no group, no model of it, or missing values")
    show_paths(summary)
    candidates = counted(len(summary.found.candidates), "candidate")
    passes = counted(summary.passes, "read")
    seconds = "" if summary.reused else f", {summary.seconds:.1f} s"
    print_line(f"{candidates} a group, {passes} of the data ({format_bytes(summary.bytes_read)}){seconds}")


def show_groups(result: GroupsResult, max_rows: int | None = None, *, with_store: bool = True) -> None:
    """Print a row per group; of a store that is not complete, how many are done."""
    if not result.is_complete:
        if result.has_failed:
            print_paragraph(f"FAILED: no group of {result.by} could be fitted. {REPEAT}", "bold red")
            _explain(result)
        else:
            print_paragraph(f"UNFINISHED: {result.headline}; {how_unfinished(result)}.", "bold yellow")
        print_line(f"store: {result.store}")
        return
    rows = result.overview.to_dict("records")
    shown = rows if max_rows is None else rows[:max_rows]
    console_for().print(_groups_table(shown, str(result.by), result.criterion))
    if len(shown) < len(rows):
        print_line(f"... and {counted(len(rows) - len(shown), 'more group')}: gmm-dask show {result.store}", "dim")
    print_line(result.headline, "bold green")
    _explain(result)
    if result.groups and result.groups.n_without:
        print_paragraph(f"  {counted(result.groups.n_without, 'row')} without a value in {result.by}")
    if with_store:
        print_line(f"store: {result.store}")


def _explain(result: GroupsResult) -> None:
    """Print why groups have no model."""
    failed = result.without_model
    for key, message in failed[:_EXPLAINED]:
        print_paragraph(printable(f"  {key}: {message}"), "yellow")
    if len(failed) > _EXPLAINED:
        print_paragraph(f"  and {len(failed) - _EXPLAINED:,} more without a model", "yellow")


def show_group_scores(scores: GroupScores) -> None:
    """Print how many new rows have a label, and which groups have no model."""
    if scores.reused:
        print_line("The scores are complete: nothing was computed.")
    labelled, groups = f"{scores.rows.usable:,} of {counted(scores.rows.n_rows, 'row')}", f"{scores.n_groups:,} groups"
    print_line(f"{labelled} have a label, by the models of {groups} of {printable(scores.by)}", "bold green")
    if scores.rows.mean_log_density is not None:
        print_paragraph(f"  mean log density {scores.rows.mean_log_density:.4f} per row")
    if scores.warning:
        print_paragraph(printable(scores.warning), "bold yellow")
    for note in scores.notes:
        print_paragraph(printable(f"  {note}"), "yellow")
    print_line(f"scores: {scores.out}, {scores.seconds:.1f} s")


def _groups_table(rows: list[dict[Any, Any]], by: str, criterion: str) -> Table:
    from gmm_dask.selection.criteria import CRITERIA
    from pipeline.store.groups.result import FAILED

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in (printable(by), "rows", "model", "K", "status", CRITERIA[criterion].label):
        left = name in ("model", "status")
        grid.add_column(name, justify="left" if left else "right", overflow="fold")
    for row in rows:
        value = "-" if row["status"] == FAILED else f"{row[criterion]:.2f}"
        style = "red" if row["status"] == FAILED else status_style(row["status"])
        cells = (printable(row["group"]), f"{row['n_rows']:,}", row["best"] or "-", str(row["n_components"] or "-"))
        grid.add_row(*cells, Text(row["status"], style), value)
    return grid
