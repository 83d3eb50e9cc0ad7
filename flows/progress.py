"""Watchers of a running job: a live line for a terminal, lines of text for anything else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from pipeline.progress import ChunksDone, Event, PassDone, StageStarted

SECONDS_BETWEEN_LINES = 10.0
LASTING = ("resume", "compare", "note", "extend")  # stages that the live line leaves a message of


def describe(event: Event) -> str:
    """The event in words."""
    if isinstance(event, StageStarted):
        return f"{event.name}: {event.detail}" if event.detail else event.name
    if isinstance(event, ChunksDone):
        return f"{event.done} of {event.total} chunks written, {_rate(event)}"
    took = f"took {event.seconds:.2g} s, {_rate(event)}"
    return f"pass {event.number} {took}: {_counts(event)}; {_time_left(event)}{_leading(event)}"


def _counts(event: PassDone) -> str:
    """How many fits are in which state: ``5 running, 2 converged``."""
    counts = {"running": event.running, "converged": event.converged}
    counts |= {"stopped at max_iter": event.max_iter, "singular": event.singular, "degenerate": event.degenerate}
    counts |= {"spurious": event.spurious, "failed": event.failed}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _rate(event: PassDone | ChunksDone) -> str:
    """How fast rows are read and computed: ``1.2 M rows/s``."""
    rate = event.rows / max(event.seconds, 1e-9)
    return f"{rate / 1e6:.1f} M rows/s" if rate >= 1e5 else f"{rate / 1e3:.1f} k rows/s"


def _leading(event: PassDone) -> str:
    return f"; best so far {event.best}" if event.best else ""


def _time_left(event: PassDone) -> str:
    """How long the fits will take: ``about 40 s left``."""
    seconds = event.seconds_left
    if seconds < 100:
        return f"about {math.ceil(seconds)} s left"
    if seconds < 100 * 60:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds / 3600:.0f} h left"


class Lines:
    """Write stages as they start, and passes and chunks now and then.

    Parameters
    ----------
    write : callable
        Takes one line of text.
    clock : callable
        The time in seconds.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._last = clock()

    def __call__(self, event: Event) -> None:
        """Write the event, unless it is a pass or a chunk and the line before is recent."""
        now = self._clock()
        if not isinstance(event, StageStarted) and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        self._write(describe(event))


class LiveLine:
    """A bar with a few words that move, gone when the job is over. A context manager."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[words]}"),
            console=console,
            transient=True,
        )
        self._line: TaskID = self._bar.add_task("starting", total=None, words="")

    def __enter__(self) -> LiveLine:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Bring the line up to date."""
        if isinstance(event, PassDone):
            words = f"pass {event.number}, {event.finished} of {event.total} fits done, {_time_left(event)}"
            words += f"\n{_counts(event)}\n{_rate(event)}{_leading(event)}"
            self._bar.update(self._line, total=event.total, completed=event.finished, words=words)
            return
        if isinstance(event, ChunksDone):
            words = f"{event.done} of {event.total} chunks, {_rate(event)}"
            self._bar.update(self._line, total=event.total, completed=event.done, words=words)
            return
        if event.name in LASTING:
            self._bar.console.print(describe(event))
        self._bar.update(self._line, description=event.name, total=None, words=event.detail)
