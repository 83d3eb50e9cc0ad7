"""Acceleration: the same likelihood in fewer passes, and the plain step where the likelihood would fall."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.em import loop
from gmm_dask.em.acceleration import (
    ORDER,
    FeatureScale,
    History,
    extrapolate,
    from_vector,
    to_vector,
)
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.em.regularization import settings_for
from gmm_dask.errors import SingularError
from gmm_dask.families import FAMILIES, Statistics
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.starts import first_states
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_statistics
from marks import slow
from mixtures import assert_same_parameters, random_parameters
from pipeline.store import Checkpoint, load_checkpoint, prepare_store, save_checkpoint

SCALE = FeatureScale(np.array([5.0, -1.0, 0.0]), np.array([100.0, 1.0, 0.01]))


def overlapping(n_rows=1500, k=4, d=3, seed=0):
    """Rows of components that overlap, on which EM is slow."""
    random = np.random.RandomState(seed)
    means = random.standard_normal((k, d))
    return means[random.randint(k, size=n_rows)] + random.standard_normal((n_rows, d))


def fits(
    X,
    covariance_type,
    k=4,
    tol=1e-8,
    accelerate=True,
    on_pass=lambda states: None,
    weights=None,
):
    rows = as_rows(X, weights)
    data_summary = summarize_rows(rows, 0)
    settings = settings_for(data_summary, tol, 5000, 1e-6, accelerate)
    [start] = first_states(
        [Candidate(covariance_type, k)],
        data_summary,
        init_params="kmeans",
        n_init=1,
        random_state=lambda: np.random.RandomState(0),
        reg_covar=1e-6,
    )
    return start, partial(collect_statistics, rows, data_summary), data_summary, settings


def fit(*args, **kwargs):
    start, collect, data_summary, settings = fits(*args, **kwargs)
    [end] = loop.run([start], collect, data_summary.total_weight, settings)
    return end


@pytest.mark.parametrize("k", [1, 4])
def test_vectors_bring_parameters_back(covariance_type, k):
    family, parameters = (
        FAMILIES[covariance_type],
        random_parameters(covariance_type, k, 3),
    )
    vector = to_vector(family, parameters, SCALE)
    assert_same_parameters(from_vector(family, vector, parameters, SCALE), parameters, rtol=1e-12)


def test_vectors_do_not_depend_on_units(covariance_type):
    if covariance_type == "spherical":
        pytest.skip("one variance for columns of different units is another mixture in other units")
    family, parameters = (
        FAMILIES[covariance_type],
        random_parameters(covariance_type, 2, 3),
    )
    ours = to_vector(family, parameters, FeatureScale(np.zeros(3), np.ones(3)))
    _, scaled = family.unscaled(parameters, SCALE.center, SCALE.deviations)
    np.testing.assert_allclose(to_vector(family, scaled, SCALE), ours, rtol=1e-12)


def test_what_is_no_mixture_is_refused(covariance_type):
    family, parameters = (
        FAMILIES[covariance_type],
        random_parameters(covariance_type, 2, 3),
    )
    vector = to_vector(family, parameters, SCALE)
    for place, value in ((0, -0.1), (0, np.nan), (-1, -1e9)):
        bad = vector.copy()
        bad[place] = value
        with pytest.raises(SingularError):
            from_vector(family, bad, parameters, SCALE)


def test_the_limit_of_a_linear_iteration_is_found_at_once():
    """Spherical parameters that move along two directions, each step a fixed share of the one before."""
    family, limit = FAMILIES["spherical"], random_parameters("spherical", 2, 3)
    goal = to_vector(family, limit, SCALE)
    rates = np.where(np.arange(len(goal)) < 2, 0.0, np.where(np.arange(len(goal)) % 2, 0.9, 0.5))
    offset = np.where(np.arange(len(goal)) < 2, 0.0, 1e-3)
    point, history = from_vector(family, goal + offset, limit, SCALE), None
    for _ in range(3):
        image = goal + rates * (to_vector(family, point, SCALE) - goal)
        step = from_vector(family, image, limit, SCALE)
        point, history = extrapolate(family, history, point, step, 1e-6, SCALE)
    np.testing.assert_allclose(to_vector(family, point, SCALE), goal, atol=1e-7)


def test_the_same_likelihood_in_fewer_passes(covariance_type):
    X = overlapping()
    plain, fast = fit(X, covariance_type, accelerate=False), fit(X, covariance_type)
    assert plain.status is fast.status is Status.CONVERGED
    assert fast.n_iter < 0.6 * plain.n_iter
    assert fast.lower_bound > plain.lower_bound - 1e-6
    assert fast.history is None


@pytest.mark.parametrize("seed", [1, *slow([0, 2, 3, 4])])
def test_lower_bounds_never_fall(covariance_type, seed):
    X = overlapping(300, seed=seed)
    weights = np.random.RandomState(seed).uniform(0, 2, len(X)) if seed % 2 else None
    end = fit(X, covariance_type, tol=1e-10, weights=weights)
    assert (np.diff(end.lower_bounds) > -1e-9).all()  # reg_covar lets a plain step fall a little
    assert end.n_iter == len(end.lower_bounds) + end.falls
    assert end.falls <= end.extrapolations < end.n_iter
    assert end.n_iter > 5


def test_where_the_likelihood_falls_the_plain_step_goes_on(covariance_type):
    """After each fall the next parameters are those that a plain step from the point before gives."""
    start, collect, data_summary, settings = fits(overlapping(600, seed=2), covariance_type)
    state = start
    while not state.is_extrapolated:
        [state] = loop.run_pass([state], collect, data_summary.total_weight, settings)
    point = state.history.points[-1]
    assert state.history.plain is not None
    [fallen] = [replace(s, log_likelihood=-np.inf) for s in collect([state.model])]
    (after,) = loop.steps([state], [fallen], data_summary.total_weight, settings)
    assert after.parameters is state.history.plain
    assert (after.falls, after.lower_bounds, after.status) == (
        1,
        state.lower_bounds,
        Status.RUNNING,
    )
    assert not after.is_extrapolated
    family = FAMILIES[covariance_type]
    before = from_vector(family, point, state.parameters, settings.acceleration)
    expected = family.maximise(collect([(family, before)])[0], 1e-6)
    assert_same_parameters(after.parameters, expected, rtol=1e-9)


def test_a_singular_extrapolation_falls_back_too():
    parameters, plain = (
        random_parameters("full", 2, 3),
        random_parameters("full", 2, 3, seed=1),
    )
    history = History(np.zeros((2, 26)), np.ones((2, 26)), plain)
    state = State(Candidate("full", 2), 0, parameters, (-3.0,), history=history)
    nothing = Statistics(np.ones(2), np.zeros((2, 3)), np.zeros((2, 3, 3)), parameters.means, -200.0)
    settings = Settings(reg_covar=0.0, acceleration=SCALE)
    (after,) = loop.steps([state], [nothing], 100.0, settings)
    assert (after.status, after.falls, after.extrapolations) == (Status.RUNNING, 1, state.extrapolations + 1)
    assert after.parameters is plain
    (last,) = loop.steps([state], [nothing], 100.0, replace(settings, max_iter=2))
    assert (last.status, last.n_iter) == (Status.MAX_ITER, 2)


def test_convergence_is_confirmed_by_a_plain_step(covariance_type):
    seen = []
    start, collect, data_summary, settings = fits(overlapping(600, seed=3), covariance_type, tol=1e-7)
    loop.run(
        [start],
        collect,
        data_summary.total_weight,
        settings,
        lambda states: seen.append(states[0]),
    )
    assert seen[-1].status is Status.CONVERGED
    assert not seen[-2].is_extrapolated
    assert any(state.is_extrapolated for state in seen)
    assert max(len(state.history.points) for state in seen if state.history) <= ORDER + 1


def test_off_is_the_path_as_it_was(covariance_type, iris):
    plain = GaussianMixture(3, covariance_type=covariance_type, random_state=0, tol=1e-6, max_iter=500).fit(iris)
    coarse = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(iris)
    fast = GaussianMixture(3, covariance_type=covariance_type, random_state=0, accelerate=True).fit(iris)
    assert fast.n_iter_ <= plain.n_iter_
    if coarse.n_iter_ < 10:  # changes stay above where acceleration begins until the fit has converged
        np.testing.assert_array_equal(fast.means_, coarse.means_)


def test_searches_are_accelerated_too(iris):
    settings = {"init_params": "kmeans", "tol": 1e-8, "max_iter": 3000, "random_state": 0, "reg_covar": 1e-3}
    plain = GaussianMixtureSearch([2, 3], **settings).fit(iris).results_
    fast = GaussianMixtureSearch([2, 3], accelerate=True, **settings).fit(iris)
    assert fast.best_estimator_.accelerate
    assert fast.results_.n_iter.sum() < 0.9 * plain.n_iter.sum()
    assert (fast.results_.log_likelihood > plain.log_likelihood - 1e-3).all()


@pytest.mark.parametrize("stop", [3, 10, *slow([8, 9, 11, 12, 15])])
def test_a_fit_that_is_resumed_ends_with_the_same_bits(tmp_path, stop):
    """After any pass, with whatever is remembered then."""
    X = overlapping(400, seed=4)
    parts = [fits(X, name, tol=1e-9) for name in FAMILIES]
    collect, data_summary, settings = parts[0][1:]
    passes = []
    ends = loop.run(
        [part[0] for part in parts],
        collect,
        data_summary.total_weight,
        settings,
        passes.append,
    )
    path = tmp_path / "r.zarr"
    prepare_store(path, {"name": "x", "search": {"criterion": "bic"}}, {"n_rows": len(X)})
    save_checkpoint(path, Checkpoint(passes[stop], data_summary, stop, (len(parts),)))
    resumed = load_checkpoint(path).states
    assert any(state.history is not None for state in resumed) or stop == 3
    again = loop.run(resumed, collect, data_summary.total_weight, settings)
    for ours, theirs in zip(again, ends, strict=True):
        assert ours.lower_bounds == theirs.lower_bounds
        assert (ours.status, ours.falls, ours.converged) == (
            theirs.status,
            theirs.falls,
            theirs.converged,
        )
        for name in ("weights", "means", "covariances", "precisions_cholesky"):
            np.testing.assert_array_equal(getattr(ours.parameters, name), getattr(theirs.parameters, name))
