"""Which features tell components apart: the pairs that pictures show."""

import time

import numpy as np
import pytest

from gmm_dask.plotting.feature_pairs import Components, separating_features, separating_pairs


def components(means, covariances=None, weights=None):
    means = np.asarray(means, dtype=float)
    k, d = means.shape
    covariances = np.tile(np.eye(d), (k, 1, 1)) if covariances is None else covariances
    weights = np.full(k, 1 / k) if weights is None else np.asarray(weights)
    return Components(weights, means, covariances, tuple(f"x{i}" for i in range(d)))


def naive_overlap(parts, pair):
    """The sum of Bhattacharyya's bounds over every two components, by the textbook's formula."""
    total = 0.0
    for k in range(len(parts.weights)):
        for other in range(k):
            one, two = (parts.covariances[i][np.ix_(pair, pair)] for i in (k, other))
            difference, middle = (parts.means[k] - parts.means[other])[list(pair)], (one + two) / 2
            distance = difference @ np.linalg.inv(middle) @ difference / 8
            distance += np.log(np.linalg.det(middle) / np.sqrt(np.linalg.det(one) * np.linalg.det(two))) / 2
            total += np.sqrt(parts.weights[k] * parts.weights[other]) * np.exp(-distance)
    return total


def test_the_first_pair_has_the_smallest_bound_of_all():
    random = np.random.default_rng(0)
    factors = random.normal(size=(4, 5, 5))
    covariances = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(5)
    parts = components(random.normal(size=(4, 5)), covariances, random.dirichlet(np.ones(4)))
    pairs = [(a, b) for b in range(5) for a in range(b)]
    assert separating_pairs(parts, most=1) == [min(pairs, key=lambda pair: naive_overlap(parts, pair))]


def test_a_further_pair_separates_what_the_first_leaves_together():
    """0 and 1 differ in x0 and x2, as 2 does from both; 2 and 3 only in x3."""
    parts = components([[9, 0, 9, 0, 0], [-9, 0, 9, 0, 0], [0, 0, -9, 4, 0], [0, 0, -9, -4, 0]])
    pairs = separating_pairs(parts)
    assert pairs[0] == (0, 3) or 3 in pairs[1]
    assert {0, 3} <= set(np.ravel(pairs))


def test_no_pair_is_shown_that_adds_nothing():
    assert separating_pairs(components([[9, 9, 0, 0], [-9, -9, 0, 0]])) == [(0, 1)]


def test_covariances_count_where_means_agree():
    covariances = np.stack([np.diag([1.0, 1.0, 400.0]), np.diag([1.0, 1.0, 1.0])])
    (pair, *_) = separating_pairs(components([[0, 0, 0], [0, 0, 0]], covariances))
    assert 2 in pair


def test_of_one_component_the_most_correlated_features_are_shown():
    covariance = np.array([[1.0, 0.1, 0.2], [0.1, 4.0, -1.8], [0.2, -1.8, 1.0]])
    assert separating_pairs(components([[0, 0, 0]], covariance[None])) == [(1, 2)]
    assert separating_pairs(components([[0, 0, 0]])) == [(0, 1)]


def test_one_feature_has_no_pair():
    assert separating_pairs(components([[0], [3]])) == []


def test_features_by_fishers_ratio():
    covariances = np.tile(np.diag([1.0, 100.0, 1.0]), (2, 1, 1))
    assert separating_features(components([[1, 9, 3], [-1, -9, -3]], covariances)).tolist() == [2, 0, 1]


def test_center_and_deviations_are_the_mixtures():
    parts = components([[0.0], [4.0]], np.array([[[1.0]], [[9.0]]]), [0.25, 0.75])
    assert parts.center == pytest.approx([3.0])
    assert parts.deviations == pytest.approx([np.sqrt(0.25 * (1 + 9) + 0.75 * (9 + 1))])


def test_fifty_components_of_a_hundred_features_take_no_time():
    random = np.random.default_rng(0)
    begin = time.perf_counter()
    assert len(separating_pairs(components(random.normal(size=(50, 100))))) == 3
    assert time.perf_counter() - begin < 5.0
