"""What the commands print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from flows.interrupts import raise_lost, raised
from flows.progress import LiveLine, LogLines
from pipeline.printable import printable
from pipeline.progress import Event, Progress

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.fit.job import Summary
    from pipeline.fit.plan import Estimate
    from pipeline.fit.profile import Profile
    from pipeline.fit.timing import PassTime
    from pipeline.score.new_rows import ScoreSummary
    from pipeline.store import Result, RowSummary

LINES_BESIDE_TABLE = 15  # the lines of a screen that are not candidates: the command, the table's head, the summary
MIN_ROWS = 8
MAX_COLUMN_NAMES = 12


def print_line(text: str, style: str = "") -> None:
    """Print a line on standard output. It is never wrapped, since it may contain a path to copy."""
    _console().print(printable(text), style=style, soft_wrap=True)


def print_paragraph(text: str, style: str = "") -> None:
    """Print a paragraph on standard output, wrapped between words on a terminal."""
    console = _console()
    console.print(printable(text), style=style, soft_wrap=not console.is_terminal)


def print_error(text: str) -> None:
    """Print a paragraph on standard error, wrapped between words on a terminal."""
    console = _console(stderr=True)
    console.print(f"gmm-dask: {printable(text)}", soft_wrap=not console.is_terminal)


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


@contextmanager
def progress_listener() -> Iterator[Progress]:
    """Return the listener for a job: a live line on a terminal, and log lines elsewhere."""
    console = _console(stderr=True)
    with raised(signal.SIGINT):
        if console.is_terminal:
            with LiveLine(console) as live:
                yield _interruptible(live)
        else:
            yield _interruptible(LogLines(lambda line: console.print(line, soft_wrap=True)))


def _interruptible(listener: Progress) -> Progress:
    def listen(event: Event) -> None:
        raise_lost()
        listener(event)

    return listen


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Return a function that takes the work done and its total: it updates a bar on a terminal."""
    console = _console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# -- a job, and a result store ------------------------------------------------------------------------------------


def show_summary(summary: Summary) -> None:
    """Print the result of a job: the candidates, the winner, and the paths of the store and the report."""
    from pipeline.store import rows_folder

    if summary.reused:
        print_line("The result is complete: nothing was computed. --fresh starts over.")
    _show_choice(summary, rows_on_screen(_console()))
    print_paragraph(f"  weights {', '.join(f'{weight:.3f}' for weight in summary.weights)}")
    print_line(f"  mean log-likelihood {summary.mean_log_likelihood:.4f} per row")
    if summary.held_out_rows:
        rows = f"the {summary.held_out_rows:,} held-out rows"
        print_line(f"  mean log-likelihood {summary.held_out_log_likelihood:.4f} per row over {rows}")
    for line in _row_lines(summary.row_summary):
        print_paragraph(f"  {line}")
    arrays = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in summary.row_shapes.items())
    print_line(f"store: {summary.store}" + (f", with {arrays}" if arrays else ""))
    if summary.row_summary and summary.row_summary.parquet:
        print_line(f"rows: {rows_folder(summary.store)}")
    if summary.page:
        print_line(f"report: {summary.page}")
    print_line(_cost_line(summary))


def _cost_line(summary: Summary) -> str:
    """Return the cost of a result: ``36 candidates, 201 passes over the data (42.50 kiB read), 2.3 s``."""
    from dask.utils import format_bytes

    candidates = _counted(len(summary.table), "candidate")
    passes = _counted(summary.passes, "pass", "es")
    seconds = "" if summary.reused else f", {summary.run_seconds:.1f} s"
    return f"{candidates}, {passes} over the data ({format_bytes(summary.bytes_read)} read){seconds}"


def _row_lines(rows: RowSummary | None) -> list[str]:
    """Return lines about rows without a label, and about anomalies with the error of their threshold."""
    if rows is None:
        return []
    lines = [f"{_counted(rows.unusable, 'row')} without a label (missing or unusable values)"] if rows.unusable else []
    if rows.anomaly_rank_error is not None:
        lines.append(
            f"anomalies: {rows.anomalies:,} rows with a log density below {rows.anomaly_threshold:.6g}, the "
            f"quantile {rows.anomaly_quantile:.3g} (rank error {rows.anomaly_rank_error:.1g} of the rows)"
        )
    return lines


def show_result(result: Result) -> None:
    """Print the candidates of a store, with a warning if it is not complete."""
    if not result.is_complete:
        print_paragraph(
            f"UNFINISHED after {_counted(result.passes, 'pass', 'es')}: the run is still working or was stopped (the "
            "same gmm-dask run resumes it). Values and order may still change.",
            "bold yellow",
        )
    _show_choice(result)
    print_line(f"store: {result.store}")


