"""The whole job: from a configuration to a store that xarray opens, through kills and changes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import pipeline.fit.initialization
import pipeline.sources.rows
import pipeline.store
from flows.terminal.results import how_unfinished
from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.memory import Machine, copies_of_sums, model_bytes, resting_bytes
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from messages import names
from paths import ROOT
from pipeline.config.cluster import ClusterConfig
from pipeline.config.job import JobConfig, load_config
from pipeline.fit.job import run
from pipeline.fit.plan import data_shape
from pipeline.progress import StageStarted
from pipeline.sources import open_source
from pipeline.sources.fingerprint import contents_of, require_same_contents
from pipeline.sources.rows import first_read
from pipeline.store import leading_candidate, load_checkpoint, lock, open_result, read_candidates
from pipeline.store.contents.criteria import table_so_far
from pipeline.synth import Plan, write_synthetic
from runs import JOB, Stop, everything_in, kill_after, passes_of, stop_at


@pytest.fixture
def in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def quickstart(tmp_path, **search):
    return load_config(
        ROOT / "configs/quickstart.yaml",
        [
            f"output.store={tmp_path}/result.zarr",
            "output.report=false",
            *(f"search.{key}={value}" for key, value in search.items()),
        ],
    )


def open_group(store, group):
    return xr.open_zarr(store, group=group, consolidated=False)


# -- the path of a newcomer --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_quickstart_finds_three_tied_components(tmp_path, in_project):
    summary = run(load_config(ROOT / "configs/quickstart.yaml", [f"output.store={tmp_path}/result.zarr"]))
    assert summary.best == "tied-k3"
    best = summary.table.set_index(["covariance_type", "n_components"]).loc["tied", 3]
    assert best["bic"] == pytest.approx(2314.3, abs=0.1)
    np.testing.assert_allclose(summary.weights, [0.47, 0.36, 0.17], atol=0.01)
    assert len(summary.table) == 36
    # of candidates with far too many components a spurious fit may be all that is found
    assert summary.table["status"].isin(["converged", "spurious"]).all()
    assert (summary.table["status"] == "converged").sum() >= 34
    assert {"index.html", "bic.png", "clusters.png"} <= {path.name for path in Path(summary.report).iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The quickstart's job, of 2 and 3 components, and what it found; for tests that leave the store as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config = quickstart(tmp_path_factory.mktemp("quickstart"), n_components="[2, 3]")
        return config, run(config)


def test_three_tied_components_are_found(finished):
    _, summary = finished
    assert summary.best == "tied-k3"
    np.testing.assert_allclose(summary.weights, [0.47, 0.36, 0.17], atol=0.01)


def test_xarray_opens_every_group_of_the_store(finished):
    store = finished[1].store
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


@pytest.mark.slow
def test_the_search_object_finds_the_same(tmp_path, in_project):
    config = quickstart(tmp_path, n_components="[1, 2, 3]", n_init=2)
    table = run(config).table
    X = pd.read_csv(ROOT / "configs/data/old_faithful.csv")
    search = GaussianMixtureSearch(
        [1, 2, 3], n_init=2, init_params="auto", tol=1e-5, max_iter=1000, reg_covar=1e-3, random_state=0
    ).fit(X)
    np.testing.assert_allclose(table["bic"], search.results_["bic"], rtol=1e-12)
    assert table["n_iter"].tolist() == search.results_["n_iter"].tolist()


@pytest.mark.slow
def test_blobs_reproduces_the_demo(tmp_path, in_project):
    summary = run(load_config(ROOT / "configs/blobs.yaml", [f"output.store={tmp_path}/blobs.zarr"]))
    X = pd.read_csv(ROOT / "configs/data/blobs.csv").to_numpy()
    expected = GaussianMixture(3, n_init=8, random_state=7).fit(X)
    assert summary.mean_log_likelihood == pytest.approx(expected.score(X), rel=1e-12)
    np.testing.assert_allclose(summary.weights, np.sort(expected.weights_)[::-1], rtol=1e-9)
    assert summary.row_shapes == {"label": (600,), "responsibility": (600, 3)}
    rows = open_group(summary.store, "rows")
    np.testing.assert_array_equal(rows["responsibility"].argmax("component"), rows["label"])
    np.testing.assert_allclose(rows["responsibility"].sum("component"), 1.0, rtol=1e-12)
    assert (Path(summary.report) / "clusters.png").exists()


# -- going on ----------------------------------------------------------------------------------------------------


def test_a_complete_store_is_reported_not_recomputed(finished, in_project):
    config, first = finished
    events = []
    again = run(config, progress=events.append)
    assert again.reused
    assert not events
    pd.testing.assert_frame_equal(again.table, first.table)


def test_another_configuration_is_refused_and_fresh_replaces_it(tmp_path, in_project):
    run(quickstart(tmp_path, n_components="[2]", init_params="kmeans"))
    other = quickstart(tmp_path, n_components="[3]", init_params="kmeans")
    with pytest.raises(UserError, match=names("search.n_components", "[2]", "[3]", "--fresh")):
        run(other)
    assert run(other, fresh=True).best == "tied-k3"


def csv_config(tmp_path, rows, **search):
    path = tmp_path / "data.csv"
    pd.DataFrame(rows, columns=["a", "b"]).to_csv(path, index=False)
    return JobConfig.model_validate(
        {
            "data": {"source": str(path)},
            "search": {"n_components": [1, 2], "init_params": "kmeans", **search},
            "output": {"store": str(tmp_path / "result.zarr"), "report": False},
        }
    )


def some_rows():
    return np.round(np.random.default_rng(0).normal(size=(100, 2)), 3)


def test_touched_data_is_taken_as_unchanged(tmp_path):
    config = csv_config(tmp_path, some_rows())
    run(config)
    os.utime(config.data.source, ns=(1, 1))
    assert run(config).reused


def shuffle_a_column(rows):
    rows[:, 1] = np.random.default_rng(1).permutation(rows[:, 1])


def reverse(rows):
    rows[:] = rows[::-1].copy()


def stretch(rows):
    rows[np.flatnonzero((rows[:, 1] > 1.0) & (rows[:, 1] < 1.5))[0], 1] += 0.25  # of the same width as text


@pytest.mark.parametrize(
    ("change", "difference"),
    [(shuffle_a_column, "columns vary"), (reverse, "reordered"), (stretch, "mean of column 'b'")],
)
def test_changed_data_is_refused(tmp_path, change, difference):
    rows = some_rows()
    config = csv_config(tmp_path, rows)
    run(config)
    change(rows)
    csv_config(tmp_path, rows)
    with pytest.raises(UserError, match=names("--fresh", difference)):
        run(config)


def summary_of(rows, weights=None):
    return summarize_rows(as_rows(rows, weights), 0)


def test_the_fingerprint_sees_ranges_and_weights():
    rows = some_rows()
    before = contents_of(summary_of(rows))
    for key, word in (("minima", "minimum"), ("maxima", "maximum")):
        after = {**before, key: [before[key][0], before[key][1] * 1.5]}
        with pytest.raises(UserError, match=names(word, "column 'b'")):
            require_same_contents("r.zarr", ("a", "b"), before, after)
    weights = np.tile([1.0, 2.0], 50)
    doubled = np.repeat(rows[:50], 2, axis=0)  # swapping the weights changes no moment
    first, second = (contents_of(summary_of(doubled, w)) for w in (weights, weights[::-1].copy()))
    with pytest.raises(UserError, match=names("--fresh", "reordered")):
        require_same_contents("r.zarr", ("a", "b"), first, second)


def test_the_fingerprint_is_small_and_knows_constant_columns():
    rows = np.random.default_rng(0).normal(size=(50, 300))
    rows[:, 7] = 3.0
    contents = contents_of(summary_of(rows))
    assert len(contents["variances"]) == 8
    assert np.isfinite(contents["variances"]).all()
    require_same_contents("r.zarr", tuple(map(str, range(300))), contents, json.loads(json.dumps(contents)))


def test_data_that_change_during_the_run_are_refused(tmp_path, monkeypatch):
    rows = some_rows()
    config = csv_config(tmp_path, rows)

    def read_then_change(*args):
        found = first_read(*args)
        monkeypatch.setattr(pipeline.fit.initialization, "first_read", first_read)
        shuffle_a_column(rows)
        csv_config(tmp_path, rows)
        os.utime(config.data.source, ns=(1, 1))
        return found

    monkeypatch.setattr(pipeline.fit.initialization, "first_read", read_then_change)
    with pytest.raises(UserError, match=names("changed", "columns", "--fresh")):
        run(config)
    assert not open_result(config.output.store, unfinished=True).is_complete


@pytest.mark.parametrize("wrong", ["nan", "components"])
def test_a_refused_run_that_saved_nothing_leaves_nothing(tmp_path, wrong):
    rows = some_rows()
    good = csv_config(tmp_path, rows)
    bad = csv_config(tmp_path, rows, **({"n_components": [101]} if wrong == "components" else {}))
    if wrong == "nan":
        csv_config(tmp_path, np.where(rows == rows.max(), np.nan, rows))
    with pytest.raises(UserError):
        run(bad)
    assert not Path(good.output.store).exists()
    csv_config(tmp_path, rows)
    assert not run(good).reused
    kept = everything_in(good.output.store)[0]
    with pytest.raises(UserError):
        run(csv_config(tmp_path, rows, n_components=[101]), fresh=True)
    csv_config(tmp_path, rows)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".csv", ".zarr", ".lock"}
    assert run(good).reused
    assert everything_in(good.output.store)[0] == kept


def test_a_run_that_was_stopped_before_it_saved_anything_begins_anew(tmp_path):
    config = csv_config(tmp_path, some_rows())

    def stop(event):
        if isinstance(event, StageStarted) and event.name == "seed":
            raise Stop

    with pytest.raises(Stop):
        run(config, progress=stop)
    assert "nothing yet" in how_unfinished(open_result(config.output.store, unfinished=True))
    events = []
    assert not run(config, progress=events.append).reused
    assert events[0].name == "resume"
    assert re.search(names(config.output.store, "no checkpoint"), events[0].detail)


def test_fits_that_all_fail_are_begun_anew_by_fresh(tmp_path):
    config = csv_config(tmp_path, np.repeat(some_rows()[:3], 40, axis=0), reg_covar=0.0, n_components=[3])
    with pytest.raises(UserError, match=names("could be fitted", "--fresh")):
        run(config)
    assert read_candidates(config.output.store).has_failed


def test_a_second_run_on_a_store_is_refused(tmp_path, in_project):
    config = quickstart(tmp_path)
    with lock(config.output.store), pytest.raises(UserError, match=names("another run", config.output.store)):
        run(config)


def test_what_does_not_fit_the_memory_is_refused_before_a_store_is_made(tmp_path, in_project):
    config = load_config(
        ROOT / "configs/quickstart.yaml", [f"output.store={tmp_path}/result.zarr", "cluster.memory_limit=100MiB"]
    )
    with pytest.raises(UserError, match=r"100 MiB.* 5\d\d MiB"):
        run(config)
    assert not (tmp_path / "result.zarr").exists()


def test_a_smaller_memory_limit_makes_waves_with_the_same_result(tmp_path):
    write_synthetic(tmp_path / "data.npy", Plan(600, 40, 3))
    values = {
        "data": {"source": str(tmp_path / "data.npy"), "chunk_rows": 600},
        "search": {
            "n_components": [1, 2, 3, 4],
            "covariance_types": ["full"],
            "n_init": 4,
            "init_params": "kmeans",
            "max_iter": 5,
        },
    }
    whole = JobConfig.model_validate({**values, "output": {"store": str(tmp_path / "whole.zarr"), "report": False}})
    shape = data_shape(whole, open_source(whole.data))
    machine = Machine(1, 0)
    resting = resting_bytes(shape, machine, [Candidate("full", k) for k in range(1, 5)], 4)
    least = resting + 4 * copies_of_sums(shape, machine) * model_bytes(Candidate("full", 4), 40)
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
    assert f"2 of {len(waves)}" in waves[1]
    pd.testing.assert_frame_equal(*tables, rtol=1e-9)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, in_project):
    whole = quickstart(tmp_path / "whole", n_components="[1, 2, 4]", n_init=2, init_params="kmeans")
    parts = quickstart(tmp_path / "parts", n_components="[1, 2, 4]", n_init=2, init_params="kmeans")
    run(whole, checkpoint_seconds=0.0)
    for number in (3, 4, 20, 21, 60):
        with pytest.raises(Stop):
            run(parts, progress=stop_at(number), checkpoint_seconds=0.0)
        assert load_checkpoint(parts.output.store).passes == number - 1
    events = []
    run(parts, progress=events.append, checkpoint_seconds=0.0)
    assert isinstance(events[0], StageStarted)
    assert events[0].name == "resume"
    assert "pass 59" in events[0].detail
    assert everything_in(parts.output.store) == everything_in(whole.output.store)
    assert open_result(parts.output.store).attempts == 6


def limited(config, memory):
    return config.model_copy(update={"cluster": ClusterConfig(memory_limit=memory)})


def test_a_complete_store_is_reported_whatever_the_memory(finished, in_project):
    assert run(limited(finished[0], "100MiB")).reused


def test_waves_that_do_not_fit_a_smaller_memory_are_refused(tmp_path, in_project):
    config = quickstart(tmp_path, n_components="[2]", init_params="kmeans")
    with pytest.raises(Stop):
        run(config, progress=stop_at(4), checkpoint_seconds=0.0)
    with pytest.raises(UserError, match=names("memory_limit", "100 MiB", "unfinished", "--fresh")):
        run(limited(config, "100MiB"), checkpoint_seconds=0.0)
    assert run(config, checkpoint_seconds=0.0).best == "full-k2"


def test_waves_that_are_done_are_not_read_again(tmp_path, in_project):
    config = quickstart(tmp_path, n_components="[2]")

    def stop(event):
        if event.name == "select":
            raise Stop

    with pytest.raises(Stop):
        run(config, progress=lambda event: isinstance(event, StageStarted) and stop(event))
    number = open_result(config.output.store, unfinished=True).checkpoint
    events = []
    with pytest.raises(Stop):
        run(config, progress=lambda event: events.append(event.name) or stop(event))
    assert events == ["resume", "select"]
    assert open_result(config.output.store, unfinished=True).checkpoint == number


def zarr_config(tmp_path, rows, chunk_rows):
    zarr.create_array(tmp_path / "data.zarr", data=rows, chunks=(chunk_rows, 2), overwrite=True)
    return JobConfig.model_validate(
        {
            "data": {"source": str(tmp_path / "data.zarr"), "chunk_rows": chunk_rows},
            "search": {"n_components": [2], "init_params": "kmeans", "tol": 0.0, "max_iter": 9},
            "output": {"store": str(tmp_path / "result.zarr"), "report": False},
        }
    )


def test_going_on_with_other_chunks_is_refused_unless_held(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    config = zarr_config(tmp_path, some_rows(), 30)
    with pytest.raises(Stop):
        run(config, progress=stop_at(4), checkpoint_seconds=0.0)
    zarr_config(tmp_path, some_rows(), 20)
    with pytest.raises(UserError, match=names("4 of up to 30 rows", "5 of up to 20", "--fresh", "data.chunk_rows")):
        run(config, checkpoint_seconds=0.0)
    zarr_config(tmp_path, some_rows(), 30)
    assert run(config, checkpoint_seconds=0.0).row_shapes == {"label": (100,)}
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 16 << 20)
    with pytest.raises(Stop):
        run(config, fresh=True, progress=stop_at(4), checkpoint_seconds=0.0)
    zarr_config(tmp_path, some_rows(), 20)
    assert run(config, checkpoint_seconds=0.0).row_shapes == {"label": (100,)}


# -- the choice --------------------------------------------------------------------------------------------------


def test_the_winner_is_the_chosen_one_also_in_a_tie(tmp_path, monkeypatch):
    """With one component, full and tied are one model, whose criteria differ by rounding."""
    config = csv_config(tmp_path, some_rows(), n_components=[1], covariance_types=["full", "tied"])
    assert run(config).best == "full-k1"
    table = open_result(config.output.store).criteria.assign(bic=[1.0, 1.0 - 1e-15], log_likelihood=[-200.0, -300.0])
    monkeypatch.setattr("pipeline.store.result.read_criteria", lambda path: table)
    assert run(config).mean_log_likelihood == -2.0


def test_the_leader_of_a_run_is_that_of_its_table(tmp_path, in_project):
    config, events = quickstart(tmp_path, init_params="kmeans"), []
    with pytest.raises(Stop):
        run(config, progress=lambda event: events.append(event) or stop_at(9)(event), checkpoint_seconds=0.0)
    checkpoint = load_checkpoint(config.output.store)
    table = table_so_far(checkpoint.states, checkpoint.data_summary)
    name, value = leading_candidate(checkpoint.states, checkpoint.data_summary, "bic")
    assert (name, value) == (read_candidates(config.output.store).leader, table["bic"].min())
    assert name == events[-2].best
    assert leading_candidate(checkpoint.states, checkpoint.data_summary, "icl") == (None, None)


@pytest.mark.slow
def test_six_kills_in_a_row_change_no_bit(tmp_path):
    """kill -9 at random moments; each run goes on where the one before was."""
    write_synthetic(tmp_path / "data.zarr", Plan(30_000, 6, 4, seed=3))
    job = tmp_path / "job.yaml"
    job.write_text(
        f"data: {{source: {tmp_path}/data.zarr, chunk_rows: 5000}}\n"
        "search: {n_components: [2, 3, 5], n_init: 2, tol: 0.0, max_iter: 60}\n"
    )
    command = [sys.executable, "-c", JOB, str(job), "output.report=false"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole, parts = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    subprocess.run([*command, f"output.store={whole}"], check=True, cwd=ROOT, **quiet)
    rng = np.random.default_rng(0)
    for _ in range(6):
        process = subprocess.Popen([*command, f"output.store={parts}"], cwd=ROOT, **quiet)
        kill_after(process, parts, passes_of(parts) + rng.integers(0, 9), rng.uniform(0.0, 0.1))
    subprocess.run([*command, f"output.store={parts}"], check=True, cwd=ROOT, **quiet)
    assert open_result(parts).attempts >= 5
    assert everything_in(parts) == everything_in(whole)
