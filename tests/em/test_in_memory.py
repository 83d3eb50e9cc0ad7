"""Fits that run compiled as a whole take the path of the loop of passes."""

from functools import partial

import dask
import numpy as np
import pytest

from gmm_dask.em import in_memory, loop
from gmm_dask.em.acceleration import FeatureScale
from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.em.prior import DefaultPrior
from gmm_dask.families import DEFAULT_TYPES, FAMILIES, Noise, Posterior
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.noise import beside_noise
from gmm_dask.init.starts import first_states
from gmm_dask.init.subsample import SCREENING_KAPPA
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_statistics
from gmm_dask.variational.inference import Variational
from gmm_dask.variational.priors import PRIOR_TYPES, GivenPriors
from mixtures import tilted_groups

DOUBLE = np.dtype(np.float64)
PARSIMONIOUS = [name for name in FAMILIES if name not in DEFAULT_TYPES]


# what an inference is made of, given the data; a small concentration leaves components without any weight
INFERENCES = {
    "prior": DefaultPrior.of,
    "dirichlet_process": partial(Variational.of, given=GivenPriors("dirichlet_process", weight_concentration=1e-3)),
    "dirichlet_distribution": partial(
        Variational.of, given=GivenPriors("dirichlet_distribution", mean_precision=0.3, degrees_of_freedom=70.5)
    ),
}


def begun(X, covariance_type, weights=None, accelerate=False, ks=(1, 2, 4), inference=None, noise=False, **settings):
    """Rows, the states in which fits begin, their settings and the data summary."""
    rows = as_rows(np.ascontiguousarray(X), weights)
    data_summary = summarize_rows(rows, 0)
    inference = INFERENCES[inference](data_summary) if inference else MAXIMUM_LIKELIHOOD
    states = first_states(
        [Candidate(covariance_type, k) for k in ks],
        data_summary,
        init_params="kmeans",
        n_init=1,
        random_state=lambda: np.random.RandomState(0),
        reg_covar=1e-6,
        inference=inference,
    )
    if noise:
        box = Noise(0.1, float(np.log(np.ptp(X, axis=0)).sum()))
        states = [beside_noise(state, box) for state in states]
    acceleration = FeatureScale.of(data_summary) if accelerate else None
    return rows, states, Settings(**settings, acceleration=acceleration, inference=inference), data_summary


def both(X, covariance_type, weights=None, dtype=np.float64, **settings):
    """The ends of some fits, by the loop and compiled."""
    rows, states, settings, data_summary = begun(X, covariance_type, weights, **settings)
    collect = partial(collect_statistics, rows, data_summary, dtype=np.dtype(dtype))
    assert in_memory.is_compiled(rows, settings)
    looped = loop.run(states, collect, data_summary.total_weight, settings)
    return looped, in_memory.run(states, rows, data_summary, settings, np.dtype(dtype))


def numbers(state):
    return state.n_iter, state.falls, state.extrapolations, state.status, state.converged


@pytest.mark.parametrize("accelerate", [False, True], ids=["plain", "accelerated"])
@pytest.mark.parametrize("weighted", [False, True], ids=["rows", "weights"])
def test_the_path_is_that_of_the_loop(dataset, covariance_type, weighted, accelerate):
    _, X, _ = dataset
    weights = np.random.RandomState(1).uniform(0.5, 2.0, len(X)) if weighted else None
    # acceleration amplifies rounding: the paths are compared as long as it cannot have grown
    tol, max_iter, close = (1e-3, 30, 1e-7) if accelerate else (1e-6, 100, 1e-9)
    looped, compiled = both(X, covariance_type, weights, accelerate=accelerate, tol=tol, max_iter=max_iter)
    for one, other in zip(looped, compiled, strict=True):
        assert numbers(one) == numbers(other)
        np.testing.assert_allclose(other.lower_bounds, one.lower_bounds, rtol=0.0, atol=close)
        for name in ("weights", "means", "covariances", "precisions_cholesky"):
            expected, found = getattr(one.parameters, name), getattr(other.parameters, name)
            np.testing.assert_allclose(found, expected, rtol=1e-5 if accelerate else 1e-7, atol=1e-8)


def assert_same_path(looped, compiled, close=1e-9, rtol=1e-7):
    for one, other in zip(looped, compiled, strict=True):
        assert numbers(one) == numbers(other)
        np.testing.assert_allclose(other.lower_bounds, one.lower_bounds, rtol=close, atol=close)
        expected, found = one.parameters.arrays(), other.parameters.arrays()
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=rtol, atol=1e-8, err_msg=name)
        if one.parameters.noise is not None:
            np.testing.assert_allclose(other.parameters.noise, one.parameters.noise, rtol=rtol)


