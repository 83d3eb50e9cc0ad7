"""After each pass of a fit: an event with the time that is left, and every few seconds a checkpoint."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.em.resamples import Refit
from pipeline import store
from pipeline.fit.timing.time_left import seconds_left
from pipeline.progress import PassDone, Progress
from pipeline.sources import Source
from pipeline.store import Checkpoint, leading_candidate

# by default a checkpoint is written after a pass, but not more often than this: what a killed run loses at most
CHECKPOINT_SECONDS = 10.0


class Checkpointer:
    """Reports each pass of a wave, and saves a checkpoint now and then.

    Parameters
    ----------
    path : str
        The result store.
    source : Source
        Knows how much was read.
    checkpoint : Checkpoint
        At the begin of the wave.
    part : slice
        Positions of the wave's states among all states.
    settings : Settings
    criterion : str
        Ranks the candidates for the event.
    progress : callable
    seconds : float
        Between two checkpoints, at least; 0 saves one after each pass.
    closing_passes : int
        Passes over the data after the fits.
    later_waves : tuple of int
        Number of fits in each wave of the stage of resamples, before it begins.
    """

    def __init__(
        self,
        path: str,
        source: Source,
        checkpoint: Checkpoint,
        part: slice,
        settings: Settings,
        criterion: str,
        progress: Progress,
        seconds: float = CHECKPOINT_SECONDS,
        closing_passes: int = 0,
        later_waves: tuple[int, ...] = (),
    ) -> None:
        self._path = path
        self._source = source
        self._checkpoint = checkpoint
        self._part = part
        self._settings = settings
        self._criterion = criterion
        self._progress = progress
        self._seconds = seconds
        self._closing_passes = closing_passes
        self._later_waves = later_waves
        self._last_pass = self._last_save = time.monotonic()

    def after_pass(self, states: list[State]) -> None:
        """Count a pass, after which the states of the wave are these."""
        now = time.monotonic()
        seconds, self._last_pass = now - self._last_pass, now
        computed = sum(state.status is Status.RUNNING for state in self._fits()[self._part])
        self._checkpoint = self._with(states, self._checkpoint.passes + 1)
        try:
            self._progress(self._event(seconds, computed))
        except Exception:  # a listener ends the stage at its timeout: the pass just done is not lost
            self.save(states)
            raise
        if now - self._last_save >= self._seconds:
            self.save(states)

    def save(self, states: Sequence[State]) -> Checkpoint:
        """Save a checkpoint with these states of the wave, and return it."""
        checkpoint = self._with(states, self._checkpoint.passes)
        store.save_checkpoint(self._path, checkpoint, bytes_read=self._source.take_bytes_read())
        self._last_save = time.monotonic()
        return checkpoint

    def _fits(self) -> Sequence[State]:
        """All fits of which a wave is a part."""
        return self._checkpoint.states

    def _waves(self) -> tuple[int, ...]:
        return self._checkpoint.waves

    def _with(self, states: Sequence[State], passes: int) -> Checkpoint:
        all_states = list(self._checkpoint.states)
        all_states[self._part] = states
        return replace(self._checkpoint, states=all_states, passes=passes)

    def _event(self, seconds: float, computed: int) -> PassDone:
        states, waves, data_summary = self._fits(), self._waves(), self._checkpoint.data_summary
        count = Counter(state.status for state in states)
        best, value = leading_candidate(
            self._checkpoint.states, data_summary, self._criterion, self._settings.inference
        )
        return PassDone(
            number=self._checkpoint.passes,
            rows=sum(data_summary.chunk_rows),
            seconds=seconds,
            seconds_left=seconds_left(
                states, waves, self._settings, seconds, computed, self._closing_passes, self._later_waves
            ),
            statuses={status.value: count[status] for status in Status if count[status]},
            best=best,
            value=value,
        )


class RefitCheckpointer(Checkpointer):
    """The same for a wave of fits to resamples."""

    def after_refits(self, refits: Sequence[Refit]) -> None:
        """Count a pass, after which the fits of the wave are these."""
        self.after_pass([refit.state for refit in refits])

    def _fits(self) -> Sequence[State]:
        return [refit.state for refit in self._checkpoint.refits]

    def _waves(self) -> tuple[int, ...]:
        return self._checkpoint.refit_waves

    def _with(self, states: Sequence[State], passes: int) -> Checkpoint:
        refits = list(self._checkpoint.refits)
        refits[self._part] = [replace(r, state=s) for r, s in zip(refits[self._part], states, strict=True)]
        return replace(self._checkpoint, refits=refits, passes=passes)
