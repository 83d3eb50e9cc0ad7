"""The whole job: from a configuration to a store that xarray opens, through kills and changes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import pipeline.keeper
from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError
from gmm_dask.memory import copies_of_sums, model_bytes, resting_bytes
from pipeline.config import ClusterConfig, JobConfig, load_config
from pipeline.estimate import machine_of, shape_of
from pipeline.progress import PassDone, StageStarted
from pipeline.run import run
from pipeline.sources import open_source
from pipeline.store import load_checkpoint, lock, open_store
from pipeline.synth import Plan, write_synthetic

ROOT = Path(__file__).parent.parent


@pytest.fixture
def in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def quickstart(tmp_path, **search):
    return load_config(
        ROOT / "configs/quickstart.yaml",
        [f"output.store={tmp_path}/result.zarr", *(f"search.{key}={value}" for key, value in search.items())],
    )


def open_group(store, group):
    return xr.open_zarr(store, group=group, consolidated=False)


# -- the path of a newcomer --------------------------------------------------------------------------------------


def test_quickstart_finds_three_tied_components(tmp_path, in_project):
    summary = run(quickstart(tmp_path))
    assert summary.best == "tied-k3"
    best = summary.table.set_index(["covariance_type", "n_components"]).loc["tied", 3]
    assert best["bic"] == pytest.approx(2314.3, abs=0.1)
    np.testing.assert_allclose(summary.weights, [0.47, 0.36, 0.17], atol=0.01)
    assert len(summary.table) == 36
    assert (summary.table["status"] == "converged").all()
    assert {path.name for path in Path(summary.report).iterdir()} == {"bic.png", "clusters.png"}


def test_xarray_opens_every_group_of_the_store(tmp_path, in_project):
    config = quickstart(tmp_path, n_components="[2, 3]")
    store = run(config).store
    criteria = open_group(store, "criteria")
    assert criteria["bic"].sel(n_components=3, covariance_type="tied") == pytest.approx(2314.3, abs=0.1)
    assert criteria["start_bic"].dims == ("n_components", "covariance_type", "start")
    model = open_group(store, "models/tied-k3")
    assert dict(model.sizes) == {
        "component": 3,
        "feature": 2,
        "feature_other": 2,
        "iteration": model.sizes["iteration"],
    }
    assert (np.diff(model["weights"]) < 0).all()
    labels = open_group(store, "rows")["label"]
    shares = np.bincount(labels, minlength=3) / 272
    np.testing.assert_allclose(shares, model["weights"], atol=0.04)
    assert zarr.open_group(store, mode="r").attrs["status"] == "complete"


def test_the_search_object_finds_the_same(tmp_path, in_project):
    config = quickstart(tmp_path, n_components="[1, 2, 3]", n_init=2)
    table = run(config).table
    X = pd.read_csv(ROOT / "configs/data/old_faithful.csv")
    search = GaussianMixtureSearch([1, 2, 3], n_init=2, tol=1e-5, max_iter=1000, reg_covar=1e-3, random_state=0).fit(X)
    np.testing.assert_allclose(table["bic"], search.results_["bic"], rtol=1e-12)
    assert table["n_iter"].tolist() == search.results_["n_iter"].tolist()


def test_blobs_reproduces_the_demo(tmp_path, in_project):
    summary = run(load_config(ROOT / "configs/blobs.yaml", [f"output.store={tmp_path}/blobs.zarr"]))
    X = pd.read_csv(ROOT / "configs/data/blobs.csv").to_numpy()
    expected = GaussianMixture(3, n_init=8, random_state=7).fit(X)
    assert summary.mean_log_likelihood == pytest.approx(expected.score(X), rel=1e-12)
    np.testing.assert_allclose(summary.weights, np.sort(expected.weights_)[::-1], rtol=1e-9)
    assert summary.rows == {"label": (600,), "responsibility": (600, 3)}
    rows = open_group(summary.store, "rows")
    np.testing.assert_array_equal(rows["responsibility"].argmax("component"), rows["label"])
    np.testing.assert_allclose(rows["responsibility"].sum("component"), 1.0, rtol=1e-12)
    assert (Path(summary.report) / "clusters.png").exists()


# -- going on ----------------------------------------------------------------------------------------------------


def test_a_complete_store_is_reported_not_recomputed(tmp_path, in_project):
    config = quickstart(tmp_path, n_components="[2]")
    first = run(config)
    events = []
    again = run(config, progress=events.append)
    assert again.reused
    assert not events
    pd.testing.assert_frame_equal(again.table, first.table)


def test_another_configuration_is_refused_and_fresh_replaces_it(tmp_path, in_project):
    run(quickstart(tmp_path, n_components="[2]"))
    other = quickstart(tmp_path, n_components="[3]")
    with pytest.raises(UserError, match=r"search\.n_components is \[2\] there and \[3\] here.*--fresh"):
        run(other)
    assert run(other, fresh=True).best == "tied-k3"


def csv_config(tmp_path, rows, **search):
    path = tmp_path / "data.csv"
    pd.DataFrame(rows, columns=["a", "b"]).to_csv(path, index=False)
    return JobConfig.model_validate(
        {
            "data": {"source": str(path)},
            "search": {"n_components": [1, 2], **search},
            "output": {"store": str(tmp_path / "result.zarr")},
        }
    )


def test_changed_data_is_refused_and_touched_data_is_not(tmp_path):
    rows = np.round(np.random.default_rng(0).normal(size=(100, 2)), 3)
    config = csv_config(tmp_path, rows)
    run(config)
    os.utime(config.data.source, ns=(1, 1))
    assert run(config).reused
    rows[[0, 1], 1] = rows[[1, 0], 1]  # the same columns' moments, another correlation, and another time
    rows[7, 1] += 0.5
    text = Path(config.data.source).read_text()
    csv_config(tmp_path, rows)
    if len(Path(config.data.source).read_text()) == len(text):
        match = r"of other data, or its data has changed: the mean of column 'b' was"
    else:
        match = r"of other data, or its data has changed"
    with pytest.raises(UserError, match=match):
        run(config)


def test_a_second_run_on_a_store_is_refused(tmp_path, in_project):
    config = quickstart(tmp_path)
    with lock(config.output.store), pytest.raises(UserError, match="another run is at work"):
        run(config)


def test_what_does_not_fit_the_memory_is_refused_before_a_store_is_made(tmp_path, in_project):
    config = load_config(
        ROOT / "configs/quickstart.yaml", [f"output.store={tmp_path}/result.zarr", "cluster.memory_limit=100MiB"]
    )
    with pytest.raises(UserError, match=r"the memory limit is 100 MiB, and 4\d\d MiB are needed"):
        run(config)
    assert not (tmp_path / "result.zarr").exists()


def test_a_smaller_memory_limit_makes_waves_with_the_same_result(tmp_path):
    write_synthetic(tmp_path / "data.npy", Plan(600, 40, 3))
    values = {
        "data": {"source": str(tmp_path / "data.npy"), "chunk_rows": 600},
        "search": {"n_components": [1, 2, 3, 4], "covariance_types": ["full"], "n_init": 4, "max_iter": 5},
    }
    whole = JobConfig.model_validate({**values, "output": {"store": str(tmp_path / "whole.zarr")}})
    shape, machine = shape_of(open_source(whole.data)), machine_of(whole)
    resting = resting_bytes(shape, machine, [("full", k) for k in range(1, 5)], 4)
    least = resting + 4 * copies_of_sums(shape, machine) * model_bytes(("full", 4), 40)
    cut = whole.model_copy(
        update={
            "cluster": ClusterConfig(memory_limit=str(least)),
            "output": whole.output.model_copy(update={"store": str(tmp_path / "cut.zarr")}),
        }
    )
    events = []
    tables = run(whole).table, run(cut, progress=events.append).table
    waves = [event.detail for event in events if isinstance(event, StageStarted) and event.name == "fit"]
    assert len(waves) > 1
    assert "wave 2 of" in waves[1]
    pd.testing.assert_frame_equal(*tables, rtol=1e-9)


class Stop(BaseException):
    """Ends a run as a signal would."""


def stop_at(number):
    def watch(event):
        if isinstance(event, PassDone) and event.number >= number:
            raise Stop

    return watch


def everything_in(store):
    """All arrays of a store, byte by byte, and its attributes but for the count of attempts."""
    root = zarr.open_group(store, mode="r")
    arrays = {
        name: np.asarray(node[...]) for name, node in root.members(max_depth=None) if isinstance(node, zarr.Array)
    }
    kinds = {
        name: (array.shape, array.tolist() if array.dtype.kind == "T" else array.tobytes())
        for name, array in arrays.items()
    }
    attributes = {k: v for k, v in root.attrs.items() if k not in ("attempts", "config")}
    return kinds, attributes


def test_a_resumed_run_ends_with_the_same_bits(tmp_path, in_project, monkeypatch):
    monkeypatch.setattr(pipeline.keeper, "CHECKPOINT_SECONDS", 0.0)
    whole = quickstart(tmp_path / "whole", n_components="[1, 2, 4]", n_init=2)
    parts = quickstart(tmp_path / "parts", n_components="[1, 2, 4]", n_init=2)
    run(whole)
    for number in (3, 4, 20, 21, 60):
        with pytest.raises(Stop):
            run(parts, progress=stop_at(number))
        assert load_checkpoint(parts.output.store).passes == number - 1
    events = []
    run(parts, progress=events.append)
    assert isinstance(events[0], StageStarted)
    assert events[0].name == "resume"
    assert "after pass 59" in events[0].detail
    assert everything_in(parts.output.store) == everything_in(whole.output.store)
    assert open_store(parts.output.store).attempts == 6


JOB = """
import sys
import pipeline.keeper
pipeline.keeper.CHECKPOINT_SECONDS = 0.0
from flows.cli import main
main()
"""


def passes_of(store):
    """Passes that the current checkpoint knows of; 0 before the first."""
    try:
        return json.loads((store / "zarr.json").read_text())["attributes"]["passes"]
    except FileNotFoundError:
        return 0


def kill_after(process, store, passes, delay):
    """kill -9 some time after the run has saved so many passes."""
    while passes_of(store) < passes:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_ten_kills_in_a_row_change_no_bit(tmp_path):
    """kill -9 at random moments; each run goes on where the one before was."""
    write_synthetic(tmp_path / "data.zarr", Plan(120_000, 6, 4, seed=3))
    job = tmp_path / "job.yaml"
    job.write_text(
        f"data: {{source: {tmp_path}/data.zarr, chunk_rows: 20000}}\n"
        "search: {n_components: [2, 3, 5], n_init: 2, tol: 0.0, max_iter: 100}\n"
    )
    command = [sys.executable, "-c", JOB, "run", str(job), "--no-prefect", "--set"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole, parts = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    subprocess.run([*command, f"output.store={whole}"], check=True, cwd=ROOT, **quiet)
    rng = np.random.default_rng(0)
    for _ in range(10):
        process = subprocess.Popen([*command, f"output.store={parts}"], cwd=ROOT, **quiet)
        kill_after(process, parts, passes_of(parts) + rng.integers(0, 9), rng.uniform(0.0, 0.1))
    subprocess.run([*command, f"output.store={parts}"], check=True, cwd=ROOT, **quiet)
    assert open_store(parts).attempts >= 8
    assert everything_in(parts) == everything_in(whole)
