"""The chosen model in other programs' forms says what the store says."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn.mixture
from typer.testing import CliRunner

from flows import cli
from gmm_dask.em.loop import State, Status
from gmm_dask.errors import FaultError, UserError
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.rows import Rows
from gmm_dask.selection.outcomes import Outcome
from messages import names
from mixtures import random_parameters, random_rows
from naive import COVARIANCE_TYPES
from pipeline.config.job import JobConfig
from pipeline.export import ExportedMixture, Target, export
from pipeline.store import Identity, complete, open_result, prepare_store, write_criteria, write_models
from pipeline.store.places import is_url
from pipeline.transforms import Chain
from pipeline.transforms.scale import Scale
from stores import small_store, stored_data

D, K = 3, 4
CENTER, SCALE = np.array([100.0, -3.0, 0.0]), np.array([25.0, 0.01, 1.0])


@pytest.fixture(params=[*COVARIANCE_TYPES, "EII", "EVI", "VVE"])
def covariance_type(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "scaled"])
def scaled(request):
    return request.param


@pytest.fixture
def store(tmp_path, covariance_type, scaled):
    return make_store(tmp_path, covariance_type, scaled)


def make_store(tmp_path, covariance_type, scaled=False, columns=("speed", "temperature", "load")):
    """A complete store of one model of four components, of which one is empty."""
    path = str(tmp_path / "night.zarr")
    config = JobConfig.model_validate({"name": "night", "data": {"source": "a.csv"}, "output": {"store": path}})
    prepare_store(path, config.model_dump(mode="json"), stored_data(columns))
    parameters = random_parameters(covariance_type, K, D, seed=5)
    weights = np.array([0.0, 0.5, 0.2, 0.3])
    parameters = replace(parameters, weights=weights)
    state = State(Candidate(covariance_type, K), 1, parameters, (-4.5, -4.25), Status.CONVERGED)
    write_criteria(
        path,
        [Outcome(state, 17, {"bic": 900.0, "aic": 880.0, "icl": 910.0, "elbo": np.nan, "held_out": np.nan}, -425.0)],
    )
    log_scale = float(np.log(SCALE).sum())
    scaling = {"transform": Chain((Scale(CENTER, SCALE),)), "log_scale": log_scale} if scaled else {}
    write_models(path, [state], columns, **scaling)
    complete(
        path,
        identity=Identity("a line", K),
        best=f"{covariance_type}-k{K}",
        passes=9,
        bytes_read=90,
        n_rows=100,
        total_weight=100.0,
    )
    return path


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "az://box/x", "http://host/x", "file:///tmp/x"])
def test_results_are_not_written_to_urls(tmp_path, monkeypatch, url):
    store = make_store(tmp_path, "diag")
    monkeypatch.chdir(tmp_path)
    np.save("new.npy", np.zeros((5, 3)))
    before = sorted(tmp_path.iterdir())
    commands = [
        ("export", store, "--to", "json", "-o", f"{url}.json"),
        ("synth", f"{url}.npy", "--rows", "10"),
        ("score", store, "new.npy", "-o", f"{url}.zarr"),
        ("report", f"{url}.zarr"),
        ("show", f"{url}.zarr"),
    ]
    for command in commands[:2] if is_url(url) else commands:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, command)
        assert result.exit_code == 2, result.output
        assert url.partition(":")[0] in result.stderr
        assert sorted(tmp_path.iterdir()) == before


def rows_for(scaled):
    """Rows in the user's units: some in the middle, some far away."""
    rows = np.concatenate([random_rows(200, D), 40.0 * random_rows(50, D, seed=1)])
    return rows * SCALE + CENTER if scaled else rows


def ours(store, rows):
    """Label, probabilities and log density by the store's own model."""
    model = open_result(store).best_model
    fitted = (rows - CENTER) / SCALE if model.transform.scaling else rows
    found = predict_rows(Rows(fitted), *model.model, ["label", "responsibility", "log_density"])
    shift = np.log(SCALE).sum() if model.transform.scaling else 0.0
    return found["label"], found["responsibility"], found["log_density"] - shift


# -- scikit-learn ------------------------------------------------------------------------------------------------


