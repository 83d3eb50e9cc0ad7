from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import naive
from gmm_dask.errors import SingularError, UserError
from gmm_dask.families import DEFAULT_TYPES, FAMILIES, Statistics, get_family
from gmm_dask.init.responsibilities import start_parameters
from gmm_dask.init.responsibilities import statistics_of as start_statistics
from messages import names
from mixtures import assert_same_parameters, moments, monomials, random_parameters, random_rows

SHAPES = [(1, 1), (3, 1), (1, 4), (3, 4)]  # components, features


@pytest.fixture(params=FAMILIES)
def covariance_type(request):
    return request.param


@pytest.fixture(params=SHAPES, ids=str)
def mixture(request, covariance_type):
    return get_family(covariance_type), random_parameters(covariance_type, *request.param)


def naive_logits(family, parameters, X):
    model = naive.model_of(family.name, parameters)
    return naive.array(naive.weighted_log_densities(naive.numbers(X), model)).T


def test_naive_densities_are_scipys(covariance_type):
    parameters = random_parameters(covariance_type, 2, 3)
    X = random_rows(20, 3)
    family = get_family(covariance_type)
    for k, (mean, covariance) in enumerate(zip(parameters.means, family.full_covariances(parameters), strict=True)):
        expected = multivariate_normal(mean, covariance).logpdf(X) + np.log(parameters.weights[k])
        np.testing.assert_allclose(naive_logits(family, parameters, X)[k], expected, rtol=1e-12)


def test_densities_are_linear_in_the_feature_map(mixture):
    family, parameters = mixture
    X = random_rows(50, parameters.means.shape[1])
    center = X.mean(axis=0)
    phi = monomials((X - center).T)
    logits = family.natural(parameters, center) @ phi[family.density_columns(X.shape[1])]
    np.testing.assert_allclose(logits, naive_logits(family, parameters, X), rtol=1e-11)


def test_densities_about_the_components_own_means(mixture):
    family, parameters = mixture
    X = random_rows(50, parameters.means.shape[1])
    eta = family.natural(parameters, parameters.means)
    columns = family.density_columns(X.shape[1])
    logits = [one @ monomials((X - mean).T)[columns] for one, mean in zip(eta, parameters.means, strict=True)]
    np.testing.assert_allclose(logits, naive_logits(family, parameters, X), rtol=1e-12)


def test_models_of_one_covariance_leave_its_quadratic_term_out_of_a_fit(covariance_type):
    family = get_family(covariance_type)
    one_covariance = family.structure in ("EII", "EEI", "EEE")
    assert family.fit_columns(4) == (slice(1, 6) if one_covariance else family.density_columns(4))


def test_what_the_fit_columns_leave_out_is_corrected(mixture):
    family, parameters = mixture
    d = parameters.means.shape[1]
    X = random_rows(80, d)
    center, scatter = moments(X)
    phi = monomials((X - center).T)
    columns = family.fit_columns(d)
    logits = family.naturals([parameters], center, answers=False) @ phi[columns]
    found = np.logaddexp.reduce(logits, axis=0).sum() + family.log_likelihood_correction(parameters, scatter)
    expected = np.logaddexp.reduce(naive_logits(family, parameters, X), axis=0).sum()
    assert found == pytest.approx(expected, rel=1e-12)


def test_shapes_and_numbers_of_parameters(mixture):
    family, parameters = mixture
    k, d = parameters.means.shape
    assert parameters.covariances.shape == parameters.precisions_cholesky.shape == family.covariance_shape(k, d)
    n_axes = d * (d - 1) / 2
    free = {
        "full": k * d * (d + 1) / 2,
        "tied": d * (d + 1) / 2,
        "diag": k * d,
        "spherical": k,
        "EII": 1,
        "EEI": d,
        "VEI": k + d - 1,
        "EVI": 1 + k * (d - 1),
        "VEE": k + d - 1 + n_axes,
        "EVE": 1 + k * (d - 1) + n_axes,
        "VVE": k * d + n_axes,
        "EEV": d + k * n_axes,
        "VEV": k + d - 1 + k * n_axes,
        "EVV": 1 + k * (d - 1) + k * n_axes,
    }[family.name]
    assert family.n_parameters(k, d) == free + k * d + k - 1


def test_precisions_invert_the_covariances(mixture):
    family, parameters = mixture
    k, d = parameters.means.shape
    precisions = family.precisions(parameters.precisions_cholesky)
    assert precisions.shape == family.covariance_shape(k, d)
    covariances, factors = family.from_precisions(precisions)
    np.testing.assert_allclose(covariances, parameters.covariances, rtol=1e-10)
    np.testing.assert_allclose(factors, parameters.precisions_cholesky, rtol=1e-10, atol=1e-14)


def test_kappa_bounds_the_condition(mixture):
    family, parameters = mixture
    center = np.full(parameters.means.shape[1], 7.0)
    kappa = family.kappa(parameters, center)
    cancelling, condition = [], []
    for mean, covariance in zip(parameters.means, family.full_covariances(parameters), strict=True):
        precision, m = np.linalg.inv(covariance), np.abs(mean - center)
        cancelling.append(m @ np.abs(precision) @ m)
        condition.append(np.sum(m**2) * np.trace(precision))
    assert max(cancelling) * (1 - 1e-9) <= kappa <= max(condition) * (1 + 1e-9)


def test_kappa_does_not_depend_on_units(mixture):
    family, parameters = mixture
    center, scale = np.full(parameters.means.shape[1], 7.0), 10.0 ** np.arange(parameters.means.shape[1])
    name, scaled = family.unscaled(parameters, np.zeros(len(scale)), scale)
    if name == family.name:
        np.testing.assert_allclose(get_family(name).kappa(scaled, center * scale), family.kappa(parameters, center))


