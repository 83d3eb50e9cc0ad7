"""What is told after each pass."""

import numpy as np
import pytest

import pipeline.fit.checkpointer
from gmm_dask.em.loop import Settings
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.resolution import Resolution
from pipeline.config.job import JobConfig
from pipeline.fit.checkpointer import Checkpointer
from pipeline.store import Checkpoint
from trends import halving

CONFIG = JobConfig.model_validate({"data": {"source": "r.npy"}, "output": {"store": "r.zarr"}})
SETTINGS = Settings(tol=1e-3, max_iter=100)


def test_a_checkpointer_counts_the_fits_of_its_wave(monkeypatch):
    clock, events = iter([100.0, 102.0]), []
    monkeypatch.setattr(pipeline.fit.checkpointer.time, "monotonic", lambda: next(clock))
    states = [halving(5)] * 3
    columns = np.zeros(1)
    data_summary = DataSummary(
        9, 9.0, columns, np.eye(1), columns, columns, (9,), np.zeros((0, 1)), None, Resolution.of(np.zeros((0, 1)))
    )
    checkpoint = Checkpoint(states, data_summary, 4, (1, 2))
    checkpointer = Checkpointer(
        config=CONFIG,
        source=None,
        checkpoint=checkpoint,
        part=slice(0, 1),
        settings=SETTINGS,
        progress=events.append,
        seconds=10.0,
        closing_passes=2,
    )
    checkpointer.after_pass([halving(6)])
    assert (events[0].running, events[0].seconds) == (3, 2.0)
    assert events[0].seconds_left == pytest.approx((2.0 * (3 + 3 + 3 + 2), 2.0 * (10 + 2 * 10 + 2)))
