"""Two result stores compared, and the names of their components."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.documents import document_schema
from flows.terminal import show_difference
from gmm_dask import UserError, load
from messages import names
from nightly import nightly_job
from pipeline import store
from pipeline.compare import BY_DISTANCE, BY_NUMBER, BY_ROWS, compare_stores
from pipeline.export import to_json, to_sklearn
from pipeline.fit import job as stages
from pipeline.fit.job import run
from pipeline.report import write_report
from pipeline.score.new_rows import score
from pipeline.store import name_component, open_result
from pipeline.store.attributes import RunStatus

CENTRES = {"a": (0.0, 0.0), "b": (9.0, 0.0), "c": (0.0, 9.0), "d": (9.0, 9.0)}


def write_rows(path, of_groups, seed=0, n_rows=600):
    rng = np.random.default_rng(seed)
    groups = rng.choice(list(of_groups), n_rows, p=list(of_groups.values()))
    np.save(path, np.array([CENTRES[one] for one in groups]) + rng.normal(size=(n_rows, 2)))


def job(folder, name="night", path="one.zarr", **search):
    search = {"n_components": [3, 4], "covariance_types": ["diag"], **search}
    return nightly_job(folder, name=name, search=search, output={"store": str(folder / path)})


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """A store with a name, and the one that followed it: of other rows, where b vanished and d is new."""
    folder = tmp_path_factory.mktemp("nights")
    write_rows(folder / "rows.npy", {"a": 0.5, "b": 0.3, "c": 0.2})
    first = run(job(folder)).store
    name_component(first, 2, "late flights")
    name_component(first, 1, "early flights")
    shutil.copytree(first, folder / "first.zarr")
    write_rows(folder / "rows.npy", {"a": 0.25, "c": 0.3, "d": 0.45}, seed=1)
    second = run(job(folder), fresh=True).store
    return str(folder / "first.zarr"), second


@pytest.fixture
def named(nights, tmp_path):
    """A copy of the first store."""
    return shutil.copytree(nights[0], tmp_path / "night.zarr")


def invoke(*words):
    return CliRunner().invoke(app, list(map(str, words)))


# -- names -------------------------------------------------------------------------------------------------------


def test_names_follow_the_components_that_continue(nights):
    first, second = map(open_result, nights)
    assert first.names == {1: "early flights", 2: "late flights"}
    assert second.best_model.numbers == (0, 2, 3)
    assert second.names == {2: "late flights"}
    assert second.best_model.titles == ("0", "2 (late flights)", "3")


def test_a_name_appears_wherever_the_component_does(nights, tmp_path):
    second = open_result(nights[1])
    mixture = load(nights[1])
    assert mixture.component_names_ == {2: "late flights"}
    assert mixture.component_numbers_.tolist() == [0, 2, 3]
    exported = to_sklearn(second, second.best_model)
    assert exported.component_names_ == {2: "late flights"}
    model = to_json(second, second.best_model)
    assert (model.component_numbers, model.component_names) == ([0, 2, 3], {2: "late flights"})
    write_rows(tmp_path / "new.npy", {"a": 0.9, "d": 0.1}, seed=3)
    scored = score(nights[1], str(tmp_path / "new.npy"), tmp_path / "scores.zarr")
    assert [(one.number, one.name) for one in scored.components] == [(0, None), (2, "late flights"), (3, None)]
    assert any("component 2 (late flights): its share" in line for line in scored.drift)
    assert "2 (late flights)" in Path(write_report(nights[1])).read_text()


def test_numbers_of_a_loaded_model_end_with_the_next_fit(nights):
    mixture = load(nights[1])
    mixture.fit(np.random.default_rng(0).normal(size=(100, 2)))
    assert not hasattr(mixture, "component_numbers_")


def test_a_name_given_during_a_run_is_kept(tmp_path, monkeypatch):
    """The store that is continued lies at another path than the one at work."""
    write_rows(tmp_path / "rows.npy", {"a": 0.5, "b": 0.3, "c": 0.2})
    dated = "{name}-{started:%Y-%m-%dT%H%M%S%f}.zarr"
    first = run(job(tmp_path, path=dated, n_components=[3])).store
    write_rows(tmp_path / "rows.npy", {"a": 0.5, "b": 0.3, "c": 0.2}, seed=1)
    write = stages.write_rows

    def write_and_name(*arguments):
        write(*arguments)
        name_component(first, 1, "given meanwhile")

    monkeypatch.setattr(stages, "write_rows", write_and_name)
    second = run(job(tmp_path, path=dated, n_components=[3]))
    assert second.identity.earlier == first
    assert second.names == {1: "given meanwhile"}


def test_a_name_can_be_changed_and_taken_away(named):
    assert name_component(named, 2, "  night flights ").names == {1: "early flights", 2: "night flights"}
    assert name_component(named, 1, "").names == {2: "night flights"}
    open_result(named).require_whole()


@pytest.mark.parametrize(
    ("number", "name", "said"),
    [
        (7, "x", ("no component 7", "0, 1, 2")),
        (0, "late flights", ("component 2", "late flights")),
        (0, "two\nlines", ("60", "two")),
        (0, "x" * 61, ("60",)),
    ],
)
def test_what_cannot_be_a_name_is_refused(named, number, name, said):
    with pytest.raises(UserError, match=names(*said)):
        name_component(named, number, name)
    assert open_result(named).names == {1: "early flights", 2: "late flights"}


def test_a_store_that_is_not_complete_or_held_has_no_names_yet(named, tmp_path):
    with store.lock(named), pytest.raises(UserError, match=re.escape(str(named))):
        name_component(named, 0, "x")
    store.update_attributes(named, status=RunStatus.RUNNING)
    with pytest.raises(UserError, match="not complete"):
        name_component(named, 0, "x")
    with pytest.raises(UserError, match="no result store"):
        name_component(tmp_path / "none.zarr", 0, "x")
    assert not (tmp_path / "none.zarr.lock").exists()


def test_the_command_names_and_draws_the_report_again(named):
    write_report(named)
    done = invoke("name", named, 0, "all day")
    assert done.exit_code == 0, done.output
    for part in ("0", "all day", "late flights", "report:"):
        assert part in done.output
    assert "0 (all day)" in (named.parent / "night.zarr-report/index.html").read_text()
    assert invoke("name", named, 5, "x").exit_code == 2


def test_the_command_tells_of_a_newer_store_that_has_names_of_its_own(nights, tmp_path):
    first, second = (shutil.copytree(path, tmp_path / Path(path).name) for path in nights)
    store.update_attributes(first, started="2026-11-01 02:00 UTC")
    store.update_attributes(second, started="2026-11-02 02:00 UTC")
    shutil.copytree(second, damaged := tmp_path / "damaged.zarr")
    (damaged / "zarr.json").write_text("{")
    done = invoke("name", first, 0, "all day")
    assert done.exit_code == 0, done.output
    assert f"gmm-dask name {second} 0 'all day'" in " ".join(done.output.split())
    assert "all day" not in open_result(second).names.values()
    assert "newer" not in invoke("name", second, 0, "all day").output
    store.update_attributes(second, identity=replace(open_result(second).identity, line="another"))
    assert "newer" not in invoke("name", first, 0, "").output


# -- the difference ----------------------------------------------------------------------------------------------


def test_the_stores_of_one_line_are_compared_by_their_numbers(nights):
    found = compare_stores(*nights)
    assert found.matched_by == BY_NUMBER
    assert [(one.a, one.b) for one in found.components] == [(0, 0), (2, 2), (1, None), (None, 3)]
    same, late, gone, new = found.components
    assert (same.name, late.name, gone.name, new.name) == (None, "late flights", "early flights", None)
    assert same.weight_a == pytest.approx(0.5, abs=0.05)
    assert same.weight_b == pytest.approx(0.25, abs=0.05)
    assert max(same.distance, late.distance) < 0.05
    assert (new.weight_a, new.distance, new.overlap) == (None, None, None)
    assert found.agreement == pytest.approx(0.55, abs=0.06)
    assert not found.same_rows
    results = [open_result(path) for path in nights]
    assert {one.name: (one.a, one.b) for one in found.candidates} == {
        name: tuple(result.row(name)["bic"] for result in results) for name in ("diag-k3", "diag-k4")
    }
    assert found.candidates[0].name == results[1].best


def test_stores_of_other_jobs_are_compared_by_their_rows_or_their_gaussians(tmp_path):
    write_rows(tmp_path / "rows.npy", {"a": 0.5, "b": 0.3, "c": 0.2})
    one = run(job(tmp_path)).store
    other = run(job(tmp_path, "other", "two.zarr", covariance_types=["full"])).store
    found = compare_stores(one, other)
    assert (found.matched_by, found.same_rows) == (BY_ROWS, True)
    assert [(pair.a, pair.b) for pair in found.components] == [(0, 0), (1, 1), (2, 2)]
    assert found.agreement > 0.99
    assert {one.name: (one.a is None, one.b is None) for one in found.candidates} == {
        "diag-k3": (False, True),
        "diag-k4": (False, True),
        "full-k3": (True, False),
        "full-k4": (True, False),
    }
    write_rows(tmp_path / "rows.npy", {"a": 0.2, "b": 0.3, "d": 0.5}, seed=1)
    third = run(job(tmp_path, "third", "three.zarr")).store
    found = compare_stores(one, third)
    assert (found.matched_by, found.same_rows) == (BY_DISTANCE, False)
    assert [(pair.a, pair.b) for pair in found.components] == [(0, 2), (1, 1), (2, None), (None, 0)]


def test_stores_of_other_columns_are_not_compared(nights, tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(300, 3)))
    other = run(job(tmp_path, n_components=[1])).store
    with pytest.raises(UserError, match=names("x0, x1", "x0, x1, x2", "same columns")):
        compare_stores(nights[0], other)


def test_the_command_prints_the_difference(nights):
    done = invoke("diff", *nights)
    assert done.exit_code == 0, done.output
    for part in (*nights, "diag-k3", "late flights", "early flights", "sampled rows", "BIC"):
        assert part in done.output.replace("\n", "")
    printed = invoke("diff", *nights, "--json")
    found = json.loads(printed.stdout)
    jsonschema.validate(found, document_schema("diff"))
    assert [(one["a"], one["b"]) for one in found["components"]] == [(0, 0), (2, 2), (1, None), (None, 3)]
    assert invoke("diff", nights[0], nights[0] + "-none", "--json").exit_code == 2


def test_a_difference_that_rounds_to_zero_has_no_sign(nights, capsys):
    found = compare_stores(*nights)
    candidates = [replace(one, a=100.0, b=100.0 - 1e-9) for one in found.candidates]
    show_difference(replace(found, candidates=candidates))
    printed = capsys.readouterr().out
    assert "100.00" in printed
    assert "-0.00 " not in printed
