"""How long the fits of a job still take, as a range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from gmm_dask.em.loop import Settings, State
from gmm_dask.em.status import Status

# changes of the lower bound before they are a trend: the first few shrink fast, whatever comes later
TREND_CHANGES = 5
# what a trend promises holds within this factor: measured on simulated sweeps, after nine passes of ten
DOUBT = 2.0


def iterations_left(state: State, settings: Settings) -> tuple[int, int]:
    """Return the least and the most iterations until a running state converges.

    EM converges linearly near an optimum: step t of the lower bound is about ``newer * r**t``, with r the quotient of
    the last two steps, so that ``t = log(tol / newer) / log(r)`` more iterations bring it below ``tol``. Without a
    trend it may be one, or all that ``max_iter`` allows.
    """
    most = max(1, settings.max_iter - state.n_iter)
    if len(state.lower_bounds) <= TREND_CHANGES:
        return 1, most
    before, middle, last = state.lower_bounds[-3:]
    older, newer = abs(middle - before), abs(last - middle)
    if not 0.0 < newer < older or settings.tol == 0.0:
        return 1, most
    expected = math.log(settings.tol / newer) / math.log(newer / older)
    return max(1, min(most, math.ceil(expected / DOUBT))), max(1, min(most, math.ceil(DOUBT * expected)))


def seconds_left(
    states: Sequence[State],
    waves: Sequence[int],
    settings: Settings,
    pass_seconds: float,
    computed: int,
    closing_passes: int = 0,
    later_waves: Sequence[int] = (),
) -> tuple[float, float]:
    """Return the least and the most seconds until the last pass of a job ends.

    At the least, a pass costs what its fits cost. At the most, it costs what reading the data costs, so that a wave
    takes as long as its slowest fit.

    Parameters
    ----------
    states : sequence of State
        Of all waves.
    waves : sequence of int
        Number of states in each.
    settings : Settings
    pass_seconds : float
        Duration of the last pass.
    computed : int
        Number of states in that pass.
    closing_passes : int
        Passes over the data after the fits, each like the last pass.
    later_waves : sequence of int
        Number of fits in each wave of a later stage, none of which has begun.
    """
    least, most = 0.0, 0.0
    remaining = iter(states)
    for n_fits in waves:
        wave = islice(remaining, n_fits)
        left = [iterations_left(state, settings) for state in wave if state.status is Status.RUNNING]
        if left:
            fewest, largest = zip(*left, strict=True)
            least += sum(fewest) / computed
            most += max(largest) * max(1.0, len(left) / computed)
    for n_fits in later_waves:
        least += n_fits / computed
        most += settings.max_iter * max(1.0, n_fits / computed)
    return pass_seconds * (least + closing_passes), pass_seconds * (most + closing_passes)
