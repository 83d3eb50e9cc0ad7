"""Jobs and result stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from flows.terminal.candidates import rows_on_screen, show_choice, winner_line
from flows.terminal.console import console_for, print_line, print_paragraph
from gmm_dask.formatting import counted, listed
from pipeline.printable import printable

if TYPE_CHECKING:
    from pipeline.compare import ComponentDifference, StoreDifference
    from pipeline.fit.job import GroupsSummary, Summary
    from pipeline.store import Result, RowSummary
    from pipeline.store.listing import ListedStore

MOST_CANDIDATES = 8  # that a comparison of two stores shows
REPEAT = "Change the config or the data, then run it with --fresh."
REUSED = "The result is complete: nothing was computed. --fresh starts over."
MOST_WEIGHTS = 30
LISTING = ("store", "status", "winner", "rows", "finished")  # columns; a narrow terminal gets the first


def show_summary(summary: Summary) -> None:
    """Print the result of a job: the candidates, the winner, and the paths of the store and the report."""
    if summary.reused:
        print_line(REUSED)
    show_choice(summary, rows_on_screen(console_for()))
    print_paragraph(f"  weights {_weights(summary)}")
    print_line(f"  mean log-likelihood {summary.mean_log_likelihood:.4f} per row")
    if summary.held_out_rows:
        rows = f"the {summary.held_out_rows:,} held-out rows"
        print_line(f"  mean log-likelihood {summary.held_out_log_likelihood:.4f} per row over {rows}")
    for line in row_lines(summary.row_summary):
        print_paragraph(f"  {line}")
    show_paths(summary)
    print_line(_cost_line(summary))


def show_paths(summary: Summary | GroupsSummary) -> None:
    """Print where a job's result, rows and report are."""
    from pipeline.store import rows_folder

    arrays = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in summary.row_shapes.items())
    print_line(f"store: {summary.store}" + (f", with {arrays}" if arrays else ""))
    if summary.row_summary and summary.row_summary.parquet:
        print_line(f"rows: {rows_folder(summary.store)}")
    if summary.page:
        print_line(f"report: {summary.page}")


def _weights(result: Result) -> str:
    """Return the weights of the components, with their numbers and names where these do not follow from the order."""
    model, weights = result.best_model, [f"{weight:.3f}" for weight in result.weights]
    if model.component_names or model.numbers != tuple(range(model.n_components)):
        weights = [f"{title}: {weight}" for title, weight in zip(model.titles, weights, strict=True)]
    noise = "" if result.noise_weight is None else f", noise: {result.noise_weight:.3f}"
    return listed(weights, MOST_WEIGHTS) + noise


def _cost_line(summary: Summary) -> str:
    """Return the cost of a result: ``36 candidates, 201 passes over the data (42.50 kiB read), 2.3 s``."""
    from dask.utils import format_bytes

    candidates = counted(len(summary.table), "candidate")
    passes = counted(summary.passes, "pass", "passes")
    seconds = "" if summary.reused else f", {summary.seconds:.1f} s"  # as the report has it, without its drawing
    return f"{candidates}, {passes} over the data ({format_bytes(summary.bytes_read)} read){seconds}"


def row_lines(rows: RowSummary | None) -> list[str]:
    """Return lines about rows without a label, and about anomalies with the error of their threshold."""
    if rows is None:
        return []
    lines = [f"{counted(rows.unusable, 'row')} without a label (missing or unusable values)"] if rows.unusable else []
    if rows.noise is not None:
        from gmm_dask.passes.row_outputs import NOISE_LABEL

        lines.append(f"{counted(rows.noise, 'row')} of the noise, labelled {NOISE_LABEL}")
    if rows.anomaly_rank_error is not None:
        lines.append(
            f"anomalies: {rows.anomalies:,} rows with a log density below {rows.anomaly_threshold:.6g}, the "
            f"quantile {rows.anomaly_quantile:.3g} (rank error {rows.anomaly_rank_error:.1g} of the rows)"
        )
    return lines


def show_result(result: Result) -> None:
    """Print the candidates of a store, with a warning if it is not complete."""
    if result.has_failed:
        print_paragraph(f"FAILED: no candidate could be fitted. {REPEAT}", "bold red")
    elif not result.is_complete:
        print_paragraph(
            f"UNFINISHED after {counted(result.passes, 'pass', 'passes')}: {how_unfinished(result)}. Values and order "
            "may still change.",
            "bold yellow",
        )
    show_choice(result)
    if result.is_complete:
        print_paragraph(f"  weights {_weights(result)}")
    if result.identity and result.identity.note:
        print_paragraph(f"  {result.identity.note}")
    print_line(f"store: {result.store}")


def how_unfinished(result: Result) -> str:
    """Say what becomes of a store that is not complete."""
    if result.checkpoint is not None:
        return "the run is still working or was stopped (the same gmm-dask run resumes it)"
    return "the run has saved nothing yet; if it was stopped, the next one starts over"


