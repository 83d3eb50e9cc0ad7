"""What the commands print: results on standard output, progress and complaints on standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from flows.progress import Lines, LiveLine
from gmm_dask.families.candidate import Candidate
from pipeline.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.fit.estimate import Estimate
    from pipeline.report.summary import Summary
    from pipeline.score.new_rows import ScoreSummary
    from pipeline.store.show import StoredResult

LINES_BESIDE_TABLE = 15  # what else a screen holds: the command, the table's head, the lines below it
FEWEST_ROWS = 8
LISTED_COLUMNS = 12
TROUBLES = ("max_iter", "singular", "degenerate", "spurious", "failed")
STATUS_STYLES = {**dict.fromkeys(TROUBLES, "red"), "max_iter": "yellow", "running": "cyan"}


def say(text: str, style: str = "") -> None:
    """Print a line on standard output, not wrapped: it may hold a path to copy."""
    _console().print(text, style=style, soft_wrap=True)


def explain(text: str, style: str = "") -> None:
    """Print a paragraph on standard output, wrapped between words on a terminal."""
    console = _console()
    console.print(text, style=style, soft_wrap=not console.is_terminal)


def complain(text: str) -> None:
    """Print a paragraph on standard error, wrapped between words on a terminal."""
    console = _console(stderr=True)
    console.print(f"gmm-dask: {text}", soft_wrap=not console.is_terminal)


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


@contextmanager
def watching() -> Iterator[Progress]:
    """A watcher for a job: a live line on a terminal, lines now and then elsewhere."""
    console = _console(stderr=True)
    if console.is_terminal:
        with LiveLine(console) as live:
            yield live
    else:
        yield Lines(lambda line: console.print(line, soft_wrap=True))


@contextmanager
def counting(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is counted, on a terminal; nothing elsewhere."""
    console = _console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(line, completed=done, total=total)


def show_summary(summary: Summary) -> None:
    """Print how a job ended: the candidates, the winner, and where everything is."""
    if summary.reused:
        say("Complete already, nothing was computed; --fresh would start anew.")
    most = rows_on_screen(_console())
    show_candidates(summary.table, summary.criterion, summary.best, summary.store, most)
    say(winner_line(summary.table, summary.criterion, summary.best), "bold green")
    show_remarks(summary.remarks, summary.notes)
    explain(f"  weights {', '.join(f'{weight:.3f}' for weight in summary.weights)}")
    say(f"  mean log-likelihood {summary.mean_log_likelihood:.4f} a row")
    if summary.held_out_rows:
        say(f"  {summary.held_out_log_likelihood:.4f} a row over the {summary.held_out_rows:,} rows held out")
    for line in _rows_lines(summary.row_totals):
        explain(f"  {line}")
    say(f"store: {summary.store}" + _stored_rows(summary.rows))
    if "parquet" in summary.row_totals:
        say(f"rows: {Path(summary.store).with_name(summary.row_totals['parquet'])}")
    report = Path(summary.report) / "index.html"
    if report.is_file():
        say(f"report: {report}")
    say(_cost_line(summary))


def _cost_line(summary: Summary) -> str:
    """What the result has cost: ``36 candidates, 201 passes over the data (42.50 kiB read), 2.3 s``."""
    from dask.utils import format_bytes

    candidates = _counted(len(summary.table), "candidate")
    passes = _counted(summary.passes, "pass", "es")
    took = "" if summary.reused else f", {summary.seconds:.1f} s"
    return f"{candidates}, {passes} over the data ({format_bytes(summary.bytes_read)} read){took}"


def _rows_lines(totals: dict[str, Any]) -> list[str]:
    """Rows without an answer, and anomalies with the error of their threshold."""
    lines = [f"{_counted(totals['unusable'], 'row')} without an answer"] if totals.get("unusable") else []
    if "anomaly_rank_error" in totals:
        lines.append(
            f"anomalies: {totals['anomalies']:,}, of log densities under {totals['anomaly_threshold']:.6g}, the "
            f"quantile {totals['anomaly_quantile']:.3g} (off by {totals['anomaly_rank_error']:.1g} of the rows)"
        )
    return lines


