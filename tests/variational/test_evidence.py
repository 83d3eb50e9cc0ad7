"""The bound on the evidence, with all constants: exact for one component, whose posterior is conjugate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, multivariate_t, norm
from scipy.stats import t as student

from gmm_dask import BayesianGaussianMixture
from gmm_dask.families import get_family
from gmm_dask.families.posterior import expected_log_weights, expected_weights
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from gmm_dask.variational.inference import Variational
from gmm_dask.variational.priors import check_priors
from mixtures import random_rows


def sequential_evidence(covariance_type, X, mean, beta0, dof, scatter):
    """The product of each row's predictive density given those before it, all Student's t (Murphy 2012, 4.6.3)."""
    d, total, precision = X.shape[1], 0.0, beta0
    for x in X:
        error, spread = x - mean, (precision + 1.0) / precision
        if covariance_type in ("full", "tied"):
            free = dof - d + 1
            total += multivariate_t.logpdf(x, mean, spread / free * scatter, free)
            scatter = scatter + np.outer(error, error) / spread
        elif covariance_type == "diag":
            total += student.logpdf(x, dof, mean, np.sqrt(spread / dof * scatter)).sum()
            scatter = scatter + error**2 / spread
        else:
            total += multivariate_t.logpdf(x, mean, spread / (d * dof) * d * scatter * np.eye(d), d * dof)
            scatter = scatter + error @ error / d / spread
        mean, precision, dof = (precision * mean + x) / (precision + 1.0), precision + 1.0, dof + 1.0
    return total


@pytest.mark.parametrize("prior_type", ["dirichlet_process", "dirichlet_distribution"])
def test_the_bound_of_one_component_is_the_evidence(covariance_type, prior_type):
    X = random_rows(40, 3)
    family, mean = get_family(covariance_type), np.array([0.5, -1.0, 2.0])
    scatter = family.from_matrix(np.diag([1.0, 2.0, 0.5]))
    given = {
        "weight_concentration_prior_type": prior_type,
        "mean_precision_prior": 0.3,
        "mean_prior": mean,
        "degrees_of_freedom_prior": 4.5,
        "covariance_prior": scatter,
    }
    fitted = BayesianGaussianMixture(covariance_type=covariance_type, reg_covar=0.0, **given).fit(X)
    inference = Variational.of(
        summarize_rows(as_rows(X, None), 0), check_priors(family, 3, prior_type, None, 0.3, mean, 4.5, scatter)
    )
    found = inference.log_evidence(*fitted._model, fitted.lower_bound_, len(X))
    expected = sequential_evidence(covariance_type, X, mean, 0.3, 4.5, scatter)
    if prior_type == "dirichlet_process":  # of the first stick, which all rows take: E[v^n] with v ~ Beta(1, 1)
        expected -= math.log(len(X) + 1)
    assert found == pytest.approx(expected, rel=1e-10)


def test_the_bound_is_below_the_evidence():
    """Two components in one column, the evidence by summing over all labels of a few rows."""
    X = np.array([-2.0, -1.7, 1.5, 2.2, 1.9])[:, None]
    settings = {"weight_concentration_prior_type": "dirichlet_distribution", "weight_concentration_prior": 1.0}
    fitted = BayesianGaussianMixture(n_components=2, tol=1e-12, max_iter=1000, reg_covar=0.0, **settings).fit(X)
    family, scatter = get_family("full"), np.cov(X.T).reshape(1, 1)
    inference = Variational.of(
        summarize_rows(as_rows(X, None), 0),
        check_priors(family, 1, "dirichlet_distribution", 1.0, None, None, None, None),
    )
    found = inference.log_evidence(*fitted._model, fitted.lower_bound_, len(X))
    terms = []
    for labels in np.ndindex(*[2] * len(X)):
        groups = [X[np.array(labels) == k] for k in (0, 1)]
        sizes = [len(group) for group in groups]
        weights = math.lgamma(sizes[0] + 1) + math.lgamma(sizes[1] + 1) - math.lgamma(len(X) + 2)
        terms.append(weights + sum(sequential_evidence("full", g, X.mean(axis=0), 1.0, 1.0, scatter) for g in groups))
    evidence = np.logaddexp.reduce(terms)
    # of two equal optima, the labels exchanged, the bound describes one
    assert evidence - 1.5 < found < evidence


@pytest.mark.parametrize("concentration", [np.array([3.0, 0.5, 8.0]), np.array([[3.0, 1.5, 1.0], [6.0, 0.4, 0.2]])])
def test_weights_and_their_logarithms(concentration):
    random = np.random.RandomState(0)
    if concentration.ndim == 1:
        drawn = random.dirichlet(concentration, 200_000)
    else:
        sticks = beta.rvs(*concentration, size=(200_000, 3), random_state=random)
        drawn = sticks * np.hstack([np.ones((200_000, 1)), np.cumprod(1.0 - sticks[:, :-1], axis=1)])
    expected = drawn.mean(axis=0)
    np.testing.assert_allclose(expected_weights(concentration), expected / expected.sum(), atol=3e-3)
    logs, errors = np.log(drawn).mean(axis=0), np.log(drawn).std(axis=0) / math.sqrt(len(drawn))
    assert (np.abs(expected_log_weights(concentration) - logs) < 5.0 * errors).all()


def test_log_densities_are_expected_ones():
    """Of one column, by integrating over the posterior of the precision."""
    X = np.random.RandomState(0).normal(1.0, 2.0, 30)[:, None]
    fitted = BayesianGaussianMixture(weight_concentration_prior_type="dirichlet_distribution").fit(X)
    dof, scale = fitted.degrees_of_freedom_[0], 1.0 / (fitted.degrees_of_freedom_[0] * fitted.covariances_[0, 0, 0])
    from scipy.stats import gamma

    posterior = gamma(dof / 2.0, scale=2.0 * scale)

    def integrand(precision):
        at_mean = norm.logpdf(0.7, fitted.means_[0, 0], 1.0 / math.sqrt(precision))
        return posterior.pdf(precision) * (at_mean - 0.5 / fitted.mean_precision_[0])

    expected = quad(integrand, 0.0, posterior.ppf(1.0 - 1e-14), limit=200)[0]
    assert fitted.score_samples([[0.7]])[0] == pytest.approx(expected, rel=1e-8)
