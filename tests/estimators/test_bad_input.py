"""What cannot be fitted is refused, with what came and what to do."""

from __future__ import annotations

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import sklearn.cluster
import sklearn.mixture
from sklearn.exceptions import ConvergenceWarning

from gmm_dask import (
    BayesianGaussianMixture,
    GaussianMixture,
    GaussianMixtureSearch,
    UserError,
    match_components,
    merge_components,
)
from gmm_dask.families import FAMILIES
from gmm_dask.plotting import plot_criteria, plot_means
from messages import names


def in_chunks(X):
    return da.from_array(X, chunks=(25, *[-1] * (X.ndim - 1)) if len(X) else -1)


AS_ARRAY = {"numpy": lambda X: X, "dask": in_chunks}
ESTIMATORS = {"fit": lambda: GaussianMixture(2), "search": lambda: GaussianMixtureSearch([1, 2], init_params="kmeans")}


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
def bad_values(one, two):
    return names("NaN or infinity", "3 of 100 rows", f"1 in column {one}", f"2 in column {two}", "row 30", "impute")


@pytest.fixture
def holes(X):
    X[70, 0], X[30, 1], X[71, 1] = np.inf, np.nan, -np.inf
    return X


@pytest.mark.parametrize("chunks", [None, 100, (25, 2), (40, 1)], ids=str)
def test_values_that_are_not_finite(holes, estimator, chunks):
    with pytest.raises(UserError, match=bad_values(0, 1)):
        estimator.fit(da.from_array(holes, chunks=chunks) if chunks else holes)


@pytest.mark.parametrize(
    ("other", "takes_gaps"),
    [
        (GaussianMixture(), True),
        (GaussianMixtureSearch([1]), True),
        (GaussianMixture(noise=True), False),
        (GaussianMixtureSearch([1], resamples=5), False),
        (GaussianMixtureSearch([1], inference="variational"), False),
        (BayesianGaussianMixture(), False),
    ],
)
def test_gaps_are_offered_where_they_can_be(holes, other, takes_gaps):
    with pytest.raises(UserError, match="NaN") as refused:
        other.fit(holes)
    assert ("missing='likelihood'" in str(refused.value)) == takes_gaps


@pytest.mark.parametrize(
    ("other", "meant"),
    [
        (GaussianMixture(covariance_type="diagg"), "diag"),
        (GaussianMixture(prior="defualt"), "default"),
        (BayesianGaussianMixture(init_params="KMeans"), "kmeans"),
        (GaussianMixtureSearch(covariance_types=["full", "diagg"]), "diag"),
        (GaussianMixtureSearch(criterion="BIC"), "bic"),
    ],
)
def test_a_misspelled_choice_is_known(X, other, meant):
    with pytest.raises(ValueError, match=names(f"did you mean {meant}?")):
        other.fit(X)


@pytest.mark.parametrize("make", [lambda f: f, lambda f: dd.from_pandas(f, npartitions=4)], ids=["pandas", "dask"])
def test_values_that_are_not_finite_in_named_columns(holes, estimator, make):
    with pytest.raises(UserError, match=bad_values("'width'", "'length'")):
        estimator.fit(make(pd.DataFrame(holes, columns=["width", "length"])))


def test_answers_refuse_values_that_are_not_finite(X):
    fitted = GaussianMixture(2, random_state=0).fit(X)
    X[3, 1] = np.nan
    for method in ("predict", "predict_proba", "score_samples", "score", "bic"):
        with pytest.raises(ValueError, match=names("X", "NaN")):
            getattr(fitted, method)(X)


def test_fewer_rows_than_components(X, as_array):
    with pytest.raises(UserError, match=names("n_components = 7", "n_samples = 5", "fewer components")):
        GaussianMixture(7).fit(as_array(X[:5]))
    with pytest.raises(UserError, match=names("no candidate", "rows", "fewer components")):
        GaussianMixtureSearch([6, 7], init_params="kmeans").fit(as_array(X[:5]))