def show_names(result: Result) -> None:
    """Print the components of the chosen model with their names and weights."""
    model = result.best_model
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("component", "weight"):
        grid.add_column(head, justify="right", no_wrap=True)
    grid.add_column("name")
    for number, weight in zip(model.numbers, result.weights, strict=True):
        grid.add_row(str(number), f"{weight:.3f}", printable(model.component_names.get(number, "")))
    if result.noise_weight is not None:
        grid.add_row("noise", f"{result.noise_weight:.3f}", "")
    console_for().print(grid)
    print_line(f"store: {result.store}")


def show_difference(found: StoreDifference) -> None:
    """Print how two result stores differ: candidates, winners, components and labels."""
    from gmm_dask.selection.criteria import CRITERIA

    for side, result in (("A", found.a), ("B", found.b)):
        print_line(f"{side}: {result.store}, {counted(result.n_rows or 0, 'row')}")
        print_line(f"  {winner_line(result)}", "bold green")
    label = CRITERIA[found.criterion].label
    candidates = [
        (one.name, one.a, one.b, _less(one.b, one.a) if found.same_densities else None)
        for one in found.candidates[:MOST_CANDIDATES]
    ]
    heads = ("candidate", f"{label} of A", f"{label} of B", "B - A")
    console_for().print(_numbers_table(heads, [(name, *map(number_or_dash, rest)) for name, *rest in candidates]))
    if len(candidates) < len(found.candidates):
        print_line(f"... and {counted(len(found.candidates) - len(candidates), 'more candidate')}", "dim")
    if not found.same_rows:
        print_paragraph(f"  The stores are of other rows, so that {label} says nothing of A against B.")
    if not found.same_densities:
        print_paragraph(
            "  The transforms of the stores (data.transform) drop dimensions or clip values, and not the same ones: "
            f"their densities are of other values, so that {label} says nothing of A against B."
        )
    columns = ("A", "B", "weight in A", "in B", "B - A", "distance", "overlap", "name")
    cells = [_component_cells(one) for one in found.components]
    if (noise := (found.a.noise_weight, found.b.noise_weight)) != (None, None):
        change = (*noise, _less(noise[1], noise[0]), None, None)
        cells.append(("noise", "noise", *(number_or_dash(value, 3) for value in change), ""))
    console_for().print(_numbers_table(columns, cells))
    if found.matched_by is None:
        print_paragraph(
            "Components are not paired: the stores are of other rows, and of their transforms (data.transform) one "
            "drops, clips or does not take what the other does."
        )
        return
    print_paragraph(f"Components are paired by {found.matched_by}.")
    print_paragraph(f"{found.agreement:.1%} of the sampled rows of B have the same component in both.")


def _component_cells(one: ComponentDifference) -> tuple[str, ...]:
    numbers = ["-" if number is None else str(number) for number in (one.a, one.b)]
    weights = [one.weight_a, one.weight_b, _less(one.weight_b, one.weight_a)]
    cells = (number_or_dash(value, 3) for value in (*weights, one.distance, one.overlap))
    return *numbers, *cells, printable(one.name or "")


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def number_or_dash(value: float | None, places: int = 2) -> str:
    """Return a number with so many decimals; a dash for none."""
    return "-" if value is None else f"{value:z.{places}f}"  # z: no negative zero


def _numbers_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of numbers; texts are in its columns ``candidate`` and ``name``."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=len(heads) > 7)
    for head in heads:
        grid.add_column(head, justify="left" if head in ("candidate", "name") else "right")
    for row in rows:
        grid.add_row(*row)
    return grid


def show_stores(stores: Sequence[ListedStore]) -> None:
    """Print the result stores of a folder, their names unbroken: a narrow terminal gets less of the rest."""
    if not stores:
        print_line("no result stores")
        return
    console = console_for()
    # from the widest to the narrowest
    forms = [_stores_table(stores, minutes=True)]
    forms += [_stores_table(stores, n_columns) for n_columns in range(len(LISTING), 1, -1)]
    fits = (one for one in forms if not console.is_terminal or _width(one, console) <= console.width)
    grid = next(fits, forms[-1])
    console.width = max(console.width, _width(grid, console))
    console.print(grid)
    if len(grid.columns) < len(LISTING):
        print_line("A wider terminal shows more, and --json shows all.", "dim")


def _stores_table(stores: Sequence[ListedStore], n_columns: int = len(LISTING), *, minutes: bool = False) -> Table:
    """Return a table of stores, with dates alone or with the minutes."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in LISTING[:n_columns]:
        grid.add_column(name, justify="right" if name == "rows" else "left", no_wrap=True)
    for one in stores:
        begun, ended = (time if minutes or not time else time.split()[0] for time in (one.started, one.finished))
        rows = "" if one.n_rows is None else f"{one.n_rows:,}"
        name = printable(one.store.rpartition("/")[2])
        best = f"{one.groups:,} groups" if one.groups is not None else one.best or ""
        cells = (name, one.status, best, rows, ended or f"began {begun or '-'}")
        grid.add_row(*cells[:n_columns])
    return grid


def _width(grid: Table, console: Console) -> int:
    """Return how wide a table is whose cells are not wrapped."""
    return Measurement.get(console, console.options.update(width=10_000), grid).maximum
