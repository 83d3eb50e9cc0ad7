from __future__ import annotations

import pickle
import re

import dask.array as da
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as Peer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from gmm_dask import GaussianMixture
from gmm_dask.families import get_family
from messages import names
from mixtures import assert_identical, assert_same_parameters, inits_of, random_parameters

FITTED = [
    "weights_",
    "means_",
    "covariances_",
    "precisions_",
    "precisions_cholesky_",
    "converged_",
    "n_iter_",
    "lower_bound_",
    "lower_bounds_",
    "n_features_in_",
]


@pytest.fixture
def fitted(iris, covariance_type):
    return GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(iris)


def test_scikit_learns_checks():
    """None is declared not to apply; the one for array API needs an environment variable to run at all."""
    results = check_estimator(GaussianMixture(), on_skip=None, on_fail=None)
    assert len(results) > 40
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
    assert not failed
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= {"check_array_api_input"}


# -- the same names ----------------------------------------------------------------------------------------------
# the parameters that scikit-learn's mixture does not have
OWN = {"accelerate": False, "start_effort": 1.0, "noise": False, "fixed": None, "prior": None, "missing": "error"}
OWN["feature_dims"] = None


def test_parameters_are_scikit_learns():
    assert GaussianMixture().get_params() == Peer().get_params() | OWN


def test_fitted_attributes_are_scikit_learns(fitted, iris):
    theirs = Peer(3, covariance_type=fitted.covariance_type, random_state=0).fit(iris)
    ours = {name for name in vars(fitted) if name.endswith("_")}
    assert ours == {name for name in vars(theirs) if name.endswith("_")} | {"status_"}
    for name in FITTED:
        ours, peers = getattr(fitted, name), getattr(theirs, name)
        assert isinstance(ours, type(peers)) or name == "lower_bound_", name
        assert np.shape(ours) == np.shape(peers), name


def test_clone_and_pickle(fitted, iris):
    assert clone(fitted).get_params() == fitted.get_params()
    assert not hasattr(clone(fitted), "means_")
    again = pickle.loads(pickle.dumps(fitted))
    assert_identical(again, fitted)
    np.testing.assert_array_equal(again.predict_proba(iris), fitted.predict_proba(iris))


def test_pipelines(iris):
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(3, random_state=0)).fit(iris)
    scaled = StandardScaler().fit_transform(iris)
    expected = GaussianMixture(3, random_state=0).fit(scaled)
    np.testing.assert_array_equal(pipeline.predict(iris), expected.predict(scaled))
    assert pipeline.score(iris) == expected.score(scaled)
    pipeline.set_params(gaussianmixture__n_components=2).fit(iris)
    assert pipeline[-1].means_.shape == (2, 4)


def test_grid_search(iris):
    grid = GridSearchCV(GaussianMixture(random_state=0), {"n_components": [1, 2]}, cv=3).fit(iris)
    theirs = GridSearchCV(Peer(random_state=0), {"n_components": [1, 2]}, cv=3).fit(iris)
    np.testing.assert_allclose(grid.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-6)


def test_unfitted(iris):
    for method in ("predict", "predict_proba", "score_samples", "score", "bic", "aic", "icl"):
        with pytest.raises(NotFittedError, match=names("GaussianMixture", "'fit'")):
            getattr(GaussianMixture(), method)(iris)
    for method in ("sample", "to_sklearn"):
        with pytest.raises(NotFittedError):
            getattr(GaussianMixture(), method)()


# -- the same answers --------------------------------------------------------------------------------------------
def test_answers_are_scikit_learns(fitted, iris):
    theirs = fitted.to_sklearn()
    np.testing.assert_array_equal(fitted.predict(iris), theirs.predict(iris))
    np.testing.assert_allclose(fitted.predict_proba(iris), theirs.predict_proba(iris), atol=1e-9)
    np.testing.assert_allclose(fitted.score_samples(iris), theirs.score_samples(iris), rtol=1e-9)


def test_fit_predict(iris, covariance_type):
    settings = {"n_components": 3, "covariance_type": covariance_type, "random_state": 0}
    np.testing.assert_array_equal(GaussianMixture(**settings).fit_predict(iris), Peer(**settings).fit_predict(iris))


def test_a_row_far_from_everything(fitted):
    far = np.array([[1e6, -1e6, 1e6, 1e6]])
    assert np.isfinite(fitted.score_samples(far)).all()
    np.testing.assert_allclose(fitted.predict_proba(far).sum(axis=1), 1)