def test_fewer_rows_than_given_components(X, as_array):
    inits = {"weights_init": np.full(7, 1 / 7), "means_init": np.zeros((7, 2)), "precisions_init": [np.eye(2)] * 7}
    with pytest.raises(UserError, match=names("n_components = 7", "n_samples = 5")):
        GaussianMixture(7, **inits).fit(as_array(X[:5]))


# -- shapes and kinds --------------------------------------------------------------------------------------------
UNUSABLE = {
    "no rows": (lambda X: X[:0], [("0 sample", "n_samples = 0")]),
    "one row": (lambda X: X[:1], [("1 sample", "n_samples = 1")]),
    "no columns": (lambda X: X[:, :0], ["0 feature", "(100, 0)"]),
    "one dimension": (lambda X: X[:, 0], ["2D", "1D"]),
    "three dimensions": (lambda X: X[None], [("3D", "dim 3")]),
    "complex": (lambda X: X + 1j, [("Complex", "complex128")]),
    "strings": (lambda X: np.full((9, 2), "a"), [("'a'", "<U1"), "float"]),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_arrays(X, as_array, estimator, name):
    change, parts = UNUSABLE[name]
    with pytest.raises(ValueError, match=names(*parts)):
        estimator.fit(as_array(change(X)))


def test_columns_that_are_not_numeric(X, estimator):
    frame = pd.DataFrame(X, columns=["u", "v"]).assign(species="setosa", when=pd.Timestamp("2026-01-01"))
    for rows in (dd.from_pandas(frame, npartitions=2), frame):
        with pytest.raises(UserError, match=names("numeric", "species", "when")):
            estimator.fit(rows)


# -- weights -----------------------------------------------------------------------------------------------------
def changed(position, value):
    weights = np.ones(100)
    weights[position] = value
    return weights


WEIGHTS = {
    "negative": (changed(3, -1.0), ["1 sample weights", "negative"]),
    "NaN": (changed([5, 7], np.nan), [("2 sample weights", "sample_weight"), "NaN"]),
    "infinite": (changed(5, np.inf), [("1 sample weights", "sample_weight"), "inf"]),
    "zero": (np.zeros(100), ["weight", "zero"]),
    "short": (np.ones(99), ["sample_weight", "(99,)", "(100,)"]),
    "wide": (np.ones((100, 1)), [("(100, 1)", "1D"), "(100,)"]),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_unusable_weights(X, as_array, estimator, name):
    weights, parts = WEIGHTS[name]
    with pytest.raises(ValueError, match=names(*parts)):
        estimator.fit(as_array(X), sample_weight=weights)


@pytest.mark.parametrize("name", ["negative", "NaN", "zero"])
def test_unusable_lazy_weights(X, name):
    weights, parts = WEIGHTS[name]
    with pytest.raises(UserError, match=names(*parts)):
        GaussianMixture(2).fit(da.from_array(X, chunks=(25, 2)), sample_weight=da.from_array(weights, chunks=30))


# -- singular ----------------------------------------------------------------------------------------------------
def test_every_start_singular_is_an_error_with_the_remedy(covariance_type, as_array):
    """Two points, ten times each: components without width."""
    rows = as_array(np.repeat([[0.0, 0.0], [4.0, 4.0]], 10, axis=0))
    mixture = GaussianMixture(2, covariance_type=covariance_type, reg_covar=0, n_init=3)
    with pytest.raises(UserError, match=names("positive definite", "reg_covar", "fewer components", "scale the data")):
        mixture.fit(rows)
    assert not hasattr(mixture, "means_")


def spike_and_cloud():
    """Eight equal rows beside a cloud: some starts give the spike a component of its own."""
    return np.concatenate([np.zeros((8, 1)), np.random.RandomState(0).normal(5, 2, (60, 1))])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_singular_start_is_dropped_with_a_warning():
    rows = spike_and_cloud()
    mixture = GaussianMixture(4, reg_covar=0, n_init=8, max_iter=2000, tol=1e-6, random_state=0)
    with pytest.warns(ConvergenceWarning, match=names("of 8 starts", "reg_covar")):
        mixture.fit(rows)
    assert np.isfinite(mixture.score(rows))


def test_no_convergence_is_a_warning_with_the_remedy(X):
    with pytest.warns(ConvergenceWarning, match=names("max_iter", "tol")):
        GaussianMixture(3, tol=0, max_iter=2, random_state=0).fit(X)


# -- parameters --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_components", 0),
        ("covariance_type", "ful"),
        ("tol", -1.0),
        ("reg_covar", -1.0),
        ("max_iter", -1),
        ("n_init", 0),
        ("init_params", "best"),
        ("random_state", "seed"),
        ("warm_start", "yes"),
    ],
)
def test_wrong_settings(X, name, value):
    with pytest.raises(ValueError, match=names(name, repr(value))):
        GaussianMixture(**{name: value}).fit(X)


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("n_components", [0, 2], ["n_components", "integers", "at least 1", "[0]"]),
        ("n_components", [1.5], ["n_components", "integers", "at least 1", "[1.5]"]),
        ("n_components", [], ["n_components", "integers", "at least 1", "none"]),
        ("covariance_types", ["ful"], ["covariance_type", *FAMILIES, "'ful'"]),
        ("covariance_types", [], ["covariance_types", *FAMILIES, "none"]),
        ("criterion", "dic", ["criterion", "'dic'"]),
        ("max_iter", 0, ["max_iter", "0"]),
    ],
)
def test_wrong_search_settings(X, name, value, parts):
    with pytest.raises(ValueError, match=names(*parts)):
        GaussianMixtureSearch(**{name: value}).fit(X)


