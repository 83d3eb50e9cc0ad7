import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from gmm_dask.em.loop import State, Status
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Parameters
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import DataSummary, Unusable
from gmm_dask.passes.resolution import Resolution
from gmm_dask.selection.outcomes import Outcome
from messages import names
from mixtures import random_parameters
from paths import ROOT
from pipeline.config.job import JobConfig
from pipeline.store import (
    Checkpoint,
    DamagedError,
    Identity,
    RowPlan,
    StoreStatus,
    Totals,
    ZarrRows,
    complete,
    find_store,
    load_checkpoint,
    lock,
    open_result,
    prepare_store,
    read_candidates,
    save_checkpoint,
    write_criteria,
    write_models,
)
from pipeline.store.arrays import new_group, put
from pipeline.store.contents.criteria import read_criteria, read_effort
from pipeline.store.contents.models import read_model
from pipeline.transforms import Chain
from pipeline.transforms.scale import Scale
from stores import stored_data

CONFIG = JobConfig.model_validate(
    {"name": "a", "data": {"source": "a.csv"}, "search": {"n_components": [1, 2]}, "output": {"store": "r.zarr"}}
).model_dump(mode="json")
DATA = stored_data(("x", "y", "z"))
D = 3


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "r.zarr"
    prepare_store(path, CONFIG, DATA)
    return path


def parameters(kind, k, seed=0):
    weights = np.random.default_rng(seed).permutation(np.arange(1.0, k + 1))
    return replace(random_parameters(kind, k, D, seed), weights=weights / weights.sum())


def state(kind="full", k=2, start=0, status=Status.RUNNING, bounds=(-3.5, -3.25), seed=0):
    return State(Candidate(kind, k), start, parameters(kind, k, seed), bounds, status)


def states_of_all_kinds():
    return [state(kind, k, start, seed=k + 10 * start) for kind in FAMILIES for k in (1, 2, 5) for start in range(2)]


def data_summary(seed=0):
    rng = np.random.default_rng(seed)
    return DataSummary(
        n_rows=10,
        total_weight=0.1 + 0.2,
        center=rng.normal(size=D),
        scatter=rng.normal(size=(D, D)),
        minimum=rng.normal(size=D),
        maximum=rng.normal(size=D),
        chunk_rows=(6, 4),
        sample=rng.normal(size=(10, D)),
        sample_weights=None,
        known_resolution=Resolution.of(rng.normal(size=(10, D))),
        unusable=Unusable((1, 0), np.array([1] * D), 1),
        log_scale=0.1 + 0.7,
    )


def save(path, states, data_summary, passes):
    save_checkpoint(path, Checkpoint(states, data_summary, passes, waves=(1, len(states) - 1)))


def load(path):
    found = load_checkpoint(path)
    assert found.waves == (1, len(found.states) - 1)
    return found.states, found.data_summary, found.passes


def outcome(of, bic):
    return Outcome(of, 7, {"bic": bic, "aic": bic + 1, "icl": bic + 2, "elbo": np.nan, "held_out": np.nan}, -bic / 2)


def assert_same_bits(a, b):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


def assert_same_parameters(a, b):
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        assert_same_bits(getattr(a, name), getattr(b, name))


def plain_fields(of):
    return {field.name: getattr(of, field.name) for field in fields(State) if field.name != "parameters"}


def assert_same_states(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.parameters is None) == (b.parameters is None)
        if b.parameters is not None:
            assert_same_parameters(a.parameters, b.parameters)
        assert plain_fields(a) == plain_fields(b)
        assert type(a.n_components) is int
        assert type(a.start) is int


def attributes(path):
    return json.loads((Path(path) / "zarr.json").read_text())["attributes"]


