"""Components that stay as they are, while the others are fitted."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

import naive
from gmm_dask import GaussianMixture, UserError
from gmm_dask.families import get_family
from mixtures import assert_same_parameters, inits_of, random_parameters, rows_of_five_groups

TYPES = ("full", "diag", "spherical")
K, FIXED, FREE = 4, [0, 2], [1, 3]


@pytest.fixture(params=TYPES)
def covariance_type(request):
    return request.param


@pytest.fixture
def start(covariance_type):
    parameters = random_parameters(covariance_type, K, 2, seed=3)
    means = np.array([[0.0, 0.0], [6.0, 1.0], [0.0, 8.0], [9.0, 6.0]])
    return get_family(covariance_type).parameters(parameters.weights, means, parameters.covariances)


def naive_em(covariance_type, X, start, n_iter):
    """EM in loops, in which the fixed components keep their means and covariances."""
    rows, model, bounds = naive.numbers(X), naive.model_of(covariance_type, start), []
    given = model
    for _ in range(n_iter):
        resp, densities = naive.e_step(rows, model)
        bounds.append(sum(densities) / len(rows))
        model = naive.m_step(covariance_type, rows, resp, None, 1e-6)
        for k in FIXED:
            model.means[k], model.covariances[k] = given.means[k], given.covariances[k]
    return naive.parameters_of(covariance_type, model), bounds


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("chunks", [None, 70])
def test_the_path_is_that_of_loops(covariance_type, start, chunks):
    X = rows_of_five_groups(200)
    given = X if chunks is None else da.from_array(X, chunks=(chunks, -1))
    settings = {"covariance_type": covariance_type, "tol": 0, "max_iter": 5, **inits_of(covariance_type, start)}
    ours = GaussianMixture(K, fixed=FIXED, **settings).fit(given)
    expected, bounds = naive_em(covariance_type, X, start, 5)
    np.testing.assert_allclose(ours.lower_bounds_, bounds, rtol=1e-11)
    assert_same_parameters(ours, expected, rtol=1e-9)
    assert_kept(ours, start)


def assert_kept(fitted, start):
    for name in ("means", "covariances", "precisions_cholesky"):
        np.testing.assert_allclose(getattr(fitted, f"{name}_")[FIXED], getattr(start, name)[FIXED], rtol=1e-14)


@pytest.mark.parametrize("noise", [False, True])
def test_extrapolation_moves_no_fixed_component_and_leads_higher(covariance_type, start, noise):
    X = rows_of_five_groups(800) + np.random.default_rng(1).normal(scale=2.0, size=(800, 2))
    inits = inits_of(covariance_type, start)
    if noise:
        inits["weights_init"] = np.append(start.weights * 0.9, 0.1)
    settings = {"covariance_type": covariance_type, "tol": 1e-9, "max_iter": 3000, "noise": noise, "reg_covar": 0}
    plain, fast = (GaussianMixture(K, fixed=FIXED, accelerate=a, **settings, **inits).fit(X) for a in (False, True))
    assert (np.diff(plain.lower_bounds_) >= -1e-12).all()
    assert (np.diff(fast.lower_bounds_) >= -1e-12).all()
    assert fast.n_iter_ < plain.n_iter_
    assert fast.score(X) >= plain.score(X) - 1e-7
    for fitted in (plain, fast):
        np.testing.assert_array_equal(fitted.means_[FIXED], start.means[FIXED])
        np.testing.assert_allclose(fitted.covariances_[FIXED], start.covariances[FIXED], rtol=1e-14)


def test_criteria_count_what_is_fitted(covariance_type, start):
    X = rows_of_five_groups(800)
    inits = inits_of(covariance_type, start)
    mixture = GaussianMixture(K, covariance_type=covariance_type, fixed=FIXED, **inits).fit(X)
    n_values = {"full": 3, "diag": 2, "spherical": 1}[covariance_type]
    expected = (K - 1) + len(FREE) * (2 + n_values)
    assert mixture.aic(X) == pytest.approx(-2.0 * len(X) * mixture.score(X) + 2.0 * expected)
    assert mixture.aic(X) == mixture.set_params(fixed=None).aic(X)  # of the fit, not of the next one


def test_a_known_group_that_has_no_rows_is_no_fault():
    X = np.random.default_rng(0).normal(size=(300, 2))
    inits = {"weights_init": [0.5, 0.5], "means_init": [[50.0, 50.0], [1.0, 1.0]], "precisions_init": [1.0, 1.0]}
    mixture = GaussianMixture(2, covariance_type="spherical", fixed=[0], **inits).fit(X)
    assert mixture.status_ == "converged"
    assert mixture.weights_[0] < 1e-12
    np.testing.assert_allclose(mixture.means_[1], X.mean(axis=0), atol=1e-9)


def test_all_components_may_be_fixed(covariance_type, start):
    X = rows_of_five_groups(300)
    inits = inits_of(covariance_type, start)
    mixture = GaussianMixture(K, covariance_type=covariance_type, fixed=range(K), tol=1e-8, max_iter=2000, **inits)
    mixture.fit(X)
    np.testing.assert_array_equal(mixture.means_, start.means)
    np.testing.assert_allclose(mixture.predict_proba(X).mean(axis=0), mixture.weights_, atol=1e-3)


@pytest.mark.parametrize(
    ("fixed", "settings", "what"),
    [
        ([2], {}, "0 to 1"),
        ([0, 0], {}, "once"),
        ([0.5], {}, "numbers of components"),
        ([], {}, "numbers of components"),
        ([[0], [0, 1]], {}, "numbers of components"),
        ([0], {"covariance_type": "tied", "precisions_init": np.eye(1)}, "tied"),
        ([0], {"means_init": None}, "means_init"),
    ],
)
def test_what_cannot_be_fixed_is_refused(fixed, settings, what):
    inits = {"weights_init": [0.5, 0.5], "means_init": [[0.0], [1.0]], "precisions_init": [[[1.0]], [[1.0]]]}
    with pytest.raises(UserError, match=what):
        GaussianMixture(2, fixed=fixed, **{**inits, **settings}).fit([[0.0], [1.0], [3.0]])
