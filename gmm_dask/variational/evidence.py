"""Bounds on the logarithm of the evidence: scikit-learn's, and that with all constants."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betaln, gammaln

from gmm_dask.families import Family, Posterior
from gmm_dask.families.base import Array
from gmm_dask.kernels.constants import LOG_2PI
from gmm_dask.variational.priors import Priors


def log_normalisers(family: Family, posterior: Posterior) -> float:
    """What the posterior adds to the entropy of the responsibilities in the bound, as scikit-learn counts it.

    It is the sum of the logarithms of the posteriors' normalising constants, without what depends on the number of
    rows, the priors and the numbers of components and features alone.
    """
    k, d = posterior.means.shape
    dof = posterior.degrees_of_freedom
    log_det = family.log_det(posterior.precisions_cholesky, d) - 0.5 * d * np.log(dof)
    halves = 0.5 * (dof - np.arange(d).reshape(-1, *[1] * dof.ndim))
    wisharts = dof * log_det + 0.5 * dof * d * math.log(2.0) + gammaln(halves).sum(axis=0)
    # where components share a covariance, each counts its Wishart distribution
    total = np.sum(np.broadcast_to(wisharts, k)) - 0.5 * d * np.log(posterior.mean_precision).sum()
    return float(total) + log_weight_normaliser(posterior.weight_concentration)


def log_weight_normaliser(concentration: Array) -> float:
    """Logarithm of the integral of the weights' density without its normalising constant."""
    if concentration.ndim == 1:
        return float(gammaln(concentration).sum() - gammaln(concentration.sum()))
    return float(betaln(*concentration).sum())


def log_evidence_terms(family: Family, posterior: Posterior, priors: Priors, total_weight: float) -> float:
    """What the posterior adds to the entropy of the responsibilities in the bound on the evidence, with all constants.

    The precisions are those of the covariance type itself: one matrix for each component, one for all of them, a number
    for each feature, or one number. With the bound that scikit-learn takes, which counts a matrix for each, types
    could not be compared.
    """
    k, d = posterior.means.shape
    # a covariance of all components has the prior of each of them
    pooled = k if family.is_shared else 1
    dof = pooled * posterior.degrees_of_freedom
    log_det = d * np.log(dof) - 2.0 * family.log_det(posterior.precisions_cholesky, d)
    prior_dof = pooled * priors.degrees_of_freedom
    factors = family.precisions_cholesky(np.reshape(priors.covariance, family.covariance_shape(1, d)))
    prior_log_det = d * math.log(pooled) - 2.0 * np.ravel(family.log_det(factors, d))[0]
    precisions = family.log_wishart_integral(dof, log_det, d) - family.log_wishart_integral(prior_dof, prior_log_det, d)
    means = 0.5 * d * np.log(priors.mean_precision / posterior.mean_precision)
    weights = log_weight_normaliser(posterior.weight_concentration) - log_weight_normaliser(
        priors.weight_concentrations(k)
    )
    return float(precisions.sum() + means.sum() + weights - 0.5 * total_weight * d * LOG_2PI)
