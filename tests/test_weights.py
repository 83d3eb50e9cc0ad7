"""A row of weight 3 is three rows: fits, searches, criteria, scores, statuses."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.errors import UserError
from mixtures import assert_same_parameters, inits_of, random_parameters, random_rows


@pytest.fixture
def weighted():
    """Rows, their weights of 0 to 3, and the same as copies."""
    X = random_rows(400, 3)
    weights = np.random.RandomState(1).randint(0, 4, len(X)).astype(float)
    return X, weights, np.repeat(X, weights.astype(int), axis=0)


def started(covariance_type, **settings):
    inits = inits_of(covariance_type, random_parameters(covariance_type, 3, 3))
    return GaussianMixture(3, covariance_type=covariance_type, tol=1e-7, max_iter=2000, **inits, **settings)


@pytest.mark.parametrize("settings", [{}, {"reg_covar": "auto"}, {"accelerate": True}], ids=str)
@pytest.mark.parametrize("lazy", [False, True])
def test_a_fit_of_weights_is_one_of_copies(weighted, covariance_type, settings, lazy):
    X, weights, copies = weighted
    given = (da.from_array(X, chunks=(90, 3)), da.from_array(weights, chunks=90)) if lazy else (X, weights)
    ours = started(covariance_type, **settings).fit(given[0], sample_weight=given[1])
    theirs = started(covariance_type, **settings).fit(copies)
    assert ours.n_iter_ == theirs.n_iter_
    assert_same_parameters(ours, theirs, rtol=1e-7)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-9)


@pytest.mark.parametrize("lazy", [False, True])
def test_scores_and_criteria_of_weights_are_those_of_copies(weighted, covariance_type, lazy):
    X, weights, copies = weighted
    mixture = started(covariance_type).fit(X)
    given = (da.from_array(X, chunks=(90, 3)), da.from_array(weights, chunks=90)) if lazy else (X, weights)
    for name in ("score", "bic", "aic", "icl"):
        ours = getattr(mixture, name)(given[0], sample_weight=given[1])
        assert ours == pytest.approx(getattr(mixture, name)(copies), rel=1e-11), name
        assert ours != pytest.approx(getattr(mixture, name)(X), rel=1e-4), name


def test_a_search_of_weights_is_one_of_copies(weighted):
    """The starts are drawn from other rows, so that only candidates with one optimum must agree."""
    X, weights, copies = weighted
    settings = {"tol": 1e-8, "max_iter": 2000, "random_state": 0}
    ours = GaussianMixtureSearch([1], **settings).fit(X, sample_weight=weights)
    theirs = GaussianMixtureSearch([1], **settings).fit(copies)
    for name in ("bic", "aic", "icl", "log_likelihood", "delta"):
        np.testing.assert_allclose(ours.results_[name], theirs.results_[name], rtol=1e-9, atol=1e-6, err_msg=name)
    assert ours.results_.status.tolist() == theirs.results_.status.tolist()
    assert ours.best_params_ == theirs.best_params_
    assert ours.score(X, sample_weight=weights) == pytest.approx(theirs.score(copies), rel=1e-9)
    assert ours.best_estimator_.bic(X, sample_weight=weights) == pytest.approx(ours.results_.bic.min(), rel=1e-11)


def test_a_component_of_one_heavy_row_is_not_degenerate_by_its_rows():
    """A weight counts as so many rows: ten equal rows are a spike, one is degenerate."""
    X = np.vstack([random_rows(200, 2), [[40.0, 40.0]]])
    weights = np.ones(len(X))
    for weight, status in ((1.0, "degenerate"), (10.0, "spurious")):
        weights[-1] = weight
        search = GaussianMixtureSearch([1, 2], "full", reg_covar="auto", random_state=0).fit(X, sample_weight=weights)
        assert search.results_.status.tolist() == ["converged", status]
        assert search.best_params_["n_components"] == 1


@pytest.mark.parametrize("estimator", [GaussianMixture(2), GaussianMixtureSearch([1, 2])], ids=["mixture", "search"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_that_add_up_to_one_are_told(estimator):
    """Each component is degenerate then: the cause is the weights, not the number of components."""
    X = np.vstack([random_rows(100, 2), random_rows(100, 2) + 50.0])
    with pytest.warns(UserWarning, match=r"The weights add up to 1 for 200 rows.*Multiply the weights"):
        estimator.fit(X, sample_weight=np.full(200, 1 / 200))
    estimator.fit(X, sample_weight=np.full(200, 0.5))  # warnings are errors


@pytest.mark.parametrize(
    ("weights", "what"),
    [([1.0, -1.0, 1.0], "1 are not"), ([0.0] * 3, "at least one non-zero"), ([1.0, 1.0], r"sample_weight.*shape")],
)
def test_weights_that_are_none_are_refused(weights, what):
    X = random_rows(3, 2)
    mixture = GaussianMixture(random_state=0).fit(X)
    with pytest.raises(ValueError, match=what):
        mixture.score(X, sample_weight=weights)


def test_the_message_names_what_is_expected():
    mixture = GaussianMixture(random_state=0).fit(random_rows(3, 2))
    with pytest.raises(UserError, match="finite numbers of at least 0"):
        mixture.bic(random_rows(3, 2), sample_weight=[1.0, -2.0, -3.0])
