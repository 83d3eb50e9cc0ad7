"""The variational posterior of a mixture, in place of its parameters, in scikit-learn's terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

from gmm_dask.families.base import Array, Parameters


@dataclass(frozen=True, eq=False)
class Posterior(Parameters):
    """Posterior distributions of a mixture's parameters, as scikit-learn has them.

    The weights are the expected ones. ``covariances`` are the inverses of the expected precisions: the scale matrix of
    each component's Wishart distribution is the precision over ``degrees_of_freedom``.

    Attributes
    ----------
    weight_concentration : ndarray of shape (n_components,) or (2, n_components)
        Of the Dirichlet distribution of the weights, or for each component the two of the Beta distribution of the
        share that it takes of what the components before it leave (Blei and Jordan 2006).
    mean_precision : ndarray of shape (n_components,)
        The precision of each mean, in units of the component's precision.
    degrees_of_freedom : ndarray of shape (n_components,), or () where the components share one covariance
        Of the precisions' Wishart distributions.
    """

    weight_concentration: Array
    mean_precision: Array
    degrees_of_freedom: Array

    def log_weights(self) -> Array:
        # the expected log density of a row is that of a Gaussian, with the expected precision and
        #   E[log pi] + (E[log |Lambda|] - log |E[Lambda]| - D / beta) / 2
        # in place of the log weight (Bishop 2006, 10.46 and 10.64 to 10.66)
        d, dof = self.means.shape[1], self.degrees_of_freedom
        excess = expected_log_det(dof, d) - d * np.log(dof)
        logs: Array = expected_log_weights(self.weight_concentration) + 0.5 * (excess - d / self.mean_precision)
        return logs


def expected_weights(concentration: Array) -> Array:
    """Expected weights (n_components,), which add up to one, given :attr:`Posterior.weight_concentration`."""
    if concentration.ndim == 1:
        return np.asarray(concentration / concentration.sum())
    a, b = concentration
    left = b / (a + b)
    weights = a / (a + b) * np.hstack([1.0, np.cumprod(left[:-1])])
    return np.asarray(weights / weights.sum())


def expected_log_weights(concentration: Array) -> Array:
    """Expected logarithms of the weights, (n_components,)."""
    if concentration.ndim == 1:
        return np.asarray(digamma(concentration) - digamma(concentration.sum()))
    a, b = concentration
    both = digamma(a + b)
    return np.asarray(digamma(a) - both + np.hstack([0.0, np.cumsum(digamma(b) - both)[:-1]]))


def expected_log_det(degrees_of_freedom: Array, n_features: int) -> Array:
    """Expected log determinant of a precision, with a scale matrix of determinant one (Bishop 2006, B.81)."""
    halves = 0.5 * (degrees_of_freedom - np.arange(n_features).reshape(-1, *[1] * degrees_of_freedom.ndim))
    return np.asarray(n_features * math.log(2.0) + digamma(halves).sum(axis=0))
