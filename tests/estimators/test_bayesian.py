"""The variational estimator: scikit-learn's path, on every kind of X."""

from __future__ import annotations

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture as Peer
from sklearn.mixture.tests import test_bayesian_mixture as theirs

from gmm_dask import BayesianGaussianMixture, UserError
from messages import names

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PRIOR_TYPES = ("dirichlet_process", "dirichlet_distribution")
PARAMETERS = (
    *("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
    *("weight_concentration_", "mean_precision_", "degrees_of_freedom_"),
)
PRIORS = tuple(f"{name}_prior_" for name in ("weight_concentration", "mean_precision", "mean", "degrees_of_freedom"))
# private helpers of scikit-learn, which have no counterpart here
PRIVATE = {"test_log_dirichlet_norm", "test_log_wishart_norm", "test_compare_covar_type"}


def assert_same(ours, theirs, rtol=1e-7, names=PARAMETERS):
    for name in names:
        expected = np.asarray(getattr(theirs, name))
        found = np.asarray(getattr(ours, name))
        assert found.shape == expected.shape, name
        atol = rtol * max(1e-6, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=name)


def assert_same_path(ours, theirs):
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    # scikit-learn's bounds of tied mixtures are arrays of one number
    np.testing.assert_allclose(ours.lower_bounds_, np.ravel(theirs.lower_bounds_), rtol=1e-8)
    assert ours.lower_bound_ == pytest.approx(float(np.ravel(theirs.lower_bound_)[0]), rel=1e-8)
    assert_same(ours, theirs, names=(*PARAMETERS, *PRIORS, "covariance_prior_"))


def fit_both(X, **settings):
    return BayesianGaussianMixture(**settings).fit(X), Peer(**settings).fit(X)


@pytest.mark.parametrize("prior_type", PRIOR_TYPES)
def test_the_path_is_scikit_learns(dataset, covariance_type, prior_type):
    _, X, k = dataset
    settings = {"covariance_type": covariance_type, "weight_concentration_prior_type": prior_type, "max_iter": 40}
    ours, peer = fit_both(X, n_components=k + 2, random_state=0, **settings)
    assert_same_path(ours, peer)
    np.testing.assert_allclose(ours.score_samples(X), peer.score_samples(X), rtol=1e-7)
    np.testing.assert_array_equal(ours.predict(X), peer.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), atol=1e-7)
    np.testing.assert_array_equal(ours.sample(20)[1], peer.sample(20)[1])


@pytest.mark.parametrize("init_params", ["k-means++", "random", "random_from_data"])
def test_every_start_and_several_of_them(iris, covariance_type, init_params):
    settings = {"n_components": 4, "n_init": 3, "init_params": init_params, "random_state": 1}
    assert_same_path(*fit_both(iris, covariance_type=covariance_type, **settings))


def test_all_priors(iris, covariance_type):
    d = iris.shape[1]
    scatter = {"full": np.eye(d) + 0.2, "tied": np.eye(d) + 0.2, "diag": np.arange(1.0, d + 1), "spherical": 0.7}
    priors = {
        "weight_concentration_prior": 0.01,
        "mean_precision_prior": 3.0,
        "mean_prior": [6.0, 3.0, 4.0, 1.0],
        "degrees_of_freedom_prior": 7.5,
        "covariance_prior": scatter[covariance_type],
    }
    settings = {"n_components": 5, "covariance_type": covariance_type, "random_state": 0, "reg_covar": 1e-3}
    assert_same_path(*fit_both(iris, **settings, **priors))


def test_warm_start_goes_on_where_the_last_fit_ended(iris):
    settings = {"n_components": 4, "max_iter": 3, "warm_start": True, "random_state": 0}
    ours, peer = BayesianGaussianMixture(**settings), Peer(**settings)
    for _ in range(4):
        assert_same_path(ours.fit(iris), peer.fit(iris))


