"""After each pass of a fit: an event with the time that is left, and every few seconds a checkpoint."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.em.resamples import Refit
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.fit.timing.time_left import seconds_left
from pipeline.progress import PassDone, Progress
from pipeline.sources import Source
from pipeline.store import Checkpoint, leading_candidate

# by default a checkpoint is written after a pass, but not more often than this: what a killed run loses at most
CHECKPOINT_SECONDS = 10.0


@dataclass(kw_only=True)
class Checkpointer:
    """Reports each pass of a wave, and saves a checkpoint now and then.

    Attributes
    ----------
    config : JobConfig
        Of the job.
    source : Source
        Knows how much was read.
    checkpoint : Checkpoint
        At the begin of the wave, and after each pass.
    part : slice
        Positions of the wave's states among all states.
    settings : Settings
    progress : callable
    seconds : float
        Between two checkpoints, at least; 0 saves one after each pass.
    closing_passes : int
        Passes over the data after the fits.
    later_waves : tuple of int
        Number of fits in each wave of the stage of resamples, before it begins.
    last_pass, last_save : float
        When the last pass ended, and when the last checkpoint was saved, by the monotonic clock.
    """

    config: JobConfig
    source: Source
    checkpoint: Checkpoint
    part: slice
    settings: Settings
    progress: Progress
    seconds: float
    closing_passes: int
    later_waves: tuple[int, ...] = ()
    last_pass: float = field(init=False)
    last_save: float = field(init=False)

    def __post_init__(self) -> None:
        self.last_pass = self.last_save = time.monotonic()

    def after_pass(self, states: list[State]) -> None:
        """Count a pass, after which the states of the wave are these."""
        now = time.monotonic()
        seconds, self.last_pass = now - self.last_pass, now
        computed = sum(state.status is Status.RUNNING for state in self._fits()[self.part])
        self.checkpoint = self._with(states, self.checkpoint.passes + 1)
        try:
            self.progress(self._event(seconds, computed))
        except Exception:  # a listener ends the stage at its timeout: the pass just done is not lost
            self.save(states)
            raise
        if now - self.last_save >= self.seconds:
            self.save(states)

    def save(self, states: Sequence[State]) -> Checkpoint:
        """Save a checkpoint with these states of the wave, and return it."""
        checkpoint = self._with(states, self.checkpoint.passes)
        store.save_checkpoint(self.config.output.store, checkpoint, bytes_read=self.source.take_bytes_read())
        self.last_save = time.monotonic()
        return checkpoint

    def _fits(self) -> Sequence[State]:
        """All fits of which a wave is a part."""
        return self.checkpoint.states

    def _waves(self) -> tuple[int, ...]:
        return self.checkpoint.waves

    def _with(self, states: Sequence[State], passes: int) -> Checkpoint:
        all_states = list(self.checkpoint.states)
        all_states[self.part] = states
        return replace(self.checkpoint, states=all_states, passes=passes)

    def _event(self, seconds: float, computed: int) -> PassDone:
        states, waves, data_summary = self._fits(), self._waves(), self.checkpoint.data_summary
        count = Counter(state.status for state in states)
        best, value = leading_candidate(
            self.checkpoint.states, data_summary, self.config.search.criterion, self.settings.inference
        )
        return PassDone(
            number=self.checkpoint.passes,
            rows=sum(data_summary.chunk_rows),
            seconds=seconds,
            seconds_left=seconds_left(
                states, waves, self.settings, seconds, computed, self.closing_passes, self.later_waves
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
        return [refit.state for refit in self.checkpoint.refits]

    def _waves(self) -> tuple[int, ...]:
        return self.checkpoint.refit_waves

    def _with(self, states: Sequence[State], passes: int) -> Checkpoint:
        refits = list(self.checkpoint.refits)
        refits[self.part] = [replace(r, state=s) for r, s in zip(refits[self.part], states, strict=True)]
        return replace(self.checkpoint, refits=refits, passes=passes)
