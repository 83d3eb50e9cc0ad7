"""Every kind of X gives the result that a NumPy array gives."""

from __future__ import annotations

import dask
import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray
import zarr

from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError
from gmm_dask.inputs import read_input
from messages import names
from mixtures import assert_same_parameters

NAMES = ["sepal length", "sepal width", "petal length", "petal width"]
LAZY = {"dask", "dask, cut columns", "dask, unknown lengths", "dask frame", "dask of integers"}
KIND_OUT = {"pandas": (pd.Series, pd.DataFrame), "dask frame": (dd.Series, dd.DataFrame)}
KINDS = ["list", "float32", "fortran", "pandas", "zarr", "sharded zarr", *sorted(LAZY)]


def as_kind(X, kind, tmp_path):
    if kind == "dask, unknown lengths":
        lazy = da.from_array(np.vstack([X, X[:9]]), chunks=(40, 4))
        keep = da.from_array(np.arange(len(lazy)) < len(X), chunks=40)
        return lazy[keep]
    if "zarr" in kind:
        shards = {"shards": (60, 4)} if kind == "sharded zarr" else {}
        stored = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(30, 2), dtype=X.dtype, **shards)
        stored[:] = X
        return stored
    return {
        "list": lambda: X.tolist(),
        "float32": lambda: X.astype(np.float32),
        "fortran": lambda: np.asfortranarray(X),
        "pandas": lambda: pd.DataFrame(X, columns=NAMES),
        "dask": lambda: da.from_array(X, chunks=(40, 4)),
        "dask, cut columns": lambda: da.from_array(X, chunks=(40, 3)),
        "dask frame": lambda: dd.from_pandas(pd.DataFrame(X, columns=NAMES), npartitions=4),
        "dask of integers": lambda: da.from_array(np.rint(X * 10).astype(int), chunks=(40, 4)) / 10,
    }[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same(iris, kind, tmp_path):
    X = as_kind(iris, kind, tmp_path)
    plain = np.asarray(iris, dtype=np.float32).astype(float) if kind == "float32" else iris
    # rows in single precision are fitted in it
    rounding = 1e-4 if kind == "float32" else 1e-9
    expected = GaussianMixture(3, n_init=2, random_state=0).fit(plain)
    found = GaussianMixture(3, n_init=2, random_state=0).fit(X)
    assert found.n_iter_ == expected.n_iter_
    assert_same_parameters(found, expected, rtol=rounding)
    assert found.means_.dtype == np.float64
    for method in ("predict", "predict_proba", "score_samples"):
        answer = getattr(found, method)(X)
        assert isinstance(answer, KIND_OUT.get(kind, da.Array if kind in LAZY else np.ndarray)), method
        np.testing.assert_allclose(np.asarray(answer), getattr(expected, method)(plain), atol=10 * rounding)
    for method in ("score", "bic", "aic", "icl"):
        assert getattr(found, method)(X) == pytest.approx(getattr(expected, method)(plain), rel=rounding)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_takes_every_kind(iris, kind, tmp_path):
    plain = np.asarray(iris, dtype=np.float32).astype(float) if kind == "float32" else iris
    settings = {
        "n_components": [1, 2],
        "covariance_types": ["full", "diag"],
        "init_params": "kmeans",
        "random_state": 0,
    }
    expected = GaussianMixtureSearch(**settings).fit(plain).results_
    found = GaussianMixtureSearch(**settings).fit(as_kind(iris, kind, tmp_path)).results_
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5 if kind == "float32" else 1e-9)


def test_zarr_is_read_in_whole_stored_chunks(iris, tmp_path):
    for kind, unit in (("zarr", 30), ("sharded zarr", 60)):
        stored = as_kind(iris, kind, tmp_path / kind)
        sizes = read_input(GaussianMixture(), stored, reset=True).chunks
        assert sizes[1] == (4,)
        assert all(size % unit == 0 for size in sizes[0][:-1])


@pytest.mark.parametrize("kind", ["pandas", "dask frame"])
def test_feature_names(iris, kind, tmp_path):
    frame = as_kind(iris, kind, tmp_path)
    fitted = GaussianMixture(2, random_state=0).fit(frame)
    assert list(fitted.feature_names_in_) == NAMES
    assert fitted.n_features_in_ == 4
    with pytest.raises(ValueError, match=names("feature names", "breadth", "petal width")):
        fitted.predict(frame.rename(columns={"petal width": "breadth"}))
    with pytest.warns(UserWarning, match=names("feature names", "GaussianMixture")):
        fitted.predict(iris)
    with pytest.warns(UserWarning, match=names("feature names", "GaussianMixture", "without")):
        GaussianMixture(2, random_state=0).fit(iris).predict(frame)


@pytest.mark.parametrize("kind", sorted(LAZY - {"dask frame"} | {"zarr"}))
def test_another_number_of_features(iris, kind, tmp_path):
    fitted = GaussianMixture(2, random_state=0).fit(iris[:, :3])
    with pytest.raises(ValueError, match=names("4 features", "GaussianMixture", "3")):
        fitted.predict(as_kind(iris, kind, tmp_path))


