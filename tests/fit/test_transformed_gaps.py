"""Jobs that transform columns with gaps, beside the same done by hand; their scores, filled rows and loaded models."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import zarr

import gmm_dask
from gaps import with_gaps
from gmm_dask import GaussianMixtureSearch
from messages import names
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.fit.refresh import refresh
from pipeline.report.page import write_report
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.store import open_result
from runs import everything_in

N, COLUMNS = 600, ["income", "share", "marker", "age"]
LOGS = [
    {"log": {"columns": ["income"]}},
    {"logit": {"columns": ["share"]}},
    {"arcsinh": {"cofactor": {"marker": 5}}},
    {"clip": {"columns": ["age"], "minimum": 0}},
]
SCALED = [*LOGS, "scale"]


def rows_of(seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(N, 4)) @ np.array([[1, 0.5, 0, 0], [0, 0.7, 0.2, 0], [0, 0, 0.5, 0.4], [0, 0, 0, 0.6]])
    z[: N // 3] += [4.0, -3.0, 3.0, 2.0]
    found = [np.exp(z[:, 0]), 1.0 / (1.0 + np.exp(-z[:, 1])), 5.0 * np.sinh(z[:, 2]), 40.0 + 10.0 * z[:, 3]]
    rows = with_gaps(np.column_stack(found), 0.2, seed)
    rows[5] = np.nan
    rows[7, 3] = -8.0  # is clipped
    return rows


def by_hand(rows):
    """The columns of LOGS, and the logarithm of each value's derivative."""
    income, share, marker, age = rows.T
    z = np.column_stack([np.log(income), np.log(share / (1.0 - share)), np.arcsinh(marker / 5.0), np.maximum(age, 0.0)])
    slopes = [-np.log(income), -np.log(share * (1.0 - share)), -0.5 * np.log(marker**2 + 25.0), 0.0 * age]
    return z, np.column_stack(slopes)


def scaled_by_hand(rows, method):
    z, slopes = by_hand(rows)
    if method == "standard":
        center, scale = np.nanmean(z, axis=0), np.nanstd(z, axis=0)
    else:
        low, center, high = np.nanquantile(z, (0.25, 0.5, 0.75), axis=0)
        scale = high - low
    return (z - center) / scale, slopes - np.log(scale)


def job(folder, transform, store="r.zarr", rows=None, search=None, output=None, **data):
    source = folder / "rows.parquet"
    if rows is not None or not source.exists():
        pd.DataFrame(rows_of() if rows is None else rows, columns=COLUMNS).to_parquet(source, row_group_size=150)
    settings = {"n_components": [1, 2], "covariance_types": ["full", "tied"], "init_params": "kmeans", "tol": 1e-6}
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "transform": transform, "missing": "likelihood", **data},
            "search": settings | {"reg_covar": 1e-6} | (search or {}),
            "output": {"store": str(folder / store), "log_density": True, "report": False} | (output or {}),
        }
    )


