"""Progress listeners: a live line for a terminal, and log lines for everything else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from gmm_dask.formatting import counted
from pipeline.printable import printable
from pipeline.progress import ChunksDone, Event, GroupsDone, Message, PassDone, StageAdvanced, StageStarted

SECONDS_BETWEEN_LINES = 10.0


def describe(event: Event) -> str:
    """Return an event as a line of text."""
    if isinstance(event, StageStarted | StageAdvanced):
        return printable(f"{event.name}: {event.detail}" if event.detail else event.name)
    if isinstance(event, ChunksDone):
        return f"{event.done} of {counted(event.total, 'chunk')}, {_rate(event)}"
    if isinstance(event, GroupsDone):
        return f"{event.done:,} of {counted(event.total, 'group')}{_groups_left(event)}"
    speed = f"took {event.seconds:.2g} s, {_rate(event)}"
    return f"pass {event.number} {speed}: {_counts(event)}; {_time_left(event)}{_leader(event)}"


def _counts(event: PassDone) -> str:
    """Return the number of fits of each status: ``5 running, 2 converged``."""
    labels = {"max_iter": "stopped at max_iter", "inner_max_iter": "stopped within an M-step"}
    return ", ".join(f"{count} {labels.get(status, status)}" for status, count in event.statuses.items())


def _rate(event: PassDone | ChunksDone) -> str:
    """Return the rows per second: ``1.2 M rows/s``."""
    rate = event.rows / max(event.seconds, 1e-9)
    return f"{rate / 1e6:.1f} M rows/s" if rate >= 1e5 else f"{rate / 1e3:.1f} k rows/s"


def _leader(event: PassDone) -> str:
    return f"; best so far {event.best}" if event.best else ""


def _time_left(event: PassDone) -> str:
    """Return the projected time until the last pass ends: ``40 s to 5 min left``."""
    least, most = map(_duration, event.seconds_left)
    return f"about {most} left" if least == most else f"{least} to {most} left"


def _groups_left(event: GroupsDone) -> str:
    """Return the projected time until the last group is done: ``; about 40 s left``."""
    if event.done >= event.total or not event.timed:
        return ""
    return f"; about {_duration((event.total - event.done) * event.seconds / event.timed)} left"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


class LogLines:
    """Write every stage as it starts, and a pass or a chunk when the last line is ten seconds old.

    Parameters
    ----------
    write : callable
        Takes one line of text.
    warn : callable, optional
        Takes the line of a warning; by default as any other.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        warn: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._warn = warn or write
        self._clock = clock
        self._last = clock()

    def __call__(self, event: Event) -> None:
        """Write the event if it is due."""
        now = self._clock()
        if isinstance(event, StageStarted) or now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            write = self._warn if isinstance(event, Message) and event.is_warning else self._write
            write(describe(event))


class LiveLine:
    """Show the present stage and a bar on a terminal, until the job is over. A context manager."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("starting", total=None, text="")

    def __enter__(self) -> LiveLine:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Update the line."""
        if isinstance(event, PassDone):
            text = f"pass {event.number}, {event.finished} of {counted(event.total, 'fit')} done, {_time_left(event)}"
            text += f"\n{_counts(event)}\n{_rate(event)}{_leader(event)}"
            self._bar.update(self._task, total=event.total, completed=event.finished, text=text)
            return
        if isinstance(event, ChunksDone | GroupsDone):
            text = describe(event)
            self._bar.update(self._task, total=event.total, completed=event.done, text=text)
            return
        if isinstance(event, Message):
            self._bar.console.print(describe(event))
        self._bar.update(self._task, description=event.name, total=None, text=printable(event.detail))
