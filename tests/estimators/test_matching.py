"""Which component of one mixture is which of another: by their Gaussians, and by rows that both label."""

import math

import dask.array as da
import numpy as np
import pandas as pd
import pytest

from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError, match_components
from gmm_dask.families import FAMILIES
from gmm_dask.matching import bhattacharyya_distances, match_models
from gmm_dask.passes.contingency import contingency_table
from gmm_dask.passes.rows import Rows
from messages import names
from mixtures import random_parameters, random_rows, rows_of_five_groups

FIVE = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0], [16.0, 4.0]])


def fitted(X, means, covariance_type="full"):
    """A mixture of groups of rows, in the order of the means that it starts from."""
    mixture = GaussianMixture(len(means), covariance_type=covariance_type, means_init=means, random_state=0)
    return mixture.fit(X)


def gaussian_model(means, covariances, weights=None):
    k = len(means)
    weights = np.full(k, 1.0 / k) if weights is None else np.asarray(weights)
    return FAMILIES["full"], FAMILIES["full"].parameters(weights, np.asarray(means, float), np.asarray(covariances))


# -- the distance ------------------------------------------------------------------------------------------------


def test_the_distance_is_minus_the_logarithm_of_the_integral_of_the_root_of_both_densities():
    a, b = gaussian_model([[0.0], [3.0]], [[[1.0]], [[4.0]]]), gaussian_model([[1.0]], [[[0.25]]])
    x = np.linspace(-40, 40, 200_001)

    def density(mean, variance):
        return np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)

    expected = [-np.log(np.trapezoid(np.sqrt(density(*one) * density(1, 0.25)), x)) for one in [(0, 1), (3, 4)]]
    np.testing.assert_allclose(bhattacharyya_distances(a, b)[:, 0], expected, rtol=1e-9)


def test_the_distance_of_one_covariance_is_an_eighth_of_mahalanobis(covariance_type):
    parameters = random_parameters(covariance_type, 3, 4)
    model = FAMILIES[covariance_type], parameters
    found = bhattacharyya_distances(model, model)
    np.testing.assert_allclose(np.diagonal(found), 0.0, atol=1e-12)
    np.testing.assert_allclose(found, found.T, rtol=1e-9)
    if covariance_type == "tied":
        difference = parameters.means[0] - parameters.means[1]
        expected = difference @ np.linalg.solve(parameters.covariances, difference) / 8.0
        assert found[0, 1] == pytest.approx(expected, rel=1e-9)


def test_gaussians_two_standard_deviations_apart_are_the_farthest_pair():
    one = gaussian_model([[0.0, 0.0]], [np.eye(2)])
    for distance, is_pair in [(1.99, True), (2.01, False)]:
        other = gaussian_model([[distance, 0.0]], [np.eye(2)])
        assert bool(match_models(one, other).pairs) is is_pair


# -- the pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_rows", [False, True], ids=["Gaussians", "rows"])
def test_components_in_another_order_are_found(with_rows):
    X = rows_of_five_groups()
    order = [3, 0, 4, 1, 2]
    a, b = fitted(X, FIVE), fitted(X, FIVE[order])
    matching = match_components(a, b, X if with_rows else None)
    assert [(pair.a, pair.b) for pair in matching.pairs] == [(k, order.index(k)) for k in range(5)]
    assert (matching.only_a, matching.only_b) == ((), ())
    assert matching.numbers(range(5), 5) == tuple(order)
    assert max(pair.distance for pair in matching.pairs) < 1e-3
    if with_rows:
        assert min(pair.overlap for pair in matching.pairs) > 0.99
        assert matching.changed < 0.01
    else:
        assert math.isnan(matching.changed)
        assert all(math.isnan(pair.overlap) for pair in matching.pairs)


@pytest.mark.parametrize("with_rows", [False, True], ids=["Gaussians", "rows"])
def test_a_component_without_a_near_partner_has_none(with_rows):
    """One group vanished and another is new, elsewhere: they are not forced on each other."""
    groups = rows_of_five_groups(2000)
    which = np.linalg.norm(groups[:, None] - FIVE, axis=2).argmin(axis=1)
    first, later = groups[which != 4], groups[which != 0]
    a, b = fitted(first, FIVE[:4]), fitted(later, FIVE[[4, 3, 2, 1]])
    shared = groups[(which != 0) & (which != 4)]
    matching = match_components(a, b, shared if with_rows else None)
    assert [(pair.a, pair.b) for pair in matching.pairs] == [(1, 3), (2, 2), (3, 1)]
    assert (matching.only_a, matching.only_b) == ((0,), (0,))
    assert matching.numbers([7, 2, 9, 4], 11) == (11, 4, 9, 2)