# with noise, by a name of INFERENCES, accelerated: posteriors are not
MODELS = [
    (False, "prior", False),
    (False, "prior", True),
    (True, None, False),
    (True, None, True),
    (True, "prior", False),
    (False, "dirichlet_process", False),
    (False, "dirichlet_distribution", False),
]


@pytest.mark.parametrize(("noise", "inference", "accelerate"), MODELS)
@pytest.mark.parametrize("weighted", [False, True], ids=["rows", "weights"])
def test_the_path_beside_noise_and_with_a_prior_is_that_of_the_loop(
    dataset, covariance_type, weighted, noise, inference, accelerate
):
    _, X, _ = dataset
    weights = np.random.RandomState(1).uniform(0.5, 2.0, len(X)) if weighted else None
    tol, max_iter, close = (1e-3, 30, 1e-7) if accelerate else (1e-6, 100, 1e-9)
    looped, compiled = both(
        X, covariance_type, weights, accelerate=accelerate, inference=inference, noise=noise, tol=tol, max_iter=max_iter
    )
    assert_same_path(looped, compiled, close, 1e-5 if accelerate else 1e-7)
    assert all(state.n_iter > 1 for state in compiled)
    assert all(isinstance(state.parameters, Posterior) == (inference in PRIOR_TYPES) for state in compiled)


@pytest.mark.parametrize("covariance_type", PARSIMONIOUS)
def test_the_path_of_a_parsimonious_model_beside_noise_is_that_of_the_loop(iris, covariance_type):
    looped, compiled = both(iris, covariance_type, noise=True, tol=1e-5, max_iter=100)
    assert_same_path(looped, compiled)


BESIDE = pytest.mark.parametrize(("noise", "inference"), sorted({(noise, name or "") for noise, name, _ in MODELS}))


@BESIDE
def test_components_about_their_own_means_have_the_same_path(iris, covariance_type, noise, inference):
    rows, states, settings, data_summary = begun(iris, covariance_type, inference=inference, noise=noise, ks=(3,))
    data = in_memory.FitData.of(rows, data_summary, 1e-6)
    mapped, centred = (
        in_memory.fit(in_memory.Mixtures.of(*states, inference=settings.inference), data, settings, DOUBLE, max_kappa=k)
        for k in (in_memory.MAX_KAPPA, 0.0)
    )
    np.testing.assert_array_equal(centred.counts, mapped.counts)
    n_bounds = mapped.counts[0, 1]
    np.testing.assert_allclose(centred.bounds[0, :n_bounds], mapped.bounds[0, :n_bounds], rtol=1e-10)
    np.testing.assert_allclose(centred.mixtures.vectors, mapped.mixtures.vectors, rtol=1e-8, atol=1e-9)


