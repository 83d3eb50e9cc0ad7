from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.em import loop
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.families import Statistics, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.starts import first_states
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.statistics import collect_statistics
from mixtures import random_parameters, random_rows

# so many rows that no component is of one alone; a power of two, by which bounds are divided exactly
TOTAL = 128.0


def scripted_collect(bounds):
    """A pass that reports the next bound of a list, whatever the model, with statistics that change nothing."""
    remaining = iter(bounds)

    def collect(models):
        bound = next(remaining)
        return [
            Statistics(np.ones(k), np.zeros((k, 1)), np.ones(k), p.means, bound)
            for _, p in models
            for k in [len(p.weights)]
        ]

    return collect


def state(**changes):
    return State(Candidate("spherical", 2), 0, random_parameters("spherical", 2, 1), **changes)


@pytest.mark.parametrize(
    ("bounds", "n_iter", "status"),
    [
        ([-5, -3, -2.99, 0], 3, Status.CONVERGED),
        ([-5, -4, -3, -2], 4, Status.MAX_ITER),
        ([-5, -5.0005], 2, Status.CONVERGED),
        ([-5, math.nan], 1, Status.FAILED),
        ([math.inf], 0, Status.SINGULAR),
    ],
)
def test_when_a_start_stops(bounds, n_iter, status):
    [end] = loop.run([state()], scripted_collect([TOTAL * b for b in bounds]), TOTAL, Settings(tol=0.05, max_iter=4))
    assert end.status is status
    assert end.n_iter == n_iter
    assert end.lower_bounds == tuple(bounds[:n_iter])


def test_a_change_of_exactly_tol_goes_on():
    [end] = loop.run([state()], scripted_collect([-5, -4.5, -4.5]), 1.0, Settings(tol=0.5))
    assert end.n_iter == 3


def test_bounds_are_a_unit_of_weight():
    [end] = loop.run([state()], scripted_collect([-8.0]), 4.0, Settings(max_iter=1))
    assert end.lower_bound == -2.0


def test_a_warm_start_is_compared_with_its_old_bound():
    [end] = loop.run([state(prior_bound=-5.0)], scripted_collect([-5.0 * TOTAL]), TOTAL, Settings())
    assert (end.status, end.n_iter) == (Status.CONVERGED, 1)


def test_without_iterations_nothing_is_read():
    def collect(models):
        raise AssertionError("the data was read")

    [end, lost] = loop.run([state(), state(status=Status.SINGULAR)], collect, 1.0, Settings(max_iter=0))
    assert end.status is Status.MAX_ITER
    assert lost.status is Status.SINGULAR
    assert end.lower_bound == -math.inf


def test_states_leave_as_they_stop():
    sizes = []
    bounds = {1: iter([-3, -3]), 2: iter([-5, -4, -4])}

    def collect(models):
        sizes.append(len(models))
        return [scripted_collect([next(bounds[len(p.weights)])])([(f, p)])[0] for f, p in models]

    one = State(Candidate("spherical", 1), 0, random_parameters("spherical", 1, 1))
    seen = []
    ends = loop.run([one, state()], collect, 1.0, Settings(), seen.append)
    assert sizes == [2, 2, 1]
    assert [end.n_iter for end in ends] == [2, 3]
    assert [[s.n_iter for s in after] for after in seen] == [[1, 1], [2, 2], [2, 3]]


def test_a_singular_step_keeps_the_last_parameters(covariance_type):
    family, before = get_family(covariance_type), random_parameters(covariance_type, 2, 3)
    nothing = Statistics(np.ones(2), np.zeros((2, 3)), np.zeros(family.covariance_shape(2, 3)), before.means, -1.0)
    (after,) = loop.steps([State(Candidate(covariance_type, 2), 0, before)], [nothing], 1.0, Settings(reg_covar=0))
    assert after.status is Status.SINGULAR
    for name, value in vars(before).items():
        np.testing.assert_array_equal(getattr(after.parameters, name), value)
    assert not after.usable


def test_the_best_start_is_the_first_of_equals():
    ends = [state(lower_bounds=(bound,), status=Status.CONVERGED) for bound in (-4.0, -3.0, -3.0 + 1e-14, -3.5)]
    assert loop.best_start(ends) is ends[1]


def test_a_better_start_wins_however_little():
    ends = [state(lower_bounds=(bound,), status=Status.CONVERGED) for bound in (-3.0, -3.0 + 1e-10)]
    assert loop.best_start(ends) is ends[1]


def test_singular_starts_cannot_win():
    lost = state(lower_bounds=(9.0,), status=Status.SINGULAR)
    good = state(lower_bounds=(-4.0,), status=Status.MAX_ITER)
    assert loop.best_start([lost, good]) is good
    assert loop.best_start([lost]) is None


@settings(max_examples=40)
@given(
    covariance_type=st.sampled_from(["full", "tied", "diag", "spherical"]),
    seed=st.integers(0, 1000),
    n_components=st.integers(1, 4),
    n_features=st.integers(1, 3),
    weighted=st.booleans(),
)
def test_the_likelihood_never_falls(covariance_type, seed, n_components, n_features, weighted):
    X = random_rows(80, n_features, seed)
    weights = np.random.RandomState(seed).uniform(0, 2, len(X)) if weighted else None
    rows = Rows(X, weights)
    data_summary = summarize_rows(rows, seed)
    [start] = first_states(
        [Candidate(covariance_type, n_components)],
        data_summary,
        init_params="random",
        n_init=1,
        random_state=lambda: np.random.RandomState(seed),
        reg_covar=0.0,
    )
    collect = partial(collect_statistics, rows, data_summary)
    [end] = loop.run([start], collect, data_summary.total_weight, Settings(tol=1e-9, max_iter=30, reg_covar=0.0))
    assert end.n_iter > 0
    assert (np.diff(end.lower_bounds) >= -1e-12 * np.abs(end.lower_bound)).all()
