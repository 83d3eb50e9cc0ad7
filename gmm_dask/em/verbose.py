"""What a fit prints while it runs, as ``verbose`` asks for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gmm_dask.em.loop import State, Status
from gmm_dask.formatting import counted


@dataclass(frozen=True)
class FitPrinter:
    """Prints the progress of fits that run together.

    Attributes
    ----------
    verbose : int
        0 prints nothing; 1 how fits begin, every ``interval`` iterations, and how they end; 2 also what a search for
        starts does, the lower bounds and the seconds.
    interval : int
    begun : float
        When the fits began, by the monotonic clock.
    """

    verbose: int
    interval: int
    begun: float = field(default_factory=time.monotonic)

    def begin(self, starts: str) -> None:
        """Print what the fits begin with."""
        if self.verbose:
            print(f"Initialization: {starts}")

    def note(self, text: str) -> None:
        """Print what a search for starts does."""
        if self.verbose > 1:
            print(f"  {text}")

    @property
    def on_pass(self) -> Callable[[list[State]], None] | None:
        """What a loop of EM calls after each pass; None for nothing, as fits in memory then run compiled."""
        return self._after_pass if self.verbose else None

    def _after_pass(self, states: list[State]) -> None:
        iteration = max(state.n_iter for state in states)
        if iteration % self.interval:
            return
        running = sum(state.status is Status.RUNNING for state in states)
        line = f"  Iteration {iteration}: {running} of {len(states)} starts running"
        if self.verbose > 1:
            line += f", best lower bound {max(state.lower_bound for state in states):.6f}, {self._seconds}"
        print(line)

    def end(self, states: Sequence[State]) -> None:
        """Print how the fits of one candidate ended, each in a line; of several in one, or with verbose=2 in many."""
        if not self.verbose:
            return
        several = len({state.candidate for state in states}) > 1
        if not several or self.verbose > 1:
            for state in states:
                print(self._ended(state, f"{state.candidate.name}, start" if several else "Start"))
        if several:
            counts = Counter(state.status.value for state in states)
            ends = ", ".join(f"{count:,} {status}" for status, count in counts.items())
            print(f"{counted(len(states), 'start')}: {ends}")

    def _ended(self, state: State, name: str) -> str:
        line = f"{name} {state.start}: {state.status} after {counted(state.n_iter, 'iteration')}"
        return f"{line}, lower bound {state.lower_bound:.6f}, {self._seconds}" if self.verbose > 1 else line

    @property
    def _seconds(self) -> str:
        return f"{time.monotonic() - self.begun:.1f} s"