def test_samples_are_scikit_learns(fitted):
    for n_samples in (1, 100):
        for ours, theirs in zip(fitted.sample(n_samples), fitted.to_sklearn().sample(n_samples), strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    with pytest.raises(ValueError, match=names("n_samples", "at least 1", "0")):
        fitted.sample(0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_samples_follow_the_mixture(covariance_type):
    inits = inits_of(covariance_type, random_parameters(covariance_type, 2, 3))
    mixture = GaussianMixture(2, covariance_type=covariance_type, max_iter=0, random_state=0, **inits).fit(np.eye(3))
    X, label = mixture.sample(20_000)
    covariances = get_family(covariance_type).full_covariances(random_parameters(covariance_type, 2, 3))
    np.testing.assert_allclose(np.bincount(label) / len(X), mixture.weights_, atol=0.01)
    for k in range(2):
        np.testing.assert_allclose(X[label == k].mean(axis=0), mixture.means_[k], atol=0.15)
        np.testing.assert_allclose(np.cov(X[label == k].T), covariances[k], atol=0.08 * covariances[k].max())


# -- exchange ----------------------------------------------------------------------------------------------------
def test_to_scikit_learn_and_back(fitted, iris):
    theirs = fitted.to_sklearn()
    assert type(theirs) is Peer
    assert theirs.get_params() | OWN == fitted.get_params()
    back = GaussianMixture.from_sklearn(theirs)
    for name in FITTED:
        np.testing.assert_array_equal(getattr(back, name), getattr(fitted, name))
    np.testing.assert_array_equal(back.score_samples(iris), fitted.score_samples(iris))
    theirs.means_ += 1
    assert not np.array_equal(theirs.means_, fitted.means_)


def test_a_warm_start_goes_on_from_scikit_learns_fit(iris):
    settings = {"n_components": 3, "random_state": 0, "tol": 1e-6, "max_iter": 500, "warm_start": True}
    theirs = Peer(**(settings | {"tol": 1e-2})).fit(iris)
    ours = GaussianMixture.from_sklearn(theirs).set_params(tol=1e-6).fit(iris)
    assert_same_parameters(ours, theirs.set_params(tol=1e-6).fit(iris), rtol=1e-6)


# -- fitting -----------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_count_as_copies_of_rows(blobs, covariance_type):
    weights = np.random.RandomState(0).randint(0, 4, len(blobs))
    inits = inits_of(covariance_type, random_parameters(covariance_type, 3, 2))
    settings = {"covariance_type": covariance_type, "tol": 1e-6, "max_iter": 1000, **inits}
    copies = GaussianMixture(3, **settings).fit(np.repeat(blobs, weights, axis=0))
    for X in (blobs, da.from_array(blobs, chunks=(77, 2))):
        weighted = GaussianMixture(3, **settings).fit(X, sample_weight=weights)
        assert weighted.n_iter_ == copies.n_iter_
        assert_same_parameters(weighted, copies, rtol=1e-9)
        np.testing.assert_allclose(weighted.lower_bounds_, copies.lower_bounds_, rtol=1e-9)


@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_weights_of_one_change_nothing(blobs, init_params):
    settings = {"n_init": 2, "init_params": init_params, "random_state": 0}
    plain = GaussianMixture(3, **settings).fit(blobs)
    weighted = GaussianMixture(3, **settings).fit(blobs, sample_weight=np.ones(len(blobs)))
    assert_same_parameters(weighted, plain)


def test_fitting_leaves_the_data_alone(iris):
    X = iris.copy()
    X.flags.writeable = False
    GaussianMixture(3, n_init=2, random_state=0).fit(X).predict(X)
    np.testing.assert_array_equal(X, iris)


def test_refitting_forgets(iris, blobs):
    mixture = GaussianMixture(3, random_state=0).fit(iris)
    assert_identical(mixture.fit(blobs), GaussianMixture(3, random_state=0).fit(blobs))


def test_the_same_seed_gives_the_same_bits(iris):
    first, again = (GaussianMixture(3, n_init=3, init_params="random", random_state=8).fit(iris) for _ in range(2))
    assert_identical(first, again)


def test_verbose(iris, capsys):
    settings = {"n_init": 2, "tol": 0, "max_iter": 4, "random_state": 0, "verbose_interval": 2}
    with pytest.warns(ConvergenceWarning, match=names("max_iter")):
        GaussianMixture(3, verbose=1, **settings).fit(iris)
    lines = capsys.readouterr().out.splitlines()
    numbers = [["2"], ["2", "2", "2"], ["4", "0", "2"], ["0", "4"], ["1", "4"]]
    assert [re.findall(r"\d+", line) for line in lines] == numbers
    assert re.match(names("2 starts", "kmeans"), lines[0])
    assert re.match(names("Start 1", "max_iter", "4 iterations"), lines[-1])
    with pytest.warns(ConvergenceWarning, match=names("max_iter")):
        mixture = GaussianMixture(3, verbose=2, **settings).fit(iris)
    assert f"{mixture.lower_bound_:.6f}" in capsys.readouterr().out


def test_a_short_fit_says_how_it_began_and_ended(blobs, capsys):
    mixture = GaussianMixture(3, verbose=1, random_state=0).fit(blobs)
    first, last = capsys.readouterr().out.splitlines()
    assert re.match(names("1 start", "kmeans"), first)
    assert re.match(names("converged", f"{mixture.n_iter_} iterations"), last)
    mixture.set_params(warm_start=True).fit(blobs)
    assert "the last fit" in capsys.readouterr().out.splitlines()[0]
    GaussianMixture(3, random_state=0).fit(blobs)
    assert capsys.readouterr().out == ""


def test_numpys_global_generator_is_drawn_from_as_scikit_learn_does(blobs):
    means = []
    for cls in (Peer, GaussianMixture):
        np.random.seed(0)  # noqa: NPY002 (it is what the test is about)
        means.append(cls(3, init_params="random", tol=1e-4).fit(blobs).means_)
    np.testing.assert_allclose(means[1], means[0], rtol=1e-9)