def write_everything(path):
    """A whole result: all kinds of models, one of them singular."""
    states = [replace(s, status=Status.CONVERGED) for s in states_of_all_kinds()]
    save(path, states, data_summary(), passes=5)
    missing = states[0].candidate._replace(n_components=9)
    singular = replace(states[0], candidate=missing, parameters=None, status=Status.SINGULAR, lower_bounds=())
    outcomes = [outcome(s, 100.0 + i) for i, s in enumerate(states)]
    write_criteria(path, [*outcomes, outcome(singular, np.nan)])
    write_models(path, [s for s in states if s.start == 0], ["x", "y", "z"])
    rows = ZarrRows(path, RowPlan((4, 4, 2), (0, 1, 2), ("label", "log_density", "responsibility"), "token"))
    rows.begin()
    for number, n_rows in enumerate(rows.plan.lengths):
        values = {"label": np.zeros(n_rows), "log_density": np.ones(n_rows), "responsibility": np.ones((n_rows, 3))}
        rows.write(number, values, Totals(n_rows, 0.0, 0.0, np.array([n_rows, 0, 0])))
    rows.finish({"usable": 10})


def finish(path):
    complete(
        path, identity=Identity("a line", 3), best="full-k2", passes=9, bytes_read=90, n_rows=10, total_weight=10.0
    )


# -- making and finding --------------------------------------------------------------------------------------


def test_a_new_store(store):
    found = open_result(store, unfinished=True)
    assert (found.status, found.is_complete, found.attempts, found.passes) == ("running", False, 1, 0)
    assert found.best is None
    assert found.checkpoint is None
    assert found.config == CONFIG
    assert found.data == DATA
    assert {"gmm-dask", "python", "numpy", "zarr"} <= found.software.keys()
    assert attributes(store)["format"] == "gmm-dask-result"
    assert attributes(store)["format_version"] == 1


def test_the_life_of_a_store(tmp_path):
    path = tmp_path / "deep" / "r.zarr"
    assert prepare_store(path, CONFIG, DATA) is StoreStatus.NEW
    assert prepare_store(path, CONFIG, DATA) is StoreStatus.NEW  # there is nothing to go on from
    save(path, [state()], data_summary(), passes=3)
    assert prepare_store(str(path), CONFIG, DATA) is StoreStatus.UNFINISHED
    assert open_result(path, unfinished=True).attempts == 3
    assert open_result(path, unfinished=True).passes == 3
    identity = Identity("a line", 3)
    complete(path, identity=identity, best="tied-k3", passes=7, bytes_read=70, n_rows=10, total_weight=2.5)
    assert prepare_store(path, CONFIG, DATA) is StoreStatus.COMPLETE
    found = open_result(path)
    assert (found.status, found.best, found.passes, found.bytes_read) == ("complete", "tied-k3", 7, 70)
    assert (found.attempts, found.n_rows, found.total_weight) == (3, 10, 2.5)
    assert not (path / "checkpoint").exists()


@pytest.mark.parametrize(
    "name", ["night#1.zarr", "night?1.zarr", "a%20b.zarr", "\x1b[31mred.zarr", "file:a.zarr", "a b&c=d.zarr"]
)
def test_names_that_would_mean_something_in_a_url(name, tmp_path):
    path = tmp_path / name
    prepare_store(path, CONFIG, DATA)
    save_checkpoint(path, Checkpoint([state()], data_summary(), 1, (1,)))
    assert len(load_checkpoint(path).states) == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == [name]


def test_status_is_text():
    assert StoreStatus.NEW == "new"
    assert f"{StoreStatus.UNFINISHED}" == "unfinished"


@pytest.mark.parametrize("done", [False, True])
def test_fresh_starts_over(store, done):
    write_everything(store)
    if done:
        finish(store)
    other = {**CONFIG, "search": {**CONFIG["search"], "tol": 0.5}}
    assert prepare_store(store, other, {**DATA, "n_rows": 11}, fresh=True) is StoreStatus.NEW
    found = open_result(store, unfinished=True)
    assert (found.attempts, found.passes, found.best, found.checkpoint) == (1, 0, None, None)
    assert found.config == other
    assert found.data["n_rows"] == 11
    assert [entry.name for entry in store.iterdir()] == ["zarr.json"]


def test_fresh_without_a_store(tmp_path):
    assert prepare_store(tmp_path / "r.zarr", CONFIG, DATA, fresh=True) is StoreStatus.NEW


def test_a_store_without_a_checkpoint_is_made_anew_for_any_job(store):
    (store / "left").mkdir()
    other = {**CONFIG, "search": {**CONFIG["search"], "tol": 0.5}}
    assert find_store(store) is StoreStatus.NEW
    assert prepare_store(store, other, {**DATA, "n_rows": 11}) is StoreStatus.NEW
    found = open_result(store, unfinished=True)
    assert (found.config, found.data["n_rows"], found.attempts) == (other, 11, 2)
    assert [entry.name for entry in store.iterdir()] == ["zarr.json"]