def test_scikit_learns_estimator_answers_alike(store, scaled, covariance_type):
    file = export(store, Target.SKLEARN)
    assert file.name == f"night-{covariance_type}-k{K}.joblib"
    mixture = joblib.load(file)
    assert type(mixture) is sklearn.mixture.GaussianMixture
    shape = get_family(covariance_type).sklearn_type
    assert mixture.covariance_type == ("diag" if scaled and shape == "spherical" else shape)
    assert (mixture.n_iter_, mixture.tol) == (2, 1e-3)
    assert mixture.lower_bound_ == pytest.approx(-4.25 - (np.log(SCALE).sum() if scaled else 0.0), rel=1e-12)
    rows = rows_for(scaled)
    label, responsibility, density = ours(store, rows)
    frame = pd.DataFrame(rows, columns=["speed", "temperature", "load"])  # the names that it was fitted with
    with np.errstate(divide="ignore"):  # an empty component
        np.testing.assert_array_equal(mixture.predict(frame), label)
        np.testing.assert_allclose(mixture.predict_proba(frame), responsibility, rtol=0, atol=1e-9)
        np.testing.assert_allclose(mixture.score_samples(frame), density, rtol=1e-9)


def test_another_model_is_exported_under_its_name(tmp_path):
    _, store = small_store(tmp_path)
    result = open_result(store)
    assert result.best == "tied-k2"
    file = export(store, Target.JSON, model="diag-k2")
    assert file.name == "night-diag-k2.json"
    exported = ExportedMixture.model_validate_json(file.read_text())
    assert (exported.name, exported.covariance_type) == ("diag-k2", "diag")
    assert exported.criteria.bic == result.row("diag-k2")["bic"] != result.row()["bic"]
    np.testing.assert_allclose(exported.scaled.means, result.model("diag-k2").parameters.means)
    theirs = joblib.load(export(store, Target.SKLEARN, model="diag-k2"))
    assert theirs.covariance_type == "diag"
    with pytest.raises(UserError, match=names("'full-k2'", "diag-k2", "tied-k2")):
        export(store, Target.SKLEARN, model="full-k2")
    command = ["export", str(store), "--to", "json", "-o", str(tmp_path / "one.json"), "--model", "diag-k1"]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    assert json.loads((tmp_path / "one.json").read_text())["name"] == "diag-k1"


def test_numbered_columns_are_no_names(tmp_path):
    mixture = joblib.load(export(make_store(tmp_path, "full", columns=("x0", "x1", "x2")), Target.SKLEARN))
    assert not hasattr(mixture, "feature_names_in_")
    assert mixture.n_features_in_ == 3


# -- ONNX --------------------------------------------------------------------------------------------------------


