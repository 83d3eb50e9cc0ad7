"""Spikes of chance: slim components that do not pay for their own parameters."""

from __future__ import annotations

import numpy as np
import pytest

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.em.loop import State, Status
from gmm_dask.em.spurious import check_components, check_parameters, slim_components
from gmm_dask.families import FAMILIES, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.responsibilities import statistics_of
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_totals
from gmm_dask.selection.outcomes import best_outcome, evaluate_states
from mixtures import assert_same_parameters, assert_same_statistics, random_parameters, random_rows

OWN_COVARIANCES = ("full", "diag", "spherical")


def outcome_of(X, covariance_type, parameters, weights=None):
    rows = as_rows(X, weights)
    state = State(
        Candidate(covariance_type, len(parameters.weights)), 0, parameters, (0.0,), Status.CONVERGED, converged=True
    )
    (outcome,) = evaluate_states(rows, summarize_rows(rows, 0), [state])
    return outcome


def beside_a_slim_one(covariance_type, share, center, width=0.1):
    """A standard normal and a slim component of such a share of the rows."""
    shapes = {"full": np.eye(2), "diag": np.ones(2), "spherical": np.array(1.0)}
    covariances = np.stack([shapes[covariance_type], width**2 * shapes[covariance_type]])
    return get_family(covariance_type).parameters(np.array([1 - share, share]), np.array([[0, 0], center]), covariances)


@pytest.mark.parametrize("covariance_type", OWN_COVARIANCES)
def test_a_slim_component_over_what_the_others_explain_is_spurious(covariance_type):
    X = np.random.RandomState(0).standard_normal((3000, 2))
    parameters = beside_a_slim_one(covariance_type, 0.01, [0.5, 0.5])
    assert slim_components(get_family(covariance_type), parameters, np.arange(2)) == [1]
    assert check_parameters(get_family(covariance_type), parameters, 3000.0, 1e-6) is None
    assert outcome_of(X, covariance_type, parameters).state.status is Status.SPURIOUS


@pytest.mark.parametrize("covariance_type", OWN_COVARIANCES)
def test_a_slim_group_that_is_there_is_trusted(covariance_type):
    """Thirty rows in the midst of 3,000, and as few as twelve that lie apart."""
    rng = np.random.RandomState(0)
    for n_rows, center, width in ((30, [0.5, 0.5], 0.02), (12, [6.0, 6.0], 0.1)):
        X = np.concatenate([rng.standard_normal((3000, 2)), rng.normal(center, width, (n_rows, 2))])
        parameters = beside_a_slim_one(covariance_type, n_rows / len(X), center, width)
        assert slim_components(get_family(covariance_type), parameters, np.arange(2)) == [1]
        assert outcome_of(X, covariance_type, parameters).state.status is Status.CONVERGED


def test_what_is_not_slim_may_explain_nothing():
    """Too many components are for the criterion to refuse."""
    X = np.random.RandomState(0).standard_normal((3000, 2))
    parameters = beside_a_slim_one("full", 0.01, [0.5, 0.5], width=0.8)
    assert outcome_of(X, "full", parameters).state.status is Status.CONVERGED


def test_a_weight_counts_as_so_many_rows():
    rng = np.random.RandomState(0)
    X, w = rng.standard_normal((400, 2)), rng.randint(1, 4, 400)
    X[:8] = rng.normal([2.5, 2.5], 0.05, (8, 2))
    repeated = np.repeat(X, w, axis=0)
    for center, expected in (([2.5, 2.5], Status.CONVERGED), ([0.5, -0.5], Status.SPURIOUS)):
        parameters = beside_a_slim_one("full", w[:8].sum() / w.sum(), center)
        for outcome in (outcome_of(X, "full", parameters, w.astype(float)), outcome_of(repeated, "full", parameters)):
            assert outcome.state.status is expected


def test_a_verdict_costs_no_pass_of_its_own(iris):
    rows = as_rows(iris)
    data_summary, calls = summarize_rows(rows, 0), []

    def evaluate(models):
        calls.append(len(models))
        return collect_totals(rows, data_summary, models)

    mixture = GaussianMixture(4, random_state=0).fit(iris)
    spike = State(Candidate("full", 4), 0, mixture._parameters, (0.0,), Status.CONVERGED)
    states = [spike, State(Candidate("tied", 1), 0, random_parameters("tied", 1, 4), (0.0,), Status.CONVERGED)]
    judged, totals = check_components(states, evaluate, float(len(iris)))
    assert len(calls) == 1
    assert len(judged) == len(totals) == 2
    assert totals[0].log_likelihood == pytest.approx(mixture.score(iris) * len(iris))


def test_one_component_is_never_too_many(covariance_type):
    X = np.column_stack([np.random.RandomState(0).standard_normal(50), np.zeros(50)])
    search = GaussianMixtureSearch([1], covariance_type).fit(X)
    assert search.results_["status"].tolist() == ["converged"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_start_without_a_spike_is_taken_instead():
    """One start is on a spike of chance, the other one is not: the lower likelihood wins."""
    rng = np.random.RandomState(3)
    X = np.concatenate([rng.standard_normal((600, 2)), rng.normal([3, 3], 1, (600, 2))])
    rows = as_rows(X)
    data_summary = summarize_rows(rows, 0)
    slim = beside_a_slim_one("full", 0.01, [0.5, 0.5])
    plain = GaussianMixture(2, random_state=0).fit(X)
    states = [
        State(Candidate("full", 2), 0, slim, (0.0,), Status.CONVERGED, converged=True),
        State(Candidate("full", 2), 1, plain._parameters, (plain.lower_bound_,), Status.CONVERGED, converged=True),
    ]
    outcomes = evaluate_states(rows, data_summary, states)
    assert [outcome.state.status for outcome in outcomes] == [Status.SPURIOUS, Status.CONVERGED]
    assert best_outcome(outcomes).state.start == 1


def test_a_search_over_too_many_components_ends_without_spikes():
    """Two overlapping groups, up to five components: every cell that is trusted has none that chance made."""
    rng = np.random.RandomState(5)
    X = np.concatenate([rng.standard_normal((1000, 2)), rng.normal([2, 0], [1, 0.5], (1000, 2))])
    settings = {"init_params": "auto", "tol": 1e-6, "max_iter": 500, "random_state": 0}
    search = GaussianMixtureSearch(range(1, 6), **settings).fit(X)
    assert search.results_["delta"].notna().mean() > 0.9
    assert search.best_params_["n_components"] == 2


# -- mixtures without one, and of parts --------------------------------------------------------------------------


def test_a_mixture_without_a_component(covariance_type):
    X, family = random_rows(200, 2), get_family(covariance_type)
    parameters = random_parameters(covariance_type, 3, 2)
    without = family.without(parameters, 1)
    kept = parameters.weights[[0, 2]]
    np.testing.assert_allclose(without.weights, kept / kept.sum())
    covariances = parameters.covariances if covariance_type == "tied" else parameters.covariances[[0, 2]]
    expected = family.parameters(kept / kept.sum(), parameters.means[[0, 2]], covariances)
    assert_same_parameters(without, expected)
    assert np.isfinite(outcome_of(X, covariance_type, without).log_likelihood)


@pytest.mark.parametrize("name", FAMILIES)
def test_statistics_of_components_make_those_of_their_mixture(name):
    x, family = random_rows(300, 3), get_family(name)
    resp = np.random.RandomState(0).dirichlet(np.ones(4), 300)
    parts = [statistics_of(family, x, column[:, None]) for column in resp.T]
    assert_same_statistics([family.together(parts)], [statistics_of(family, x, resp)])
