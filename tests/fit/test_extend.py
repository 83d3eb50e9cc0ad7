"""A job whose grid is widened: as if it had been asked for at first, through kills, with its reads counted."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import pipeline.fit.plan
import pipeline.sources.rows
from flows.progress import describe
from gmm_dask.errors import UserError
from marks import slow
from messages import names
from mixtures import rows_of_five_groups
from paths import ROOT
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.progress import PassDone, StageStarted
from pipeline.store import Widening, load_checkpoint, open_result, read_candidates
from runs import JOB, Stop, everything_in, kill_after

SEARCH = {
    "n_components": [2, 3],
    "covariance_types": ["spherical", "diag"],
    "n_init": 2,
    "init_params": "kmeans",
    "max_iter": 20,
}


@pytest.fixture
def read_in_each_pass(monkeypatch):
    """Data that no stage holds in memory."""
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)


def job(folder, name="result", kind="npy", data=None, **search):
    rows = rows_of_five_groups()
    source = folder / f"rows.{kind}"
    np.save(source, rows) if kind == "npy" else pd.DataFrame(rows).to_csv(source, index=False)
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "chunk_rows": 300, **(data or {})},
            "search": {**SEARCH, "extend": True, **search},
            "output": {"store": str(folder / f"{name}.zarr"), "report": False},
        }
    )


def stages_of(events):
    return [event.name for event in events if isinstance(event, StageStarted) and event.name != "compile"]


def test_two_or_three_are_asked_and_five_are_found(tmp_path):
    events = []
    summary = run(job(tmp_path), progress=events.append)
    assert summary.best.endswith("k5")
    counts = sorted(set(summary.table["n_components"]))
    assert counts[0] == 2
    assert counts[-1] > 5
    told = [describe(event) for event in events if isinstance(event, StageStarted) and event.name == "extend"]
    assert re.search(names("k3", "2 to 3", "adding 4"), told[0])
    assert stages_of(events)[:4] == ["seed", "fit", "select", "extend"]
    criteria = xr.open_zarr(summary.store, group="criteria", consolidated=False)
    assert criteria["n_components"].values.tolist() == counts
    assert criteria["bic"].notnull().all()
    assert open_result(summary.store).widening == Widening(len(told), "")
    assert open_result(summary.store).config["search"]["n_components"] == [2, 3]
    assert run(job(tmp_path)).reused


@pytest.mark.parametrize("data", [{"scale": "standard"}, *slow([{}])])
def test_it_is_as_if_the_wide_grid_had_been_asked_for(tmp_path, read_in_each_pass, data):
    found = run(job(tmp_path, data=data))
    counts = sorted(set(found.table["n_components"]))
    whole = run(job(tmp_path, "whole", data=data, n_components=counts, extend=False))
    pd.testing.assert_frame_equal(found.table, whole.table, rtol=1e-9)
    np.testing.assert_allclose(found.weights, whole.weights, rtol=1e-9)


@pytest.mark.slow
def test_a_wide_grid_downwards(tmp_path):
    found = run(job(tmp_path, n_components=[7, 8]))
    assert found.best.endswith("k5")
    assert min(found.table["n_components"]) < 5


@pytest.mark.parametrize("kind", ["csv", *slow(["npy"])])
def test_passes_and_bytes_are_what_was_read(tmp_path, read_in_each_pass, kind):
    """Each pass but the closing ones and the two of pass 0 and the answers is told; all are counted."""
    events = []
    config = job(tmp_path, kind=kind)
    config = config.model_copy(update={"data": config.data.model_copy(update={"cache": "none"})})
    summary = run(config, progress=events.append)
    fitted = sum(isinstance(event, PassDone) for event in events)
    times = stages_of(events).count("extend")
    assert times >= 2
    assert summary.passes == 1 + fitted + times * 2 + 1 + 1  # pass 0, fits, two for each step, choice, answers
    a_pass = open_result(summary.store).data["bytes_per_pass"]
    lines_counted = (1 + times) * (kind == "csv")
    assert summary.bytes_read == (summary.passes + lines_counted) * a_pass


@pytest.mark.slow
def test_a_run_that_is_stopped_anywhere_ends_with_the_same_bits(tmp_path, read_in_each_pass):
    whole, parts = job(tmp_path, "whole"), job(tmp_path, "parts")
    run(whole, checkpoint_seconds=0.0)

    def stop_in(stage, number):
        count = 0

        def watch(event):
            nonlocal count
            if isinstance(event, StageStarted) and event.name == stage:
                count += 1
                if count == number:
                    raise Stop

        return watch

    def stop_after_passes_of_the_extension(event):
        if isinstance(event, PassDone) and load_checkpoint(parts.output.store).widened == 1:
            raise Stop

    watchers = [
        stop_in("select", 1),
        stop_in("extend", 1),
        stop_after_passes_of_the_extension,
        stop_after_passes_of_the_extension,
        stop_in("extend", 1),
    ]
    for watch in watchers:
        with pytest.raises(Stop):
            run(parts, progress=watch, checkpoint_seconds=0.0)
        assert read_candidates(parts.output.store).leader
    run(parts, checkpoint_seconds=0.0)
    assert everything_in(parts.output.store) == everything_in(whole.output.store)


def test_the_memory_limit_ends_it_in_words(tmp_path, monkeypatch):
    plan = pipeline.fit.plan.plan_waves

    def limited(shape, machine, candidates, n_init, done):
        if max(candidate.n_components for candidate in candidates) > 4:
            raise UserError("the memory limit is 512 MiB, and 513 MiB are needed. Raise cluster.memory_limit.")
        return plan(shape, machine, candidates, n_init, done)

    monkeypatch.setattr(pipeline.fit.plan, "plan_waves", limited)
    summary = run(job(tmp_path))
    assert summary.best.endswith("k4")
    stopped = open_result(summary.store).widening.stopped
    assert re.search(names("5 components", "512 MiB", "513 MiB"), stopped)


@pytest.mark.slow
def test_starts_that_make_the_best_of_each_other(tmp_path):
    """New candidates' starts are searched for by themselves."""
    assert run(job(tmp_path, init_params="auto", n_init=1)).best.endswith("k5")