def test_nan_in_lazy_answers_is_an_error_when_computed(blobs):
    mixture = GaussianMixture(2, random_state=0).fit(blobs)
    X = blobs.copy()
    X[17, 1] = np.nan
    lazy = da.from_array(X, chunks=(50, -1))
    for answer in (mixture.predict, mixture.predict_proba, mixture.score_samples):
        with pytest.raises(UserError, match=names("NaN or infinity", "50 rows")):
            answer(lazy).compute()
    with pytest.raises(UserError, match=names("NaN or infinity")):
        mixture.score(lazy)


def test_values_whose_squares_overflow_are_named():
    X = np.random.RandomState(0).standard_normal((50, 2)) * [1.0, 1e200]
    with pytest.raises(UserError, match=names("column 1", "e+200", "float64", "standard deviation")):
        GaussianMixture(2).fit(X)


def test_lazy_weights_of_other_lengths_are_refused():
    frame = dd.from_pandas(pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0) ** 2}), npartitions=2)
    weights = dd.from_pandas(pd.Series(np.ones(30)), npartitions=2).to_dask_array()
    with pytest.raises(UserError, match=names("sample_weight", "partition")):
        GaussianMixture(2).fit(frame, sample_weight=weights)


NO_MIXTURES = {
    "nothing": (None, "NoneType"),
    "rows": (np.zeros((3, 2)), "ndarray"),
    "path": ("results/night.zarr", "gmm_dask.load(path)"),
    "class": (GaussianMixture, "GaussianMixture().fit(X)"),
    "scikit-learn": (sklearn.mixture.GaussianMixture(), "GaussianMixture.from_sklearn(model)"),
}


@pytest.mark.parametrize(("model", "remedy"), NO_MIXTURES.values(), ids=NO_MIXTURES)
def test_what_is_no_mixture_is_named(X, model, remedy):
    mixture = GaussianMixture(2).fit(X)
    calls = (
        lambda: merge_components(model, X),
        lambda: match_components(model, mixture),
        lambda: match_components(mixture, model),
        lambda: plot_means(model),
        lambda: plot_criteria(model),
    )
    for call in calls:
        with pytest.raises(UserError, match=names("expected a fitted GaussianMixture", remedy)):
            call()


def test_only_mixtures_of_scikit_learn_are_converted(X):
    for other in (3, sklearn.cluster.KMeans(2).fit(X), GaussianMixture(2).fit(X)):
        with pytest.raises(UserError, match=names("GaussianMixture of scikit-learn", f"got {type(other).__name__}")):
            GaussianMixture.from_sklearn(other)


def test_criteria_are_those_of_a_search(X):
    with pytest.raises(UserError, match=names("GaussianMixtureSearch", "results_", "got GaussianMixture")):
        plot_criteria(GaussianMixture(2).fit(X))
