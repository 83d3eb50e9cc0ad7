"""What cannot be fitted is refused, with what came and what to do."""

from __future__ import annotations

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning

from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError
from messages import names


def in_chunks(X):
    return da.from_array(X, chunks=(25, *[-1] * (X.ndim - 1)) if len(X) else -1)


AS_ARRAY = {"numpy": lambda X: X, "dask": in_chunks}
ESTIMATORS = {"fit": lambda: GaussianMixture(2), "search": lambda: GaussianMixtureSearch([1, 2])}


@pytest.fixture
def X():
    return np.random.RandomState(0).standard_normal((100, 2))


@pytest.fixture(params=AS_ARRAY)
def as_array(request):
    return AS_ARRAY[request.param]


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return ESTIMATORS[request.param]()


# -- values ------------------------------------------------------------------------------------------------------
BAD_VALUES = r"1 in column {0}, 2 in column {1}; the first in row 30 \(counted from 0\), column {1}\. .*drop or impute"


@pytest.fixture
def holes(X):
    X[70, 0], X[30, 1], X[71, 1] = np.inf, np.nan, -np.inf
    return X


@pytest.mark.parametrize("chunks", [100, (25, 2), (40, 1)], ids=str)
def test_values_that_are_not_finite(holes, estimator, chunks):
    with pytest.raises(UserError, match=r"contains NaN or infinity in 3 of 100 rows: " + BAD_VALUES.format(0, 1)):
        estimator.fit(da.from_array(holes, chunks=chunks))


def test_values_that_are_not_finite_in_memory(holes, estimator):
    with pytest.raises(UserError, match=r"contains NaN or infinity in 3 of 100 rows: " + BAD_VALUES.format(0, 1)):
        estimator.fit(holes)


@pytest.mark.parametrize("make", [lambda f: f, lambda f: dd.from_pandas(f, npartitions=4)], ids=["pandas", "dask"])
def test_values_that_are_not_finite_in_named_columns(holes, estimator, make):
    with pytest.raises(UserError, match=BAD_VALUES.format("'width'", "'length'")):
        estimator.fit(make(pd.DataFrame(holes, columns=["width", "length"])))


def test_answers_refuse_values_that_are_not_finite(X):
    fitted = GaussianMixture(2, random_state=0).fit(X)
    X[3, 1] = np.nan
    for method in ("predict", "predict_proba", "score_samples", "score", "bic"):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            getattr(fitted, method)(X)


def test_fewer_rows_than_components(X, as_array):
    with pytest.raises(UserError, match=names("n_components = 7", "n_samples = 5", "fewer components")):
        GaussianMixture(7).fit(as_array(X[:5]))
    with pytest.raises(UserError, match=r"there are fewer rows than components.* Ask for fewer components"):
        GaussianMixtureSearch([6, 7]).fit(as_array(X[:5]))


def test_fewer_rows_than_given_components(X, as_array):
    inits = {"weights_init": np.full(7, 1 / 7), "means_init": np.zeros((7, 2)), "precisions_init": [np.eye(2)] * 7}
    with pytest.raises(UserError, match=r"n_components = 7, n_samples = 5"):
        GaussianMixture(7, **inits).fit(as_array(X[:5]))