def fitted_by_hand(z, **settings):
    search = GaussianMixtureSearch(
        [1, 2], ["full", "tied"], init_params="kmeans", tol=1e-6, reg_covar=1e-6, missing="likelihood", random_state=0
    )
    return search.set_params(**settings).fit(z[np.isfinite(z).any(axis=1)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("transformed")


@pytest.fixture(scope="module")
def scaled(folder):
    return run(job(folder, SCALED, output={"imputed": True, "responsibilities": True})).store


def stored(store, name):
    return zarr.open_group(store, mode="r")["rows"][name][...]


@pytest.mark.parametrize(
    ("transform", "method"),
    [(SCALED, "standard"), ([*LOGS, {"scale": "robust"}], "robust")],
    ids=["standard", "robust"],
)
def test_criteria_are_those_of_the_rows_by_hand_and_the_jacobian_of_what_they_have(tmp_path, transform, method):
    rows = rows_of()
    z, slopes = scaled_by_hand(rows, method)
    search, jacobian = fitted_by_hand(z), np.nansum(slopes, axis=1)
    result = run(job(tmp_path, transform))
    np.testing.assert_allclose(result.table["bic"], search.results_["bic"] - 2.0 * jacobian.sum(), rtol=1e-9)
    valued = np.isfinite(rows).any(axis=1)
    expected = search.best_estimator_.score_samples(z[valued]) + jacobian[valued]
    np.testing.assert_allclose(stored(result.store, "log_density")[valued], expected, rtol=1e-9)
    assert np.isnan(stored(result.store, "log_density")[5])


@pytest.mark.parametrize("first", [[], LOGS], ids=["alone", "after others"])
def test_held_out_rows_have_the_jacobian_of_their_own_values(tmp_path, first):
    rows = rows_of()
    held_out = {"held_out": 0.3, "criterion": "held_out", "n_components": 1, "reg_covar": 0.0, "tol": 1e-12}
    scales = run(job(tmp_path, [*first, "scale"], "scaled.zarr", rows, held_out)).table
    plain = run(job(tmp_path, first, "plain.zarr", rows, held_out)).table
    # the same fits in other units, which criteria of the columns do not know
    np.testing.assert_allclose(scales["held_out"], plain["held_out"], rtol=1e-7)
    np.testing.assert_allclose(scales["bic"], plain["bic"], rtol=1e-7)


def test_scale_alone_is_told_in_the_units_of_the_data(tmp_path):
    rows = rows_of()
    result = run(job(tmp_path, [], rows=rows, scale="standard", output={"imputed": True, "report": True}))
    scale = np.nanstd(rows, axis=0)
    search = fitted_by_hand((rows - np.nanmean(rows, axis=0)) / scale)
    jacobian = -(np.isfinite(rows) @ np.log(scale)).sum()
    np.testing.assert_allclose(result.table["bic"], search.results_["bic"] - 2.0 * jacobian, rtol=1e-9)
    best = gmm_dask.load(result.store)
    theirs = search.best_estimator_.means_ * scale + np.nanmean(rows, axis=0)
    np.testing.assert_allclose(np.sort(best.means_[:, 0]), np.sort(theirs[:, 0]), rtol=1e-7)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    np.testing.assert_allclose(stored(result.store, "log_density"), best.score_samples(frame), rtol=1e-9)
    np.testing.assert_allclose(stored(result.store, "imputed"), best.impute(frame), rtol=1e-9)


def test_filled_values_are_those_whose_images_are_expected(scaled):
    rows, found = rows_of(), stored(scaled, "imputed")
    present, model = np.isfinite(rows), open_result(scaled).best_model
    np.testing.assert_array_equal(found[present], rows[present])
    loaded = gmm_dask.load(scaled)
    z = model.transform.rows(rows)
    expected = model.transform.undo(loaded[-1].impute(z))
    missing = ~present & present.any(axis=1)[:, None]
    np.testing.assert_allclose(found[missing], expected[missing], rtol=1e-9)
    assert np.isnan(found[5]).all()


def test_loaded_models_and_scores_take_the_rows_with_their_gaps(tmp_path, scaled):
    rows = rows_of(3)
    valued = np.isfinite(rows).any(axis=1)
    new = tmp_path / "new.parquet"
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(new)
    settings = ScoreSettings.from_overrides(["output.imputed=true"])
    assert not score(scaled, str(new), tmp_path / "scores.zarr", settings=settings).drift
    loaded, jacobian = gmm_dask.load(scaled), open_result(scaled).best_model.transform.log_slopes(rows)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    labels = stored(tmp_path / "scores.zarr", "label")
    np.testing.assert_array_equal(labels[valued], loaded.predict(frame)[valued])
    density = stored(tmp_path / "scores.zarr", "log_density")
    np.testing.assert_allclose(density[valued], (loaded.score_samples(frame) + jacobian)[valued], rtol=1e-9)
    assert np.isfinite(stored(tmp_path / "scores.zarr", "imputed")[valued]).all()


def test_the_report_tells_components_in_the_units_of_the_data(scaled):
    write_report(scaled)
    with open(f"{scaled}-report/index.html") as file:
        page = file.read()
    assert "The components in the units of the data" in page
    assert ">nan" not in page


def test_values_without_an_image_count_as_missing(tmp_path):
    rows = rows_of()
    outside = rows.copy()
    outside[:20, 0], outside[20:30, 1] = -1.0, 1.5
    rows[:20, 0], rows[20:30, 1] = np.nan, np.nan
    (tmp_path / "other").mkdir()
    one, other = run(job(tmp_path, SCALED, rows=outside)), run(job(tmp_path / "other", SCALED, rows=rows))
    np.testing.assert_array_equal(one.table["bic"], other.table["bic"])
    for name in ("label", "log_density"):
        np.testing.assert_array_equal(stored(one.store, name), stored(other.store, name))
    notes = " ".join(open_result(one.store).data["notes"])
    assert re.search(names("'income'", "20 values", "count as missing"), notes)


def test_a_run_of_chunks_ends_with_the_same_criteria(tmp_path, unheld, scaled):
    found = run(job(tmp_path, SCALED, chunk_rows=150))
    np.testing.assert_allclose(found.table["bic"], open_result(scaled).table["bic"], rtol=1e-9)


def test_without_a_gap_every_bit_is_as_with_the_default(tmp_path):
    rows = np.where(np.isfinite(rows_of()), rows_of(), [1.5, 0.4, 2.0, 45.0])
    stores = [run(job(tmp_path, SCALED, f"{m}.zarr", rows, missing=m)).store for m in ("error", "likelihood")]
    one, other = map(everything_in, stores)
    assert one[0] == other[0]


def test_a_refresh_keeps_the_winner(tmp_path):
    template = {"store": f"{tmp_path}/{{started:%Y-%m-%dT%H%M%S%f}}.zarr"}
    first = refresh(job(tmp_path, SCALED, output=template))
    second = refresh(job(tmp_path, SCALED, output=template, rows=rows_of() * 1.001))
    assert not second.decision.searched, second.decision.reason
    assert second.summary.best == first.summary.best


def test_principal_components_of_rows_with_gaps_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)transform.*no pca.*data\.missing is likelihood"):
        job(tmp_path, ["scale", "pca"])