def test_finding_a_store_leaves_it_as_it_is(tmp_path):
    path = tmp_path / "r.zarr"
    assert find_store(path) is StoreStatus.NEW
    assert not path.exists()
    prepare_store(path, CONFIG, DATA)
    save(path, [state()], data_summary(), passes=3)
    assert find_store(path) is StoreStatus.UNFINISHED
    finish(path)
    assert find_store(path) is StoreStatus.COMPLETE
    assert open_result(path).attempts == 1


def test_another_configuration_is_refused_with_the_difference(store):
    save(store, [state()], data_summary(), passes=1)
    search = {**CONFIG["search"], "tol": 1e-5, "n_init": 3}
    other = {**CONFIG, "search": search}
    changes = ("search.n_init", "1 there", "3 here", "search.tol", "0.001 there", "1e-05 here")
    with pytest.raises(UserError, match=names(store, *changes, "--fresh")):
        prepare_store(store, other, DATA)
    assert open_result(store, unfinished=True).attempts == 1


def test_other_data_are_refused_with_the_difference(store):
    save(store, [state()], data_summary(), passes=1)
    change = ("n_rows", "10 there", "12 here")
    with pytest.raises(UserError, match=names(store, *change, "output.store", "--fresh")):
        prepare_store(store, CONFIG, {**DATA, "n_rows": 12})


def test_what_computes_and_where_does_not_matter(store):
    other = {
        **CONFIG,
        "name": "b",
        "cluster": {"kind": "local"},
        "output": {**CONFIG["output"], "store": "moved.zarr"},
    }
    save(store, [state()], data_summary(), passes=1)
    assert prepare_store(store, other, DATA) is StoreStatus.UNFINISHED


def test_nan_in_attributes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=names("JSON")):
        prepare_store(tmp_path / "r.zarr", CONFIG, {"mean": float("nan")})
    assert not (tmp_path / "r.zarr").exists()


def _file(path):
    path.write_text("mine")


def _folder(path):
    path.mkdir()
    (path / "thesis.tex").write_text("mine")


def _group(path):
    zarr.create_group(path, attributes={"mine": True})


def _array(path):
    zarr.create_array(path, data=np.arange(3))


def _old_group(path):
    zarr.create_group(path, zarr_format=2, attributes={"format": "gmm-dask-result"})


def _broken(path):
    path.mkdir()
    (path / "zarr.json").write_text("{")


@pytest.mark.parametrize("make", [_file, _folder, _group, _array, _old_group, _broken])
@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_not_ours_is_never_touched(tmp_path, make, fresh):
    path = tmp_path / "r.zarr"
    make(path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=names(path, "not a result store", "another path")):
        prepare_store(path, CONFIG, DATA, fresh=fresh)
    with pytest.raises(UserError, match=names(path, "not a result store", "gmm-dask ls")):
        open_result(path)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


def test_an_empty_folder_may_become_a_store(tmp_path):
    (tmp_path / "zarr.0123.partial").touch()  # left by a run that was killed in its first write
    assert prepare_store(tmp_path, CONFIG, DATA) is StoreStatus.NEW
    assert [file.name for file in tmp_path.iterdir()] == ["zarr.json"]


def test_another_format_version_is_refused(store):
    zarr.open_group(store).attrs["format_version"] = 2
    with pytest.raises(UserError, match=names("version 2", "version 1")):
        prepare_store(store, CONFIG, DATA, fresh=True)


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=names("output.store", tmp_path / "file/r.zarr", "Not a directory")):
        prepare_store(tmp_path / "file" / "r.zarr", CONFIG, DATA)
    with (
        pytest.raises(UserError, match=names("output.store", tmp_path / "file/r.zarr.lock")),
        lock(tmp_path / "file" / "r.zarr"),
    ):
        pass


def test_opening_what_is_not_there_or_not_complete(store, tmp_path):
    with pytest.raises(UserError, match=names("no result store", tmp_path / "no.zarr", "'gmm-dask run'")):
        open_result(tmp_path / "no.zarr")
    with pytest.raises(UserError, match=names(store, "'running'", "0 passes")):
        open_result(store)


