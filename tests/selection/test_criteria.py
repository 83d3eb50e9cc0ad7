from __future__ import annotations

import math

import dask.array as da
import numpy as np
import pytest

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.em.loop import Status
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.criteria import CRITERIA, best_position, differences
from gmm_dask.selection.outcomes import best_outcome, by_candidate, choose
from messages import names
from mixtures import outcome


def test_criteria_by_hand():
    found = outcome()
    assert found.n_parameters == 2 * 6 + 2 * 3 + 1
    assert list(found.criteria) == list(CRITERIA)
    assert found.criteria["bic"] == pytest.approx(200 + 19 * math.log(50))
    assert found.criteria["aic"] == pytest.approx(200 + 2 * 19)
    assert found.criteria["icl"] == pytest.approx(found.criteria["bic"] + 2 * 5)
    assert math.isnan(found.criteria["held_out"])


def test_a_singular_outcome_has_no_numbers():
    found = outcome(status=Status.SINGULAR)
    assert all(math.isnan(value) for value in (found.log_likelihood, *found.criteria.values()))
    assert found.n_parameters == 19


def test_a_candidate_is_its_best_start():
    starts = [outcome(start=0, bound=-2.0), outcome(start=1, bound=-1.0), outcome(start=2, status=Status.SINGULAR)]
    assert best_outcome(starts) is starts[1]
    assert best_outcome(starts[2:]) is starts[2]


def test_candidates_keep_their_order():
    outcomes = [outcome("tied", 3), outcome("full", 2), outcome("tied", 3, start=1)]
    assert list(by_candidate(outcomes)) == [Candidate("tied", 3), Candidate("full", 2)]
    assert len(by_candidate(outcomes)[Candidate("tied", 3)]) == 2


def test_the_smallest_criterion_wins():
    rich, plain = outcome("full", 3, log_likelihood=-100), outcome("spherical", 1, log_likelihood=-115)
    lost = outcome("diag", 2, status=Status.SINGULAR)
    assert choose([lost, rich, plain], "bic") is plain
    assert choose([lost, rich, outcome("spherical", 1, log_likelihood=-190)], "aic") is rich


def test_no_usable_candidate_is_an_error():
    with pytest.raises(UserError, match=names("no candidate", "reg_covar")):
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


def test_among_equal_candidates_the_simplest_is_chosen_then_the_first():
    assert best_position([3.0, 1.0 + 1e-12, 1.0], [9, 5, 7], [True] * 3) == 1
    assert best_position([1.0, 1.0], [5, 5], [True] * 2) == 0
    assert best_position([math.nan, 2.0], [1, 9], [True] * 2) == 1
    assert best_position([math.nan], [1], [True]) is None


def test_within_one_standard_error_the_fewest_parameters_win():
    values, errors = [100.0, 104.0, 103.0, 110.0], [0.0, 4.5, 2.9, 9.0]
    assert best_position(values, [9, 5, 3, 2], [True] * 4, errors) == 1
    assert best_position(values, [9, 5, 3, 2], [True, False, False, False], errors) == 0
    assert best_position(values, [9, 5, 3, 2], [True] * 4, [math.nan] * 4) == 0
    assert best_position([101.0, 100.5, 100.0], [3, 3, 9], [True] * 3, [2.0, 2.0, 0.0]) == 1


def test_what_is_not_trusted_wins_only_where_nothing_else_is():
    spike = outcome("full", 3, log_likelihood=-10, status=Status.SPURIOUS)
    empty = outcome("full", 4, log_likelihood=-5, status=Status.DEGENERATE)
    plain, unfinished = outcome("spherical", 1, log_likelihood=-190), outcome("diag", 1, status=Status.MAX_ITER)
    assert choose([spike, plain, empty], "bic") is plain
    assert choose([spike, unfinished, plain], "bic") is unfinished
    assert choose([spike, empty], "aic") is spike
    values, statuses = [300.0, 400.0, 380.0], ["spurious", "converged", "max_iter"]
    np.testing.assert_array_equal(differences(values, statuses), [math.nan, 20.0, 0.0])
    np.testing.assert_array_equal(differences(values[:1], statuses[:1]), [0.0])


def test_a_candidate_is_its_best_trusted_start():
    starts = [outcome(start=0, bound=-1.0, status=Status.SPURIOUS), outcome(start=1, bound=-2.0)]
    assert best_outcome(starts) is starts[1]
    assert best_outcome(starts[:1]) is starts[0]


@pytest.mark.parametrize("chunk", [400, 97, 53, 31])
def test_the_choice_between_two_forms_of_one_model_does_not_depend_on_chunks(chunk):
    X = da.from_array(np.random.RandomState(0).standard_normal((400, 2)), chunks=(chunk, -1))
    assert (
        GaussianMixtureSearch([1], ["full", "tied"], init_params="kmeans", random_state=0)
        .fit(X)
        .best_params_["covariance_type"]
        == "full"
    )
