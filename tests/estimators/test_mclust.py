"""mclust 6.0.0's tables are reached: see tests/data/README.md."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import parsimonious
from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.families import FAMILIES
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.responsibilities import statistics_of
from mclust import DATA_SETS, MCLUST_NAMES, REG_COVAR, bic_table, data_set, in_shape, mixtures
from mixtures import inits_of

INIT_PARAMS = ("kmeans", "k-means++", "random", "random_from_data")
# Starts of each kind that reach every cell, by mixtures without a degenerate or spurious component. One start of each
# kind misses four cells of the 72: Old Faithful full 4, full 7 and tied 9, and iris spherical 9.
N_INIT = 8

# mclust's summary of Old Faithful, EEE with K = 3; it stops a little before the optimum.
PUBLISHED_LOG_LIKELIHOOD = -1126.326
PUBLISHED_WEIGHTS = [0.16568, 0.35637, 0.47795]


@pytest.fixture(params=["iris", "old_faithful"])
def published(request):
    """Rows, and mclust's BIC by K and model with our sign."""
    return data_set(request.param), bic_table(request.param)


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.mark.parametrize("data", DATA_SETS)
def test_one_component(data, family):
    X, table = data_set(data), bic_table(data)
    ours = GaussianMixture(1, covariance_type=family.name, reg_covar=0).fit(X).bic(X)
    assert ours == pytest.approx(table.loc[1, family.structure], rel=1e-9, abs=0)


@pytest.mark.parametrize("data", DATA_SETS)
def test_m_steps_from_the_same_responsibilities(data, family):
    X = data_set(data)
    resp = 1.0 + np.arange(len(X))[:, None] * np.arange(2, 5) % 7
    resp /= resp.sum(axis=1)[:, None]
    found = family.maximise(statistics_of(family, X, None, resp), 0.0)
    [(_, weights, means, matrices)] = mixtures("mstep", data, family.structure)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-12)
    np.testing.assert_allclose(found.means, means, rtol=1e-9)
    ours = family.full_covariances(found)
    scale = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    errors = np.abs(ours - matrices) / (scale[:, :, None] * scale[:, None, :])
    several_optima = family.name in ("EVE", "VVE")
    if several_optima and errors.max() > 1e-5:
        # mclust begins at the axes of the features, and may end at another optimum
        own = np.stack([np.cov((X - mean).T, aweights=resp[:, k], bias=True) for k, mean in enumerate(means)])
        spreads = [parsimonious.expected_spread(weights, own, one) for one in (ours, matrices)]
        assert spreads[0] < spreads[1]
    else:
        assert errors.max() < (1e-5 if several_optima else 1e-8)


@pytest.mark.parametrize("data", DATA_SETS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_nothing_is_lost_from_mclusts_parameters(data, family):
    X, cells = data_set(data), 0
    for log_likelihood, weights, means, matrices in mixtures("fit", data, family.structure):
        inits = inits_of(family.name, family.parameters(weights / weights.sum(), means, in_shape(family, matrices)))
        settings = {"covariance_type": family.name, "reg_covar": 0, "tol": 0, "max_iter": 20}
        bounds = np.array(GaussianMixture(len(weights), **settings, **inits).fit(X).lower_bounds_)
        # mclust's likelihood is that before its last M-step, which raises it by about as little as it stops at
        gained = (bounds[0] * len(X) - log_likelihood) / abs(log_likelihood)
        assert -1e-9 < gained < 1e-4
        assert (np.diff(bounds) > -1e-11 * abs(bounds[0])).all()
        cells += 1
    assert cells


@pytest.mark.slow
def test_best_start_reaches_every_cell(published, covariance_type):
    X, table = published
    settings = {"n_init": N_INIT, "tol": 1e-6, "max_iter": 5000, "reg_covar": REG_COVAR, "random_state": 0}
    searches = [
        GaussianMixtureSearch(range(2, 10), covariance_type, init_params=init_params, **settings).fit(X)
        for init_params in INIT_PARAMS
    ]
    found = pd.concat([search.results_ for search in searches]).groupby("n_components")["log_likelihood"].max()
    n_parameters = np.array([FAMILIES[covariance_type].n_parameters(k, X.shape[1]) for k in found.index])
    bic = table.loc[found.index, MCLUST_NAMES[covariance_type]]
    mclust = (n_parameters * np.log(len(X)) - bic) / 2
    assert mclust.notna().all()  # mclust converged in all of these cells
    short = found[found < mclust - 0.01]
    assert short.empty, f"short of mclust: {short - mclust[short.index]}"


# Where mclust's optimum has a component that gains less than its price, so that it is passed over; but for diag-k5 and
# VEV-k9, of which the search misses mclust's optimum, by 0.8 and by 15
PASSED_OVER = {
    "old_faithful": {"full-k4", "full-k6", "full-k7", "full-k9", "VEI-k7", "VEI-k8", "VEE-k7"},
    "usarrests": {"diag-k9", "diag-k5"},
    "quakes": {"VEV-k9"},
}


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA_SETS)
def test_a_search_falls_short_of_named_cells_alone(data):
    X, table = data_set(data), bic_table(data)
    settings = {"init_params": "auto", "tol": 1e-6, "max_iter": 5000, "reg_covar": REG_COVAR, "random_state": 0}
    results = GaussianMixtureSearch(range(1, 10), "mclust", **settings).fit(X).results_
    bic = [table.loc[row.n_components, MCLUST_NAMES[row.covariance_type]] for row in results.itertuples()]
    mclust = (results["n_parameters"] * np.log(len(X)) - bic) / 2
    # mclust has no BIC where it failed: nothing is short of that
    short = results[results["log_likelihood"] < mclust - 0.01]
    assert {Candidate.of(row).name for row in short.to_dict("records")} <= PASSED_OVER.get(data, set())


