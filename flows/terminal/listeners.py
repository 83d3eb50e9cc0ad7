"""What is shown while a command works."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from flows.interrupts import raise_lost, raised
from flows.progress import LiveLine, LogLines, describe
from flows.terminal.console import console_for, print_warning
from pipeline.progress import Event, Message, Progress, silent


@contextmanager
def progress_listener(level: str = "info") -> Iterator[Progress]:
    """Return the listener for a job: a live line on a terminal, and log lines elsewhere.

    With the level ``warning`` it prints only warnings, and with ``error`` nothing.
    """
    console = console_for(stderr=True)
    with raised(signal.SIGINT):
        if level in ("warning", "error"):
            yield _interruptible(_warnings if level == "warning" else silent)
        elif console.is_terminal:
            with LiveLine(console) as live:
                yield _interruptible(live)
        else:
            yield _interruptible(LogLines(lambda line: console.print(line, soft_wrap=True)))


def _warnings(event: Event) -> None:
    if isinstance(event, Message) and event.is_warning:
        print_warning(describe(event))


def _interruptible(listener: Progress) -> Progress:
    def listen(event: Event) -> None:
        raise_lost()
        listener(event)

    return listen


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Return a function that takes the work done and its total: it updates a bar on a terminal."""
    console = console_for(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
