"""A job whose data have a group that the search for starts does not see in its subsample."""

from __future__ import annotations

import numpy as np
import pytest

import pipeline.sources.rows
from mixtures import RARE, with_rare_group
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.progress import PassDone, StageAdvanced

# the search sees one of the group, or none
N_ROWS = 300_000


@pytest.mark.slow
@pytest.mark.parametrize("n_components", [[2, 3], [1, 2]])
def test_the_rare_group_is_a_component_and_its_passes_are_counted(tmp_path, monkeypatch, n_components):
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    np.save(tmp_path / "rows.npy", with_rare_group(n_rows=N_ROWS) * (1.0, 1e3) + 50.0)
    search = {"n_components": n_components, "covariance_types": ["full"], "start_effort": 0.01}
    config = {
        "data": {"source": str(tmp_path / "rows.npy"), "chunk_rows": 100_000, "scale": "standard"},
        "search": {**search, "extend": n_components == [1, 2]},
        "output": {"store": str(tmp_path / "result.zarr"), "report": False},
    }
    events = []
    summary = run(JobConfig.model_validate(config), progress=events.append)
    assert summary.best == "full-k3"
    assert summary.weights[-1] * N_ROWS == pytest.approx(RARE, abs=1)
    fitted = sum(isinstance(event, PassDone) for event in events)
    of_starts = sum("all rows" in event.detail for event in events if isinstance(event, StageAdvanced))
    extensions = summary.widening.times if n_components == [1, 2] else 0
    assert of_starts >= 2
    assert summary.passes == 1 + of_starts + fitted + extensions * 2 + 1 + 1
    assert summary.bytes_read == summary.passes * summary.data["bytes_per_pass"]
