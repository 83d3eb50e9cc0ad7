"""Arrays and data sets of xarray: as stacked by hand, fitted by scikit-learn, and unstacked."""

import dask
import numpy as np
import pytest
import sklearn.mixture
import xarray as xr

from gmm_dask import BayesianGaussianMixture, GaussianMixture, GaussianMixtureSearch, UserError
from grids import ocean, stacked
from messages import names

VARIABLES = ["temp", "salt"]
SETTINGS = {"covariance_type": "diag", "random_state": 0, "tol": 1e-8}
CELLS = ("time", "lat", "lon")


@pytest.fixture(scope="module")
def data():
    return ocean()[VARIABLES]


@pytest.fixture(scope="module")
def peer(data):
    x = stacked(data).astype(float)
    return sklearn.mixture.GaussianMixture(2, **SETTINGS).fit(x[~np.isnan(x).any(axis=1)])


def by_hand(data, answer, fill):
    """What scikit-learn answers of the cells with values, on the grid."""
    x = stacked(data).astype(float)
    wet = ~np.isnan(x).all(axis=1)
    found = answer(x[wet])
    values = np.full((len(x), *found.shape[1:]), fill, found.dtype)
    values[wet] = found
    return values.reshape(*(data.sizes[dim] for dim in CELLS), *found.shape[1:])


@pytest.mark.parametrize(
    "chunks", [None, {"time": 1}, {"time": 2, "depth": 2, "lat": 5}], ids=["numpy", "times", "both"]
)
def test_a_data_set_is_as_stacked_and_unstacked_by_hand(data, peer, chunks):
    X = data if chunks is None else data.chunk(chunks)
    mixture = GaussianMixture(2, feature_dims=["depth"], **SETTINGS).fit(X)
    np.testing.assert_allclose(np.sort(mixture.weights_), np.sort(peer.weights_), rtol=1e-8)
    order = np.argsort(mixture.weights_), np.argsort(peer.weights_)
    np.testing.assert_allclose(mixture.means_[order[0]], peer.means_[order[1]], rtol=1e-7)
    assert list(mixture.feature_names_in_[:2]) == ["temp[depth=5.0]", "temp[depth=10.0]"]
    found = {name: getattr(mixture, name)(X) for name in ("predict", "score_samples", "predict_proba")}
    for answer in found.values():
        assert isinstance(answer, xr.DataArray)
        assert dask.is_dask_collection(answer) == (chunks is not None)
        xr.testing.assert_identical(answer.lat, data.lat)
        assert set(answer.coords) == {*CELLS, "cell_area"}
    labels = np.argsort(order[1])[by_hand(data, peer.predict, -1)]
    labels = np.where(by_hand(data, peer.predict, -1) < 0, -1, order[0][labels])
    assert found["predict"].dims == CELLS
    np.testing.assert_array_equal(found["predict"], labels)
    np.testing.assert_allclose(found["score_samples"], by_hand(data, peer.score_samples, np.nan), rtol=1e-6)
    assert found["predict_proba"].dims == (*CELLS, "component")
    np.testing.assert_allclose(
        found["predict_proba"].values[..., order[0]],
        by_hand(data, peer.predict_proba, np.nan)[..., order[1]],
        rtol=1e-6,
        atol=1e-12,
    )
    x = stacked(data).astype(float)
    wet = x[~np.isnan(x).any(axis=1)]
    assert mixture.score(X) == pytest.approx(peer.score(wet), rel=1e-8)
    assert mixture.bic(X) == pytest.approx(peer.bic(wet), rel=1e-8)


def test_a_lazy_array_is_read_chunk_by_chunk(data):
    sizes = []
    lazy = data.temp.chunk({"time": 1, "lat": 6}).data.map_blocks(
        lambda block: sizes.append(block.shape) or block, dtype=float, meta=np.empty((0, 0, 0, 0))
    )
    X = data.temp.copy(data=lazy)
    mixture = GaussianMixture(2, feature_dims="depth", random_state=0).fit(X)
    assert set(sizes) == {(1, 5, 6, 20)}
    assert mixture.predict(X).chunks == ((1,) * 4, (6, 6), (20,))
    np.testing.assert_array_equal(mixture.predict(X), mixture.predict(data.temp))


def test_bits_do_not_depend_on_threads(data):
    X = data.chunk({"time": 1, "lat": 4})
    with dask.config.set(scheduler="sync"):
        one = GaussianMixture(2, feature_dims="depth", **SETTINGS).fit(X)
    with dask.config.set(num_workers=3):
        other = GaussianMixture(2, feature_dims="depth", **SETTINGS).fit(X)
    np.testing.assert_array_equal(one.means_, other.means_)