@BESIDE
def test_single_precision_is_near_beside_noise_and_with_a_prior(iris, covariance_type, noise, inference):
    looped, compiled = both(
        iris, covariance_type, dtype=np.float32, inference=inference, noise=noise, tol=0.0, max_iter=5
    )
    for one, other in zip(looped, compiled, strict=True):
        np.testing.assert_allclose(other.lower_bounds, one.lower_bounds, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("covariance_type", PARSIMONIOUS)
def test_the_path_of_a_parsimonious_model_is_that_of_the_loop(iris, covariance_type, accelerate):
    looped, compiled = both(iris, covariance_type, accelerate=accelerate, tol=1e-7, max_iter=500)
    for one, other in zip(looped, compiled, strict=True):
        assert other.status is Status.CONVERGED
        np.testing.assert_allclose(other.lower_bound, one.lower_bound, rtol=1e-7)
        # an extrapolation depends on the last digits of the steps before it
        if not accelerate:
            assert numbers(one) == numbers(other)
            np.testing.assert_allclose(other.lower_bounds, one.lower_bounds, rtol=1e-10)
        assert (np.diff(other.lower_bounds) > -1e-9).all()  # reg_covar lets a plain step fall a little
        family, parameters = other.model
        again = family.nearest(parameters.weights, parameters.means, parameters.covariances)
        np.testing.assert_allclose(again.covariances, parameters.covariances, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("covariance_type", "seed"), [("EVE", 15), ("VVE", 27)])
def test_a_last_m_step_that_stopped_at_its_bound_is_a_status(covariance_type, seed):
    X = tilted_groups(seed)
    (looped,), (compiled,) = both(X, covariance_type, ks=(3,), tol=1e-3)
    assert numbers(looped) == numbers(compiled)
    assert looped.status is Status.INNER_MAX_ITER
    # the steps that a smaller tol brings go on from there, and the likelihood rises
    (further,), (compiled,) = both(X, covariance_type, ks=(3,), tol=1e-9)
    assert further.status is compiled.status is Status.CONVERGED
    assert further.lower_bound > looped.lower_bound + 5e-5


def test_single_precision_is_near(dataset, covariance_type):
    _, X, _ = dataset
    looped, compiled = both(X, covariance_type, dtype=np.float32, tol=0.0, max_iter=5)
    for one, other in zip(looped, compiled, strict=True):
        np.testing.assert_allclose(other.lower_bounds, one.lower_bounds, rtol=1e-5)


def test_tight_components_go_on_about_their_own_means(covariance_type):
    """They are too tight for the feature map about one centre; the bounds are the loop's."""
    random = np.random.RandomState(0)
    X = np.vstack([random.normal(place, 1e-3, (100, 2)) for place in (-1e3, 1e3)])
    looped, compiled = both(X, covariance_type, ks=(2,), tol=1e-8, max_iter=20)
    if covariance_type != "tied":
        assert looped[0].status is Status.CONVERGED
    assert numbers(looped[0]) == numbers(compiled[0])
    np.testing.assert_allclose(compiled[0].lower_bounds, looped[0].lower_bounds, rtol=1e-9)


def test_a_screening_run_ranks_fits_of_nearly_dependent_columns(covariance_type):
    """Too tight for the feature map about one centre in a fit, not where fits are compared."""
    random = np.random.RandomState(0)
    X = random.normal(size=(200, 2)) + 3.0 * random.randint(2, size=(200, 1))
    X = np.column_stack([X, X[:, 0] + 1e-4 * random.normal(size=200)])
    rows = as_rows(X, None)
    summary = summarize_rows(rows, 0)
    (state,) = first_states(
        [Candidate(covariance_type, 2)],
        summary,
        init_params="kmeans",
        n_init=1,
        random_state=lambda: np.random.RandomState(0),
        reg_covar=1e-9,
    )
    settings = Settings(tol=0.0, max_iter=5, reg_covar=1e-9)
    data = in_memory.FitData.of(rows, summary, 1e-9)
    exact, screened = (
        in_memory.fit(in_memory.Mixtures.of(state), data, settings, np.dtype(float), max_kappa=kappa).bounds
        for kappa in (in_memory.MAX_KAPPA, SCREENING_KAPPA)
    )
    np.testing.assert_allclose(screened, exact, rtol=0.0, atol=1e-5)
    if covariance_type in ("full", "tied"):
        assert not np.array_equal(screened, exact)


def test_a_singular_fit_keeps_its_last_parameters(covariance_type):
    X = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    looped, compiled = both(X, covariance_type, ks=(2,), reg_covar=0.0, max_iter=20)
    # which step is the first that rounding leaves singular is a matter of the order of a sum
    assert (
        looped[0].status is compiled[0].status is (Status.SINGULAR if covariance_type != "tied" else looped[0].status)
    )
    np.testing.assert_allclose(compiled[0].parameters.means, looped[0].parameters.means, atol=1e-9)


def test_a_state_that_has_ended_stays(iris):
    rows = as_rows(iris)
    ended = State(Candidate("full", 2), 0, None, status=Status.SINGULAR)
    data_summary = summarize_rows(rows, 0)
    assert in_memory.run([ended], rows, data_summary, Settings()) == [ended]


def test_bits_do_not_depend_on_threads(iris, covariance_type):
    found = []
    for scheduler in ("sync", "threads"):
        with dask.config.set(scheduler=scheduler):
            found.append(both(iris, covariance_type, tol=1e-6)[1])
    for one, other in zip(*found, strict=True):
        assert one.lower_bounds == other.lower_bounds
        assert one.parameters.means.tobytes() == other.parameters.means.tobytes()


def test_the_rounding_of_a_mean_is_added_as_in_the_loop(covariance_type):
    """Far from zero an ulp of the mean is larger than reg_covar."""
    random = np.random.RandomState(0)
    X = 1e13 + np.vstack([random.normal(place, 1.0, (50, 2)) for place in (0.0, 30.0)])
    looped, compiled = both(X, covariance_type, ks=(2,), reg_covar=1e-6, tol=0.0, max_iter=3)
    np.testing.assert_allclose(compiled[0].parameters.covariances, looped[0].parameters.covariances, rtol=1e-9)
    np.testing.assert_allclose(compiled[0].lower_bounds, looped[0].lower_bounds, rtol=1e-9)