WEIGHTS = {
    "numpy": lambda w: w,
    "list": lambda w: w.tolist(),
    "pandas": pd.Series,
    "dask": lambda w: da.from_array(w, chunks=25),
    "dask series": lambda w: dd.from_pandas(pd.Series(w), npartitions=4),
}
KNOWN = [(X, w) for X in ("list", "zarr", "dask") for w in WEIGHTS if X == "list" or w != "dask series"]


@pytest.mark.parametrize(("X_kind", "kind"), [*KNOWN, ("dask frame", "dask series")])
def test_every_kind_of_weights(iris, X_kind, kind, tmp_path):
    weights = np.random.RandomState(0).uniform(0.5, 2, len(iris))
    expected = GaussianMixture(2, random_state=0).fit(iris, sample_weight=weights)
    X = as_kind(iris, X_kind, tmp_path)
    found = GaussianMixture(2, random_state=0).fit(X, sample_weight=WEIGHTS[kind](weights))
    assert_same_parameters(found, expected)


@pytest.mark.parametrize(
    ("X_kind", "kind", "parts"),
    [
        ("dask frame", "numpy", ["X.compute_chunk_sizes()", "Dask array"]),
        ("dask frame", "dask", ["6 partitions", "4", "compute_chunk_sizes()"]),
        ("dask", "dask series", ["compute_chunk_sizes() on sample_weight"]),
    ],
)
def test_weights_that_cannot_be_aligned(iris, X_kind, kind, parts, tmp_path):
    X = as_kind(iris, X_kind, tmp_path)
    with pytest.raises(UserError, match=names("sample_weight", *parts)):
        GaussianMixture(2).fit(X, sample_weight=WEIGHTS[kind](np.ones(len(iris))))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
def test_nullable_frames_are_numbers_and_their_gaps_are_missing(backend, lazy):
    rng = np.random.default_rng(0)
    plain = pd.DataFrame({"i": rng.integers(0, 50, 200), "f": rng.normal(size=200), "b": rng.random(200) > 0.5})
    frame = plain.convert_dtypes(dtype_backend=backend)
    as_input = (lambda frame: dd.from_pandas(frame, npartitions=3)) if lazy else (lambda frame: frame)
    expected = GaussianMixture(2, random_state=0).fit(plain)
    np.testing.assert_allclose(GaussianMixture(2, random_state=0).fit(as_input(frame)).means_, expected.means_)
    for name in frame:
        gaps = frame.copy()
        gaps.loc[3, name] = pd.NA
        with pytest.raises(UserError, match=names("1 of 200 rows", f"1 in column '{name}'")):
            GaussianMixture(2).fit(as_input(gaps))


# -- what is no array and no DataFrame ---------------------------------------------------------------------------


def empty_dataset(_):
    import h5py

    return h5py.Empty("f")


def lazy_frame(X):
    return pytest.importorskip("polars").DataFrame(X).lazy()


OTHERS = {
    "series": (lambda X: as_dask_frame(X)["a"], ("2D", "Series", "X[['a']]")),
    "index": (lambda X: as_dask_frame(X).index, ("2D", "Index")),
    "bag": (lambda X: dask.bag.from_sequence(X), ("array or a DataFrame", "Bag")),
    "delayed": (lambda X: dask.delayed(X), ("array or a DataFrame", "Delayed")),
    "empty": (empty_dataset, ("HDF5", "Empty")),
    "lazy frame": (lazy_frame, ("polars.LazyFrame", "X.collect()")),
    "dataset": (lambda X: xarray.Dataset({"a": ("row", X[:, 0])}), ("xarray.Dataset", "feature_dims")),
}


def as_dask_frame(X):
    return dd.from_pandas(pd.DataFrame(X, columns=["a", "b"]), npartitions=2)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_has_no_rows_and_columns_is_named(kind):
    X = np.random.default_rng(0).normal(size=(40, 2))
    make, parts = OTHERS[kind]
    fitted = GaussianMixture(2, random_state=0).fit(X)
    for method in (GaussianMixture(2).fit, fitted.predict, fitted.score):
        with pytest.raises(UserError, match=names(*parts)):
            method(make(X))


def test_a_lazy_array_of_xarray_is_read_in_chunks():
    X, sizes = np.random.default_rng(0).normal(size=(400, 2)), []
    lazy = da.from_array(X, chunks=(100, 2)).map_blocks(lambda block: sizes.append(len(block)) or block, dtype=X.dtype)
    labelled = xarray.DataArray(lazy, dims=("row", "feature"))
    sizes.clear()
    fitted = GaussianMixture(2, random_state=0).fit(labelled)
    assert set(sizes) == {100}
    labels = fitted.predict(labelled)
    assert isinstance(labels, da.Array)
    np.testing.assert_array_equal(labels, fitted.predict(X))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"covariance_type": "tied"}, ("covariance_type", "diag", "tied")),  # of the same shape, as K = D
        ({"n_components": 3}, ("n_components", "2", "3")),
        ({}, ("number of features", "2", "1")),
    ],
)
def test_a_warm_start_from_another_model_is_refused(change, named):
    X = np.random.default_rng(0).normal(size=(40, 2))
    mixture = GaussianMixture(2, covariance_type="diag", warm_start=True, random_state=0).fit(X)
    with pytest.raises(UserError, match=names("warm_start", *named)):
        mixture.set_params(**change).fit(X if change else X[:, :1])