@pytest.mark.parametrize("chunks", [None, {"time": 1, "lat": 5}], ids=["numpy", "dask"])
def test_weights_of_cells_count_their_rows(data, chunks):
    area = ocean()["area"]
    X = data if chunks is None else data.chunk(chunks)
    mixture = GaussianMixture(1, feature_dims="depth").fit(X, sample_weight=area)
    x, weights = stacked(data).astype(float), np.broadcast_to(area, (4, 12, 20)).ravel()
    wet = ~np.isnan(x).any(axis=1)
    np.testing.assert_allclose(mixture.means_[0], np.average(x[wet], axis=0, weights=weights[wet]), rtol=1e-8)
    for wrong in (weights, area.rename(lat="depth", lon="x"), area.isel(lat=slice(3))):
        with pytest.raises(UserError, match=names("sample_weight")):
            mixture.score(X, sample_weight=wrong)


@pytest.mark.parametrize("chunks", [None, {"time": 1, "lat": 5}], ids=["numpy", "dask"])
def test_weights_are_matched_by_their_coordinates(data, chunks):
    area = ocean()["area"] * (1 + np.arange(12)[:, None])
    X = data if chunks is None else data.chunk(chunks)
    mixture = GaussianMixture(1, feature_dims="depth").fit(X, sample_weight=area)
    turned = area.isel(lat=slice(None, None, -1)).transpose("lon", "lat")
    for same in (turned, turned.chunk({"lat": 5}), area.drop_vars(["lat", "lon"])):
        again = GaussianMixture(1, feature_dims="depth").fit(X, sample_weight=same)
        np.testing.assert_allclose(again.means_, mixture.means_, rtol=1e-12)  # chunks decide the last bits
    shifted = area.assign_coords(lat=area.lat + 1)
    for wrong in (shifted, area.isel(lat=[0, *range(11)])):
        with pytest.raises(UserError, match=names("sample_weight", "'lat'", "-60.0 to 60.0", "drop_vars")):
            mixture.score(X, sample_weight=wrong)
    nearest = shifted.reindex(lat=X["lat"], method="nearest")  # as the message says
    assert mixture.score(X, sample_weight=nearest) == mixture.score(X, sample_weight=area)


def test_searches_and_variational_mixtures_answer_on_the_grid(data):
    search = GaussianMixtureSearch(range(1, 4), "diag", feature_dims="depth", init_params="kmeans", random_state=0)
    assert search.fit(data.chunk({"time": 2})).best_params_["n_components"] == 2
    assert search.predict(data).dims == search.best_estimator_.predict(data).dims == CELLS
    mixture = BayesianGaussianMixture(n_components=2, feature_dims="depth", random_state=0)
    assert mixture.fit_predict(data).dims == CELLS


def test_no_feature_dimension_makes_a_column_of_each_variable(data):
    """One that lacks a dimension has the same value along it."""
    X = data.isel(depth=0, drop=True).assign(area=ocean()["area"])
    with pytest.raises(UserError, match=names("284 in column 'temp'", "X.where(")):
        GaussianMixture(1, feature_dims=[]).fit(X)  # area is known on land, too
    X = X.where(X.temp.notnull())
    mixture = GaussianMixture(1, feature_dims=[]).fit(X)
    assert list(mixture.feature_names_in_) == ["temp", "salt", "area"]
    np.testing.assert_allclose(mixture.means_[0], [float(X[name].mean()) for name in X], rtol=1e-6)
    with pytest.raises(UserError, match=names("NaN", "X.where(")):
        mixture.predict(X.assign(area=ocean()["area"]))


def test_what_does_not_fit_is_named(data):
    fitted = GaussianMixture(2, feature_dims=["depth"], random_state=0).fit(data)
    with pytest.raises(ValueError, match=names("temp[depth=7.0]")):
        fitted.predict(data.assign_coords(depth=[7.0, 10.0, 20.0, 50.0, 100.0]))
    for feature_dims, parts in {"dept": ("'dept'", "depth"), ("time", "depth", "lat", "lon"): ("rows",)}.items():
        with pytest.raises(UserError, match=names("feature_dims", *parts)):
            GaussianMixture(2, feature_dims=feature_dims).fit(data)
    with pytest.raises(UserError, match=names("feature_dims", "ndarray")):
        GaussianMixture(2, feature_dims=["depth"]).fit(stacked(data))
    with pytest.raises(UserError, match=names("real numbers", "'name'")):
        GaussianMixture(2, feature_dims=["depth"]).fit(data.assign(name=("lat", list("abcdefghijkl"))))
    for several in (data, data.chunk(), data["temp"], data["temp"].chunk()):
        with pytest.raises(UserError, match=names("xarray", "feature_dims")):
            GaussianMixture(2).fit(several)
    with pytest.raises(UserError, match=names("feature_dims", "once", "depth")):
        GaussianMixture(2, feature_dims=["depth", "depth"]).fit(data)
    with pytest.raises(UserError, match=names("feature_dims", "'depth'", "no entries")):
        GaussianMixture(2, feature_dims=["depth"]).fit(data.isel(depth=[]))
    members = data.rename(time="component")
    assert fitted.predict(members).dims == ("component", "lat", "lon")
    with pytest.raises(UserError, match=names("'component'", "rename")):
        fitted.predict_proba(members)
    # rows and columns, as any model takes them
    x = stacked(data)
    x = x[~np.isnan(x).any(axis=1)]
    with pytest.warns(UserWarning, match="feature names"):
        assert fitted.predict(x).shape == (len(x),)


