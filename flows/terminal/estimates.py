"""Estimates of a job, before it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.terminal.console import console_for, print_line, print_paragraph
from gmm_dask.formatting import counted
from pipeline.printable import printable

if TYPE_CHECKING:
    from pipeline.fit.plan import Estimate
    from pipeline.fit.profile import Profile
    from pipeline.fit.timing.chunks import PassTime
    from pipeline.score.estimate import ScoreEstimate

MAX_COLUMN_NAMES = 12


def show_estimate(estimate: Estimate) -> None:
    """Print what a job would read and need."""
    _show(_estimate_lines(estimate), estimate.notes)


def show_score_estimate(estimate: ScoreEstimate) -> None:
    """Print what a run of score-batch would read and need."""
    _show(_score_lines(estimate), estimate.notes)


def _show(lines: Mapping[str, str], notes: Sequence[str]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        grid.add_row(name, Text(printable(text)))
    console_for().print(grid)
    for note in notes:
        print_paragraph(f"note: {note}", "yellow")


def _score_lines(estimate: ScoreEstimate) -> dict[str, str]:
    from dask.utils import format_bytes

    source, inputs = estimate.source, estimate.inputs
    lines = {
        "rows to label": f"{source.path} ({source.format.name})",
        "rows": "unknown until read" if source.n_rows is None else f"{source.n_rows:,}",
        "columns": _column_names(source.columns),
        "chunks": f"{source.array.numblocks[0]:,}",
        "the pass reads": format_bytes(source.bytes_per_pass),
    }
    if inputs is not None:
        memory, limit = format_bytes(inputs.memory_bytes), format_bytes(inputs.machine.memory_limit)
        threads = counted(inputs.machine.threads, "thread")
        lines |= {
            "model": f"{inputs.model.candidate.name} of {inputs.result.store}",
            "written": ", ".join(inputs.request.written),
            "memory": f"about {memory} projected, with {threads} (limit {limit})",
        }
    return lines | {"scores": estimate.out}


def _estimate_lines(estimate: Estimate) -> dict[str, str]:
    from dask.utils import format_bytes

    from pipeline.sources.rows import IN_MEMORY_BYTES

    source, plan = estimate.source, estimate.plan
    rows = "unknown until read" if source.n_rows is None else f"{source.n_rows:,}"
    n_candidates = len(plan.candidates)
    growth = ", or more: the grid grows while the best candidate is at its end (search.extend)"
    waves = "" if len(plan.waves) == 1 else f", in {len(plan.waves)} waves to fit the memory"
    ahead = ", which read ahead" if plan.reads_ahead else ""
    threads = f"{counted(plan.machine.threads, 'thread')}{ahead}"
    kept = f", once in a stage: up to {format_bytes(IN_MEMORY_BYTES)} stay in memory"
    memory, limit = format_bytes(plan.memory_bytes), format_bytes(plan.machine.memory_limit)
    groups = "unknown until read" if estimate.n_groups is None else f"{estimate.n_groups:,}"
    return {
        "data": f"{source.path} ({source.format.name})",
        "rows": rows + ("" if source.weights is None else ", weighted"),
        "columns": _column_names(source.columns),
        **({"transform": _transform(estimate)} if estimate.transform else {}),
        "chunks": f"{source.array.numblocks[0]:,}",
        "a pass reads": format_bytes(source.bytes_per_pass) + (kept if estimate.in_memory else ""),
        **({"groups": f"{groups}, by {estimate.by}: a search for each"} if estimate.by else {}),
        "candidates": f"{n_candidates:,}{growth if estimate.extends else ''}",
        "starts": f"{n_candidates * plan.n_init:,}{waves}",
        **(
            {"resamples": f"{plan.refits.resamples.n_resamples:,}, of each candidate's best fit"} if plan.refits else {}
        ),
        "memory": f"about {memory} projected, with {threads} (limit {limit})",
        "store": estimate.store,
        **({"cache": estimate.cache} if estimate.cache else {}),
    }


def _transform(estimate: Estimate) -> str:
    reads = estimate.transform_reads
    more = f"; {counted(reads, 'read')} of the data to fit it, after the first pass" if reads else ""
    return f"{', '.join(estimate.transform)}{more}"


def show_measured(time: PassTime | None, profile: Profile | None) -> None:
    """Print what was measured beside an estimate."""
    if time:
        show_time(time)
    if profile:
        show_profile(profile)


def show_time(found: PassTime) -> None:
    """Print how long a pass takes, and how many passes there are."""
    least, most = (f"{seconds:.2g} s" for seconds in found.range)
    span = f"about {most}" if least == most else f"{least} to {most}"
    read = f"{found.read_seconds:.2g} s to read" + (", in the first pass of a stage alone" if found.in_memory else "")
    threads = counted(found.n_threads, "thread")
    fewest, largest = (f"{count:,}" for count in found.n_passes)
    print_paragraph(
        f"A pass takes {span} with {threads} of this machine: one thread takes {read}, and {found.compute_seconds:.2g} "
        f"s to compute, as measured on a chunk. The job has {fewest} to {largest} passes, "
        "fewer the sooner its fits converge."
    )
    if found.cache:
        print_paragraph(f"data.cache: {found.cache}.")


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
    console_for().print(grid)
    left_out = f", {profile.left_out:,} of them left out" if profile.left_out else ""
    print_line(f"{counted(profile.n_rows, 'row')}{left_out}; {profile.copies:.1%} are copies of another row")
    for note in profile.notes:
        print_paragraph(f"note: {note}", "yellow")


def _column_names(columns: tuple[str, ...]) -> str:
    more = len(columns) - MAX_COLUMN_NAMES
    return f"{len(columns)}: {', '.join(columns[:MAX_COLUMN_NAMES])}" + (f" and {more} more" if more > 0 else "")


def _number(value: float, places: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{places}f}"
