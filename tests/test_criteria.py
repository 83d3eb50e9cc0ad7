from __future__ import annotations

import math

import numpy as np
import pytest

from gmm_dask import GaussianMixture
from gmm_dask.criteria import best_outcome, by_candidate, choose, evaluate
from gmm_dask.em import State, Status
from gmm_dask.errors import UserError
from gmm_dask.stack import Totals
from mixtures import random_parameters


def outcome(name="full", k=2, start=0, log_likelihood=-100.0, bound=-1.0, status=Status.CONVERGED):
    state = State(name, k, start, random_parameters(name, k, 3), (bound,), status)
    totals = Totals(log_likelihood, -5.0) if state.usable else None
    return evaluate(state, 3, totals, 50.0)


def test_criteria_by_hand():
    found = outcome()
    assert found.n_parameters == 2 * 6 + 2 * 3 + 1
    assert found.bic == pytest.approx(200 + 19 * math.log(50))
    assert found.aic == pytest.approx(200 + 2 * 19)
    assert found.icl == pytest.approx(found.bic + 2 * 5)


def test_a_singular_outcome_has_no_numbers():
    found = outcome(status=Status.SINGULAR)
    assert all(math.isnan(value) for value in (found.log_likelihood, found.bic, found.aic, found.icl))
    assert found.n_parameters == 19


def test_a_candidate_is_its_best_start():
    starts = [outcome(start=0, bound=-2.0), outcome(start=1, bound=-1.0), outcome(start=2, status=Status.SINGULAR)]
    assert best_outcome(starts) is starts[1]
    assert best_outcome(starts[2:]) is starts[2]


def test_candidates_keep_their_order():
    outcomes = [outcome("tied", 3), outcome("full", 2), outcome("tied", 3, start=1)]
    assert list(by_candidate(outcomes)) == [("tied", 3), ("full", 2)]
    assert len(by_candidate(outcomes)["tied", 3]) == 2


def test_the_smallest_criterion_wins():
    rich, plain = outcome("full", 3, log_likelihood=-100), outcome("spherical", 1, log_likelihood=-115)
    lost = outcome("diag", 2, status=Status.SINGULAR)
    assert choose([lost, rich, plain], "bic") is plain
    assert choose([lost, rich, outcome("spherical", 1, log_likelihood=-190)], "aic") is rich


def test_no_usable_candidate_is_an_error():
    with pytest.raises(UserError, match=r"none of the 1 candidates could be fitted.*Increase reg_covar"):
        choose([outcome(status=Status.SINGULAR)], "bic")


def test_criteria_of_a_fit_are_computed_directly(dataset, covariance_type):
    _, X, k = dataset
    fitted = GaussianMixture(k, covariance_type=covariance_type, random_state=0).fit(X)
    theirs = fitted.to_sklearn()
    assert fitted.score(X) == pytest.approx(theirs.score(X), rel=1e-9)
    assert fitted.bic(X) == pytest.approx(theirs.bic(X), rel=1e-9)
    assert fitted.aic(X) == pytest.approx(theirs.aic(X), rel=1e-9)
    icl = theirs.bic(X) - 2 * np.log(theirs.predict_proba(X).max(axis=1)).sum()
    assert fitted.icl(X) == pytest.approx(icl, rel=1e-9)