# -- checkpoints ---------------------------------------------------------------------------------------------


def test_states_round_trip_bit_for_bit(store):
    states, saved = states_of_all_kinds(), data_summary()
    save(store, states, saved, passes=4)
    found, found_summary, passes = load(store)
    assert passes == 4
    assert_same_states(found, states)
    for name in ("center", "scatter", "minimum", "maximum"):
        assert_same_bits(getattr(found_summary, name), getattr(saved, name))
    assert (found_summary.n_rows, found_summary.chunk_rows) == (10, (6, 4))
    assert found_summary.total_weight == saved.total_weight
    assert_same_bits(found_summary.sample, saved.sample)
    assert found_summary.sample_weights is None
    assert found_summary.log_scale == saved.log_scale
    assert found_summary.read_rows == (7, 4)
    assert_same_bits(found_summary.unusable.columns, saved.unusable.columns)
    assert found_summary.unusable.weights == 1


def test_states_of_every_kind_of_end(store):
    odd = parameters("diag", 2)
    odd.covariances[...] = -0.0
    odd.means[0] = [5e-324, np.inf, -np.nan]
    states = [
        State(Candidate("full", 2), 0, None, (), Status.SINGULAR),
        State(Candidate("diag", 2), 1, odd, (-0.0, 1e308), Status.SINGULAR),
        State(Candidate("tied", 3), 0, parameters("tied", 3), (), Status.RUNNING, prior_bound=-2.5),
        State(Candidate("spherical", 1), 0, parameters("spherical", 1), (1.0,) * 50, Status.CONVERGED),
        State(Candidate("spherical", 1), 1, parameters("spherical", 1), (1.0,), Status.MAX_ITER),
    ]
    save(store, states, data_summary(), passes=1)
    assert_same_states(load(store)[0], states)


def test_a_data_summary_before_any_state(store):
    save(store, [], data_summary(), passes=1)
    assert load(store)[0] == []


def test_the_checkpoint_before_goes(store):
    for passes in (1, 2, 3):
        save(store, [state(seed=passes)], data_summary(), passes)
    assert [group.name for group in store.glob("checkpoint/*/")] == ["3"]
    assert_same_states(load(store)[0], [state(seed=3)])
    assert attributes(store)["checkpoint"] == 3
    assert attributes(store)["passes"] == 3


def test_no_checkpoint(store):
    with pytest.raises(UserError, match=names("no checkpoint", "--fresh")):
        load(store)


def _lose(group):
    shutil.rmtree(group)


def _lose_a_chunk(group):
    (group / "float64/c/0").unlink()  # read as zeros


def _lose_an_array(group):
    shutil.rmtree(group / "int64")


def _cut_a_chunk(group):
    chunk = group / "float64/c/0"
    chunk.write_bytes(chunk.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [_lose, _lose_a_chunk, _lose_an_array, _cut_a_chunk])
def test_a_damaged_checkpoint_is_refused(store, damage):
    save(store, states_of_all_kinds(), data_summary(), passes=1)
    damage(store / "checkpoint/1")
    assert issubclass(DamagedError, UserError)
    with pytest.raises(DamagedError, match=names("checkpoint/1", store, "damaged", "--fresh")):
        load(store)


def test_showing_a_store_reads_again_when_the_run_replaces_its_checkpoint(tmp_path, monkeypatch):
    store = tmp_path / "r.zarr"
    prepare_store(store, CONFIG, DATA)
    save(store, [state(), state("tied")], data_summary(), passes=1)
    calls = []

    def torn(path, number):
        calls.append(path)
        if len(calls) == 1:
            raise DamagedError("half of it is gone")
        return load_checkpoint(path, number)

    monkeypatch.setattr("pipeline.store.result.load_checkpoint", torn)
    assert read_candidates(store).leader == "full-k2"
    assert len(calls) == 2


class Killed(BaseException):
    """Not an Exception: nothing on the way cleans up after it, as nothing does after kill -9."""


def dies_in_write(monkeypatch, number):
    """Let the process die when it renames its ``number``-th file into place."""
    rename, count = Path.replace, 0

    def dying(self, target):
        nonlocal count
        count += 1
        if count >= number:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", dying)