@pytest.mark.parametrize("row_weights", [False, True])
def test_m_step_matches_loops(covariance_type, row_weights):
    rng = np.random.RandomState(1)
    X, resp = random_rows(60, 3), rng.dirichlet(np.ones(4), 60)
    weights = rng.uniform(0, 2, 60) if row_weights else None
    family = get_family(covariance_type)
    origins = rng.uniform(-5, 5, (4, 3))
    weighted = resp if weights is None else resp * weights[:, None]
    each = np.stack([((X - origin).T * weighted[:, k]) @ (X - origin) for k, origin in enumerate(origins)])
    s2 = {
        "full": each,
        "tied": each.sum(axis=0),
        "diag": np.diagonal(each, axis1=1, axis2=2),
        "spherical": np.trace(each, axis1=1, axis2=2),
    }[family.sklearn_type]
    s0, s1 = weighted.sum(axis=0), np.stack([weighted[:, k] @ (X - origins[k]) for k in range(4)])
    if covariance_type == "tied":  # pooled about one origin
        s1, s2 = weighted.T @ (X - origins[0]), ((X - origins[0]).T * weighted.sum(axis=1)) @ (X - origins[0])
        origins = np.tile(origins[0], (4, 1))
    found = family.maximise(Statistics(s0, s1, s2, origins), reg_covar=0.01)
    rows = naive.numbers(X)
    expected = naive.m_step(covariance_type, rows, resp.tolist(), None if weights is None else weights.tolist(), 0.01)
    rtol = 1e-6 if covariance_type in ("EVE", "VVE") else 1e-9 if family.constraint else 1e-11
    assert_same_parameters(found, naive.parameters_of(covariance_type, expected), rtol)


def test_singular_covariances_are_refused(covariance_type):
    family = get_family(covariance_type)
    for value in (0.0, np.nan, np.inf):
        with pytest.raises(SingularError, match=names("reg_covar")):
            family.parameters(np.full(2, 0.5), np.zeros((2, 3)), np.full(family.covariance_shape(2, 3), value))


def test_m_steps_of_several_mixtures_are_those_of_each(covariance_type):
    rng = np.random.RandomState(2)
    family = get_family(covariance_type)
    sound = [statistics_of(family, rng, k) for k in (1, 3, 2, 3)]
    singular = replace(sound[1], s2=np.zeros_like(sound[1].s2))
    several = [*sound[:2], singular, *sound[2:]]
    found = family.maximise_all(several, 0.01)
    assert family.maximise_all([singular], 0.0) == [None]
    for one, together in zip(several, found, strict=True):
        if together is None:
            assert one is singular
        else:
            assert_same_parameters(together, family.maximise(one, 0.01), rtol=1e-14)
    models = [parameters for parameters in found if parameters is not None]
    center = np.array([0.5, -1.0, 2.0])
    assert_close(family.kappas(models, center), [family.kappa(p, center) for p in models])
    for answers in (False, True):
        every = family.density_columns(3)
        columns = every if answers else family.fit_columns(3)
        mine = slice(columns.start - every.start, columns.stop - every.start)
        each = [family.natural(p, center)[:, mine] for p in models]
        assert_close(family.naturals(models, center, answers), np.concatenate(each))


def statistics_of(family, rng, k):
    """Statistics of rows drawn at random."""
    return start_statistics(family, rng.normal(size=(50, 3)), None, rng.dirichlet(np.ones(k), 50))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


def test_families_by_name():
    assert DEFAULT_TYPES == ("full", "tied", "diag", "spherical")
    with pytest.raises(UserError, match=names("covariance_type", *FAMILIES, "'ful'")):
        get_family("ful")


@pytest.mark.parametrize("covariance_type", DEFAULT_TYPES)
def test_no_variance_is_below_the_rounding_of_the_mean(covariance_type):
    """Rows of one huge value are an ulp or two from their mean, and have a density there."""
    X = random_rows(300, 2)
    X[:40, 0] = 1e20
    resp = np.zeros((300, 2))
    resp[:40, 0] = resp[40:, 1] = 1.0
    family = get_family(covariance_type)
    found = start_parameters(family, X, None, resp, 1e-6)
    variance = family.full_covariances(found)[0, 0, 0]
    assert variance >= np.spacing(1e20) ** 2
    if covariance_type in ("full", "diag"):  # the other component's variance is its own
        assert family.full_covariances(found)[1, 0, 0] == pytest.approx(X[40:, 0].var(), rel=1e-4)


def test_standardized_sums(mixture):
    """From the feature map about any centre: sums of r, r u and r (u u^T - I), with u = U^T (x - mean)."""
    family, parameters = mixture
    k, d = parameters.means.shape
    X, resp = random_rows(50, d), np.random.RandomState(1).dirichlet(np.ones(k), 50).T
    center = X.mean(axis=0) + 1.0
    sums = resp @ monomials((X - center).T)[family.density_columns(d)].T
    found = family.standardized(sums, np.broadcast_to(center, (k, d)), parameters)
    for j, covariance in enumerate(family.full_covariances(parameters)):
        u = np.linalg.solve(np.linalg.cholesky(covariance), (X - parameters.means[j]).T)
        matrix = (resp[j] * u) @ u.T - resp[j].sum() * np.eye(d)
        n_numbers = found.shape[1] - 1 - d
        numbers = {
            d * (d + 1) // 2: matrix[np.triu_indices(d)],
            d: np.diagonal(matrix),
            1: [np.diagonal(matrix).mean()],
        }[n_numbers]
        np.testing.assert_allclose(found[j], [resp[j].sum(), *(u @ resp[j]), *numbers], rtol=1e-9, atol=1e-9)
