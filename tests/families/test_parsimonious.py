"""The covariances of mclust's ten models, which compiled code makes."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import parsimonious
from gmm_dask import GaussianMixture
from gmm_dask.errors import UserError
from gmm_dask.families import DEFAULT_TYPES, FAMILIES, NAMES, family_names, get_family
from gmm_dask.init.given import check_given
from gmm_dask.init.responsibilities import statistics_of
from messages import names
from mixtures import inits_of, random_parameters, random_rows
from paths import ROOT

TEN = [name for name in FAMILIES if name not in DEFAULT_TYPES]


@pytest.fixture(params=TEN)
def family(request):
    return get_family(request.param)


def random_covariances(family, k, d, seed=0):
    """Of components that have no constraint, in the family's shape; as matrices, too."""
    rng = np.random.RandomState(seed)
    roots = rng.normal(size=(k, d, 12)) @ np.diag(rng.uniform(0.5, 2, 12))
    matrices = roots @ roots.transpose(0, 2, 1) / 12
    variances = np.diagonal(matrices, axis1=1, axis2=2)
    own = {"full": matrices, "diag": variances, "spherical": variances.mean(axis=1)}[family.sklearn_type]
    return rng.dirichlet(np.full(k, 3.0)), own, matrices


@pytest.mark.parametrize(("k", "d"), [(1, 1), (1, 3), (3, 1), (2, 2), (4, 3), (3, 5)])
def test_no_covariances_of_the_model_describe_given_ones_better(family, k, d):
    weights, own, matrices = random_covariances(family, k, d)
    found = family.nearest(weights, np.zeros((k, d)), own)
    expected = parsimonious.constrained(family.name, weights, matrices)
    ours = parsimonious.expected_spread(weights, matrices, family.full_covariances(found))
    assert ours <= parsimonious.expected_spread(weights, matrices, expected) + 1e-9
    if family.name not in ("EVE", "VVE"):  # which have several optima
        np.testing.assert_allclose(family.full_covariances(found), expected, rtol=0, atol=1e-9)


def test_covariances_have_the_parts_in_common_that_the_letters_say(family):
    weights, own, _ = random_covariances(family, 3, 4, seed=1)
    matrices = family.full_covariances(family.nearest(weights, np.zeros((3, 4)), own))
    volume, shape, orientation = family.name
    volumes = np.linalg.det(matrices) ** 0.25
    shapes = matrices / volumes[:, None, None]
    if volume == "E":
        np.testing.assert_allclose(volumes, volumes[0], rtol=1e-12)
    if shape == "I":
        np.testing.assert_allclose(shapes, np.stack([np.eye(4)] * 3), atol=1e-12)
    elif shape == "E":
        values = np.linalg.eigvalsh(shapes)
        np.testing.assert_allclose(values, np.stack([values[0]] * 3), rtol=1e-12)
    if orientation == "I":
        assert not (matrices * (1 - np.eye(4))).any()
    elif orientation == "E":  # matrices of common eigenvectors commute
        products = matrices[:, None] @ matrices
        np.testing.assert_allclose(products, products.transpose(1, 0, 2, 3), atol=1e-9)


def test_covariances_of_the_model_stay(family):
    parameters = random_parameters(family.name, 4, 3)
    again = family.nearest(parameters.weights, parameters.means, parameters.covariances)
    np.testing.assert_allclose(again.covariances, parameters.covariances, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scaled", [False, True])
def test_likelihood_never_falls(family, iris, scaled):
    X = iris * 10.0 ** np.array([-3, 0, 2, 4]) if scaled else iris
    mixture = GaussianMixture(4, covariance_type=family.name, reg_covar=0, tol=0, max_iter=40, random_state=1)
    with pytest.warns(match="max_iter"):
        mixture.fit(X)
    assert (np.diff(mixture.lower_bounds_) > -1e-11).all()


def test_a_component_of_one_row_has_no_axes(family):
    """Its covariance is the same in all directions, but for rounding."""
    X = np.vstack([random_rows(200, 2), [[50.0, 50.0]]])
    for init_params in ("kmeans", "random_from_data"):
        mixture = GaussianMixture(2, covariance_type=family.name, init_params=init_params, random_state=0)
        with warnings.catch_warnings(action="ignore"):  # one row is no group
            assert mixture.fit(X).status_ != "singular"


def test_columns_that_nearly_depend_on_each_other_are_no_fault(family):
    """Rounding keeps the turns of volumes and shape from an end to the last digit."""
    X = random_rows(400, 2)
    rows = 100.0 * np.column_stack([X, X.sum(axis=1)])
    assert GaussianMixture(2, covariance_type=family.name, random_state=0).fit(rows).converged_


def test_reg_covar_is_added_before_the_parts_in_common_are_made(family):
    rows, resp = random_rows(60, 3), np.random.RandomState(1).dirichlet(np.ones(3), 60)
    added = np.array([0.1, 0.4, 1.0])
    statistics = statistics_of(family, rows, None, resp)
    means = (resp.T @ rows) / resp.sum(axis=0)[:, None]
    own = np.stack([np.cov((rows - mean).T, aweights=resp[:, k], bias=True) for k, mean in enumerate(means)])
    expected = parsimonious.constrained(family.name, resp.sum(axis=0), own + np.diag(added))
    found = family.full_covariances(family.maximise(statistics, added))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_first_precisions_must_be_of_the_model(family):
    precisions = inits_of(family.name, random_parameters(family.name, 3, 4))["precisions_init"]
    given = check_given(family, 3, 4, None, None, precisions)
    np.testing.assert_allclose(family.precisions(given.precisions_cholesky), precisions, rtol=1e-9, atol=1e-9)
    precisions.reshape(3, -1)[0, 0] *= 1.5
    with pytest.raises(UserError, match=names("precisions_init", family.name, "model")):
        check_given(family, 3, 4, None, None, precisions)


def test_numbers_of_parameters_are_mclusts():
    table = pd.read_csv(ROOT / "tests/data/mclust_n_parameters.csv.gz")
    assert set(table.model) == {one.structure for one in FAMILIES.values()}
    ours = [NAMES[row.model].n_parameters(row.n_components, row.n_features) for row in table.itertuples()]
    assert ours == table.n_parameters.tolist()


def test_mclusts_names_of_scikit_learns_types(iris):
    assert {name: NAMES[name].name for name in ("VVV", "EEE", "VVI", "VII")} == {
        "VVV": "full",
        "EEE": "tied",
        "VVI": "diag",
        "VII": "spherical",
    }
    ours, theirs = (GaussianMixture(2, covariance_type=name, random_state=0).fit(iris) for name in ("tied", "EEE"))
    assert theirs.get_params()["covariance_type"] == "EEE"
    np.testing.assert_array_equal(ours.covariances_, theirs.covariances_)
    assert theirs.set_params(warm_start=True, covariance_type="tied").fit(iris).converged_


def test_mclust_stands_for_all_fourteen():
    assert family_names("mclust") == list(FAMILIES)
    assert family_names(["VVE", "mclust"]) == ["VVE", *FAMILIES]


def test_scikit_learn_gets_the_same_densities(family, iris):
    mixture = GaussianMixture(3, covariance_type=family.name, random_state=0).fit(iris)
    exported = mixture.to_sklearn()
    assert exported.covariance_type == {"II": "spherical", "EI": "diag", "VI": "diag"}.get(family.name[1:], "full")
    np.testing.assert_allclose(exported.score_samples(iris), mixture.score_samples(iris), rtol=1e-9)