def test_a_crash_in_any_write_leaves_this_checkpoint_or_the_one_before(tmp_path, monkeypatch):
    before, after = [state(seed=1)], [state(seed=2), state("tied", seed=3)]
    outcomes = []
    for number in range(1, 1000):
        path = tmp_path / f"{number}.zarr"
        prepare_store(path, CONFIG, DATA)
        save(path, before, data_summary(1), passes=1)
        with monkeypatch.context() as patched:
            dies_in_write(patched, number)
            try:
                save(path, after, data_summary(2), passes=2)
                died = False
            except Killed:
                died = True
        found, found_summary, passes = load(path)
        assert_same_states(found, before if passes == 1 else after)
        assert_same_bits(found_summary.center, data_summary(passes).center)
        outcomes.append(passes)
        assert prepare_store(path, CONFIG, DATA) is StoreStatus.UNFINISHED
        assert_tidy(path)
        save(path, after, data_summary(2), passes=2)
        assert_same_states(load(path)[0], after)
        if not died:
            break
    assert outcomes == [1] * (len(outcomes) - 1) + [2]  # the write that makes it current is the last
    assert len(outcomes) > 10


@pytest.mark.parametrize("number", [1, 6, 11])
def test_kill_9_while_a_checkpoint_is_saved(store, number):
    save(store, [state(seed=1)], data_summary(), passes=1)
    script = f"""
import os, signal
from pathlib import Path
import numpy as np
from dataclasses import fields, replace
from pipeline.store import load_checkpoint, save_checkpoint
checkpoint = load_checkpoint({str(store)!r})
rename, count = Path.replace, 0
def dying(self, target):
    global count
    count += 1
    if count >= {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.replace = dying
save_checkpoint({str(store)!r}, replace(checkpoint, passes=2))
"""
    killed = subprocess.run([sys.executable, "-c", script], env=_environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(store.rglob("*.partial"))
    assert_same_states(load(store)[0], [state(seed=1)])
    assert prepare_store(store, CONFIG, DATA) is StoreStatus.UNFINISHED
    assert_tidy(store)


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_crash_in_complete_leaves_it_unfinished(store, monkeypatch):
    save(store, [state()], data_summary(), passes=1)
    with monkeypatch.context() as patched:
        dies_in_write(patched, 1)
        with pytest.raises(Killed):
            finish(store)
    assert prepare_store(store, CONFIG, DATA) is StoreStatus.UNFINISHED
    assert open_result(store, unfinished=True).best is None
    assert_same_states(load(store)[0], [state()])


def test_a_crash_after_complete_leaves_it_complete(store, monkeypatch):
    save(store, [state()], data_summary(), passes=1)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *args, **kwargs: None)
        finish(store)
    assert (store / "checkpoint").exists()
    assert prepare_store(store, CONFIG, DATA) is StoreStatus.COMPLETE
    assert not (store / "checkpoint").exists()


def test_a_crash_in_fresh_leaves_nothing_of_the_old_result(store, monkeypatch):
    write_everything(store)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *args, **kwargs: None)
        prepare_store(store, {**CONFIG, "search": {}}, DATA, fresh=True)
    assert prepare_store(store, {**CONFIG, "search": {}}, DATA) is StoreStatus.NEW
    assert_tidy(store)
    with pytest.raises(UserError, match=names(store, "no criteria")):
        read_criteria(store)


# -- criteria ------------------------------------------------------------------------------------------------