def _stored_rows(shapes: dict[str, tuple[int, ...]]) -> str:
    """What the store holds about each row: ``, with label (272), responsibility (272, 3)``."""
    arrays = [f"{name} ({', '.join(map(str, shape))})" for name, shape in shapes.items()]
    return f", with {', '.join(arrays)}" if arrays else ""


def show_score(summary: ScoreSummary) -> None:
    """Print how new rows compare with those of the fit."""
    if summary.reused:
        say("Complete already, nothing was computed.")
    _console().print(_shares_table(summary))
    without = f", {summary.unusable:,} of them without an answer" if summary.unusable else ""
    say(f"{_counted(summary.n_rows, 'row')}{without}, by {summary.model}")
    explain(
        f"  mean log density {summary.mean_log_density:.4f} a row, {summary.fit_mean_log_density:.4f} in the fit "
        f"({summary.mean_log_density - summary.fit_mean_log_density:+.4f})"
    )
    if summary.anomalies is not None:
        explain(f"  {_anomalies(summary)}")
    for line in summary.drift:
        explain(f"drift: {line}. Look at the new rows; if they are what is to come, fit anew.", "bold yellow")
    say(f"scores: {summary.out}, {summary.seconds:.1f} s")


def _anomalies(summary: ScoreSummary) -> str:
    assert summary.anomalies is not None
    answered = summary.n_rows - summary.unusable
    share = summary.anomalies / answered if answered else 0.0
    under = (
        f"the density that {summary.quantile:.3g} of the rows of the fit are under"
        if summary.of_fit
        else (f"the quantile {summary.quantile:.3g} of these rows")
    )
    return f"anomalies: {summary.anomalies:,} ({share:.3g} of the rows), under {under}"


def _shares_table(summary: ScoreSummary) -> Table:
    """A row a component: its share of the rows here and in the fit."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("component", "share here", "in the fit", "difference"):
        grid.add_column(name, justify="right", no_wrap=True)
    for k, (here, there) in enumerate(zip(summary.shares, summary.fit_shares, strict=True)):
        grid.add_row(str(k), f"{here:.2%}", f"{there:.2%}", f"{here - there:+.2%}")
    return grid


def show_result(result: StoredResult) -> None:
    """Print the candidates of a store, under a banner if it is not complete."""
    if not result.complete:
        explain(
            f"UNFINISHED after {_counted(result.passes, 'pass', 'es')}: a run is at work on it, or was stopped "
            "(the same gmm-dask run goes on from here). Values and order can still change.",
            "bold yellow",
        )
    if len(result.table):
        show_candidates(result.table, result.criterion, result.best, result.store)
    if result.best:
        label = "best" if result.complete else "best so far"
        say(winner_line(result.table, result.criterion, result.best, label), "bold green")
        show_remarks(result.remarks, result.notes)
    say(f"store: {result.store}")


def show_remarks(remarks: list[str], notes: list[str]) -> None:
    """Print what speaks against the choice, and what else is to be known of it."""
    for line in remarks:
        explain(f"  {line}", "yellow")
    for line in notes:
        explain(f"  {line}")


def rows_on_screen(console: Console) -> int | None:
    """Rows of a table that leave the lines below it in sight; None where the output is no terminal."""
    return max(FEWEST_ROWS, console.size.height - LINES_BESIDE_TABLE) if console.is_terminal else None


def show_candidates(table: pd.DataFrame, criterion: str, best: str | None, store: str, most: int | None = None) -> None:
    """Print the candidates, the best first; of more than ``most``, the rest as one line."""
    by_delta = table.assign(rounded=table["delta"].round(6))  # one model in two forms differs by less
    ordered = by_delta.sort_values(["rounded", "n_components"], na_position="last", kind="stable")
    shown = ordered if most is None else ordered.head(most)
    _console().print(candidates_table(shown, criterion, best))
    if len(shown) < len(ordered):
        say(f"... and {len(ordered) - len(shown)} more: gmm-dask show {store}", "dim")
    for line in remedies(ordered):
        explain(line, "yellow")


def candidates_table(table: pd.DataFrame, criterion: str, best: str | None) -> Table:
    """A row a candidate: K, covariance, status, criterion, distance from the best, iterations, how its starts agree."""
    from gmm_dask.selection.criteria import LABELS
    from gmm_dask.selection.diagnostics import compares_starts

    held_out = "held_out_log_likelihood" in table and bool(table["held_out_log_likelihood"].notna().any())
    compares = compares_starts(table)
    # as many columns fit 80 characters so
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=held_out or compares)
    grid.add_column("K", justify="right")
    grid.add_column("covariance")
    grid.add_column("status")
    label = LABELS[criterion].replace(" ", "\n")
    between = ["held out,\na row"] if held_out else []
    for name in (label, "delta", *between, "iterations", *(["agree"] if compares else [])):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("")
    for row in table.to_dict("records"):
        winner = candidate_name(row) == best
        status = Text(row["status"], style="" if winner else STATUS_STYLES.get(row["status"], ""))
        numbers = [_number(row[criterion]), _number(row["delta"])]
        numbers += [_number(row["held_out_log_likelihood"], 4)] if held_out else []
        numbers.append(str(row["n_iter"]))
        numbers += [_agreement(row)] if compares else []
        cells = [str(row["n_components"]), row["covariance_type"], status, *numbers, "<- best" if winner else ""]
        grid.add_row(*cells, style="bold green" if winner else None)
    return grid


def _agreement(row: Any) -> str:
    """How many of a candidate's starts agree; empty where that is not known."""
    return "" if math.isnan(row["agreed"]) else f"{row['agreed']:.0f}/{row['starts']:.0f}"


