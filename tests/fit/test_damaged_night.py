"""A damaged result of one night stops no later one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nightly import nightly_job
from pipeline.fit.job import run
from pipeline.fit.refresh import refresh
from pipeline.progress import Message
from pipeline.score.batch import score_batch
from prefects import write_rows

DAMAGED = "out/night-2999-01-01T000000.zarr"


@pytest.fixture
def night(tmp_path, monkeypatch):
    """A job with a good result, and one of a later moment whose attributes cannot be read."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.npy")
    good = Path(run(nightly_job(Path())).store)
    later = good.with_name(Path(DAMAGED).name)
    later.mkdir()
    attributes = json.loads((good / "zarr.json").read_text(encoding="utf-8"))
    del attributes["attributes"]["config"]
    (later / "zarr.json").write_text(json.dumps(attributes), encoding="utf-8")
    return good


def warnings(events):
    return [event.detail for event in events if isinstance(event, Message) and event.is_warning]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_passes_over_it(night, fresh):
    events = []
    summary = run(nightly_job(Path(), search={"tol": 0.1}, output={"keep": 1}), fresh=fresh, progress=events.append)
    (warning,) = warnings(events)
    assert Path(DAMAGED).name in warning
    assert Path(summary.identity.earlier) == night
    assert Path(DAMAGED).exists()  # what is not recognised is never removed
    assert not night.exists()


def test_a_refresh_passes_over_it(night):
    events = []
    refreshed = refresh(nightly_job(Path()), progress=events.append)
    assert any(Path(DAMAGED).name in warning for warning in warnings(events))
    assert Path(refreshed.summary.refresh.previous) == night


def test_scores_pass_over_it(night):
    events = []
    score = {"source": "rows.npy", "out": "out/scores.zarr"}
    summary = score_batch(nightly_job(Path(), score=score), progress=events.append)
    assert any(Path(DAMAGED).name in warning for warning in warnings(events))
    assert summary.model