@pytest.fixture(scope="module")
def at_published_weights(old_faithful):
    """Old Faithful's tied mixture of three with mclust's weights; of its means and covariance only ours are known."""
    optimum = GaussianMixture(3, covariance_type="tied", reg_covar=0, tol=1e-10, max_iter=2000, random_state=0)
    optimum.fit(old_faithful)
    order = np.argsort(optimum.weights_)
    return {
        "weights_init": PUBLISHED_WEIGHTS,
        "means_init": optimum.means_[order],
        "precisions_init": optimum.precisions_,
    }


def test_nothing_is_lost_from_the_published_weights(old_faithful, at_published_weights):
    fitted = GaussianMixture(
        3, covariance_type="tied", reg_covar=0, tol=1e-10, max_iter=2000, **at_published_weights
    ).fit(old_faithful)
    bounds = np.array(fitted.lower_bounds_)
    assert (np.diff(bounds) >= -1e-12).all()
    assert bounds[0] * len(old_faithful) == pytest.approx(PUBLISHED_LOG_LIKELIHOOD, abs=0.01)
    assert fitted.score(old_faithful) * len(old_faithful) > PUBLISHED_LOG_LIKELIHOOD
    assert fitted.bic(old_faithful) == pytest.approx(2314.296, abs=1e-3)
    np.testing.assert_allclose(fitted.weights_, [0.1686, 0.3564, 0.4750], atol=1e-4)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_nothing_is_lost_from_the_published_likelihood(old_faithful):
    """A fit interrupted where mclust stopped goes on upwards."""
    settings = {"covariance_type": "tied", "reg_covar": 0, "tol": 0, "random_state": 0}
    path = GaussianMixture(3, max_iter=60, **settings).fit(old_faithful).lower_bounds_
    n_iter = int(np.searchsorted(np.array(path) * len(old_faithful), PUBLISHED_LOG_LIKELIHOOD))
    stopped = GaussianMixture(3, max_iter=n_iter, **settings).fit(old_faithful)
    at_stop = stopped.score(old_faithful)
    assert at_stop * len(old_faithful) >= PUBLISHED_LOG_LIKELIHOOD
    stopped.set_params(warm_start=True, max_iter=100).fit(old_faithful)
    assert (np.diff([at_stop, *stopped.lower_bounds_]) >= -1e-12).all()


def test_icl_is_mclusts_definition(old_faithful):
    """mclust printed -2357.824 where it stopped early."""
    optimum = GaussianMixture(3, covariance_type="tied", reg_covar=0, tol=1e-10, max_iter=2000, random_state=0)
    assert optimum.fit(old_faithful).icl(old_faithful) == pytest.approx(2357.824, abs=1.5)
