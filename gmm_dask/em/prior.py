"""Maximum a posteriori: EM with a conjugate prior of means and covariances (Fraley and Raftery 2007).

With the prior that mclust calls defaultPrior no covariance becomes singular unless that of the data is, so that few
components are spurious. The M-step takes the same sums as that of maximum likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from gmm_dask import kernels
from gmm_dask.em.inference import MaximumLikelihood
from gmm_dask.errors import UserError
from gmm_dask.families import Family, Parameters, Statistics
from gmm_dask.families.base import Array
from gmm_dask.kernels.arguments import Prior
from gmm_dask.kernels.constants import COUNTED, LARGEST, MEAN_PRECISION, PER_ROW, PRIOR_HEADER
from gmm_dask.passes.data_summary import DataSummary

# names of the priors, beside none
PRIORS = ("default",)
# how many rows the prior of a mean counts as, in mclust
SHRINKAGE = 0.01


@dataclass(frozen=True, eq=False)
class DefaultPrior(MaximumLikelihood):
    """mclust's defaultPrior: a normal distribution of each mean, an inverse Wishart one of each covariance.

    Attributes
    ----------
    mean : ndarray of shape (n_features,)
        Of the data, and of the prior of the means.
    covariance : ndarray of shape (n_features, n_features)
        Of the data, over the weight of all rows but one. Divided by n_components^(2 / n_features) it is the scale of
        the covariances' prior; diagonal and spherical ones take the mean of its diagonal.
    """

    mean: Array
    covariance: Array

    @classmethod
    def of(cls, data_summary: DataSummary) -> Self:
        """Return the prior for these data; raises :class:`UserError` if their weights are too small."""
        free = data_summary.total_weight - 1.0
        if not free > 0.0:
            raise UserError(
                f"prior: the weights of the rows add up to {data_summary.total_weight:.4g}; the prior is the data's "
                "covariance, which takes more than 1. Scale the weights so that they count rows, or take no prior."
            )
        return cls(data_summary.center, data_summary.scatter / free)

    def maximise_all(
        self,
        family: Family,
        statistics: Sequence[Statistics],
        reg_covar: float | Array,
        previous: Sequence[Parameters | None] | None = None,
    ) -> list[Parameters | None]:
        return [self._mode(family, one, reg_covar) for one in statistics]

    def compiled_prior(self, family: Family, n_components: int, total_weight: float) -> Prior:
        scale = np.ravel(self._scale(family, n_components))
        header = np.zeros(PRIOR_HEADER)
        header[MEAN_PRECISION], header[COUNTED] = SHRINKAGE, self._mode_rows(family, n_components)
        header[PER_ROW] = family.numbers_per_row(len(self.mean))
        move, terms = kernels.mode_addresses()
        return Prior(move, terms, False, np.concatenate([header, self.mean, scale]))

    def bound(self, family: Family, statistics: Statistics, before: Parameters, after: Parameters) -> float:
        # the log posterior, without the constants of the prior
        return statistics.log_likelihood + self._log_prior(family.gaussians, before)

    def _mode(self, family: Family, statistics: Statistics, reg_covar: float | Array) -> Parameters | None:
        """The M-step of Fraley and Raftery (2007), section 3; None where a covariance is not positive definite."""
        nk, means, shift = statistics.moments()
        k, d = means.shape
        precision = SHRINKAGE + nk
        # about the component's mean, and of its mean about the prior's: covariances() of no scatter at all is minus
        # the square of the shift, in the family's form
        squares = family.covariances(statistics.s2, nk, shift, reg_covar) - family.covariances(
            np.zeros_like(statistics.s2), nk, np.sqrt(SHRINKAGE / precision)[:, None] * (means - self.mean), 0.0
        )
        numbers = family.numbers_per_covariance(nk, d)
        each = partial(np.reshape, shape=(*numbers.shape, *[1] * (squares.ndim - numbers.ndim)))
        counted = numbers + self._mode_rows(family, k)
        covariances = (self._scale(family, k) + each(numbers) * squares) / each(counted)
        factors = family.precisions_cholesky(covariances)
        if not np.abs(factors).max() < LARGEST:
            return None
        means = (SHRINKAGE * self.mean + nk[:, None] * means) / precision[:, None]
        return Parameters(nk / nk.sum(), means, covariances, factors)

    def _log_prior(self, family: Family, parameters: Parameters) -> float:
        """Logarithm of the prior's density, without its constants."""
        k, d = parameters.means.shape
        log_det = -2.0 * np.sum(family.log_det(parameters.precisions_cholesky, d)) / family.numbers_per_row(d)
        trace = np.sum(family.precisions(parameters.precisions_cholesky) * self._scale(family, k))
        # the constant of the coefficients about the prior's mean is that of a log density at it
        constant = 1 - family.density_columns(d).start
        at_mean = family.natural(parameters, self.mean)[:, constant]
        distances = np.sum(at_mean - parameters.log_weights() - family.log_norm(parameters))
        return float(SHRINKAGE * distances - 0.5 * (self._mode_rows(family, k) * log_det + trace))

    def _mode_rows(self, family: Family, n_components: int) -> float:
        """What the density of the prior counts as at its mode, in numbers for each covariance."""
        d = len(self.mean)
        return d + 2.0 + family.mode_numbers(n_components, d)

    def _scale(self, family: Family, n_components: int) -> Array:
        one = family.from_matrix(self.covariance)
        if one.ndim == 1:  # as in mclust the same for each feature
            one = np.full_like(one, one.mean())
        return np.asarray(one / n_components ** (2.0 / len(self.mean)))
