"""A row's density by the mixture of the other rows, against fits without it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from gmm_dask.em.leave_one_out import drops_without, leave_one_out_quantile
from gmm_dask.families import get_family
from mixtures import random_rows


def one_component(X, covariance_type="full"):
    family = get_family(covariance_type)
    covariance = np.cov(X.T, bias=True)
    if covariance_type == "diag":
        covariance = np.diag(covariance)
    covariances = covariance if covariance_type == "tied" else covariance[None]
    return family, family.parameters(np.ones(1), X.mean(axis=0)[None], covariances)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
def test_one_component_is_fitted_without_the_row(kind):
    X = random_rows(40, 3)
    found = drops_without(X, range(5), one_component(X, kind), len(X))
    for i in range(5):
        densities = []
        for rows in (X, np.delete(X, i, axis=0)):
            covariance = np.cov(rows.T, bias=True)
            covariance = np.diag(np.diagonal(covariance)) if kind == "diag" else covariance
            densities.append(multivariate_normal(rows.mean(axis=0), covariance).logpdf(X[i]))
        assert found[i] == pytest.approx(max(0.0, densities[0] - densities[1]), rel=1e-6, abs=1e-9)


def test_the_quantile_holds_for_rows_that_were_not_fitted():
    shares = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(200, 6))
        family, parameters = one_component(X)
        gaussian = multivariate_normal(parameters.means[0], parameters.covariances[0])
        density, of_new = gaussian.logpdf(X), gaussian.logpdf(rng.normal(size=(5000, 6)))
        threshold = leave_one_out_quantile(X, density, (family, parameters), len(X), 0.02)
        shares.append([np.mean(of_new < np.quantile(density, 0.02)), np.mean(of_new < threshold)])
    plain, corrected = np.mean(shares, axis=0)
    assert plain > 0.03
    assert corrected == pytest.approx(0.02, abs=0.005)
