"""A night without rows has a result without rows, in every format and by every way."""

from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from pyarrow import parquet
from typer.testing import CliRunner

from flows import cli
from gmm_dask import GaussianMixture, UserError
from messages import names
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.fit.plan import estimate_job
from pipeline.score.batch import score_batch
from pipeline.score.new_rows import score

COLUMNS = ["a", "b"]
ROWS = np.random.default_rng(0).normal(size=(60, 2))
OUTPUT = {"log_density": True, "responsibilities": True, "anomaly_quantile": 0.1, "report": False}


def job(source="fit.csv", **sections):
    search = {"n_components": [1], "covariance_types": ["diag"], "init_params": "kmeans"}
    values = {"data": {"source": source}, "search": search, "output": {"store": "r.zarr", **OUTPUT}, **sections}
    return JobConfig.model_validate(values)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a store, and files without rows beside it."""
    folder = tmp_path_factory.mktemp("fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pd.DataFrame(ROWS, columns=COLUMNS).to_csv("fit.csv", index=False)
        run(job())
        none = pd.DataFrame(ROWS[:0], columns=COLUMNS).assign(id=np.arange(0))
        none.to_parquet("none.parquet")
        Path("folder").mkdir()
        for name in ("one", "two"):
            none.to_parquet(f"folder/{name}.parquet")
        for name, text in (("none", "a,b\n"), ("bare", "a,b"), ("blank", "a,b\r\n\r\n\r\n")):
            Path(f"{name}.csv").write_text(text, newline="")
        group = zarr.create_group("none.zarr")
        for name in COLUMNS:
            group.create_array(name, shape=(0,), chunks=(5,), dtype="f8")
    return folder


@pytest.fixture
def here(fitted, monkeypatch):
    monkeypatch.chdir(fitted)
    return fitted


SOURCES = ["none.parquet", "folder", "folder/*.parquet", "none.csv", "bare.csv", "blank.csv", "none.zarr"]


@pytest.mark.parametrize("source", SOURCES)
def test_arrays_of_no_rows(here, tmp_path, source):
    summary = score("r.zarr", source, tmp_path / "out.zarr")
    assert (summary.rows.n_rows, summary.rows.anomalies, summary.drift) == (0, 0, ())
    rows = zarr.open_group(tmp_path / "out.zarr", mode="r")["rows"]
    shapes = {name: array.shape for name, array in rows.arrays() if name not in ("file", "first_row")}
    assert not rows["first_row"][:].any()
    of_rows = {"label": (0,), "log_density": (0,), "responsibility": (0, 1), "anomaly": (0,)}
    assert shapes == {**of_rows, "component": (1,)}
    assert score("r.zarr", source, tmp_path / "out.zarr").reused


@pytest.mark.parametrize("source", ["none.parquet", "folder"])
def test_files_of_no_rows_with_their_keys(here, tmp_path, source):
    summary = score("r.zarr", source, tmp_path / "out.parquet")
    assert summary.rows.n_rows == 0
    assert set(parquet.read_table(tmp_path / "out.parquet").column_names) >= {"label", "log_density", "anomaly"}


def test_plain_arrays_of_no_rows(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    np.save("fit.npy", ROWS)
    run(job("fit.npy"))
    np.save("none.npy", ROWS[:0])
    zarr.create_array("none.zarr", shape=(0, 2), dtype="f8")
    with h5py.File("none.h5", "w") as file:
        file.create_dataset("x", data=ROWS[:0])
    for name in ("none.npy", "none.zarr", "none.h5"):
        assert score("r.zarr", name, f"{name}.scores.zarr").rows.n_rows == 0


def test_the_command_ends_well(here, tmp_path):
    found = CliRunner().invoke(cli.app, ["score", "r.zarr", "none.csv", "-o", str(tmp_path / "out.zarr")])
    assert found.exit_code == 0, found.output
    assert "0 rows" in found.output
    assert "nan" not in found.output


def test_a_batch_of_no_rows(here, tmp_path):
    config = job(score={"source": "none.parquet", "out": str(tmp_path / "scores.zarr")})
    assert score_batch(config).rows.n_rows == 0


@pytest.mark.parametrize("command", [run, estimate_job])
@pytest.mark.parametrize("source", ["none.parquet", "none.csv", "none.zarr"])
def test_no_mixture_is_fitted_to_no_rows(here, command, source):
    with pytest.raises(UserError, match=names(source, "no rows")):
        command(job(source, output={"store": "other.zarr"}))
    assert not Path("other.zarr").exists()


@pytest.mark.parametrize("kind", [np.asarray, lambda x: pd.DataFrame(x), lambda x: da.from_array(x, name=False)])
def test_estimators_answer_about_no_rows(kind):
    mixture = GaussianMixture(2, random_state=0).fit(ROWS)
    none = kind(ROWS[:0])
    assert np.asarray(mixture.predict(none)).shape == (0,)
    assert np.asarray(mixture.predict_proba(none)).shape == (0, 2)
    assert np.asarray(mixture.score_samples(none)).shape == (0,)
    for method in (mixture.score, mixture.bic, mixture.aic, mixture.icl):
        with pytest.raises(ValueError, match=names("no rows")):
            method(none)