def test_two_components_that_are_nearest_to_the_same_one_are_paired_by_the_sum_of_all():
    first = gaussian_model([[0.0], [0.5]], np.ones((2, 1, 1)))
    later = gaussian_model([[0.4], [-1.0]], np.ones((2, 1, 1)))
    assert [(pair.a, pair.b) for pair in match_models(first, later).pairs] == [(0, 1), (1, 0)]


def test_the_larger_part_of_a_component_that_is_split_is_its_partner():
    rng = np.random.default_rng(1)
    X = np.concatenate([rng.normal((0, 0), 1.0, (400, 2)), rng.normal((6, 0), 1.0, (200, 2))])
    one, two = GaussianMixture(1).fit(X), fitted(X, [[6.0, 0.0], [0.0, 0.0]])
    matching = match_components(one, two, X)
    assert [(pair.a, pair.b) for pair in matching.pairs] == [(0, 1)]
    assert matching.only_b == (0,)
    assert matching.pairs[0].overlap == pytest.approx(2 / 3, abs=0.02)
    assert matching.changed == pytest.approx(1 / 3, abs=0.02)


def test_each_covariance_type_can_be_matched_with_each_other():
    X = rows_of_five_groups()
    full, spherical = fitted(X, FIVE), fitted(X, FIVE[::-1], "spherical")
    assert match_components(full, spherical).numbers(range(5), 5) == (4, 3, 2, 1, 0)


def test_a_search_stands_for_its_winner():
    X = rows_of_five_groups()
    search = GaussianMixtureSearch([5], "full", init_params="kmeans", random_state=0).fit(X)
    assert len(match_components(search, search.best_estimator_, X).pairs) == 5


def test_rows_in_chunks_give_the_same_as_rows_in_memory():
    X = rows_of_five_groups()
    a, b = fitted(X, FIVE), fitted(X, FIVE[[1, 0, 2, 4]])
    assert match_components(a, b, da.from_array(X, chunks=(170, 2))) == match_components(a, b, X)


def test_the_table_counts_the_rows_of_each_two_labels():
    X = random_rows(500, 3)
    models = [(FAMILIES[name], random_parameters(name, k, 3, k)) for name, k in [("full", 3), ("diag", 4)]]
    rows = Rows(da.from_array(X, chunks=(120, 3)))
    expected = np.zeros((3, 4), dtype=int)
    labels = []
    for family, parameters in models:
        precisions = family.full_covariances(parameters)
        z = X[:, None] - parameters.means
        squared = np.einsum("nkd,kde,nke->nk", z, np.linalg.inv(precisions), z)
        log = np.log(parameters.weights) - 0.5 * (squared + np.linalg.slogdet(precisions)[1])
        labels.append(log.argmax(axis=1))
    np.add.at(expected, tuple(labels), 1)
    np.testing.assert_array_equal(contingency_table(rows, *models), expected)


# -- what cannot be matched --------------------------------------------------------------------------------------


def test_mixtures_of_other_features_are_refused():
    frame = pd.DataFrame(random_rows(100, 3), columns=["u", "v", "w"])
    a = GaussianMixture(2, random_state=0).fit(frame)
    with pytest.raises(UserError, match=names("3", "2", "features")):
        match_components(a, GaussianMixture(2, random_state=0).fit(frame[["u", "v"]]))
    with pytest.raises(UserError, match=names("u, v, w", "w, v, u")):
        match_components(a, GaussianMixture(2, random_state=0).fit(frame[["w", "v", "u"]]))


def test_a_mixture_must_be_fitted():
    with pytest.raises(ValueError, match="not fitted"):
        match_components(GaussianMixture(2), GaussianMixture(2))


@pytest.mark.parametrize("chunks", [None, (50, 2)])
def test_rows_with_values_that_are_missing_are_refused(chunks):
    X = rows_of_five_groups(200)
    mixture = fitted(X, FIVE)
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        match_components(mixture, mixture, X if chunks is None else da.from_array(X, chunks=chunks))