@pytest.mark.parametrize("name", sorted(name for name in vars(theirs) if name.startswith("test_")))
def test_scikit_learns_own_tests(monkeypatch, name):
    if name in PRIVATE:
        pytest.skip("a test of private helpers of scikit-learn")
    monkeypatch.setattr(theirs, "BayesianGaussianMixture", BayesianGaussianMixture)
    test = getattr(theirs, name)
    cases = [mark.args[1] for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    for arguments in cases[0] if cases else [()]:
        test(*arguments)


@pytest.mark.parametrize("kind", ["dask", "zarr", "pandas", "dask frame", "float32"])
def test_every_kind_of_rows(iris, kind, tmp_path):
    stored = zarr.create_array(tmp_path / "x.zarr", shape=iris.shape, chunks=(30, 2), dtype=float)
    stored[:] = iris
    frame = pd.DataFrame(iris, columns=list("abcd"))
    X = {
        "dask": da.from_array(iris, chunks=(40, 4)),
        "zarr": stored,
        "pandas": frame,
        "dask frame": dd.from_pandas(frame, npartitions=4),
        "float32": iris.astype(np.float32),
    }[kind]
    rtol = 1e-3 if kind == "float32" else 1e-8
    settings = {"n_components": 5, "random_state": 0, "max_iter": 20}
    found, expected = (BayesianGaussianMixture(**settings).fit(rows) for rows in (X, iris))
    assert_same(found, expected, rtol)
    np.testing.assert_array_equal(np.asarray(found.predict(X)), expected.predict(iris))


def test_a_row_of_weight_three_is_three_rows(blobs, covariance_type):
    weights = np.random.RandomState(0).randint(0, 4, len(blobs)).astype(float)
    copies = np.repeat(blobs, weights.astype(int), axis=0)
    settings = {"n_components": 3, "covariance_type": covariance_type, "random_state": 0, "max_iter": 5}
    ours = BayesianGaussianMixture(**settings).fit(copies)
    start = BayesianGaussianMixture(**settings, warm_start=True)
    start.__dict__.update({name: value for name, value in vars(ours).items() if name.endswith("_")})
    found = {}
    for name, (X, given) in {"weights": (blobs, weights), "copies": (copies, None)}.items():
        found[name] = clone(start)
        found[name].__dict__.update(vars(start))
        found[name].fit(X, sample_weight=given)
    assert_same(found["weights"], found["copies"], rtol=1e-9)
    np.testing.assert_allclose(found["weights"].lower_bounds_, found["copies"].lower_bounds_, rtol=1e-10)
    assert found["weights"].mean_precision_.sum() == pytest.approx(weights.sum() + 3)


def test_bits_do_not_depend_on_threads(blobs):
    X = da.from_array(blobs, chunks=(50, 2))
    found = []
    for n_threads in (1, 3):
        with dask.config.set(scheduler="threads", num_workers=n_threads):
            found.append(BayesianGaussianMixture(n_components=6, random_state=0).fit(X))
    for name in (*PARAMETERS, "lower_bounds_"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name), err_msg=name)


def test_the_search_for_starts_begins_with_maximum_likelihood(blobs):
    mixture = BayesianGaussianMixture(n_components=8, init_params="auto", start_effort=0.1, random_state=0).fit(blobs)
    assert mixture.converged_
    assert np.sum(mixture.weights_ > 0.01) == 3


def test_exchange_with_scikit_learn(iris, covariance_type):
    ours, peer = fit_both(iris, n_components=3, covariance_type=covariance_type, random_state=0)
    for mixture in (ours.to_sklearn(), BayesianGaussianMixture.from_sklearn(peer)):
        np.testing.assert_allclose(mixture.score_samples(iris), peer.score_samples(iris), rtol=1e-8)
        assert_same(mixture, peer)
    with pytest.raises(UserError, match=names("BayesianGaussianMixture", "Bayesian")):
        BayesianGaussianMixture.from_sklearn(ours)


BAD = {
    "shape of a mean": ({"mean_prior": [0.0, 1.0]}, ("mean_prior", "(4,)", "(2,)")),
    "few degrees of freedom": ({"degrees_of_freedom_prior": 3.0}, ("degrees_of_freedom_prior", "3.000")),
    "shape of a covariance": ({"covariance_prior": 1.0}, ("covariance_prior", "(4, 4)")),
    "an indefinite covariance": ({"covariance_prior": np.eye(4) - 0.5}, ("covariance_prior", "positive definite")),
    "an asymmetric covariance": ({"covariance_prior": np.eye(4) + np.triu(np.ones((4, 4)))}, ("symmetric",)),
    "no concentration": ({"weight_concentration_prior": 0.0}, ("weight_concentration_prior",)),
    "another type": ({"weight_concentration_prior_type": "pitman_yor"}, ("weight_concentration_prior_type",)),
}


@pytest.mark.parametrize(("settings", "named"), BAD.values(), ids=BAD)
def test_bad_priors_are_named(iris, settings, named):
    with pytest.raises(ValueError, match=names(*named)):
        BayesianGaussianMixture(n_components=2, **settings).fit(iris)


def test_weights_too_small_for_the_covariance_of_the_data(iris):
    with pytest.warns(UserWarning, match="add up"), pytest.raises(UserError, match=names("covariance_prior", "Scale")):
        BayesianGaussianMixture(n_components=2).fit(iris, sample_weight=np.full(len(iris), 1e-3))


def test_the_constructor_is_scikit_learns():
    ours, peer = BayesianGaussianMixture().get_params(), Peer().get_params()
    assert set(ours) - set(peer) == {"start_effort", "feature_dims"}
    assert {name: ours[name] for name in peer} == peer


@pytest.mark.parametrize("prior_type", PRIOR_TYPES)
def test_the_bound_never_falls(blobs, covariance_type, prior_type):
    settings = {"weight_concentration_prior_type": prior_type, "covariance_type": covariance_type, "reg_covar": 0.0}
    mixture = BayesianGaussianMixture(n_components=8, random_state=0, **settings).fit(blobs)
    assert (np.diff(mixture.lower_bounds_) > -1e-6).all()


def test_components_without_rows_lose_their_weight(blobs):
    mixture = BayesianGaussianMixture(n_components=10, max_iter=500, random_state=0).fit(blobs)
    assert np.sum(mixture.weights_ > 0.02) == 3