def test_criteria_of_candidates_and_starts(store):
    worse = state("tied", 2, start=0, status=Status.CONVERGED, bounds=(-4.0, -3.5))
    better = state("tied", 2, start=1, status=Status.MAX_ITER, bounds=(-4.0, -3.5, -3.0))
    better = replace(better, sample_iter=7)
    singular = State(Candidate("full", 3), 0, None, (), Status.SINGULAR)
    write_criteria(store, [outcome(worse, 20.0), outcome(better, 10.0), outcome(singular, np.nan)])
    table = read_criteria(store)
    assert list(table.columns) == [
        "n_components", "covariance_type", "noise", "status", "bic", "aic", "icl", "elbo", "held_out",
        "log_likelihood", "held_out_log_likelihood", "held_out_error", "n_parameters", "n_iter", "slim_component",
        "slim_gain",
        "slim_price", "extrapolations", "falls", "sample_iter", "starts", "untrusted", "agreed", "spread", "agreeing",
    ]  # fmt: skip
    unknown = ["elbo", "held_out", "held_out_log_likelihood", "held_out_error", "slim_gain", "slim_price"]
    assert table[unknown].isna().all(axis=None)
    assert set(table.pop("slim_component")) == {-1}
    first, second = table.drop(columns=unknown).to_dict("records")
    assert first == {
        "n_components": 2,
        "covariance_type": "tied",
        "noise": False,
        "status": "max_iter",
        "bic": 10.0,
        "aic": 11.0,
        "icl": 12.0,
        "log_likelihood": -5.0,
        "n_parameters": 7,
        "n_iter": 3,
        "starts": 2,
        "untrusted": 0,
        "agreed": 1,
        "spread": 0.5,
        "agreeing": (1,),
        "extrapolations": 0,
        "falls": 0,
        "sample_iter": 7,
    }
    assert (second["n_components"], second["covariance_type"], second["status"]) == (3, "full", "singular")
    assert np.isnan(second["bic"])
    assert table["bic"].dtype == np.float64
    assert table["n_iter"].dtype == np.int64

    starts = xr.open_zarr(store, group="criteria", consolidated=False).load()
    assert starts["start_bic"].dims == ("n_components", "covariance_type", "start")
    assert starts["start_bic"].sel(n_components=2, covariance_type="tied").values.tolist() == [20.0, 10.0]
    assert starts["start_agreed"].sel(n_components=2, covariance_type="tied").values.tolist() == [False, True]
    assert read_effort(store) == (3, 5, 0, 0, 7)
    assert starts["start_status"].sel(n_components=3, covariance_type="full", start=0).item() == "singular"


def test_criteria_of_all_candidates_come_in_order(store):
    outcomes = [outcome(state(kind, k), float(k)) for k in (1, 2) for kind in ("tied", "diag")]
    write_criteria(store, outcomes)
    write_criteria(store, outcomes)  # as after a resume
    table = read_criteria(store)
    assert list(zip(table["covariance_type"], table["n_components"], strict=True)) == [
        ("tied", 1),
        ("tied", 2),
        ("diag", 1),
        ("diag", 2),
    ]
    assert table["bic"].tolist() == [1.0, 2.0, 1.0, 2.0]


def test_no_criteria_yet(store):
    with pytest.raises(UserError, match=names(store, "no criteria")):
        read_criteria(store)


# -- models --------------------------------------------------------------------------------------------------


def test_model_names():
    assert state("tied", 3).candidate.name == "tied-k3"


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_models_are_sorted_by_weight(store, kind, k):
    fitted = state(kind, k, start=2, status=Status.CONVERGED, seed=k)
    write_models(store, [fitted], ["x", "y", "z"])
    found = read_model(store, fitted.candidate.name)
    order = np.argsort(fitted.parameters.weights)[::-1]
    shared = kind == "tied"
    expected = Parameters(
        fitted.parameters.weights[order],
        fitted.parameters.means[order],
        fitted.parameters.covariances if shared else fitted.parameters.covariances[order],
        fitted.parameters.precisions_cholesky if shared else fitted.parameters.precisions_cholesky[order],
    )
    assert_same_states([found], [replace(fitted, parameters=expected)])


def test_components_of_equal_weight_keep_their_order(store):
    fitted = state("diag", 3)
    equal = replace(fitted, parameters=replace(fitted.parameters, weights=np.full(3, 1 / 3)))
    write_models(store, [equal], ["x", "y", "z"])
    assert_same_parameters(read_model(store, "diag-k3").parameters, equal.parameters)


