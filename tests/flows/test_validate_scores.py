"""``validate`` of a config whose rows are labelled: what is read, by which model, and where the scores go."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from gmm_dask import UserError
from messages import names
from pipeline.config.job import load_config
from pipeline.fit.job import run
from pipeline.score.batch import score_batch

CONFIG = """name: night
data: {source: rows.npy}
search: {n_components: [1, 2], covariance_types: [diag], init_params: kmeans}
output: {store: 'night-{started:%Y-%m-%d}.zarr', report: false}
score:
  source: arrived.npy
  out: 'scores-{started:%Y-%m-%dT%H%M%S}.zarr'
"""
SCHEDULE = "schedule: {interval: 1h, flow: score-batch}\n"


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, list(arguments))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a complete store, and rows to be labelled by it."""
    folder = tmp_path_factory.mktemp("night")
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(centre, 1.0, (40, 2)) for centre in (0.0, 8.0)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        np.save("rows.npy", rows)
        np.save("arrived.npy", rows[:30])
        Path("job.yaml").write_text(CONFIG)
        Path("score.yaml").write_text(CONFIG + SCHEDULE)
        run(load_config("job.yaml"))
    return folder


@pytest.fixture
def night(fitted, monkeypatch):
    monkeypatch.chdir(fitted)
    return fitted


def test_the_scoring_is_described_and_not_the_search(night):
    before = sorted(Path.cwd().rglob("*"))
    result = invoke("validate", "score.yaml", "--set", "score.model=diag-k1")
    assert result.exit_code == 0, result.output
    for part in ("arrived.npy", "30", "diag-k1 of ", "night-", "label", "projected", "scores-{started"):
        assert part in result.stdout
    assert "candidates" not in result.stdout
    assert sorted(Path.cwd().rglob("*")) == before


def test_the_document_of_the_scoring(night):
    found = json.loads(invoke("validate", "score.yaml", "--json").stdout)
    jsonschema.validate(found, json.loads(invoke("schema", "--output", "validate-scores").stdout))
    scoring = found["scoring"]
    assert (scoring["data"], scoring["n_rows"], scoring["model"]) == ("arrived.npy", 30, "diag-k2")
    assert 0 < scoring["memory_bytes"] < scoring["memory_limit"]


def test_both_are_described_of_a_job_that_is_run_and_scored(night):
    result = invoke("validate", "job.yaml")
    assert "candidates" in result.stdout
    assert "arrived.npy" in result.stdout
    found = json.loads(invoke("validate", "job.yaml", "--json").stdout)
    jsonschema.validate(found, json.loads(invoke("schema", "--output", "validate").stdout))
    assert found["scoring"]["model"] == "diag-k2"


@pytest.mark.parametrize("config", ["job.yaml", "score.yaml"])
def test_rows_that_are_not_there_are_an_error_of_their_key(night, config):
    result = invoke("validate", config, "--set", "score.source=nowhere.npy")
    assert result.exit_code == 2
    assert "score.source: there is no file or folder nowhere.npy" in result.stderr
    with pytest.raises(UserError, match=names("score.source", "nowhere.npy")):
        score_batch(load_config(config, ["score.source=nowhere.npy"]))


def test_the_line_of_the_key_is_named(night):
    Path("moved.yaml").write_text((CONFIG + SCHEDULE).replace("arrived", "gone"))
    assert "moved.yaml:6: score.source" in invoke("validate", "moved.yaml").stderr


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["score.model=diag-k7"], ("diag-k7", "diag-k2")),
        (["data.source=other.npy", "score.source=wide.npy"], ("x1", "lacks")),
        (["score.out=rows.npy/scores-{started:%Y%m%d%H%M%S}.zarr", "score.source=rows.npy"], ("rows.npy", "score.out")),
        (["cluster={kind: class, class_path: no_such_package.Cluster}"], ("cluster.class_path", "no_such_package")),
        (["score.out=one.zarr"], ("score.out", "{started")),
        (["output.labels=false"], ("output.labels",)),
    ],
)
def test_what_a_run_would_refuse_is_refused(night, settings, parts):
    np.save("wide.npy", np.zeros((5, 1)))
    result = invoke("validate", "score.yaml", *(word for one in settings for word in ("--set", one)))
    assert result.exit_code == 2, result.output
    assert [part for part in parts if part not in result.stderr] == []


def test_a_job_without_a_result_yet_is_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("arrived.npy", np.zeros((5, 2)))
    Path("score.yaml").write_text(CONFIG + SCHEDULE)
    result = invoke("validate", "score.yaml")
    assert result.exit_code == 0
    assert "arrived.npy" in result.stdout
    assert "no complete result store of the job night" in result.stdout
    assert json.loads(invoke("validate", "score.yaml", "--json").stdout)["scoring"]["model"] is None


@pytest.mark.parametrize("option", ["--time", "--profile"])
def test_measurements_are_of_a_search(night, option):
    result = invoke("validate", "score.yaml", option)
    assert result.exit_code == 2
    assert "score-batch" in result.stderr
