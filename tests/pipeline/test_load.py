"""A stored model as a fitted estimator: any of a store's models, in the units of the data."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import gmm_dask
from gmm_dask import GaussianMixture, UserError
from messages import names
from pipeline.config.job import JobConfig
from pipeline.fit.job import prepare, run, seed
from pipeline.store import open_result

COLUMNS = ["speed", "load"]


def rows_of():
    rng = np.random.default_rng(0)
    groups = [rng.normal(0.0, 1.0, (300, 2)), rng.normal([6.0, 4.0], [0.5, 2.0], (200, 2))]
    return np.concatenate(groups) * [1.0, 40.0] + [10.0, -100.0]


def job(folder, scale="none", **search):
    pd.DataFrame(rows_of(), columns=COLUMNS).to_csv(folder / "rows.csv", index=False)
    search = {"n_components": [1, 2], "covariance_types": ["full", "spherical"], "init_params": "kmeans", **search}
    output = {"store": str(folder / "night.zarr"), "log_density": True, "responsibilities": True, "report": False}
    data = {"source": str(folder / "rows.csv"), "scale": scale}
    return JobConfig.model_validate({"data": data, "search": search, "output": output})


@pytest.fixture(scope="module", params=["none", "standard"])
def store(request, tmp_path_factory):
    return run(job(tmp_path_factory.mktemp("load"), request.param)).store


def test_the_winner_answers_as_the_store_does(store):
    rows = xr.open_zarr(store, group="rows", consolidated=False).load()
    frame = pd.DataFrame(rows_of(), columns=COLUMNS)
    mixture = gmm_dask.load(store)
    assert type(mixture) is GaussianMixture
    assert list(mixture.feature_names_in_) == COLUMNS
    np.testing.assert_array_equal(mixture.predict(frame), rows.label)
    np.testing.assert_allclose(mixture.score_samples(frame), rows.log_density, rtol=1e-9)
    np.testing.assert_allclose(mixture.predict_proba(frame), rows.responsibility, atol=1e-9)


@pytest.mark.parametrize("name", ["full-k1", "full-k2", "spherical-k1", "spherical-k2"])
def test_every_model_has_its_criteria_and_how_it_was_fitted(store, name):
    result = open_result(store)
    row, mixture = result.row(name), gmm_dask.load(store, name)
    frame = pd.DataFrame(rows_of(), columns=COLUMNS)
    assert mixture.score(frame) * len(frame) == pytest.approx(row["log_likelihood"], rel=1e-9)
    kind = (
        "diag" if result.model(name).transform.scaling is not None and row["covariance_type"] == "spherical" else None
    )
    assert (mixture.covariance_type, mixture.n_components) == (kind or row["covariance_type"], row["n_components"])
    assert (mixture.status_, mixture.converged_, mixture.n_iter_) == (row["status"], True, row["n_iter"])
    assert mixture.lower_bound_ == mixture.lower_bounds_[-1]
    assert mixture.lower_bound_ == pytest.approx(mixture.score(frame), abs=mixture.tol)
    assert mixture.fit(frame).converged_  # its settings are those of the search


def test_a_model_that_is_not_there(store):
    found = open_result(store).models
    assert found == ["full-k1", "full-k2", "spherical-k1", "spherical-k2"]
    with pytest.raises(UserError, match=names(store, "'tied-k2'", *found)):
        gmm_dask.load(store, "tied-k2")


def test_a_candidate_that_could_not_be_fitted_is_no_model(tmp_path):
    config = job(tmp_path, n_components=[1, 501], covariance_types=["diag"])  # of 500 rows
    with pytest.raises(UserError, match=names("'diag-k501'", "fewer rows than components", "diag-k1")):
        gmm_dask.load(run(config).store, "diag-k501")


def test_a_link_is_followed_and_other_things_are_refused(tmp_path):
    config = job(tmp_path)
    prepare(config, False, lambda event: None)
    seed(config, lambda event: None)
    with pytest.raises(UserError, match=names(config.output.store, "'running'")):
        gmm_dask.load(config.output.store)
    with pytest.raises(UserError, match=names("no result store", tmp_path / "absent.zarr")):
        gmm_dask.load(tmp_path / "absent.zarr")
    run(config)
    os.symlink("night.zarr", tmp_path / "latest.zarr")
    np.testing.assert_array_equal(
        gmm_dask.load(tmp_path / "latest.zarr").means_, gmm_dask.load(config.output.store).means_
    )


def test_columns_that_are_only_numbered_are_no_names(tmp_path):
    np.save(tmp_path / "rows.npy", rows_of())
    config = job(tmp_path)
    source = config.data.model_copy(update={"source": str(tmp_path / "rows.npy")})
    mixture = gmm_dask.load(run(config.model_copy(update={"data": source})).store)
    assert not hasattr(mixture, "feature_names_in_")
    assert mixture.predict(rows_of()).shape == (500,)


@pytest.mark.parametrize("path", [None, 3, "", b"night.zarr", ["night.zarr"]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(UserError, match=names("path", "results/night.zarr", f"got {path!r}")):
        gmm_dask.load(path)


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=names(tmp_path, "not a result store", "gmm-dask ls")):
        gmm_dask.load(tmp_path)
