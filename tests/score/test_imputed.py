"""Rows with their gaps filled, as a job and its scores store them: those of the estimator's ``impute``."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import gmm_dask
from gaps import e_step, with_gaps
from gmm_dask.errors import UserError
from gmm_dask.memory import thread_bytes
from grids import ocean, stacked, write_zarr
from groups import NAMES, three_groups, write
from marks import slow
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.fit.plan import data_shape, estimate_job
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.sources import open_source
from pipeline.store import open_result
from runs import Stop, everything_in, stop_at

BARE = {"labels": False, "report": False, "imputed": True}
LABELS = {"labels": True, "imputed": False}


def job(path, source, store="r.zarr", *, search=None, output=None, **data):
    settings = {"n_components": [3], "covariance_types": ["full"], "init_params": "kmeans"}
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "columns": NAMES, "chunk_rows": 50, "missing": "likelihood", **data},
            "search": settings | (search or {}),
            "output": {"store": str(path / store), **BARE, **(output or {})},
        }
    )


@pytest.fixture(scope="module")
def gappy():
    rows = with_gaps(three_groups(), 0.3)
    rows[:3] = rows[60:120] = np.nan  # a whole chunk without any value
    rows[5] = 5.0, np.inf, np.nan
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("imputed")


@pytest.fixture(scope="module")
def source(folder, gappy):
    frame = pd.DataFrame(gappy, columns=NAMES).assign(number=np.arange(len(gappy)))
    frame.to_parquet(folder / "rows.parquet", index=False, row_group_size=70)  # chunks that Zarr's do not follow
    return folder / "rows.parquet"


@pytest.fixture(scope="module")
def done(folder, source):
    return run(job(folder, source)).store


def rows_of(path):
    return xr.open_zarr(path, group="rows", consolidated=False).load()


def require_imputed(found, gappy, store, rtol=1e-12):
    """Values that are there keep their bits; the others are those of the stored model, whatever the chunks."""
    present = np.isfinite(gappy)
    np.testing.assert_array_equal(found[present], gappy[present])
    expected = gmm_dask.load(store).impute(pd.DataFrame(gappy, columns=NAMES))
    np.testing.assert_allclose(found, expected, rtol=rtol)
    assert (np.isfinite(found).all(axis=1) == present.any(axis=1)).all()


def test_a_job_stores_what_the_estimator_imputes(done, gappy):
    rows = rows_of(done)
    assert (rows.imputed.dims, rows.imputed.dtype) == (("row", "feature"), np.float64)
    assert rows.feature.values.tolist() == NAMES
    require_imputed(rows.imputed.values, gappy, done)
    # by SciPy, of a row that lacks one value and of one that lacks two
    model = open_result(done).best_model.model[1]
    gaps = np.isnan(gappy).sum(axis=1)
    for i in (np.flatnonzero(gaps == 1)[0], np.flatnonzero(gaps == 2)[0]):
        _, resp, expected, _ = e_step(gappy[i], "full", model)
        np.testing.assert_allclose(rows.imputed.values[i], resp @ expected, rtol=1e-9)
    assert open_result(done).row_shapes == {"imputed": (len(gappy), 3)}


def test_parquet_has_the_columns_of_the_data(folder, source, done, gappy):
    output = {"rows": "parquet", "key_columns": ["number"], "labels": True, "responsibilities": True}
    store = run(job(folder, source, "p.zarr", output=output | {"anomaly_quantile": 0.05})).store
    frame = pd.read_parquet(f"{store}-rows")
    responsibilities = [f"responsibility_{k}" for k in range(3)]
    assert list(frame) == ["number", "label", "log_density", *responsibilities, *NAMES, "anomaly"]
    np.testing.assert_array_equal(frame[NAMES].to_numpy(), rows_of(done).imputed)
    np.testing.assert_array_equal(frame["number"], np.arange(len(gappy)))


@pytest.mark.parametrize("dtype", ["float32", *slow(["float64"])])
def test_scores_fill_new_rows(tmp_path, done, gappy, dtype):
    new = with_gaps(three_groups(), 0.2, seed=5).astype(dtype)
    renamed = ["h", "w", "d"]
    pd.DataFrame(new, columns=renamed).to_parquet(tmp_path / "new.parquet", index=False)
    for out in ("s.zarr", "s.parquet"):
        score(done, str(tmp_path / "new.parquet"), tmp_path / out, columns=renamed)
    rows = rows_of(tmp_path / "s.zarr")
    assert rows.feature.values.tolist() == renamed
    require_imputed(rows.imputed.values, new.astype(np.float64), done, rtol=1e-9)
    frame = pd.read_parquet(tmp_path / "s.parquet")
    np.testing.assert_array_equal(frame[renamed].to_numpy(), rows.imputed)


def test_a_model_of_complete_rows_fills_gaps_if_it_is_told_to(tmp_path, gappy):
    config = job(tmp_path, write("npy", tmp_path, three_groups()), missing="error", columns=None, output=LABELS)
    store = run(config).store
    (tmp_path / "new").mkdir()
    new, told = write("npy", tmp_path / "new", gappy), ["output.imputed=true", "data.missing=likelihood"]
    score(store, str(new), tmp_path / "s.zarr", settings=ScoreSettings.from_overrides(told))
    found = rows_of(tmp_path / "s.zarr")
    np.testing.assert_allclose(found.imputed, gmm_dask.load(store).impute(gappy), rtol=1e-12)
    with pytest.raises(UserError, match=r"(?s)imputed.*data\.missing is error"):
        score(store, str(new), tmp_path / "t.zarr", settings=ScoreSettings.from_overrides(told[:1]))


def test_a_grid_gets_its_columns_back(tmp_path):
    data = ocean()
    temp = data["temp"].values
    temp[np.random.RandomState(0).uniform(size=temp.shape) < 0.2] = np.nan
    data = write_zarr(data, tmp_path / "o.zarr")
    grid = {"variables": ["temp", "salt"], "feature_dims": ["depth"], "columns": None, "chunk_rows": 240}
    search = {"n_components": [2], "covariance_types": ["diag"], "reg_covar": 1e-6}
    store = run(job(tmp_path, tmp_path / "o.zarr", search=search, output=LABELS | {"imputed": True}, **grid)).store
    found = rows_of(store)
    assert found.imputed.dims == (*found.label.dims, "feature")
    assert found.imputed.attrs["long_name"].startswith("value")
    X = stacked(data)
    mine = gmm_dask.load(store).impute(pd.DataFrame(X, columns=found.feature.values))
    np.testing.assert_allclose(found.imputed.values.reshape(X.shape), mine, rtol=1e-12)
    assert np.isfinite(found.imputed.values[found.label.values >= 0]).all()
    clash = data.rename(lat="feature")
    write_zarr(clash, tmp_path / "c.zarr")
    with pytest.raises(UserError, match=r"output\.imputed: .*'feature'"):
        estimate_job(job(tmp_path, tmp_path / "c.zarr", "c.result.zarr", search=search, **grid))


def test_a_run_that_is_stopped_ends_with_the_same_bits(tmp_path, source, unheld):
    whole, config = job(tmp_path, source), job(tmp_path, source, "parts.zarr")
    run(whole)
    with pytest.raises(Stop):
        run(config, progress=stop_at(5), checkpoint_seconds=0.0)
    run(config, checkpoint_seconds=0.0)
    one, other = (everything_in(store)[0] for store in (config.output.store, whole.output.store))
    rows = {name for name in one if name.startswith("rows/")}
    assert rows
    assert {name: one[name] for name in rows} == {name: other[name] for name in rows}


@pytest.mark.parametrize("missing", ["error", "drop"])
def test_without_gaps_in_the_fit_it_is_refused_by_name(tmp_path, missing):
    with pytest.raises(ValueError, match=rf"(?s)output.*imputed: .*data\.missing is {missing}.*likelihood"):
        job(tmp_path, "rows.parquet", missing=missing)


def test_columns_of_one_name_are_refused(tmp_path, source):
    parquet = {"rows": "parquet"}
    with pytest.raises(UserError, match=r"output\.key_columns: .*width"):
        estimate_job(job(tmp_path, source, output=parquet | {"key_columns": ["width"]}))
    pd.DataFrame(three_groups(), columns=["label", "b", "c"]).to_parquet(tmp_path / "labelled.parquet")
    config = {"columns": ["label", "b", "c"]}
    with pytest.raises(UserError, match=r"output\.imputed: .*'label'.*zarr"):
        estimate_job(job(tmp_path, tmp_path / "labelled.parquet", output=parquet, **config))
    estimate_job(job(tmp_path, tmp_path / "labelled.parquet", **config))


def test_memory_counts_the_filled_columns(tmp_path, source):
    shapes = [
        data_shape(config, open_source(config.data))
        for config in (job(tmp_path, source), job(tmp_path, source, output=LABELS))
    ]
    assert thread_bytes(shapes[0]) >= thread_bytes(shapes[1]) + 3 * shapes[0].chunk_bytes
