"""Starts; that they are scikit-learn's is tested along its path."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from sklearn.cluster import KMeans

from gmm_dask import GaussianMixture
from gmm_dask.em.loop import Status
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.responsibilities import kmeans
from gmm_dask.init.starts import STARTS, first_states, require_rows
from gmm_dask.passes import data_summary as data_summary_module
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from messages import names
from mixtures import assert_identical, assert_same_parameters

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FROM_RESPONSIBILITIES = [name for name, start in STARTS.items() if not start.is_search]


def states(candidates, X, weights=None, **changes):
    settings = {"init_params": "kmeans", "n_init": 1, "reg_covar": 1e-6} | changes
    candidates = [Candidate(*candidate) for candidate in candidates]
    data_summary = summarize_rows(as_rows(X, weights), 0)
    return first_states(candidates, data_summary, random_state=lambda: np.random.RandomState(0), **settings)


@pytest.mark.parametrize("init_params", FROM_RESPONSIBILITIES)
def test_a_candidates_starts_do_not_depend_on_the_others(blobs, init_params):
    candidates = [("full", 2), ("diag", 3), ("full", 3), ("tied", 2)]
    together = states(candidates, blobs, n_init=2, init_params=init_params)
    assert [(s.covariance_type, s.n_components, s.start) for s in together] == [
        (*candidate, start) for candidate in candidates for start in range(2)
    ]
    alone = [s for candidate in candidates for s in states([candidate], blobs, n_init=2, init_params=init_params)]
    for ours, theirs in zip(together, alone, strict=True):
        assert_same_parameters(ours, theirs, rtol=0)


@pytest.mark.parametrize("init_params", FROM_RESPONSIBILITIES)
def test_starts_differ_from_each_other(iris, init_params):
    first, second = states([("full", 4)], iris, n_init=2, init_params=init_params)
    assert not np.array_equal(first.parameters.means, second.parameters.means)


def test_a_singular_start_is_a_state_without_parameters(covariance_type):
    X = np.repeat([[0.0, 0.0], [5.0, 5.0]], 10, axis=0)
    [state] = states([(covariance_type, 2)], X, reg_covar=0.0)
    assert state.status is Status.SINGULAR
    assert state.parameters is None


def test_too_few_rows(blobs):
    with pytest.raises(UserError, match=names("n_components = 7", "n_samples = 5", "fewer components")):
        require_rows(5, 7)
    few, failed = states([("full", 2), ("full", 7)], blobs[:5])
    assert (few.status, failed.status) == (Status.RUNNING, Status.FAILED)
    assert failed.parameters is None


@pytest.mark.parametrize("init_params", FROM_RESPONSIBILITIES)
def test_rows_without_weight_are_never_chosen(init_params):
    """Half of the rows weigh nothing, and no start spends a component on them."""
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.normal(0, 1, (50, 2)), rng.normal(1000, 1, (50, 2))])
    weights = np.repeat([1.0, 0.0], 50)
    for state in states([("diag", 3)], X, weights, n_init=5, init_params=init_params):
        assert np.abs(state.parameters.means).max() < 10
        assert (state.parameters.weights > 1e-6).all()


@pytest.mark.parametrize("init_params", FROM_RESPONSIBILITIES)
def test_the_scale_of_the_weights_does_not_matter(blobs, init_params):
    weights = np.random.RandomState(1).randint(1, 4, 600).astype(float)
    [once] = states([("full", 3)], blobs, weights, init_params=init_params)
    [twice] = states([("full", 3)], blobs, 2 * weights, init_params=init_params)
    np.testing.assert_allclose(once.parameters.means, twice.parameters.means, rtol=1e-9)


@pytest.mark.parametrize("init_params", FROM_RESPONSIBILITIES)
def test_more_rows_than_the_sample_takes(blobs, monkeypatch, init_params):
    """Starts come from a random sample then, the same for the same chunks, and the fit still finds the blobs."""
    monkeypatch.setattr(data_summary_module, "SAMPLE_ROWS", 150)
    X = da.from_array(blobs, chunks=(100, 2))
    settings = {"init_params": init_params, "n_init": 10, "tol": 1e-8, "max_iter": 1000, "random_state": 0}
    first, again = (GaussianMixture(3, **settings).fit(X) for _ in range(2))
    assert_identical(first, again)
    monkeypatch.undo()
    whole = GaussianMixture(3, **settings).fit(X)
    assert first.score(blobs) == pytest.approx(whole.score(blobs), abs=1e-4)


@pytest.mark.parametrize("init_params", FROM_RESPONSIBILITIES)
def test_rows_without_weight_are_as_good_as_absent(init_params, blobs):
    weights = np.zeros(len(blobs))
    weights[::3] = 1.0
    weighted = GaussianMixture(2, init_params=init_params, random_state=0).fit(blobs, sample_weight=weights)
    alone = GaussianMixture(2, init_params=init_params, random_state=0).fit(blobs[::3], sample_weight=weights[::3])
    np.testing.assert_allclose(weighted.means_, alone.means_, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_clusters_as_scikit_learn_does(weighted):
    """Label by label, and random number for random number."""
    rng = np.random.RandomState(0)
    for n_rows, d, k in ((300, 2, 2), (500, 5, 7), (20_000, 3, 4), (12, 4, 12)):
        X = rng.normal(size=(n_rows, d)) + 4.0 * rng.randint(3, size=(n_rows, 1))
        weights = rng.uniform(0.1, 3.0, n_rows) if weighted else None
        ours, theirs = np.random.RandomState(1), np.random.RandomState(1)
        expected = KMeans(k, n_init=1, random_state=theirs).fit(X, sample_weight=weights).labels_
        np.testing.assert_array_equal(kmeans(X, weights, k, ours).argmax(axis=1), expected)
        assert ours.random_sample() == theirs.random_sample()
