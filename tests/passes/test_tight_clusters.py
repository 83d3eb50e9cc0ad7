"""Clusters a million times tighter than their spread, against arithmetic of 50 digits.

``reg_covar`` is 0. The unit is the clusters' width, so that bounds on means are absolute.
"""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Peer

import naive
from gmm_dask import GaussianMixture
from gmm_dask.families import get_family
from gmm_dask.passes import model_batch as batch_module
from gmm_dask.passes import statistics
from gmm_dask.passes.model_batch import MAX_KAPPA, build_batch, chunk_sums, unpack_sums
from mixtures import inits_of, moments

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SPREAD = 1e6
N_ROWS = 120


def tight_rows(spread, seed=0):
    """Two places, ``spread`` apart, each with two overlapping clusters of width about one."""
    rng = np.random.RandomState(seed)
    offsets = np.array([[0, 0], [3, 1], [spread, -spread], [spread + 1, 3 - spread]])
    label = np.repeat(np.arange(4), N_ROWS // 4)
    shapes = np.array([[1, 0.5], [0.7, 1.2], [1.5, 0.8], [0.6, 1]])
    return offsets[label] + rng.standard_normal((N_ROWS, 2)) * shapes[label], offsets


def first_parameters(covariance_type, means):
    family, k = get_family(covariance_type), len(means)
    covariances = np.broadcast_to(np.eye(2), (k, 2, 2))
    shaped = {"full": covariances, "tied": np.eye(2), "diag": np.ones((k, 2)), "spherical": np.ones(k)}
    return family.parameters(np.full(k, 1 / k), means + np.array([0.4, -0.3]), shaped[covariance_type].copy())


@pytest.fixture
def batches(monkeypatch):
    """The batches of the passes that a fit makes."""
    seen = []

    def recording(*args, **kwargs):
        seen.append(build_batch(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(statistics, "build_batch", recording)
    return seen


def assert_close(ours, exact, bound=1e-6):
    """Within the bound of the clusters' width, or relative to each number."""
    np.testing.assert_allclose(ours.weights_, exact.weights, rtol=bound)
    np.testing.assert_allclose(ours.means_, exact.means, rtol=0, atol=bound)
    size = np.abs(exact.covariances).max()
    np.testing.assert_allclose(ours.covariances_, exact.covariances, rtol=bound, atol=bound * size)


@pytest.mark.parametrize("chunked", [False, True], ids=["compiled", "passes"])
@pytest.mark.parametrize("max_iter", [1, 200], ids=["one step", "to the end"])
def test_agrees_with_extended_precision(covariance_type, max_iter, chunked, batches):
    X, means = tight_rows(SPREAD)
    start = first_parameters(covariance_type, means)
    settings = {"covariance_type": covariance_type, "reg_covar": 0, "tol": 1e-4, "max_iter": max_iter}
    given = da.from_array(X, chunks=(50, 2)) if chunked else X
    ours = GaussianMixture(4, **settings, **inits_of(covariance_type, start)).fit(given)
    assert [batch.centred for batch in batches] == [(0,)] * (ours.n_iter_ if chunked else 0)
    assert ours.n_iter_ == 1 if max_iter == 1 else 3 < ours.n_iter_ < max_iter
    model = naive.model_of(covariance_type, start, naive.EXTENDED)
    exact, bounds = naive.run_em(covariance_type, X, model, ours.n_iter_, 0.0, naive.EXTENDED)
    assert_close(ours, exact)
    np.testing.assert_allclose(ours.lower_bounds_, bounds, rtol=1e-9)
    if max_iter > 1:  # it stopped where exact arithmetic stops
        changes = np.abs(np.diff(bounds))
        assert (changes[:-1] >= 1e-4).all()
        assert changes[-1] < 1e-4


@pytest.mark.parametrize("start", ["given", "kmeans"])
def test_full_agrees_with_scikit_learn(start):
    X, means = tight_rows(SPREAD)
    settings = {"reg_covar": 0, "tol": 1e-4, "max_iter": 200, "random_state": 0}
    if start == "given":
        settings |= inits_of("full", first_parameters("full", means))
    k = 4 if start == "given" else 2
    ours, theirs = GaussianMixture(k, **settings).fit(X), Peer(k, **settings).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.weights_, theirs.weights_, rtol=1e-6)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


def test_chunks_do_not_matter(covariance_type):
    X, means = tight_rows(SPREAD)
    inits = inits_of(covariance_type, first_parameters(covariance_type, means))
    settings = {"covariance_type": covariance_type, "reg_covar": 0, "tol": 1e-4, "max_iter": 200, **inits}
    whole = GaussianMixture(4, **settings).fit(X)
    parts = GaussianMixture(4, **settings).fit(da.from_array(X, chunks=(17, 2)))
    assert parts.n_iter_ == whole.n_iter_
    np.testing.assert_allclose(parts.means_, whole.means_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(parts.covariances_, whole.covariances_, rtol=0, atol=1e-9)


# -- the feature map's condition ---------------------------------------------------------------------------------
def step_error(covariance_type, spread):
    """Kappa, and the largest relative error of the variances after one step from exact arithmetic's."""
    X, means = tight_rows(spread)
    start, family = first_parameters(covariance_type, means), get_family(covariance_type)
    center, scatter = moments(X)
    batch = build_batch([(family, start)], center, scatter)
    [statistics] = unpack_sums(batch, chunk_sums(X, None, batch))
    found = family.full_covariances(family.maximise(statistics, 0.0))
    model = naive.model_of(covariance_type, start, naive.EXTENDED)
    exact, _ = naive.run_em(covariance_type, X, model, 1, 0.0, naive.EXTENDED)
    expected = family.full_covariances(exact)
    return family.kappa(start, center), np.abs(found - expected).max() / np.abs(expected).max()


def test_the_feature_maps_error_grows_with_kappa(covariance_type, monkeypatch):
    monkeypatch.setattr(batch_module, "MAX_KAPPA", np.inf)
    kappas, errors = np.transpose([step_error(covariance_type, spread) for spread in (1e1, 1e2, 1e3, 1e4, 1e5)])
    assert (np.diff(kappas) > 0).all()
    assert (errors < 20 * kappas * 1e-16 + 1e-14).all(), dict(zip(kappas, errors, strict=True))
    assert errors[-1] > 1e4 * errors[0]


def test_the_guard_takes_over_in_time(covariance_type):
    """Wherever the clusters are, the kernel that the guard chooses is good to 1e-8."""
    assert MAX_KAPPA == 1e7
    for spread in (1e1, 1e3, 2e3, 4e3, 1e4, 1e6):
        _, error = step_error(covariance_type, spread)
        assert error < 1e-8


def test_the_guard_is_at_its_value(covariance_type):
    family = get_family(covariance_type)
    X, means = tight_rows(1e3)
    center, scatter = moments(X)
    start = first_parameters(covariance_type, means)
    for kappa, centred in ((0.99 * MAX_KAPPA, ()), (1.01 * MAX_KAPPA, (0,))):
        scale = family.kappa(start, center) / kappa
        scaled = family.parameters(start.weights, start.means, start.covariances * scale)
        assert build_batch([(family, scaled)], center, scatter).centred == centred