@pytest.mark.parametrize(
    ("kind", "dimensions"),
    [
        ("full", ("component", "feature", "feature_other")),
        ("tied", ("feature", "feature_other")),
        ("diag", ("component", "feature")),
        ("spherical", ("component",)),
    ],
)
def test_models_open_with_xarray(store, kind, dimensions):
    write_models(store, [state(kind, D)], ["x", "y", "z"])  # as many components as features
    model = xr.open_zarr(store, group=f"models/{kind}-k{D}", consolidated=False)
    assert model["covariances"].dims == dimensions
    assert model["means"].sel(feature="y").shape == (D,)
    assert model["lower_bounds"].values.tolist() == [-3.5, -3.25]
    assert model.attrs["covariance_type"] == kind
    assert list(read_model(store, f"{kind}-k{D}").columns) == ["x", "y", "z"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_scaled_models_have_their_parameters_in_the_users_units_beside_them(store, kind):
    center, scale = np.array([10.0, -3.0, 0.5]), np.array([2.0, 0.1, 30.0])
    fitted = replace(state(kind, 3), parameters=random_parameters(kind, 3, D))
    scaling, log_scale = Chain((Scale(center, scale),)), float(np.log(scale).sum())
    write_models(store, [fitted], ["x", "y", "z"], scaling, log_scale=log_scale)
    model = xr.open_zarr(store, group=f"models/{kind}-k3", consolidated=False).load()
    found = read_model(store, f"{kind}-k3")
    assert_same_bits(found.transform.scaling.center, center)
    assert_same_bits(found.transform.scaling.scale, scale)
    np.testing.assert_allclose(model["means_unscaled"], model["means"].values * scale + center, rtol=1e-15)
    np.testing.assert_allclose(model["lower_bounds"], np.array([-3.5, -3.25]) - np.log(scale).sum(), rtol=1e-15)
    name, unscaled = found.in_units
    # columns of different scales change shapes and axes, and leave equal volumes equal
    changed = {"spherical": "diag", "EII": "EEI", "EVE": "EVV", "EEV": "EVV", "VVE": "full", "VEV": "full"}
    assert name == changed.get(kind, kind)
    np.testing.assert_array_equal(model["covariances_unscaled"], unscaled.covariances)
    full = FAMILIES[kind].full_covariances(found.parameters) * np.outer(scale, scale)
    np.testing.assert_allclose(FAMILIES[name].full_covariances(unscaled), full, rtol=1e-14)
    factors = FAMILIES[name].precisions_cholesky(unscaled.covariances)
    np.testing.assert_allclose(unscaled.precisions_cholesky, factors, rtol=1e-9, atol=1e-15)


def test_no_such_model(store):
    with pytest.raises(UserError, match=names(store, "'full-k2'", "none")):
        read_model(store, "full-k2")
    write_models(store, [state("tied", 3), state("diag", 2)], ["x", "y", "z"])
    with pytest.raises(UserError, match=names("diag-k2", "tied-k3")):
        read_model(store, "full-k2")


# -- the lock ------------------------------------------------------------------------------------------------


def test_one_run_a_store(tmp_path):
    path = tmp_path / "deep" / "r.zarr"
    with lock(path):
        expected = names("another run", f"{path}/", f"{path}.lock", "output.store")
        with pytest.raises(UserError, match=expected), lock(f"{path}/"):
            pass
        with lock(tmp_path / "other.zarr"):
            pass
    with lock(path):
        pass
    assert not path.exists()


def test_a_lock_stays_beside_what_it_is_for_and_nowhere_else(tmp_path):
    path = tmp_path / "r.zarr"
    with pytest.raises(RuntimeError), lock(path):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with lock(path):
        Path(f"{path}.unfinished").mkdir()
    with lock(path):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"r.zarr.lock", "r.zarr.unfinished"}


def test_a_link_has_the_lock_of_its_store(tmp_path):
    (tmp_path / "r.zarr").mkdir()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "r.zarr")
    with (
        lock(tmp_path / "link.zarr"),
        pytest.raises(UserError, match=names("another run", tmp_path / "r.zarr.lock")),
        lock(tmp_path / "r.zarr"),
    ):
        pass
    assert not (tmp_path / "link.zarr.lock").exists()


def test_a_folder_of_something_else_that_is_refused_gets_no_lock(tmp_path):
    (tmp_path / "mine.zarr").mkdir()

    def refuse():
        with lock(tmp_path / "mine.zarr"):
            raise UserError("not a store")

    with pytest.raises(UserError, match="not a store"):
        refuse()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.zarr"]