def _show_choice(result: Result, max_rows: int | None = None) -> None:
    """Print the candidates, the winner or the leader so far, and what is known for and against the choice."""
    if len(result.table):
        show_candidates(result.table, result.criterion, result.leader, result.store, max_rows)
    if result.leader:
        print_line(winner_line(result), "bold green")
    if result.is_complete:
        for line in result.remarks:
            print_paragraph(f"  {line}", "yellow")
        for line in result.notes:
            print_paragraph(f"  {line}")


# -- candidates ---------------------------------------------------------------------------------------------------


def rows_on_screen(console: Console) -> int | None:
    """Return how many rows of a table fit above the lines below it; None if the output is no terminal."""
    return max(MIN_ROWS, console.size.height - LINES_BESIDE_TABLE) if console.is_terminal else None


def show_candidates(
    table: pd.DataFrame, criterion: str, best: str | None, store: str, max_rows: int | None = None
) -> None:
    """Print the candidates, the best first; beyond ``max_rows``, only how many more there are."""
    # two forms of one model (full and tied with K = 1) differ by rounding alone: they are sorted as equal
    by_delta = table.assign(rounded=table["delta"].round(6))
    ordered = by_delta.sort_values(["rounded", "n_components"], na_position="last", kind="stable")
    shown = ordered if max_rows is None else ordered.head(max_rows)
    _console().print(candidates_table(shown, criterion, best))
    if len(shown) < len(ordered):
        print_line(f"... and {len(ordered) - len(shown)} more: gmm-dask show {store}", "dim")
    for line in remedies(ordered):
        print_paragraph(line, "yellow")


def candidates_table(table: pd.DataFrame, criterion: str, best: str | None) -> Table:
    """Return a table with a row per candidate; the held-out column and the agreement of starts only if known."""
    from gmm_dask.families.candidate import Candidate
    from gmm_dask.selection.criteria import CRITERIA
    from gmm_dask.selection.diagnostics import compares_starts

    rows = table.to_dict("records")
    wins = [Candidate.of(row).name == best for row in rows]
    columns = {
        "K": [str(row["n_components"]) for row in rows],
        "covariance": [row["covariance_type"] for row in rows],
        "status": [
            Text(row["status"], "" if won else _style(row["status"])) for row, won in zip(rows, wins, strict=True)
        ],
        CRITERIA[criterion].label.replace(" ", "\n"): [_number(row[criterion]) for row in rows],
        "delta": [_number(row["delta"]) for row in rows],
    }
    if error := CRITERIA[criterion].error:  # in the place of the iterations, for which no room is left
        columns["std.\nerror"] = [_number(row[error]) for row in rows]
    if "held_out_log_likelihood" in table and table["held_out_log_likelihood"].notna().any():
        columns["held out\nper row"] = [_number(row["held_out_log_likelihood"], 4) for row in rows]
    if not error:
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


def _style(status: str) -> str:
    from gmm_dask.em.status import Status

    return {Status.CONVERGED: "", Status.RUNNING: "cyan", Status.MAX_ITER: "yellow"}.get(Status(status), "red")


def winner_line(result: Result) -> str:
    """Return the line that names the winner, or the leader so far, and its criterion."""
    from gmm_dask.selection.criteria import CRITERIA

    row = result.row(result.leader)
    return (
        f"{'best' if result.is_complete else 'best so far'}: {row['covariance_type']} covariance, "
        f"{_counted(row['n_components'], 'component')} ({result.leader}), "
        f"{CRITERIA[result.criterion].label} {_number(row[result.criterion])}"
    )


def remedies(table: pd.DataFrame) -> list[str]:
    """Return a line for each status of candidates that did not converge: how many, the cause, and the remedy."""
    from gmm_dask.em.status import Status

    counts = table["status"].value_counts()
    unconverged = [status for status in Status if status not in (Status.RUNNING, Status.CONVERGED)]
    return [f"{counts[status]} {status}: {status.remedy}" for status in unconverged if status in counts]


# -- scores -------------------------------------------------------------------------------------------------------


def show_score(summary: ScoreSummary) -> None:
    """Print how new rows compare with the rows of the fit."""
    if summary.reused:
        print_line("The scores are complete: nothing was computed.")
    _console().print(_shares_table(summary))
    without = f", {summary.rows.unusable:,} of them without a label" if summary.rows.unusable else ""
    print_line(f"{_counted(summary.rows.n_rows, 'row')}{without}, by {summary.model}")
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
    if summary.gain is not None:
        print_paragraph(
            f"  one M-step on these rows gains {summary.gain:.4f} per row; about {summary.chance_gain:.4f} is chance"
        )
    for line in summary.drift:
        print_paragraph(f"drift: {line}", "bold yellow")
    if summary.drift:
        print_paragraph("If the new rows are right and here to stay, fit the model again.", "bold yellow")
    print_line(f"scores: {summary.out}, {summary.seconds:.1f} s")


