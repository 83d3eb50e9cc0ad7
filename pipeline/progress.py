"""What a running job tells whoever watches: small events, handed to one callable.

The stages of :func:`pipeline.fit.job.run` call ``progress(event)``; drawing is the watcher's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StageStarted:
    """A stage of the job has begun.

    Parameters
    ----------
    name : str
        The stage, as in the job's list of stages: ``"seed"``, ``"fit"``, ...
    detail : str
        What a reader wants to know about it, if anything: ``"going on after pass 40"``.
    """

    name: str
    detail: str = ""


@dataclass(frozen=True)
class PassDone:
    """One read of the data is over.

    Parameters
    ----------
    number : int
        Passes so far, those before a resume included.
    rows : int
        Rows that the pass read.
    seconds : float
        That it took.
    seconds_left : float
        Until no fit is running, if they all go on as they do.
    running, converged, max_iter, singular, degenerate, spurious, failed : int
        How many members of the batch (candidates times starts) are in each state after the pass.
    best : str or None
        The leading candidate so far (``"tied-k3"``), where one is known.
    value : float or None
        Its criterion so far.
    """

    number: int
    rows: int
    seconds: float
    seconds_left: float
    running: int
    converged: int
    max_iter: int
    singular: int
    degenerate: int
    spurious: int
    failed: int
    best: str | None = None
    value: float | None = None

    @property
    def total(self) -> int:
        """All members of the batch."""
        return self.running + self.finished

    @property
    def finished(self) -> int:
        """Members that no later pass computes."""
        unusable = self.singular + self.failed
        return self.converged + self.max_iter + self.degenerate + self.spurious + unusable


@dataclass(frozen=True)
class ChunksDone:
    """Another chunk of a pass that writes something about each row is over.

    Parameters
    ----------
    done, total : int
        Chunks, those of an earlier run included.
    rows : int
        Rows that this run has read.
    seconds : float
        That it took.
    """

    done: int
    total: int
    rows: int
    seconds: float


Event = StageStarted | PassDone | ChunksDone
Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Watch nothing (the default of :func:`pipeline.fit.job.run`)."""
