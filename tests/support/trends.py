"""States of fits whose lower bounds rise in a given way."""

from gmm_dask.em.loop import State, Status
from gmm_dask.families.candidate import Candidate


def approaching(*changes, status=Status.RUNNING):
    bounds = [-10.0]
    for change in changes:
        bounds.append(bounds[-1] + change)
    return State(Candidate("full", 2), 0, None, tuple(bounds), status)


def halving(count=5, status=Status.RUNNING):
    """A fit whose changes shrink by half, the last of them to 0.03: 4.9 more are below a tolerance of 0.001."""
    return approaching(*(0.03 * 2.0**power for power in reversed(range(count))), status=status)
