"""Metrics files, read back by the parsers of Prometheus."""

import os
import stat

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.metrics import Gauge, exposition, write_metrics
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.store import open_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a store, and the metrics of its run in ``prom``."""
    folder = tmp_path_factory.mktemp("job")
    rng = np.random.default_rng(0)
    np.save(folder / "rows.npy", np.concatenate([rng.normal(centre, 1.0, (100, 2)) for centre in (0.0, 8.0)]))
    values = {
        "name": "night",
        "data": {"source": str(folder / "rows.npy")},
        "search": {"n_components": [1, 2], "covariance_types": ["diag"], "init_params": "kmeans"},
        "output": {"store": str(folder / "night.zarr"), "report": False, "metrics": str(folder / "prom")},
    }
    run(JobConfig.model_validate(values))
    return folder


def samples(path, parse):
    """Values of a file by their names and labels, with those of ``job`` checked and left out."""
    found = {}
    for family in parse(path.read_text()):
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("job") == "night"
            found[sample.name.removeprefix("gmm_dask_"), *labels.values()] = sample.value
    return found


@pytest.mark.parametrize("parse", [parse_openmetrics, parse_text])
def test_the_metrics_of_a_run(folder, parse):
    found = samples(folder / "prom/gmm-dask-night-run.prom", parse)
    result = open_result(folder / "night.zarr")
    assert found["run_rows",] == 200
    assert found["run_passes",] == result.passes
    assert found["run_read_bytes",] == result.bytes_read
    assert found["run_components", "diag-k2"] == 2
    assert found["run_criterion", "bic"] == result.row()["bic"]
    assert found["run_timestamp_seconds",] == pytest.approx(os.stat(folder / "prom").st_mtime, abs=60)
    assert found["run_seconds",] > 0.0
    assert found["run_reused",] == 0.0
    assert ("run_criterion", "held_out") not in found  # not known
    assert ("run_drifted",) not in found


def test_the_metrics_of_scores(folder):
    np.save(folder / "new.npy", np.load(folder / "rows.npy")[:150] + 1.0)
    settings = ScoreSettings.from_overrides([f"output.metrics={folder}/prom", "output.anomaly_quantile=0.01"])
    summary = score(folder / "night.zarr", str(folder / "new.npy"), folder / "scores.zarr", settings=settings)
    found = samples(folder / "prom/gmm-dask-night-score.prom", parse_openmetrics)
    assert found["score_rows",] == 150
    assert found["score_drift",] == len(summary.drift) > 0
    assert found["score_gain",] == summary.gain
    assert found["score_anomalies",] == summary.rows.anomalies
    assert [found["score_share", str(k)] for k in range(2)] == pytest.approx(summary.rows.label_shares)


def test_components_have_the_numbers_of_the_labels(tmp_path):
    rng = np.random.default_rng(1)

    def write(*sizes):
        groups = [rng.normal(12.0 * place, 1.0, (size, 2)) for place, size in enumerate(sizes)]
        np.save(tmp_path / "rows.npy", np.concatenate(groups))

    values = {
        "name": "night",
        "data": {"source": str(tmp_path / "rows.npy")},
        "search": {"n_components": [2, 3], "covariance_types": ["diag"], "init_params": "kmeans"},
        "output": {"store": str(tmp_path / "night.zarr"), "report": False},
    }
    write(120, 90, 60)
    run(JobConfig.model_validate(values))
    write(120, 0, 40)
    run(JobConfig.model_validate(values), fresh=True)
    settings = ScoreSettings.from_overrides([f"output.metrics={tmp_path}/prom"])
    summary = score(tmp_path / "night.zarr", str(tmp_path / "rows.npy"), tmp_path / "scores.zarr", settings=settings)
    assert summary.rows.labels == (0, 2)
    found = samples(tmp_path / "prom/gmm-dask-night-score.prom", parse_openmetrics)
    assert found["score_share", "0"] == found["score_fit_share", "0"] == 0.75
    assert found["score_share", "2"] == found["score_fit_share", "2"] == 0.25


def test_scores_take_no_folder_of_metrics_from_the_store(folder):
    before = sorted(path.stat().st_mtime_ns for path in (folder / "prom").iterdir())
    score(folder / "night.zarr", str(folder / "rows.npy"), folder / "same.zarr")
    assert sorted(path.stat().st_mtime_ns for path in (folder / "prom").iterdir()) == before


def test_a_file_is_replaced_in_one_step_and_the_exporter_can_read_it(tmp_path):
    write_metrics(str(tmp_path), "night", "run", [Gauge("rows", "Rows.", 1)])
    path = write_metrics(str(tmp_path), "night", "run", [Gauge("rows", "Rows.", 2)])
    assert [str(tmp_path / name) for name in os.listdir(tmp_path)] == [path]
    assert samples(tmp_path / "gmm-dask-night-run.prom", parse_openmetrics)["run_rows",] == 2
    assert os.stat(path).st_mode & stat.S_IRUSR
    if os.umask(os.umask(0o022)) == 0o022:
        assert os.stat(path).st_mode & stat.S_IROTH


def test_what_is_not_known_is_left_out():
    text = exposition("night", "run", [Gauge("rows", "Rows.", None), Gauge("gain", "Gain.", float("nan"))])
    assert text == b"# EOF\n"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output\.metrics.*file"):
        write_metrics(str(tmp_path / "file/prom"), "night", "run", [])


def test_a_folder_that_cannot_be_written_stops_a_job_and_scores_before_they_compute(folder, tmp_path):
    (tmp_path / "file").touch()
    values = {
        "name": "night",
        "data": {"source": str(folder / "rows.npy")},
        "search": {"n_components": [1]},
        "output": {"store": str(tmp_path / "night.zarr"), "metrics": str(tmp_path / "file/prom")},
    }
    with pytest.raises(UserError, match=r"output\.metrics.*file"):
        run(JobConfig.model_validate(values))
    settings = ScoreSettings.from_overrides([f"output.metrics={tmp_path}/file/prom"])
    with pytest.raises(UserError, match=r"output\.metrics.*file"):
        score(folder / "night.zarr", str(folder / "rows.npy"), tmp_path / "scores.zarr", settings=settings)
    assert os.listdir(tmp_path) == ["file"]
