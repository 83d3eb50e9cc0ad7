"""``reg_covar="auto"``."""

from __future__ import annotations

import numpy as np
import pytest

from gmm_dask import GaussianMixture
from gmm_dask.em.regularization import reg_covar_of
from gmm_dask.families import get_family
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from mixtures import random_rows


def test_auto_is_a_millionth_of_each_variance():
    X = random_rows(500, 3) * [1e-6, 1.0, 1e9]
    data_summary = summarize_rows(as_rows(X), 0)
    np.testing.assert_allclose(reg_covar_of("auto", data_summary), 1e-6 * X.var(axis=0), rtol=1e-12)
    assert reg_covar_of(1e-3, data_summary) == 1e-3


def test_auto_of_rounded_columns_is_the_variance_of_the_rounding(iris):
    """Iris is measured in steps of 0.1 cm."""
    np.testing.assert_allclose(reg_covar_of("auto", summarize_rows(as_rows(iris), 0)), 0.1**2 / 12.0, rtol=1e-9)


def test_a_fill_value_does_not_count_as_variance():
    X = random_rows(600, 2)
    filled = X.copy()
    filled[:20, 0] = 1e20
    assert reg_covar_of("auto", summarize_rows(as_rows(filled), 0))[0] < 2e-5 * X[:, 0].var()


def test_auto_of_a_constant_column_follows_its_value():
    X = np.random.RandomState(0).standard_normal((50, 3))
    X[:, 1], X[:, 2] = 7.0, 0.0
    found = reg_covar_of("auto", summarize_rows(as_rows(X), 0))
    np.testing.assert_allclose(found[1:], [49e-6, 1e-6])


@pytest.mark.parametrize("name", ["full", "tied", "diag"])
def test_with_auto_a_fit_does_not_depend_on_units(iris, name):
    units = np.array([1e-4, 1.0, 1e3, 1e5])
    start = GaussianMixture(3, covariance_type=name, random_state=0, max_iter=0).fit(iris)
    precisions = {"full": np.outer(units, units), "tied": np.outer(units, units), "diag": units**2}[name]

    def fit(X, means, precisions):
        inits = {"weights_init": start.weights_ / start.weights_.sum(), "means_init": means}
        return GaussianMixture(
            3, covariance_type=name, reg_covar="auto", tol=1e-8, max_iter=500, precisions_init=precisions, **inits
        ).fit(X)

    ours = fit(iris, start.means_, start.precisions_)
    scaled = fit(iris * units, start.means_ * units, start.precisions_ / precisions)
    assert scaled.n_iter_ == ours.n_iter_
    np.testing.assert_allclose(scaled.means_ / units, ours.means_, rtol=1e-6)
    np.testing.assert_allclose(scaled.covariances_ / precisions, ours.covariances_, rtol=1e-4, atol=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_auto_bounds_variances_from_below(covariance_type):
    X = np.repeat(np.array([[0.0, 5.0], [1.0, 7.0]]), 20, axis=0)
    step = np.array([1.0, 2.0])
    mixture = GaussianMixture(2, covariance_type=covariance_type, reg_covar="auto", random_state=0).fit(X)
    variances = get_family(covariance_type).full_covariances(mixture._model[1]).diagonal(axis1=1, axis2=2)
    expected = step**2 / 12.0
    if covariance_type == "spherical":
        expected = np.full(2, expected.mean())
    np.testing.assert_allclose(variances, np.broadcast_to(expected, variances.shape), rtol=1e-3)


def test_scikit_learn_gets_what_it_knows(iris):
    ours = GaussianMixture(2, reg_covar="auto", tol=1e-5, random_state=0).fit(iris)
    theirs = ours.to_sklearn()
    assert (theirs.reg_covar, theirs.tol, theirs.n_components) == (1e-6, 1e-5, 2)
    theirs.fit(iris)
