"""The conjugate prior of EM: mclust's M-step and fits, and what it does to components that would be singular."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest

from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError
from gmm_dask.em.prior import DefaultPrior
from gmm_dask.families import get_family
from gmm_dask.init.responsibilities import statistics_of
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from mclust import MCLUST_NAMES
from messages import names
from paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
K, D = 3, 4


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(ROOT / "tests/data/prior_mclust.csv")


def values_of(table, covariance_type, step, name, shape):
    is_one = (table.model == MCLUST_NAMES[covariance_type]) & (table.step == step) & (table.name == name)
    return table[is_one]["value"].to_numpy().reshape(shape)


def expected_of(table, covariance_type, step):
    shapes = {"weights": (K,), "means": (K, D), "covariances": (K, D, D)}
    return [values_of(table, covariance_type, step, name, shape) for name, shape in shapes.items()]


def started(covariance_type, table, **settings):
    """A mixture that begins with mclust's M-step."""
    family = get_family(covariance_type)
    weights, means, matrices = expected_of(table, covariance_type, "mstep")
    covariances = matrices[0] if family.is_shared else np.stack([family.from_matrix(one) for one in matrices])
    precisions = family.precisions(family.precisions_cholesky(covariances))
    return GaussianMixture(
        K,
        covariance_type=covariance_type,
        weights_init=weights,
        means_init=means,
        precisions_init=precisions,
        prior="default",
        reg_covar=0.0,
        tol=1e-12,
        max_iter=5000,
        **settings,
    )


def test_the_m_step_is_mclusts(iris, covariance_type, table):
    resp = np.full((len(iris), K), 0.05)
    resp[np.arange(len(iris)), np.repeat(range(K), len(iris) // K)] = 0.9
    family, prior = get_family(covariance_type), DefaultPrior.of(summarize_rows(as_rows(iris, None), 0))
    (found,) = prior.maximise_all(family, [statistics_of(family, iris, None, resp)], 0.0)
    weights, means, covariances = expected_of(table, covariance_type, "mstep")
    np.testing.assert_allclose(found.weights, weights, rtol=1e-10)
    np.testing.assert_allclose(found.means, means, rtol=1e-10)
    np.testing.assert_allclose(family.full_covariances(found), covariances, rtol=1e-8, atol=1e-12)


def test_the_fit_is_mclusts(iris, covariance_type, table):
    found = started(covariance_type, table).fit(iris)
    log_likelihood, bic = (
        values_of(table, covariance_type, "me", name, ()).item() for name in ("log_likelihood", "bic")
    )
    assert found.score(iris) * len(iris) == pytest.approx(log_likelihood, rel=1e-6)
    assert -found.bic(iris) == pytest.approx(bic, rel=1e-6)
    np.testing.assert_allclose(found.means_, expected_of(table, covariance_type, "me")[1], rtol=1e-4)
    assert (np.diff(found.lower_bounds_) > -1e-12).all()


@pytest.mark.parametrize("settings", [{"accelerate": True}, {}], ids=str)
def test_chunks_and_extrapolation_end_there_too(iris, table, settings):
    expected = started("tied", table).fit(iris)
    found = started("tied", table, **settings).fit(da.from_array(iris, chunks=(40, 4)))
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-5)
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, rel=1e-9)


def test_no_candidate_is_singular(covariance_type):
    """Rows that are copies: without the prior, and with reg_covar=0, components of one value have no density."""
    X = np.repeat(np.random.RandomState(0).normal(size=(9, 3)), 20, axis=0)
    settings = {"covariance_types": [covariance_type], "init_params": "kmeans", "reg_covar": 0.0, "random_state": 0}
    with_prior = GaussianMixtureSearch([5, 6], **settings, prior="default").fit(X)
    assert "singular" not in set(with_prior.results_["status"])
    assert np.isfinite(with_prior.results_["log_likelihood"]).all()
    assert with_prior.best_estimator_.prior == "default"
    if covariance_type in ("full", "diag"):
        without = GaussianMixtureSearch([1, 6], **settings).fit(X)
        assert without.results_["status"].tolist()[-1] == "singular"


def test_it_goes_with_noise(blobs):
    found = GaussianMixture(3, prior="default", noise=True, random_state=0).fit(blobs)
    assert found.weights_.sum() + found.noise_weight_ == pytest.approx(1.0)
    assert (np.diff(found.lower_bounds_) > -1e-9).all()


def test_starts_beside_noise_have_the_prior():
    random = np.random.default_rng(0)
    copies = np.vstack([random.normal(0.0, 1.0, (200, 2)), random.normal(6.0, 1.0, (200, 2)), np.full((30, 2), 20.0)])
    settings = {"covariance_type": "diag", "prior": "default", "reg_covar": 0.0, "random_state": 0}
    beside, alone = (GaussianMixture(3, noise=noise, **settings).fit(copies) for noise in (True, False))
    assert (beside.status_, alone.status_) == ("converged", "converged")
    assert beside.lower_bound_ == pytest.approx(alone.lower_bound_, abs=0.01)


def test_what_it_does_not_go_with(blobs):
    fixed = {"fixed": [0], "weights_init": [0.5, 0.5], "means_init": blobs[:2], "precisions_init": [np.eye(2)] * 2}
    with pytest.raises(UserError, match=names("prior", "fixed")):
        GaussianMixture(2, prior="default", **fixed).fit(blobs)
    with pytest.raises(UserError, match=names("prior", "VVE", "tied")):
        GaussianMixture(2, covariance_type="VVE", prior="default").fit(blobs)
    with pytest.raises(UserError, match=names("prior", "EEI", "tied")):
        GaussianMixtureSearch([2], ["full", "EEI"], prior="default").fit(blobs)
    with pytest.raises(ValueError, match=names("prior", "flat")):
        GaussianMixture(2, prior="flat").fit(blobs)
    with pytest.warns(UserWarning, match="add up"), pytest.raises(UserError, match=names("prior", "Scale")):
        GaussianMixture(2, prior="default").fit(blobs, sample_weight=np.full(len(blobs), 1e-3))
