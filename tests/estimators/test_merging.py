"""Components are merged into clusters: mclust 6.0.0's trees are ours, see tests/data/README.md."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from scipy.cluster.hierarchy import cut_tree, is_valid_linkage
from scipy.special import xlogy
from sklearn.mixture import GaussianMixture as Reference

from gmm_dask import GaussianMixture, UserError, merge_components
from gmm_dask.merging import MOST_ROWS
from gmm_dask.selection.cluster_tree import LEAST_OVERLAP, cluster_tree
from paths import ROOT

BAUDRY = ROOT / "tests/data"


@pytest.fixture(scope="module")
def published():
    """The article's first example, and mclust's fit of it."""
    X = pd.read_csv(BAUDRY / "baudry.csv").to_numpy()
    table = pd.read_csv(BAUDRY / "baudry_mclust_components.csv")
    fitted = Reference(len(table), covariance_type="full")
    fitted.weights_ = table["weight"].to_numpy()
    fitted.means_ = table[["mean_x", "mean_y"]].to_numpy()
    fitted.covariances_ = table[["var_x", "cov", "cov", "var_y"]].to_numpy().reshape(-1, 2, 2)
    fitted.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(fitted.covariances_)).transpose(0, 2, 1)
    fitted.precisions_ = np.linalg.inv(fitted.covariances_)
    fitted.converged_, fitted.n_iter_, fitted.lower_bound_, fitted.lower_bounds_ = True, 1, 0.0, [0.0]
    fitted.n_features_in_ = 2
    return X, GaussianMixture.from_sklearn(fitted)


def groups(clusters):
    """The sets of components that are one cluster."""
    return {frozenset(np.flatnonzero(clusters == one).tolist()) for one in np.unique(clusters)}


def brute_force(resp):
    """The entropies of K to 1 clusters, where each step tries every pair."""
    columns, found = list(resp.T), []
    entropy = lambda columns: -sum(xlogy(column, column).sum() for column in columns)  # noqa: E731
    while True:
        found.append(entropy(columns) / len(resp))
        if len(columns) == 1:
            return found
        pairs = [(i, j) for i in range(len(columns)) for j in range(i)]
        merged = [
            [c for k, c in enumerate(columns) if k not in pair] + [columns[pair[0]] + columns[pair[1]]]
            for pair in pairs
        ]
        columns = min(merged, key=entropy)


def test_published_example(published):
    X, mixture = published
    tree = merge_components(mixture, X)
    table = pd.read_csv(BAUDRY / "baudry_mclust_merges.csv").set_index("n_clusters")
    np.testing.assert_allclose(tree.entropy * len(X), table["entropy"], rtol=1e-6, atol=1e-7)
    for n, clusters in table["cluster_of_component"].items():
        assert groups(tree.clusters(n)) == groups(np.array(clusters.split()))
    assert tree.n_clusters == 4
    assert sorted(np.bincount(tree.labels(mixture.predict_proba(X))).tolist())[-4:] == [118, 122, 132, 228]


def test_iris(iris):
    mixture = GaussianMixture(3, random_state=0, tol=1e-8, max_iter=1000, reg_covar=0).fit(iris)
    tree = merge_components(mixture, iris)
    assert tree.entropy[-1] * len(iris) == pytest.approx(4.850, rel=0.01)  # mclust's, which stops at a tol of 1e-5
    setosa = mixture.predict(iris)[0]
    assert setosa not in tree.merges[0]
    assert tree.n_clusters == 3  # the two species overlap less than the limit


def test_every_pair_is_tried():
    resp = np.random.default_rng(0).dirichlet(np.full(7, 0.3), size=200)
    tree = cluster_tree(resp)
    np.testing.assert_allclose(tree.entropy[::-1], brute_force(resp), atol=1e-6)


def test_weights_are_copies():
    rng = np.random.default_rng(1)
    resp, weights = rng.dirichlet(np.ones(4), size=50), rng.integers(0, 4, size=50)
    weighted, copied = cluster_tree(resp, weights), cluster_tree(np.repeat(resp, weights, axis=0))
    np.testing.assert_array_equal(weighted.merges, copied.merges)
    np.testing.assert_allclose(weighted.entropy, copied.entropy, atol=1e-12)


def test_overlap_is_that_of_normals():
    """At the limit two normals of equal weights and variances are 3.5 standard deviations apart."""

    def overlap(distance):
        x = np.linspace(-8.0, 8.0 + distance, 20_001)
        a, b = np.exp(-0.5 * x**2), np.exp(-0.5 * (x - distance) ** 2)
        return cluster_tree(np.stack([a, b], axis=1) / (a + b)[:, None], a + b).overlap[0]

    assert overlap(3.6) < LEAST_OVERLAP < overlap(3.4)
    assert overlap(0.0) == pytest.approx(1.0)


def test_clusters_apart_stay():
    rng = np.random.default_rng(2)
    X = np.concatenate([rng.normal(size=(100, 2)) + 20 * k for k in range(4)])
    mixture = GaussianMixture(4, random_state=0).fit(X)
    tree = merge_components(mixture, X)
    assert tree.n_clusters == 4
    np.testing.assert_array_equal(tree.labels(mixture.predict_proba(X)), mixture.predict(X))


def test_cluster_has_the_number_of_its_largest_component():
    resp = np.array([[0.5, 0.0, 0.5]] * 6 + [[0.1, 0.0, 0.9]] * 6 + [[0.0, 1.0, 0.0]] * 4)
    tree = cluster_tree(resp)
    assert tree.merges[0].tolist() == [2, 0]
    assert tree.clusters(2).tolist() == [2, 1, 2]
    assert tree.clusters(3).tolist() == [0, 1, 2]
    assert tree.clusters(1).tolist() == [2, 2, 2]
    with pytest.raises(UserError, match="from 1 to 3"):
        tree.clusters(4)


def test_linkage_is_scipys(published):
    X, mixture = published
    tree = merge_components(mixture, X)
    linkage = tree.linkage()
    assert is_valid_linkage(linkage, throw=True)
    assert groups(cut_tree(linkage, n_clusters=4)[:, 0]) == groups(tree.clusters(4))


def test_one_and_two_components():
    assert cluster_tree(np.ones((5, 1))).n_clusters == 1
    two = cluster_tree([[0.5, 0.5], [0.6, 0.4], [0.4, 0.6]])
    assert two.n_clusters == 2  # there is no elbow
    assert two.entropy[0] == 0.0


def test_rows_out_of_core(published):
    X, mixture = published
    whole, chunked = merge_components(mixture, X), merge_components(mixture, da.from_array(X, chunks=(100, 2)))
    np.testing.assert_array_equal(whole.merges, chunked.merges)
    np.testing.assert_allclose(whole.entropy, chunked.entropy, atol=1e-12)


def test_many_rows_are_sampled():
    rng = np.random.default_rng(3)
    X = np.concatenate([rng.normal(size=(3 * MOST_ROWS, 1)), rng.normal(3.0, size=(MOST_ROWS, 1))])
    mixture = GaussianMixture(2, means_init=[[0.0], [3.0]]).fit(X)
    sampled, exact = merge_components(mixture, X), cluster_tree(mixture.predict_proba(X))
    assert sampled.entropy[-1] == pytest.approx(exact.entropy[-1], rel=0.05)


def test_mistakes(published):
    X, mixture = published
    with pytest.raises(ValueError, match="not fitted"):
        merge_components(GaussianMixture(), X)
    with pytest.raises(ValueError, match="features"):
        merge_components(mixture, X[:, :1])