def test_without_it_nothing_is_widened(tmp_path):
    summary = run(job(tmp_path, extend=False))
    assert set(summary.table["n_components"]) == {2, 3}
    assert open_result(summary.store).widening is None


@pytest.mark.slow
def test_kill_9_in_the_middle_of_the_extension_changes_no_bit(tmp_path):
    config = job(tmp_path)
    file = tmp_path / "job.yaml"
    search = {**SEARCH, "extend": True, "tol": 0.0, "max_iter": 10}
    file.write_text(f"data: {{source: {config.data.source}, chunk_rows: 300}}\nsearch: {search}\n")
    script = f"import pipeline.sources.rows\npipeline.sources.rows.IN_MEMORY_BYTES = 0\n{JOB}"
    command = [sys.executable, "-c", script, str(file), "output.report=false"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    whole, parts = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    subprocess.run([*command, f"output.store={whole}"], check=True, **quiet)
    # pass 0, 10 passes of the fits and the closing one; then, each time, pass 0, 10 passes and the closing one
    for passes, widened in ((11, 0), (18, 1), (29, 2)):
        process = subprocess.Popen([*command, f"output.store={parts}"], **quiet)
        kill_after(process, parts, passes, 0.01)
        assert load_checkpoint(parts).widened >= widened
    subprocess.run([*command, f"output.store={parts}"], check=True, **quiet)
    assert open_result(parts).attempts == 4
    assert open_result(parts).best.endswith("k5")
    assert set(open_result(parts).criteria["n_components"]) >= {2, 3, 4, 5, 6}
    assert everything_in(parts) == everything_in(whole)