# -- shapes and kinds --------------------------------------------------------------------------------------------
UNUSABLE = {
    "no rows": (lambda X: X[:0], r"0 sample\(s\)|n_samples = 0"),
    "no columns": (lambda X: X[:, :0], r"0 feature\(s\) \(shape=\(100, 0\)\) while a minimum of 1 is required"),
    "one dimension": (lambda X: X[:, 0], "Expected 2D array, got 1D array"),
    "three dimensions": (lambda X: X[None], "3D array|dim 3"),
    "complex": (lambda X: X + 1j, r"Complex data not supported|got dtype complex128. Convert it"),
    "strings": (lambda X: np.full((9, 2), "a"), "could not convert string to float|real numbers; got dtype <U1"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_arrays(X, as_array, estimator, name):
    change, message = UNUSABLE[name]
    with pytest.raises(ValueError, match=message):
        estimator.fit(as_array(change(X)))


def test_columns_that_are_not_numeric(X, estimator):
    frame = pd.DataFrame(X, columns=["u", "v"]).assign(species="setosa", when=pd.Timestamp("2026-01-01"))
    with pytest.raises(UserError, match=names("not numeric", "species", "when")):
        estimator.fit(dd.from_pandas(frame, npartitions=2))
    with pytest.raises((ValueError, TypeError)):
        estimator.fit(frame)


# -- weights -----------------------------------------------------------------------------------------------------
def changed(position, value):
    weights = np.ones(100)
    weights[position] = value
    return weights


WEIGHTS = {
    "negative": (changed(3, -1.0), "1 sample weights are negative, NaN or infinite"),
    "NaN": (changed([5, 7], np.nan), "2 sample weights are negative, NaN or infinite|sample_weight contains NaN"),
    "infinite": (changed(5, np.inf), "1 sample weights are negative, NaN or infinite|sample_weight contains inf"),
    "zero": (np.zeros(100), "add up to zero; at least one|at least one non-zero"),
    "short": (np.ones(99), r"expected shape \(100,\), got \(99,\)|\(99,\), expected \(100,\)"),
    "wide": (np.ones((100, 1)), r"expected shape \(100,\), got \(100, 1\)|must be 1D array"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_unusable_weights(X, as_array, estimator, name):
    weights, message = WEIGHTS[name]
    with pytest.raises(ValueError, match=message):
        estimator.fit(as_array(X), sample_weight=weights)


@pytest.mark.parametrize("name", ["negative", "NaN", "zero"])
def test_unusable_lazy_weights(X, name):
    weights, message = WEIGHTS[name]
    with pytest.raises(UserError, match=message):
        GaussianMixture(2).fit(da.from_array(X, chunks=(25, 2)), sample_weight=da.from_array(weights, chunks=30))


# -- singular ----------------------------------------------------------------------------------------------------
SINGULAR = r"not positive definite\. Increase reg_covar, ask for fewer components, or scale the data"


def test_every_start_singular_is_an_error_with_the_remedy(covariance_type, as_array):
    """Two points, ten times each: components without width."""
    rows = as_array(np.repeat([[0.0, 0.0], [4.0, 4.0]], 10, axis=0))
    mixture = GaussianMixture(2, covariance_type=covariance_type, reg_covar=0, n_init=3)
    with pytest.raises(UserError, match=SINGULAR):
        mixture.fit(rows)
    assert not hasattr(mixture, "means_")


def spike_and_cloud():
    """Eight equal rows beside a cloud: some starts give the spike a component of its own."""
    return np.concatenate([np.zeros((8, 1)), np.random.RandomState(0).normal(5, 2, (60, 1))])


@pytest.mark.filterwarnings("ignore:The best start is spurious:sklearn.exceptions.ConvergenceWarning")
def test_a_singular_start_is_dropped_with_a_warning():
    rows = spike_and_cloud()
    mixture = GaussianMixture(4, reg_covar=0, n_init=8, max_iter=2000, tol=1e-6, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"\d of 8 starts were dropped: .*Increase reg_covar"):
        mixture.fit(rows)
    assert np.isfinite(mixture.score(rows))


def test_no_convergence_is_a_warning_with_the_remedy(X):
    with pytest.warns(ConvergenceWarning, match="max_iter was reached .* Increase max_iter or tol"):
        GaussianMixture(3, tol=0, max_iter=2, random_state=0).fit(X)


# -- parameters --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_components": 0}, r"'n_components' parameter .* range \[1, inf\). Got 0"),
        ({"covariance_type": "ful"}, r"'covariance_type' parameter .* Got 'ful'"),
        ({"tol": -1.0}, "'tol' parameter"),
        ({"reg_covar": -1.0}, "'reg_covar' parameter"),
        ({"max_iter": -1}, "'max_iter' parameter"),
        ({"n_init": 0}, "'n_init' parameter"),
        ({"init_params": "best"}, r"'init_params' parameter .* Got 'best'"),
        ({"random_state": "seed"}, "'random_state' parameter"),
        ({"warm_start": "yes"}, "'warm_start' parameter"),
    ],
    ids=str,
)
def test_wrong_settings(X, changes, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**changes).fit(X)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_components": [0, 2]}, r"integers of at least 1; got \[0\]"),
        ({"n_components": [1.5]}, r"integers of at least 1; got \[1.5\]"),
        ({"n_components": []}, "integers of at least 1; got none"),
        ({"covariance_types": ["ful"]}, "must be one of full, tied, diag, spherical; got 'ful'"),
        ({"covariance_types": []}, "must name at least one of full, tied, diag, spherical"),
        ({"criterion": "dic"}, r"'criterion' parameter .* Got 'dic'"),
        ({"max_iter": 0}, "'max_iter' parameter"),
    ],
    ids=str,
)
def test_wrong_search_settings(X, changes, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureSearch(**changes).fit(X)


def test_nan_in_lazy_answers_is_an_error_when_computed(blobs):
    mixture = GaussianMixture(2, random_state=0).fit(blobs)
    X = blobs.copy()
    X[17, 1] = np.nan
    lazy = da.from_array(X, chunks=(50, -1))
    for answer in (mixture.predict, mixture.predict_proba, mixture.score_samples):
        with pytest.raises(UserError, match=names("NaN or infinity", "50 rows")):
            answer(lazy).compute()
    with pytest.raises(UserError, match="NaN or infinity"):
        mixture.score(lazy)


def test_one_row_is_refused_lazily_too():
    with pytest.raises(UserError, match="n_samples = 1"):
        GaussianMixture().fit(da.ones((1, 2)))


def test_text_in_a_frame_is_named():
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "kind": ["x", "y", "z"]})
    with pytest.raises(UserError, match="not numeric: kind"):
        GaussianMixture().fit(frame)


def test_values_whose_squares_overflow_are_named():
    X = np.random.RandomState(0).standard_normal((50, 2)) * [1.0, 1e200]
    with pytest.raises(UserError, match=r"column 1 reach .*e\+200.*Scale the data"):
        GaussianMixture(2).fit(X)


def test_lazy_weights_of_other_lengths_are_refused():
    frame = dd.from_pandas(pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0) ** 2}), npartitions=2)
    weights = dd.from_pandas(pd.Series(np.ones(30)), npartitions=2).to_dask_array()
    with pytest.raises(UserError, match="partition both alike"):
        GaussianMixture(2).fit(frame, sample_weight=weights)
