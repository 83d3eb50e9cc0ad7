"""Variational inference: conjugate updates from the sums of a pass, and the bound on the evidence.

The factorised posterior of Bishop (2006), section 10.2, in the form of scikit-learn's ``BayesianGaussianMixture``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from gmm_dask import kernels
from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD, Inference
from gmm_dask.em.prior import DefaultPrior
from gmm_dask.em.status import Status
from gmm_dask.errors import UserError
from gmm_dask.families import Family, Parameters, Posterior, Statistics
from gmm_dask.families.base import Array
from gmm_dask.families.posterior import expected_weights
from gmm_dask.kernels.arguments import Prior
from gmm_dask.kernels.constants import (
    CONCENTRATION,
    COUNTED,
    IS_PROCESS,
    LARGEST,
    MEAN_PRECISION,
    NK_FLOOR,
    PER_ROW,
    PRIOR_HEADER,
    TOTAL,
)
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.variational.evidence import log_evidence_terms, log_normalisers
from gmm_dask.variational.priors import DISTRIBUTION, NO_PRIORS, GivenPriors, Priors


@dataclass(frozen=True, eq=False)
class Variational(Inference):
    """Posteriors by coordinate ascent on the bound.

    Attributes
    ----------
    given : GivenPriors
        The others are scikit-learn's defaults.
    mean : ndarray of shape (n_features,)
        Of the data.
    covariance : ndarray of shape (n_features, n_features)
        Of the data, over the weight of all rows but one.
    """

    of_likelihood = False

    given: GivenPriors
    mean: Array
    covariance: Array

    @classmethod
    def of(cls, data_summary: DataSummary, given: GivenPriors = NO_PRIORS) -> Self:
        """Return the inference for these data.

        Raises
        ------
        UserError
            If the weights of the rows are too small for a covariance of the data, and none is given.
        """
        free = data_summary.total_weight - 1.0
        if given.covariance is None and not free > 0.0:
            raise UserError(
                f"covariance_prior: the weights of the rows add up to {data_summary.total_weight:.4g}; above 1 the "
                "data's covariance is the prior. Scale the weights so that they count rows, or pass covariance_prior."
            )
        return cls(given, data_summary.center, data_summary.scatter / free)

    def priors(self, family: Family, n_components: int) -> Priors:
        """Return the priors of a candidate."""
        given = self.given
        return Priors(
            given.weight_concentration_type,
            1.0 / n_components if given.weight_concentration is None else given.weight_concentration,
            1.0 if given.mean_precision is None else given.mean_precision,
            self.mean if given.mean is None else given.mean,
            float(len(self.mean)) if given.degrees_of_freedom is None else given.degrees_of_freedom,
            family.from_matrix(self.covariance) if given.covariance is None else given.covariance,
        )

    def maximise_all(
        self,
        family: Family,
        statistics: Sequence[Statistics],
        reg_covar: float | Array,
        previous: Sequence[Parameters | None] | None = None,
    ) -> list[Parameters | None]:
        return [self._posterior(family, one, reg_covar) for one in statistics]

    def compiled_prior(self, family: Family, n_components: int, total_weight: float) -> Prior:
        priors, header = self.priors(family, n_components), np.zeros(PRIOR_HEADER)
        header[MEAN_PRECISION], header[COUNTED] = priors.mean_precision, priors.degrees_of_freedom
        header[CONCENTRATION], header[IS_PROCESS] = priors.weight_concentration, priors.is_process
        header[PER_ROW] = 1.0 / n_components if family.is_shared else 1.0
        header[TOTAL] = _all_rows(n_components, total_weight)
        values = np.concatenate([header, priors.mean, np.ravel(priors.covariance)])
        move, terms = kernels.posterior_addresses()
        return Prior(move, terms, True, values)

    def of_compiled(self, family: Family, parameters: Parameters, total_weight: float) -> Parameters:
        nk = parameters.weights * _all_rows(len(parameters.weights), total_weight)
        moments = parameters.means, parameters.covariances, parameters.precisions_cholesky
        return _posterior_of(self.priors(family, len(nk)), family, nk, *moments)

    def bound(self, family: Family, statistics: Statistics, before: Parameters, after: Parameters) -> float:
        # without the constants that scikit-learn leaves out, too
        assert isinstance(after, Posterior)
        entropy = statistics.log_likelihood - family.expected_log_joint(statistics, before)
        return entropy + log_normalisers(family, after)

    def log_evidence(self, family: Family, parameters: Parameters, lower_bound: float, total_weight: float) -> float:
        assert isinstance(parameters, Posterior)
        entropy = lower_bound - log_normalisers(family, parameters)
        priors = self.priors(family, len(parameters.weights))
        return entropy + log_evidence_terms(family, parameters, priors, total_weight)

    def start_all(
        self, family: Family, statistics: Sequence[Statistics], total_weight: float, reg_covar: float | Array
    ) -> list[Parameters | None]:
        return [self._posterior(family, one, reg_covar) for one in statistics]

    def objection(
        self, family: Family, parameters: Parameters, total_weight: float, reg_covar: float | Array
    ) -> Status | None:
        # components without rows are what the prior of the weights is for, and that of the covariances keeps all wide
        return None

    def _posterior(self, family: Family, statistics: Statistics, reg_covar: float | Array) -> Posterior | None:
        """The update of Bishop (2006), 10.58 and 10.60 to 10.63; None where a covariance is not positive definite."""
        priors = self.priors(family, len(statistics.s0))
        nk, means, shift = statistics.moments()
        mean_precision = priors.mean_precision + nk
        from_prior = means - priors.mean
        # about the component's mean, and of its mean about the prior's: covariances() of no scatter at all is minus
        # the square of the shift, in the family's form
        covariances = family.covariances(statistics.s2, nk, shift, reg_covar) - family.covariances(
            np.zeros_like(statistics.s2),
            nk,
            np.sqrt(priors.mean_precision / mean_precision)[:, None] * from_prior,
            0.0,
        )
        n_rows = _rows_of_covariances(family, nk)
        dof = priors.degrees_of_freedom + n_rows
        each = partial(np.reshape, shape=(*n_rows.shape, *[1] * (covariances.ndim - n_rows.ndim)))
        covariances = (priors.covariance + each(n_rows) * covariances) / each(dof)
        factors = family.precisions_cholesky(covariances)
        if not np.abs(factors).max() < LARGEST:
            return None
        means = (priors.mean_precision * priors.mean + nk[:, None] * means) / mean_precision[:, None]
        return _posterior_of(priors, family, nk, means, covariances, factors)


def _posterior_of(
    priors: Priors, family: Family, nk: Array, means: Array, covariances: Array, factors: Array
) -> Posterior:
    """The posterior of components of so many rows, with these means and inverses of the expected precisions."""
    concentration = _weight_concentration(priors, nk)
    return Posterior(
        weights=expected_weights(concentration),
        means=means,
        covariances=covariances,
        precisions_cholesky=factors,
        weight_concentration=concentration,
        mean_precision=priors.mean_precision + nk,
        degrees_of_freedom=priors.degrees_of_freedom + _rows_of_covariances(family, nk),
    )


def _rows_of_covariances(family: Family, nk: Array) -> Array:
    """The rows of each covariance: one of all components is as if each had its share of the rows."""
    return np.asarray(nk.mean()) if family.is_shared else nk


def _all_rows(n_components: int, total_weight: float) -> float:
    """The rows of all components, as the M-step counts them."""
    return total_weight + n_components * NK_FLOOR


def _weight_concentration(priors: Priors, nk: Array) -> Array:
    """The Dirichlet distribution's, or those of the sticks of a Dirichlet process (Blei and Jordan 2006)."""
    if not priors.is_process:
        return priors.weight_concentration + nk
    after = np.hstack([np.cumsum(nk[::-1])[-2::-1], 0.0])
    return np.stack([1.0 + nk, priors.weight_concentration + after])


INFERENCES = ("em", "variational")
# those of a search: a Dirichlet distribution, under which the components may be put in any order
SEARCH_PRIORS = GivenPriors(weight_concentration_type=DISTRIBUTION)


def inference_of(name: str, data_summary: DataSummary, prior: str | None = None) -> Inference:
    """Return the inference of one of :data:`INFERENCES` in a search over these data, with a prior of EM or none."""
    if name != INFERENCES[0]:
        return Variational.of(data_summary, SEARCH_PRIORS)
    return MAXIMUM_LIKELIHOOD if prior is None else DefaultPrior.of(data_summary)
