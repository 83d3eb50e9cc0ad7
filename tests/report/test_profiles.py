"""What sets each component apart from the other rows."""

import numpy as np
import pytest

from gmm_dask.plotting.feature_pairs import Components
from pipeline.report.profiles import profile

NAMES = ("a", "b", "c", "d")


def components(weights, means, deviations):
    weights, means, deviations = (np.array(values, dtype=float) for values in (weights, means, deviations))
    covariances = np.stack([np.diag(row**2) for row in deviations])
    return Components(weights, means, covariances, NAMES[: means.shape[1]])


def test_distances_are_those_of_rows():
    """Compared with the means and variances of drawn rows."""
    rng, weights = np.random.default_rng(0), [0.5, 0.3, 0.2]
    means, deviations = rng.normal(size=(3, 4)) * 3.0, rng.uniform(0.5, 2.0, (3, 4))
    labels = np.repeat([0, 1, 2], [50_000, 30_000, 20_000])
    rows = means[labels] + rng.normal(size=(100_000, 4)) * deviations[labels]
    for k, weight in enumerate(weights):
        mine, others = rows[labels == k], rows[labels != k]
        pooled = np.sqrt(weight * mine.var(axis=0) + (1.0 - weight) * others.var(axis=0))
        expected = (mine.mean(axis=0) - others.mean(axis=0)) / pooled
        found = profile(components(weights, means, deviations), k)
        order = [i for i in np.argsort(-np.abs(expected))[:3] if abs(expected[i]) >= 0.5]
        assert [trait.feature for trait in found] == order
        for trait in found:
            assert trait.distance == pytest.approx(expected[trait.feature], abs=0.03)
            assert trait.mean == pytest.approx(mine[:, trait.feature].mean(), abs=0.05)
            assert trait.others_mean == pytest.approx(others[:, trait.feature].mean(), abs=0.05)


def test_degrees_have_words():
    apart = [[0.0, 0.0, 0.0, 0.0], [0.3, -0.7, 1.4, 3.0]]
    found = profile(components([0.5, 0.5], apart, np.ones((2, 4))), 1)
    assert [(trait.feature, trait.degree, trait.distance > 0.0) for trait in found] == [
        (3, "very", True),
        (2, "", True),
        (1, "slightly", False),
    ]


def test_a_component_in_the_middle_is_known_by_its_width():
    (trait,) = profile(components([0.9, 0.1], np.zeros((2, 2)), [[1.0, 1.0], [1.2, 5.0]]), 1)
    assert (trait.feature, trait.degree) == (1, None)
    assert (trait.deviation, trait.others_deviation) == (5.0, 1.0)
    assert profile(components([0.9, 0.1], np.zeros((2, 2)), [[1.0, 1.0], [1.2, 1.0]]), 1) == []


def test_a_single_component_is_not_compared():
    assert profile(components([1.0], [[1.0, 2.0]], [[1.0, 1.0]]), 0) == []


def test_a_feature_that_does_not_vary_sets_nothing_apart():
    (trait,) = profile(components([0.5, 0.5], [[7.0, 0.0], [7.0, 3.0]], [[0.0, 1.0], [0.0, 1.0]]), 0)
    assert trait.feature == 1
