"""Keeping what a fit has reached: progress after every pass, a checkpoint every few seconds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from gmm_dask.em.loop import Settings, State, Status
from pipeline import store
from pipeline.fit.time_left import seconds_left
from pipeline.progress import PassDone, Progress
from pipeline.store import Checkpoint
from pipeline.store.show import leading_candidate

# a checkpoint is written after a pass, but not more often than this
CHECKPOINT_SECONDS = 10.0


class Keeper:
    """What follows a pass of a wave: the watcher is told, and now and then a checkpoint is saved.

    Parameters
    ----------
    path : str
        The result store.
    checkpoint : Checkpoint
        Where the wave begins.
    part : slice
        The wave's states among all.
    settings : Settings
    criterion : str
        What leads among the candidates.
    progress : callable
    """

    def __init__(
        self,
        path: str,
        checkpoint: Checkpoint,
        part: slice,
        settings: Settings,
        criterion: str,
        progress: Progress,
    ) -> None:
        self._path = path
        self._checkpoint = checkpoint
        self._part = part
        self._settings = settings
        self._criterion = criterion
        self._progress = progress
        self._passed = self._saved = time.monotonic()

    def after_pass(self, states: list[State]) -> None:
        """Count a pass that brought the wave's states here."""
        now = time.monotonic()
        seconds, self._passed = now - self._passed, now
        before = self._checkpoint.states[self._part]
        self._checkpoint = self._with(states, self._checkpoint.passes + 1)
        try:
            self._progress(self._event(seconds, sum(state.status is Status.RUNNING for state in before)))
        except Exception:  # the watcher ends the stage, which has taken too long
            self.save(states)
            raise
        if now - self._saved >= CHECKPOINT_SECONDS:
            self.save(states)

    def save(self, states: Sequence[State]) -> None:
        """Save a checkpoint with the wave's states."""
        store.save_checkpoint(self._path, self._with(states, self._checkpoint.passes))
        self._saved = time.monotonic()

    def _with(self, states: Sequence[State], passes: int) -> Checkpoint:
        every = list(self._checkpoint.states)
        every[self._part] = states
        return replace(self._checkpoint, states=every, passes=passes)

    def _event(self, seconds: float, computed: int) -> PassDone:
        states, data_summary = self._checkpoint.states, self._checkpoint.data_summary
        count = Counter(state.status for state in states)
        best, value = leading_candidate(states, data_summary, self._criterion)
        return PassDone(
            number=self._checkpoint.passes,
            rows=sum(data_summary.chunk_rows),
            seconds=seconds,
            seconds_left=seconds_left(states, self._settings, seconds, computed),
            running=count[Status.RUNNING],
            converged=count[Status.CONVERGED],
            max_iter=count[Status.MAX_ITER],
            singular=count[Status.SINGULAR],
            degenerate=count[Status.DEGENERATE],
            spurious=count[Status.SPURIOUS],
            failed=count[Status.FAILED],
            best=best,
            value=value,
        )