@pytest.mark.parametrize("chunks", [None, {"time": 1}], ids=["numpy", "dask"])
def test_cells_that_lack_some_values_take_part_by_likelihood(data, chunks):
    """Profiles that end at the bottom of the sea."""
    shallow = data.where(~((data.depth > 50) & (data.lon > 180)))
    shallow.temp.attrs["units"] = "degC"
    X = shallow if chunks is None else shallow.chunk(chunks)
    x = stacked(shallow).astype(float)
    wet = ~np.isnan(x).all(axis=1)
    by_rows = GaussianMixture(2, missing="likelihood", **SETTINGS).fit(x[wet])
    mixture = GaussianMixture(2, missing="likelihood", feature_dims="depth", **SETTINGS).fit(X)
    assert mixture.score(X) == pytest.approx(by_rows.score(x[wet]), rel=1e-7)
    np.testing.assert_allclose(mixture.score_samples(X), by_hand(shallow, by_rows.score_samples, np.nan), rtol=1e-5)
    mean, variance = mixture.condition(X)
    expected = by_rows.condition(x)
    for found, of_rows in zip((mean, variance), expected, strict=True):
        assert dask.is_dask_collection(found) == (chunks is not None)
        assert {name: found[name].dims for name in found} == {name: data[name].dims for name in VARIABLES}
        np.testing.assert_allclose(stacked(found), of_rows, rtol=1e-5, atol=1e-8)
    assert (mean.temp.attrs, variance.temp.attrs) == ({"units": "degC"}, {})
    xr.testing.assert_identical(mean.depth, data.depth)
    assert float(variance.temp.max()) > 0
    temp = GaussianMixture(1, missing="likelihood", feature_dims="depth").fit(X.temp).impute(X.temp)
    assert (temp.name, temp.dims) == ("temp", data.temp.dims)
    np.testing.assert_array_equal(temp.notnull().any("depth"), data.temp.notnull().any("depth"))


@pytest.mark.parametrize("chunks", [None, {"time": 1, "depth": 2}], ids=["numpy", "dask"])
def test_variables_and_coordinates_in_another_order_are_taken_by_name(data, chunks):
    mixture = GaussianMixture(2, missing="likelihood", feature_dims="depth", **SETTINGS).fit(data)
    other = data[VARIABLES[::-1]].isel(depth=slice(None, None, -1))
    X = other if chunks is None else other.chunk(chunks)
    xr.testing.assert_equal(mixture.predict(X).compute(), mixture.predict(data))
    assert mixture.score(X) == pytest.approx(mixture.score(data), rel=1e-12)
    found, expected = mixture.impute(X).compute(), mixture.impute(data)
    xr.testing.assert_allclose(found.sortby("depth"), expected)
    assert found.temp.dims == data.temp.dims
    np.testing.assert_array_equal(found.depth, other.depth)
    temp = GaussianMixture(2, feature_dims="depth", **SETTINGS).fit(data.temp)
    xr.testing.assert_equal(temp.predict(X.temp).compute(), temp.predict(data.temp))
    with pytest.raises(ValueError, match=names("feature names")):
        mixture.predict(X.assign_coords(depth=X.depth + 1))


@pytest.mark.parametrize("chunks", [None, {"time": 1}], ids=["numpy", "dask"])
def test_a_grid_of_no_rows(data, chunks):
    mixture = GaussianMixture(2, feature_dims="depth", **SETTINGS).fit(data)
    none = data.isel(time=[]) if chunks is None else data.isel(time=[]).chunk(chunks)
    assert mixture.predict(none).sizes == {"time": 0, "lat": 12, "lon": 20}
    assert mixture.predict_proba(none).values.shape == (0, 12, 20, 2)
    assert mixture.impute(none).temp.values.shape == data.isel(time=[]).temp.shape
    for method in (mixture.score, GaussianMixture(1, feature_dims="depth").fit):
        with pytest.raises(ValueError, match=names("0")):
            method(none)


def test_columns_at_durations_have_their_units(data):
    leads = data.assign_coords(depth=np.array([0, 6, 24, 36, 48]) * np.timedelta64(1, "h").astype("m8[ns]"))
    mixture = GaussianMixture(1, feature_dims="depth").fit(leads.temp)
    found = [name.removeprefix("temp[depth=").removesuffix("]") for name in mixture.feature_names_in_]
    assert found == ["0 days", "6 hours", "1 days", "36 hours", "2 days"]
