"""How long a fit will take, from how fast its candidates approach their optima."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gmm_dask.em.loop import Settings, State, Status


def iterations_left(state: State, settings: Settings) -> int:
    """Iterations until a running state converges, if its last changes go on shrinking by the same factor."""
    most = settings.max_iter - state.n_iter
    if len(state.lower_bounds) < 3:
        return most
    before, middle, last = state.lower_bounds[-3:]
    older, newer = abs(middle - before), abs(last - middle)
    if not 0.0 < newer < older or settings.tol == 0.0:
        return most
    return max(1, min(most, math.ceil(math.log(settings.tol / newer) / math.log(newer / older))))


def seconds_left(states: Sequence[State], settings: Settings, seconds_of_pass: float, computed: int) -> float:
    """Seconds until no state is running, those of later waves included.

    Parameters
    ----------
    states : sequence of State
        Of all waves.
    settings : Settings
    seconds_of_pass : float
        That the last pass took.
    computed : int
        How many states it computed: each iteration that is left takes as long as one of them did.
    """
    left = [iterations_left(state, settings) for state in states if state.status is Status.RUNNING]
    return seconds_of_pass * sum(left) / computed