def test_the_lock_dies_with_its_holder(tmp_path):
    path = tmp_path / "r.zarr"
    script = f"""
import time
from pipeline.store import lock
with lock({str(path)!r}):
    print("held", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", script], env=_environment(), stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=names("another run", f"{path}.lock")), lock(path):
            pass
        holder.kill()
        holder.wait()
        with lock(path):
            pass


def test_the_lock_is_freed_after_an_error(tmp_path):
    with pytest.raises(KeyError), lock(tmp_path / "r.zarr"):
        raise KeyError
    with lock(tmp_path / "r.zarr"):
        pass


# -- the layout ----------------------------------------------------------------------------------------------


def assert_tidy(path):
    """Nothing foreign: metadata and chunks only, of the groups that belong there."""
    for file in path.rglob("*"):
        if file.is_file():
            relative = file.relative_to(path)
            assert file.name == "zarr.json" or "c" in relative.parts, relative
    current = attributes(path)["checkpoint"]
    assert [group.name for group in path.glob("checkpoint/*/")] == ([] if current is None else [str(current)])


@pytest.fixture
def whole(store):
    write_everything(store)
    return store


def test_a_group_is_written_when_it_is_whole(store):
    with new_group(store, "models/full-k1", {"start": 3}) as group:
        put(group, "weights", [1.0], ("component",))
        assert not (store / "models").exists()
    written = zarr.open_group(store / "models/full-k1", mode="r")
    assert (written.attrs.asdict(), written["weights"][...].tolist()) == ({"start": 3}, [1.0])


def test_nothing_foreign_inside(whole):
    assert_tidy(whole)
    assert sorted(group.name for group in whole.glob("*/")) == ["checkpoint", "criteria", "models", "rows"]
    finish(whole)
    assert_tidy(whole)
    assert sorted(group.name for group in whole.glob("*/")) == ["criteria", "manifest", "models", "rows"]


def test_xarray_opens_every_group(whole):
    groups = [file.parent for file in whole.rglob("zarr.json") if _metadata(file)["node_type"] == "group"]
    assert len(groups) > 15
    for group in groups:
        name = "/" if group == whole else str(group.relative_to(whole))
        xr.open_zarr(whole, group=name, consolidated=False).load()


def _metadata(file):
    def refuse(constant):
        raise AssertionError(f"{constant} in {file}")

    return json.loads(file.read_text(), parse_constant=refuse)


def test_metadata_is_plain(whole):
    for file in whole.rglob("zarr.json"):
        metadata = _metadata(file)
        assert metadata["zarr_format"] == 3
        assert "consolidated_metadata" not in metadata or metadata["consolidated_metadata"] is None
        if metadata["node_type"] == "array":
            assert len(metadata["dimension_names"]) == len(metadata["shape"])
            assert all(metadata["dimension_names"])
            assert "pickle" not in file.read_text()


def test_text_is_of_variable_length(whole):
    for name in ("criteria/covariance_type", "criteria/status", "models/full-k1/feature"):
        assert _metadata(whole / name / "zarr.json")["data_type"] == "string"


def test_criteria_open_with_xarray(whole):
    criteria = xr.open_zarr(whole, group="criteria", consolidated=False).load()
    assert criteria["bic"].dims == ("n_components", "covariance_type")
    assert criteria["n_components"].dtype == np.int64
    assert criteria["n_components"].values.tolist() == [1, 2, 5, 9]
    assert list(criteria["covariance_type"].values) == list(FAMILIES)
    assert criteria["bic"].sel(n_components=2, covariance_type="diag").item() == 114.0
    assert criteria["status"].sel(n_components=9, covariance_type="full").item() == "singular"
    assert np.isnan(criteria["bic"].sel(n_components=9, covariance_type="full").item())


@pytest.mark.parametrize(("section", "key"), [("data", "storage_options"), ("output", "report")])
def test_what_does_not_change_the_result_may_differ(tmp_path, section, key):
    store, other = tmp_path / "r.zarr", JobConfig.model_validate(CONFIG).model_dump(mode="json")
    prepare_store(store, other, DATA)
    save(store, [state()], data_summary(), passes=1)
    other[section][key] = {"anon": True} if key == "storage_options" else False
    assert prepare_store(store, other, DATA) is StoreStatus.UNFINISHED
