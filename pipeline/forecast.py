"""How long a fit will take, from how fast its candidates approach their optima."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gmm_dask.em import Settings, State, Status


def iterations_left(state: State, settings: Settings) -> int:
    """Iterations until a running state converges, if its last changes go on shrinking by the same factor."""
    most = settings.max_iter - state.n_iter
    if state.n_iter < 3:
        return most
    before, middle, last = state.lower_bounds[-3:]
    older, newer = abs(middle - before), abs(last - middle)
    if not 0.0 < newer < older or settings.tol == 0.0:
        return most
    return max(1, min(most, math.ceil(math.log(settings.tol / newer) / math.log(newer / older))))


def seconds_left(states: Sequence[State], settings: Settings, seconds_of_pass: float) -> float:
    """Seconds until no state is running, given those of the last pass, which each running state has a share of."""
    running = [state for state in states if state.status is Status.RUNNING]
    left = [iterations_left(state, settings) for state in running]
    return seconds_of_pass * sum(left) / len(running) if running else 0.0
