"""Pictures of mixtures with noise."""

from __future__ import annotations

import numpy as np
import pytest

from gmm_dask import GaussianMixture
from gmm_dask.plotting import plot_clusters, plot_means, plot_uncertainty
from gmm_dask.plotting.feature_pairs import components_of


@pytest.fixture(scope="module")
def noisy():
    random = np.random.default_rng(0)
    groups = [random.normal(center, 1.0, (200, 2)) for center in (-8.0, 8.0)]
    X = np.concatenate([*groups, random.uniform(-15, 15, (60, 2))])
    return X, GaussianMixture(2, noise=True, random_state=0).fit(X)


def test_rows_of_the_noise_have_a_colour_of_their_own(noisy):
    X, mixture = noisy
    labels = mixture.predict(X)
    assert (labels == -1).any()
    colors = plot_clusters(mixture, X).collections[0].get_facecolors()
    shades = [np.unique(colors[labels == label], axis=0) for label in (-1, 0, 1)]
    assert [len(shade) for shade in shades] == [1, 1, 1]
    assert len(np.unique(np.concatenate(shades), axis=0)) == 3


def test_bars_are_of_components_alone(noisy):
    X, mixture = noisy
    axes = plot_uncertainty(mixture, X)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0", "1"]
    assert plot_means(mixture) is not None


def test_the_middle_of_the_components_is_that_of_their_rows(noisy):
    _, mixture = noisy
    components = components_of(mixture)
    assert (components.center >= mixture.means_.min(axis=0)).all()
    expected = np.average(mixture.means_, axis=0, weights=mixture.weights_)
    np.testing.assert_allclose(components.center, expected)


def test_the_notebook_names_the_noise(noisy):
    _, mixture = noisy
    assert f"noise</th><td>{mixture.noise_weight_:.1%}" in mixture._repr_html_()