def _shares_table(summary: ScoreSummary) -> Table:
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("component", "share here", "in the fit", "difference"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("moved")
    lines = zip(summary.rows.label_shares, summary.fit_shares, summary.components, strict=True)
    for k, (here, fit, change) in enumerate(lines):
        grid.add_row(str(k), f"{here:.2%}", f"{fit:.2%}", f"{here - fit:+.2%}", ", ".join(change.moved))
    return grid


# -- an estimate --------------------------------------------------------------------------------------------------


def show_estimate(estimate: Estimate) -> None:
    """Print what a job would read and need."""
    grid = Table.grid(padding=(0, 2))
    for name, text in _estimate_lines(estimate).items():
        grid.add_row(name, Text(printable(text)))
    _console().print(grid)
    for note in estimate.notes:
        print_paragraph(f"note: {note}", "yellow")


def _estimate_lines(estimate: Estimate) -> dict[str, str]:
    from dask.utils import format_bytes

    source, plan = estimate.source, estimate.plan
    rows = "unknown until read (CSV)" if source.n_rows is None else f"{source.n_rows:,}"
    n_candidates = len(plan.candidates)
    growth = ", or more: the grid grows while the best candidate is at its end (search.extend)"
    waves = "" if len(plan.waves) == 1 else f", in {len(plan.waves)} waves to fit the memory"
    memory, limit = format_bytes(plan.memory_bytes), format_bytes(plan.machine.memory_limit)
    return {
        "data": f"{source.path} ({source.format.name})",
        "rows": rows + ("" if source.weights is None else ", weighted"),
        "columns": _column_names(source.columns),
        "chunks": f"{source.array.numblocks[0]:,}",
        "a pass reads": format_bytes(source.bytes_per_pass),
        "candidates": f"{n_candidates:,}{growth if estimate.extends else ''}",
        "starts": f"{n_candidates * plan.n_init:,}{waves}",
        "memory": f"about {memory} projected, with {_counted(plan.machine.threads, 'thread')} (limit {limit})",
        "store": estimate.store,
        **({"cache": f"{estimate.cache}, until the run ends"} if estimate.cache else {}),
    }


def show_time(found: PassTime) -> None:
    """Print how long a pass takes, and how many passes there are."""
    least, most = (f"{seconds:.2g} s" for seconds in found.range)
    span = f"about {most}" if least == most else f"{least} to {most}"
    read = f"{found.read_seconds:.2g} s to read" + (", in the first pass of a stage alone" if found.in_memory else "")
    threads = _counted(found.n_threads, "thread")
    fewest, largest = (f"{count:,}" for count in found.n_passes)
    print_paragraph(
        f"A pass takes {span} with {threads} of this machine: one thread takes {read}, and {found.compute_seconds:.2g} "
        f"s to compute, as measured on a chunk. The job has {fewest} to {largest} passes, "
        "fewer the sooner its fits converge."
    )


def show_profile(profile: Profile) -> None:
    """Print what the first pass found in each column."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    heads = ("column", "min", "max", "mean", "sd", "step", "tied", "mode", "share", "missing")
    for name in heads:
        grid.add_column(name, justify="left" if name == "column" else "right", overflow="fold")
    for column in profile.columns:
        values = (column.minimum, column.maximum, column.mean, column.deviation)
        repeats = (column.step_text, column.ties_text, column.frequent_text, column.frequent_share_text)
        missing = f"{column.missing:,}" if column.missing else ""
        grid.add_row(column.name, *map(column.text, values), *repeats, missing)
    _console().print(grid)
    left_out = f", {profile.left_out:,} of them left out" if profile.left_out else ""
    print_line(f"{_counted(profile.n_rows, 'row')}{left_out}; {profile.copies:.1%} are copies of another row")
    for note in profile.notes:
        print_paragraph(f"note: {note}", "yellow")


def _column_names(columns: tuple[str, ...]) -> str:
    more = len(columns) - MAX_COLUMN_NAMES
    return f"{len(columns)}: {', '.join(columns[:MAX_COLUMN_NAMES])}" + (f" and {more} more" if more > 0 else "")


def _counted(count: int, noun: str, plural: str = "s") -> str:
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def _number(value: float, places: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{places}f}"