def test_onnx_agrees_in_onnxruntime(store, scaled):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(export(store, Target.ONNX), providers=["CPUExecutionProvider"])
    rows = rows_for(scaled)
    label, probabilities, log_density = session.run(None, {"X": rows})
    expected = ours(store, rows)
    assert label.dtype == np.int64
    np.testing.assert_array_equal(label, expected[0])
    np.testing.assert_allclose(probabilities, expected[1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(log_density, expected[2], rtol=1e-9)
    assert session.get_modelmeta().custom_metadata_map["features"].split("\n") == ["speed", "temperature", "load"]
    assert session.run(["label"], {"X": rows[:0]})[0].shape == (0,)


def test_onnx_of_rows_that_are_far_from_everything(tmp_path):
    """The log-sum-exp is about the largest term: nothing under- or overflows where ours does not."""
    onnxruntime = pytest.importorskip("onnxruntime")
    store = make_store(tmp_path, "diag")
    session = onnxruntime.InferenceSession(export(store, Target.ONNX), providers=["CPUExecutionProvider"])
    rows = np.array([[1e6, -1e6, 1e6], [3e4, 0.0, 0.0]])
    found, expected = session.run(None, {"X": rows}), ours(store, rows)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    assert np.isfinite(found[2]).all()


def test_onnx_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=names("pip install", "gmm-dask[onnx]")):
        export(make_store(tmp_path, "full"), Target.ONNX)


# -- JSON --------------------------------------------------------------------------------------------------------


def test_json_holds_all_parameters(store, scaled, covariance_type):
    found = json.loads(export(store, Target.JSON).read_text())
    ExportedMixture.model_validate(found)
    model = open_result(store).best_model
    kind, parameters = model.in_units
    assert (found["format"], found["name"]) == ("gmm-dask-model", f"{covariance_type}-k{K}")
    assert (found["covariance_type"], found["n_components"]) == (kind, K)
    assert found["features"] == ["speed", "temperature", "load"]
    for name, array in parameters.arrays().items():
        np.testing.assert_array_equal(found[name], array)  # to the last bit
    shape, axes = np.array(found["shape"]), np.array(found["orientation"])
    matrices = np.array(found["volume"])[:, None, None] * (axes * shape[:, None]) @ axes.transpose(0, 2, 1)
    expected = get_family(kind).full_covariances(parameters)
    np.testing.assert_allclose(matrices, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(axes @ axes.transpose(0, 2, 1), np.stack([np.eye(D)] * K), atol=1e-12)
    np.testing.assert_allclose(shape.prod(axis=1), 1.0)
    assert (found["scaled"] is not None) == scaled
    if scaled:
        np.testing.assert_array_equal(found["scaled"]["covariances"], model.parameters.covariances)
        assert found["scaled"]["covariance_type"] == covariance_type
        assert found["scaled"]["scale"] == SCALE.tolist()
    assert found["criteria"]["bic"] == 900.0
    assert found["fit"]["status"] == "converged"
    assert found["fit"]["settings"]["reg_covar"] == "auto"
    assert "numpy" in found["software"]


def test_json_alone_gives_the_densities(tmp_path):
    """What the schema says is enough to compute with."""
    from scipy.stats import multivariate_normal

    store = make_store(tmp_path, "full", scaled=True)
    found, rows = json.loads(export(store, Target.JSON).read_text()), rows_for(True)[:200]
    parts = zip(found["weights"], found["means"], found["covariances"], strict=True)
    density = sum(w * multivariate_normal(mean, covariance).pdf(rows) for w, mean, covariance in parts)
    np.testing.assert_allclose(np.log(density), ours(store, rows)[2], rtol=1e-9)


def test_every_key_of_the_json_is_described():
    schema = ExportedMixture.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        for key, field in section.get("properties", {}).items():
            assert "description" in field or "$ref" in field, key


# -- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", Target)
def test_a_file_that_exists_is_left_as_it_is(tmp_path, target):
    store, file = make_store(tmp_path, "diag"), tmp_path / "mine"
    file.write_text("precious")
    with pytest.raises(UserError, match=names(file, "exists", "-o")):
        export(store, target, file)
    assert file.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "night.zarr"]


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    store = make_store(tmp_path, "diag")

    def fill_the_disk(file, content):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(FaultError, match=names("joblib", "No space left on device")):
        export(store, Target.SKLEARN)
    assert [path.name for path in tmp_path.iterdir()] == ["night.zarr"]


def test_the_command(tmp_path):
    store = make_store(tmp_path, "tied")
    result = CliRunner().invoke(cli.app, ["export", store, "--to", "json", "-o", str(tmp_path / "model.json")])
    assert (result.exit_code, result.stdout) == (0, f"model: {tmp_path}/model.json\n")
    result = CliRunner().invoke(cli.app, ["export", store, "--to", "json", "-o", str(tmp_path / "no/model.json")])
    assert result.exit_code == 2
    assert re.match(names(tmp_path / "no/model.json", "No such file or directory"), result.stderr)
    result = CliRunner().invoke(cli.app, ["export", store, "--to", "pmml"])
    assert result.exit_code == 2


def test_the_schema_is_printed():
    result = CliRunner().invoke(cli.app, ["schema", "--model"])
    assert json.loads(result.stdout) == ExportedMixture.model_json_schema()


def test_an_unfinished_store_is_refused(tmp_path):
    path = str(tmp_path / "r.zarr")
    config = JobConfig.model_validate({"data": {"source": "a.csv"}, "output": {"store": path}})
    prepare_store(path, config.model_dump(mode="json"), {"path": "a.csv", "files": "1"})
    with pytest.raises(UserError, match=names(path, "'running'")):
        export(path, Target.JSON)
