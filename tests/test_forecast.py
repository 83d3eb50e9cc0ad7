"""When a fit will end."""

import pytest

from gmm_dask.em import Settings, State, Status
from pipeline.forecast import iterations_left, seconds_left

SETTINGS = Settings(tol=1e-3, max_iter=100)


def approaching(*changes, status=Status.RUNNING):
    bounds = [-10.0]
    for change in changes:
        bounds.append(bounds[-1] + change)
    return State("full", 2, 0, None, tuple(bounds), status)


def test_changes_that_shrink_by_half_reach_the_tolerance():
    assert iterations_left(approaching(0.06, 0.03), SETTINGS) == 5


def test_without_a_trend_all_iterations_are_left():
    assert iterations_left(approaching(), SETTINGS) == 99
    assert iterations_left(approaching(0.1, 0.2), SETTINGS) == 97
    assert iterations_left(approaching(0.1, 0.05), Settings(tol=0.0, max_iter=50)) == 47


def test_never_more_than_max_iter_allows():
    assert iterations_left(approaching(0.1, 0.0999), Settings(tol=1e-9, max_iter=10)) == 7


def test_each_running_fit_has_a_share_of_a_pass():
    running = approaching(0.06, 0.03)
    done = approaching(0.1, status=Status.CONVERGED)
    assert seconds_left([running, running, done], SETTINGS, 2.0) == pytest.approx(10.0)
    assert seconds_left([done], SETTINGS, 2.0) == 0.0
