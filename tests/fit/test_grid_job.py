"""Jobs over a grid: as xarray's stack, scikit-learn, and unstack."""

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.mixture import GaussianMixture

from gmm_dask import UserError, load
from grids import ocean, stacked, write_netcdf, write_zarr
from messages import names
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.progress import ChunksDone
from pipeline.score.new_rows import score
from pipeline.store.rows.unlikely import least_likely_rows
from runs import Stop, everything_in, stop_at

SEARCH = {"tol": 1e-8, "reg_covar": 1e-6}
WHOLE = {"temp": (1, 5, 12, 20), "salt": (1, 5, 12, 20)}


def job(folder, source, name="job.zarr", *, cluster=None, **data):
    output = {"log_density": True, "responsibilities": True, "anomaly_quantile": 0.01}
    return JobConfig.model_validate(
        {
            "name": "ocean",
            "data": {
                "source": str(source),
                "variables": ["temp", "salt"],
                "feature_dims": ["depth"],
                "missing": "drop",
                "chunk_rows": 240,
                **data,
            },
            "search": {"n_components": [2], "covariance_types": ["diag"], "init_params": "kmeans", **SEARCH},
            "cluster": cluster or {},
            "output": {"store": str(folder / name), "report": False, **output},
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ocean")


@pytest.fixture(scope="module")
def data(folder):
    return write_zarr(ocean(), folder / "o.zarr", chunks=WHOLE)


@pytest.fixture(scope="module")
def done(folder, data):
    return run(job(folder, folder / "o.zarr"))


def rows_of(path):
    return xr.open_zarr(path, group="rows", consolidated=False).load()


def test_a_job_is_stack_scikit_learn_and_unstack(done, data):
    cells = data[["temp", "salt"]].stack(cell=["time", "lat", "lon"]).transpose("cell", "depth")
    wet = cells.isel(cell=cells.temp.notnull().all("depth").values)
    x = np.hstack([wet.temp.values, wet.salt.values])
    mixture = GaussianMixture(2, covariance_type="diag", random_state=0, **SEARCH).fit(x)
    order = np.argsort(-mixture.weights_)  # as the components of a store are
    assert done.table["bic"][0] == pytest.approx(mixture.bic(x), rel=1e-9)
    found = rows_of(done.store)
    expected = xr.Dataset(
        {
            "label": ("cell", np.argsort(order)[mixture.predict(x)]),
            "log_density": ("cell", mixture.score_samples(x)),
            "responsibility": (("cell", "component"), mixture.predict_proba(x)[:, order]),
        },
        coords={"cell": wet.cell},
    ).unstack("cell")
    expected = expected.reindex_like(data.drop_dims("depth"))
    wet = expected.label.notnull()
    np.testing.assert_array_equal(found.label, expected.label.fillna(-1))
    np.testing.assert_array_equal(found.log_density.notnull(), wet)
    for name in ("log_density", "responsibility"):
        there = expected[name].transpose(*found[name].dims)
        np.testing.assert_allclose(found[name].values, there.values, rtol=1e-6, atol=1e-12)


def test_the_grid_comes_back_with_its_coordinates_and_attributes(done, data):
    found = rows_of(done.store)
    assert found.label.dims == ("time", "lat", "lon")
    assert found.responsibility.dims == ("time", "lat", "lon", "component")
    for name in ("time", "lat", "lon"):
        xr.testing.assert_identical(found[name].variable.to_base_variable(), data[name].variable.to_base_variable())
    assert int(found.anomaly.sum()) == found.attrs["anomalies"] > 0


@pytest.mark.parametrize("kind", ["zarr v2", "one file", "files", "another order"])
def test_other_formats_and_other_times_give_the_same_labels(done, data, folder, tmp_path, kind):
    """Of a new grid: the first two times, and the storage chunks of another shape."""
    part, path = data.isel(time=[0, 1]), tmp_path / "new"
    if kind == "zarr v2":
        write_zarr(part, path := path.with_suffix(".zarr"), zarr_format=2)
    elif kind == "another order":
        turned = part[[*part.data_vars][::-1]].isel(depth=slice(None, None, -1))
        write_netcdf(turned, path := path.with_suffix(".nc"))
    elif kind == "one file":
        write_netcdf(part, path := path.with_suffix(".nc"))
    else:
        for i in range(2):
            write_netcdf(part.isel(time=[i]), tmp_path / f"new-{i}.nc")
        path = tmp_path / "new-*.nc"
    found = rows_of(score(done.store, str(path), tmp_path / "scores.zarr").out)
    expected = rows_of(done.store).isel(time=[0, 1])
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_array_equal(found.time, expected.time)
    # packed once more, temperatures are those that were read
    np.testing.assert_allclose(found.log_density, expected.log_density, rtol=1e-6)


@pytest.mark.parametrize("chunks", [WHOLE, {"temp": (2, 2, 6, 10), "salt": (1, 5, 4, 20)}], ids=["whole", "parts"])
def test_bits_do_not_depend_on_threads_or_a_stop(data, tmp_path, unheld, chunks):
    write_zarr(data, tmp_path / "o.zarr", chunks=chunks)
    whole, parts = (job(tmp_path, tmp_path / "o.zarr", f"{name}.zarr", chunk_rows=120) for name in "ab")
    with dask.config.set(num_workers=3):
        run(whole)

    def in_the_last_pass(event):
        stages.append(getattr(event, "name", None))
        if "write rows" in stages and isinstance(event, ChunksDone) and event.done == 3:
            raise Stop

    stages = []
    with dask.config.set(num_workers=1):
        for watch in (stop_at(3), in_the_last_pass):
            with pytest.raises(Stop):
                run(parts, progress=watch, checkpoint_seconds=0.0)
        run(parts)
    assert everything_in(parts.output.store) == everything_in(whole.output.store)


@pytest.mark.slow
def test_a_cluster_gives_the_same_bits(data, tmp_path, unheld):
    write_zarr(data, tmp_path / "o.zarr")
    cluster = {"kind": "local", "workers": 2, "threads_per_worker": 1}
    one = job(tmp_path, tmp_path / "o.zarr", "a.zarr", chunk_rows=120)
    other = job(tmp_path, tmp_path / "o.zarr", "b.zarr", chunk_rows=120, cluster=cluster)
    run(one)
    run(other)
    assert everything_in(one.output.store) == everything_in(other.output.store)


def test_the_least_likely_rows_have_their_coordinates(done, monkeypatch):
    found = rows_of(done.store)
    lowest = found.log_density.stack(cell=found.label.dims)
    (expected,) = lowest.isel(cell=[int(lowest.argmin("cell"))]).cell.values
    for block in (1 << 20, 30):
        monkeypatch.setattr("pipeline.store.rows.unlikely.BLOCK_ROWS", block)
        row = least_likely_rows(done.store, 1)[0]
        assert row.keys["time"] == str(expected[0].date())
        assert [float(row.keys[name]) for name in ("lat", "lon")] == pytest.approx(expected[1:])
        assert row.log_density == float(lowest.min())


def test_coordinates_of_several_dimensions_come_back(tmp_path):
    """Those that the attribute ``coordinates`` of a variable names."""
    data = ocean(2)
    write_netcdf(data, tmp_path / "o.nc")
    found = rows_of(run(job(tmp_path, tmp_path / "o.nc")).store)
    assert set(found.coords) == {"time", "lat", "lon", "component", "cell_area"}
    np.testing.assert_array_equal(found.cell_area, data.cell_area)
    assert found.cell_area.attrs["units"] == "km2"


def test_weights_of_cells_are_those_of_their_rows(data, tmp_path):
    write_zarr(data, tmp_path / "o.zarr")
    weighted = run(job(tmp_path, tmp_path / "o.zarr", weights="area"))
    wet = ~np.isnan(stacked(data)).any(axis=1)
    area = np.broadcast_to(data.area.values, (4, 12, 20)).ravel()
    assert weighted.total_weight == pytest.approx(area[wet].sum())


def test_a_loaded_model_takes_what_xarray_opens(done, data):
    mixture = load(done.store)
    assert mixture.feature_dims == ["depth"]
    found = mixture.predict(data[["temp", "salt"]].chunk({"time": 1}))
    np.testing.assert_array_equal(found, rows_of(done.store).label)


def test_beside_noise_land_has_a_label_of_its_own(folder, data):
    config = job(folder, folder / "o.zarr", "noise.zarr")
    config = config.model_copy(update={"search": config.search.model_copy(update={"noise": True})})
    rows = rows_of(run(config).store)
    assert rows.label.dims == ("time", "lat", "lon")
    np.testing.assert_array_equal(rows.label == -2, np.isnan(data.temp.isel(depth=0)))
    np.testing.assert_array_equal(rows.label == -2, np.isnan(rows.log_density))
    assert rows.component.values.tolist() == [0, 1, -1]
    most = rows.component.values[rows.responsibility.fillna(0.0).values.argmax(axis=-1)]
    np.testing.assert_array_equal(rows.label.values[rows.label > -2], most[rows.label > -2])


def test_a_grid_of_no_rows_has_scores_without_rows(done, folder, tmp_path):
    ocean().isel(time=[]).drop_encoding().to_zarr(tmp_path / "none.zarr", consolidated=False)
    summary = score(done.store, str(tmp_path / "none.zarr"), tmp_path / "scores.zarr")
    assert summary.rows.n_rows == 0
    found = rows_of(tmp_path / "scores.zarr")
    assert dict(found.responsibility.sizes) == {"time": 0, "lat": 12, "lon": 20, "component": 2}


def test_a_model_behind_a_transform_tells_how_to_stack_a_grid(tmp_path, data, folder):
    mixture = load(run(job(tmp_path, folder / "o.zarr", transform=[{"pca": {"n_components": 2}}])).store)
    cells = data[["temp", "salt"]]
    for method in (mixture.predict, mixture.predict_proba, mixture.score_samples, mixture.score):
        with pytest.raises(UserError, match=names("data.transform", "to_stacked_array", "gmm-dask score")):
            method(cells)
    dims = ["time", "lat", "lon"]  # as the message says
    rows = cells.to_stacked_array("column", sample_dims=dims).stack(row=dims).transpose("row", "column").values
    rows = pd.DataFrame(rows[~np.isnan(rows).any(axis=1)], columns=mixture.feature_names_in_)
    labels = mixture.component_numbers_[mixture.predict(rows)]
    stored = rows_of(tmp_path / "job.zarr").label.values.ravel()
    np.testing.assert_array_equal(labels, stored[stored >= 0])
