"""Rows with gaps, and what a loop over them with SciPy says of a mixture."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from gmm_dask.families import Parameters, get_family


def with_gaps(X, share, seed=0):
    """The rows with values missing completely at random; some have none left."""
    found = np.array(X, dtype=np.float64)
    found[np.random.RandomState(seed).uniform(size=found.shape) < share] = np.nan
    return found


def e_step(row, covariance_type, parameters: Parameters):
    """The log density of a row, its responsibilities, and in each component E[x] and cov(x), given what it has."""
    here = np.isfinite(row)
    full = get_family(covariance_type).full_covariances(parameters)
    logs, expected, left = [], [], []
    for weight, mean, covariance in zip(parameters.weights, parameters.means, full, strict=True):
        own = covariance[np.ix_(here, here)]
        logs.append(np.log(weight) + multivariate_normal.logpdf(row[here], mean[here], own))
        slopes = np.linalg.solve(own, covariance[here]).T
        expected.append(np.where(here, row, mean + slopes @ (row[here] - mean[here])))
        left.append(covariance - slopes @ covariance[here])
    log_density = logsumexp(logs)
    return log_density, np.exp(logs - log_density), np.array(expected), np.array(left)


def expected_statistics(X, covariance_type, parameters: Parameters, weights=None):
    """The log-likelihood, and for each component the expected sums of r, r x and r x x^T."""
    k, d = parameters.means.shape
    total, s0, s1, s2 = 0.0, np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    for row, weight in zip(X, np.ones(len(X)) if weights is None else weights, strict=True):
        if not np.isfinite(row).any():
            continue
        log_density, resp, expected, left = e_step(row, covariance_type, parameters)
        total += weight * log_density
        s0 += weight * resp
        s1 += weight * resp[:, None] * expected
        s2 += weight * resp[:, None, None] * (expected[:, :, None] * expected[:, None, :] + left)
    return total, s0, s1, s2
