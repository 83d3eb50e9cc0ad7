"""The clusterings that a search for starts begins from, against scikit-learn's, of which they draw the same."""

import warnings

import numpy as np
import pytest
from sklearn import datasets
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning

from gmm_dask.init.clustering import k_means, nearest_of_distant_rows

RNG = np.random.RandomState(5)
SETS = {
    "iris": datasets.load_iris().data,
    "wine": datasets.load_wine().data,
    "normal": RNG.standard_normal((3000, 7)),
    "far from zero": 1e4 + RNG.standard_normal((500, 2)),
    "rounded": np.round(RNG.standard_normal((400, 2)), 1),
}


def same_state(a, b):
    return all(np.array_equal(one, other) for one, other in zip(a.get_state(), b.get_state(), strict=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_k_means_is_that_of_scikit_learn(name, weighted):
    x = SETS[name]
    weights = np.random.RandomState(1).uniform(0.5, 3.0, len(x)) if weighted else None
    for k in (1, 2, 3, 7, 20):
        mine, theirs = np.random.RandomState(k), np.random.RandomState(k)
        expected = KMeans(k, n_init=1, random_state=theirs).fit(x, sample_weight=weights).labels_
        np.testing.assert_array_equal(k_means(x, weights, k, mine), expected)
        assert k == 1 or same_state(mine, theirs)


@pytest.mark.parametrize("name", SETS)
def test_distant_rows_are_those_of_scikit_learn(name):
    x = SETS[name]
    for k in (2, 5):
        mine, theirs = np.random.RandomState(k), np.random.RandomState(k)
        centers, _ = kmeans_plusplus(x, k, random_state=theirs, n_local_trials=1)
        expected = np.sum((x[:, None] - centers) ** 2, axis=2)
        found = nearest_of_distant_rows(x, None, k, mine)
        np.testing.assert_allclose(expected[np.arange(len(x)), found], expected.min(axis=1), atol=1e-6)
        assert same_state(mine, theirs)


@pytest.mark.parametrize("n_distinct", [1, 3])
def test_fewer_distinct_rows_than_clusters(n_distinct):
    x = np.repeat(np.arange(2.0 * n_distinct).reshape(n_distinct, 2), 8, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = KMeans(5, n_init=1, random_state=0).fit(x).labels_
    found = k_means(x, None, 5, np.random.RandomState(0))
    assert len(set(found)) == len(set(expected)) == n_distinct
    assert all(len(set(found[x[:, 0] == value])) == 1 for value in x[:, 0])


def test_an_empty_cluster_takes_a_row_that_is_far_from_its_center():
    # the middle of three centers loses all of its rows in the first iterations of some starts
    x = np.random.RandomState(0).standard_cauchy((60, 1))
    for seed in range(30):
        expected = KMeans(12, n_init=1, random_state=seed).fit(x)
        found = k_means(x, None, 12, np.random.RandomState(seed))
        assert len(set(found)) == 12
        np.testing.assert_array_equal(found, expected.labels_)
