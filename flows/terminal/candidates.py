"""The candidates of a search, and its winner."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.terminal.console import console_for, print_line, print_paragraph
from flows.terminal.estimates import _number
from gmm_dask.formatting import counted

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.store import Result

LINES_BESIDE_TABLE = 15  # the lines of a screen that are not candidates: the command, the table's head, the summary
MIN_ROWS = 8


def show_choice(result: Result, max_rows: int | None = None) -> None:
    """Print the candidates, the winner or the leader so far, and what is known for and against the choice."""
    if len(result.table):
        n_features = len(result.data["columns"])
        show_candidates(result.table, result.criterion, result.leader, result.store, n_features, max_rows)
    if result.leader:
        print_line(winner_line(result), "bold green")
    if result.is_complete:
        for line in result.remarks:
            print_paragraph(f"  {line}", "yellow")
        for line in result.notes:
            print_paragraph(f"  {line}")


def rows_on_screen(console: Console) -> int | None:
    """Return how many rows of a table fit above the lines below it; None if the output is no terminal."""
    return max(MIN_ROWS, console.size.height - LINES_BESIDE_TABLE) if console.is_terminal else None


def show_candidates(
    table: pd.DataFrame, criterion: str, best: str | None, store: str, n_features: int, max_rows: int | None = None
) -> None:
    """Print the candidates, the best first; beyond ``max_rows``, only how many more there are.

    Of candidates that are one model in several forms, such as full and tied with K = 1, the best fit is a row.
    """
    from gmm_dask.selection.distinct import distinct, same_models

    models = distinct(table, criterion, n_features)
    ordered = models.sort_values(["delta", "n_components"], na_position="last", kind="stable")
    shown = ordered if max_rows is None else ordered.head(max_rows)
    console_for().print(candidates_table(shown, criterion, best))
    if len(shown) < len(ordered):
        print_line(f"... and {len(ordered) - len(shown)} more: gmm-dask show {store}", "dim")
    if note := same_models(table, n_features):
        print_paragraph(note, "dim")
    for line in remedies(table):
        print_paragraph(line, "yellow")


def candidates_table(table: pd.DataFrame, criterion: str, best: str | None) -> Table:
    """Return a table with a row per candidate; what is held out, in resamples and of several starts only if known."""
    from gmm_dask.families.candidate import Candidate
    from gmm_dask.selection.criteria import CRITERIA
    from gmm_dask.selection.diagnostics import compares_starts

    rows = table.to_dict("records")
    wins = [Candidate.of(row).name == best for row in rows]
    columns: dict[str, list[Any]] = {
        "K": [str(row["n_components"]) for row in rows],
        "covariance": [Candidate.of(row).kind for row in rows],
        "status": [
            Text(row["status"], "" if won else status_style(row["status"])) for row, won in zip(rows, wins, strict=True)
        ],
        CRITERIA[criterion].label.replace(" ", "\n"): [_number(row[criterion]) for row in rows],
        "delta": [_number(row["delta"]) for row in rows],
    }
    if error := CRITERIA[criterion].error:  # in the place of the iterations, for which no room is left
        columns["std.\nerror"] = [_number(row[error]) for row in rows]
    if "held_out_log_likelihood" in table and table["held_out_log_likelihood"].notna().any():
        columns["held out\nper row"] = [_number(row["held_out_log_likelihood"], 4) for row in rows]
    resampled = "stability" in table and bool(table["stability"].notna().any())
    if resampled:  # in the place of the iterations, too
        if not error:
            columns["std.\nerror"] = [_number(row["delta_error"]) for row in rows]
        columns["stable"] = [_number(row["stability"]) for row in rows]
        columns["wins"] = ["" if math.isnan(row["wins"]) else f"{row['wins']:.0%}" for row in rows]
    elif not error:
        columns["iterations"] = [str(row["n_iter"]) for row in rows]
    if compares_starts(table):
        columns["agree"] = [
            "" if math.isnan(row["agreed"]) else f"{row['agreed']:.0f}/{row['starts']:.0f}" for row in rows
        ]
    columns[""] = ["<- best" if won else "" for won in wins]
    # seven columns and more fit 80 characters only without padding on both sides
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=len(columns) > 7)
    for header in columns:
        is_text = header in ("covariance", "status", "")
        grid.add_column(header, justify="left" if is_text else "right", no_wrap=not is_text)
    for won, *cells in zip(wins, *columns.values(), strict=True):
        grid.add_row(*cells, style="bold green" if won else None)
    return grid


def status_style(status: str) -> str:
    """Return the style in which the status of a candidate is printed."""
    from gmm_dask.em.status import Status

    found = Status(status)
    return {Status.CONVERGED: "", Status.RUNNING: "cyan"}.get(found, "yellow" if found.trusted else "red")


def winner_line(result: Result) -> str:
    """Return the line that names the winner, or the leader so far, and its criterion."""
    from gmm_dask.selection.criteria import CRITERIA
    from pipeline.store import GroupsResult

    if isinstance(result, GroupsResult):
        return result.headline
    row = result.row(result.leader)
    return (
        f"{'best' if result.is_complete else 'best so far'}: {row['covariance_type']} covariance, "
        f"{counted(row['n_components'], 'component')}{', noise' if row['noise'] else ''} ({result.leader}), "
        f"{CRITERIA[result.criterion].label} {_number(row[result.criterion])}"
    )


def remedies(table: pd.DataFrame) -> list[str]:
    """Return a line for each status of candidates that did not converge: how many, the cause, and the remedy."""
    from gmm_dask.em.status import Status

    counts = table["status"].value_counts()
    unconverged = [status for status in Status if status not in (Status.RUNNING, Status.CONVERGED)]
    return [f"{counts[status]} {status}: {status.remedy}" for status in unconverged if status in counts]
