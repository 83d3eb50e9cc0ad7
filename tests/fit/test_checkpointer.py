"""When a fit will end."""

import numpy as np
import pytest

import pipeline.fit.checkpointer
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.resolution import Resolution
from pipeline.fit.checkpointer import Checkpointer, iterations_left, seconds_left
from pipeline.store import Checkpoint

SETTINGS = Settings(tol=1e-3, max_iter=100)


def approaching(*changes, status=Status.RUNNING):
    bounds = [-10.0]
    for change in changes:
        bounds.append(bounds[-1] + change)
    return State(Candidate("full", 2), 0, None, tuple(bounds), status)


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
    assert seconds_left([running, running, done], SETTINGS, 2.0, 2) == pytest.approx(10.0)
    assert seconds_left([done], SETTINGS, 2.0, 1) == 0.0


def test_later_waves_count():
    """The pass computed one of three fits, and each of the others takes as long."""
    running = approaching(0.06, 0.03)
    assert seconds_left([running] * 3, SETTINGS, 2.0, 1) == pytest.approx(30.0)


def test_a_checkpointer_counts_the_fits_of_its_wave(monkeypatch):
    clock, events = iter([100.0, 102.0]), []
    monkeypatch.setattr(pipeline.fit.checkpointer.time, "monotonic", lambda: next(clock))
    states = [approaching(0.06, 0.03)] * 3
    columns = np.zeros(1)
    data_summary = DataSummary(
        9, 9.0, columns, np.eye(1), columns, columns, (9,), np.zeros((0, 1)), None, Resolution.of(np.zeros((0, 1)))
    )
    checkpoint = Checkpoint(states, data_summary, 4, (1, 2))
    checkpointer = Checkpointer("r.zarr", None, checkpoint, slice(0, 1), SETTINGS, "bic", events.append)
    checkpointer.after_pass([approaching(0.06, 0.03, 0.015)])
    assert (events[0].running, events[0].seconds) == (3, 2.0)
    assert events[0].seconds_left == pytest.approx(2.0 * (4 + 5 + 5))
