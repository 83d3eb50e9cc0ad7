"""Progress events of a running job, each handed to one callable, the progress listener.

The stages of :func:`pipeline.fit.job.run` call ``progress(event)``; a listener draws, logs or counts them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StageStarted:
    """A stage of the job has begun.

    Parameters
    ----------
    name : str
        The stage, as in the job's list of stages: ``"seed"``, ``"fit"``, ...
    detail : str
        More about it, such as ``"36 fits, after pass 1"``.
    """

    name: str
    detail: str = ""


@dataclass(frozen=True)
class Message(StageStarted):
    """What the user should know, and find on the terminal when the stage is over: ``"resume"``, ``"note"``, ...

    Parameters
    ----------
    is_warning : bool
        Whether something is wrong, so that logs of warnings alone have it, too.
    """

    is_warning: bool = False


@dataclass(frozen=True)
class StageAdvanced:
    """A stage goes on with something that is not a pass of the fits.

    Parameters
    ----------
    name : str
        The stage.
    detail : str
        What it does now.
    """

    name: str
    detail: str


@dataclass(frozen=True)
class PassDone:
    """A pass over the data has ended.

    Parameters
    ----------
    number : int
        Passes so far, those before a resume included.
    rows : int
        Rows that the pass read.
    seconds : float
        Duration of the pass.
    seconds_left : tuple of float
        At the least and at the most, until the last pass of the job: by how fast each fit approaches its optimum.
    statuses : dict
        Number of fits (candidates times starts) of each status after the pass, such as ``{"running": 5}``, in the
        order of :class:`gmm_dask.em.status.Status`; without those that no fit has.
    best : str or None
        The leading candidate so far, such as ``"tied-k3"``, if there is one.
    value : float or None
        Its criterion so far.
    """

    number: int
    rows: int
    seconds: float
    seconds_left: tuple[float, float]
    statuses: Mapping[str, int]
    best: str | None = None
    value: float | None = None

    @property
    def running(self) -> int:
        """Fits that the next pass may compute."""
        return self.statuses.get("running", 0)

    @property
    def total(self) -> int:
        """All fits."""
        return sum(self.statuses.values())

    @property
    def finished(self) -> int:
        """Fits that no later pass computes."""
        return self.total - self.running


@dataclass(frozen=True)
class ChunksDone:
    """A pass has read another chunk, and written what it makes of it.

    Parameters
    ----------
    done, total : int
        Chunks, those of an earlier run included.
    rows : int
        Rows that this run has read.
    seconds : float
        Since this run began to read.
    """

    done: int
    total: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class GroupsDone:
    """The searches of some groups have ended (``data.by``).

    Parameters
    ----------
    done, total : int
        Groups, those of an earlier run included.
    timed : int
        Groups that this run has searched, without the first ones, which wait until the kernels are compiled.
    seconds : float
        That these took.
    """

    done: int
    total: int
    timed: int
    seconds: float


Event = StageStarted | StageAdvanced | PassDone | ChunksDone | GroupsDone
Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore the event: the default listener."""


def report_notes(notes: Sequence[str], progress: Progress) -> None:
    """Report what a user should know about the data, an event a note."""
    for note in notes:
        progress(Message("note", note))


def report_removed(paths: Sequence[str], progress: Progress) -> None:
    """Report the old results that were removed."""
    for path in paths:
        progress(Message("removed", path))


@contextmanager
def chunks_reported(
    progress: Progress, task: str, lengths: Sequence[float], chosen: Sequence[int] | None = None
) -> Iterator[None]:
    """Report each chunk that a pass is done with, where its tasks run in threads of this process.

    Parameters
    ----------
    progress : callable
    task : str
        Name of the pass's tasks.
    lengths : sequence of float
        Rows of all chunks; NaN where unknown.
    chosen : sequence of int, optional
        Numbers of the chunks that the pass reads; the others are done.
    """
    numbers = range(len(lengths)) if chosen is None else chosen
    begin, done, n_rows = time.monotonic(), len(lengths) - len(numbers), 0

    def after_task(key: Any, *_: Any) -> None:
        nonlocal done, n_rows
        if isinstance(key, tuple) and str(key[0]).startswith(f"{task}-"):
            length = lengths[numbers[key[1]]]
            done, n_rows = done + 1, n_rows + (0 if math.isnan(length) else int(length))
            progress(ChunksDone(done, len(lengths), n_rows, time.monotonic() - begin))

    from dask.callbacks import Callback  # imported late: the command line's help needs no Dask

    with Callback(posttask=after_task):
        yield