def candidate_name(row: Any) -> str:
    """A candidate's name in the store: ``tied-k3``."""
    return Candidate.of(row).name


def winner_line(table: pd.DataFrame, criterion: str, best: str, label: str = "best") -> str:
    """The winner and its criterion in words."""
    from gmm_dask.selection.criteria import LABELS

    (row,) = [row for row in table.to_dict("records") if candidate_name(row) == best]
    return (
        f"{label}: {row['covariance_type']} covariance, {_counted(row['n_components'], 'component')} ({best}), "
        f"{LABELS[criterion]} {_number(row[criterion])}"
    )


def remedies(table: pd.DataFrame) -> list[str]:
    """What to do about candidates that did not converge, a line a status."""
    from gmm_dask.em.loop import Status

    counts = table["status"].value_counts()
    return [f"{counts[status]} {status}: {Status(status).remedy}" for status in TROUBLES if status in counts]


def _counted(count: int, noun: str, plural: str = "s") -> str:
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def _number(value: float, places: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{places}f}"


def show_estimate(estimate: Estimate) -> None:
    """Print what a job would read and need."""
    grid = Table.grid(padding=(0, 2))
    for name, text in _estimate_lines(estimate).items():
        grid.add_row(name, Text(text))
    _console().print(grid)
    for note in estimate.source.notes:
        explain(f"note: {note}", "yellow")


def _estimate_lines(estimate: Estimate) -> dict[str, str]:
    from dask.utils import format_bytes

    source, machine = estimate.source, estimate.machine
    rows = "unknown until read (CSV)" if source.n_rows is None else f"{source.n_rows:,}"
    memory, limit = format_bytes(estimate.memory_bytes), format_bytes(machine.memory_limit)
    waves = "" if len(estimate.waves) == 1 else f", in {len(estimate.waves)} waves to fit the memory"
    return {
        "data": f"{source.path} ({source.kind})",
        "rows": rows + ("" if source.weights is None else ", weighted"),
        "columns": _listed(source.columns),
        "chunks": f"{source.array.numblocks[0]:,}",
        "a pass reads": format_bytes(source.bytes_per_pass),
        "candidates": f"{estimate.n_candidates:,}{_may_grow(estimate)}",
        "starts": f"{estimate.n_fits:,}{waves}",
        "memory": f"about {memory} projected, with {_counted(machine.threads, 'thread')} (limit {limit})",
        "store": estimate.store,
    }


def _may_grow(estimate: Estimate) -> str:
    return ", or more: the grid grows while the best one is at its end (search.extend)" if estimate.extends else ""


def _listed(columns: tuple[str, ...]) -> str:
    names = ", ".join(columns[:LISTED_COLUMNS])
    more = len(columns) - LISTED_COLUMNS
    return f"{len(columns)}: {names}" + (f" and {more} more" if more > 0 else "")
