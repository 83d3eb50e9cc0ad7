"""What a fit makes of the statistics of a pass: the principle by which parameters are estimated, as a value.

A pass and the loop over passes are the same for all. By maximum likelihood (:class:`MaximumLikelihood`) the M-step is
the covariance family's own, and the bound is the log-likelihood.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.spurious import check_parameters
from gmm_dask.em.status import Status
from gmm_dask.families import Family, Parameters, Statistics
from gmm_dask.kernels.arguments import NO_PRIOR, Prior
from gmm_dask.kernels.constants import NK_FLOOR

Array = NDArray[np.float64]


class Inference(ABC):
    """How parameters are estimated from sufficient statistics.

    Attributes
    ----------
    is_compiled : bool
        Whether fits of rows in memory run compiled as a whole (:mod:`gmm_dask.em.in_memory`).
    of_likelihood : bool
        Whether the log densities of a row are those of the parameters, so that mixtures can be compared by their
        likelihood and its penalties.
    """

    is_compiled = True
    of_likelihood = True

    @abstractmethod
    def maximise_all(
        self,
        family: Family,
        statistics: Sequence[Statistics],
        reg_covar: float | Array,
        previous: Sequence[Parameters | None] | None = None,
    ) -> list[Parameters | None]:
        """The M-step of several mixtures at once; None where a covariance is not positive definite.

        ``previous`` are the parameters of the E-step, at which one that iterates may begin.
        """

    def restored(self, parameters: Parameters) -> Parameters:
        """Extrapolated parameters, with those that no step moves as they were."""
        return parameters

    def compiled_prior(self, family: Family, n_components: int, total_weight: float) -> Prior:
        """What a compiled fit of mixtures takes of a prior."""
        return NO_PRIOR

    def of_compiled(self, family: Family, parameters: Parameters, total_weight: float) -> Parameters:
        """What a compiled fit ends with, given the parameters that it leaves."""
        return parameters

    @abstractmethod
    def bound(self, family: Family, statistics: Statistics, before: Parameters, after: Parameters) -> float:
        """The objective, total over the rows, that rises with each step.

        Parameters
        ----------
        family : Family
        statistics : Statistics
            Of the rows, with the responsibilities at ``before``.
        before, after : Parameters
            Those of the E-step, and what the M-step makes of the statistics.
        """

    def log_evidence(self, family: Family, parameters: Parameters, lower_bound: float, total_weight: float) -> float:
        """A lower bound on the logarithm of the evidence of the data; NaN where there is none.

        Parameters
        ----------
        family : Family
        parameters : Parameters
            Those that a fit ended with.
        lower_bound : float
            Its last one, total over the rows.
        total_weight : float
        """
        return math.nan

    @abstractmethod
    def start_all(
        self, family: Family, statistics: Sequence[Statistics], total_weight: float, reg_covar: float | Array
    ) -> list[Parameters | None]:
        """First parameters of mixtures from the statistics of first responsibilities; None where one is singular."""

    @abstractmethod
    def objection(
        self, family: Family, parameters: Parameters, total_weight: float, reg_covar: float | Array
    ) -> Status | None:
        """What speaks against the parameters that a fit ends with; None for nothing."""


class MaximumLikelihood(Inference):
    """Expectation-maximisation: the parameters of largest likelihood."""

    def maximise_all(
        self,
        family: Family,
        statistics: Sequence[Statistics],
        reg_covar: float | Array,
        previous: Sequence[Parameters | None] | None = None,
    ) -> list[Parameters | None]:
        return family.maximise_all(statistics, reg_covar, previous)

    def bound(self, family: Family, statistics: Statistics, before: Parameters, after: Parameters) -> float:
        return statistics.log_likelihood

    def start_all(
        self, family: Family, statistics: Sequence[Statistics], total_weight: float, reg_covar: float | Array
    ) -> list[Parameters | None]:
        # sums over the number of rows, as in scikit-learn: with one row per component they add up to less than one
        return [
            found and replace(found, weights=(one.s0 + NK_FLOOR) / total_weight)
            for found, one in zip(self.maximise_all(family, statistics, reg_covar), statistics, strict=True)
        ]

    def objection(
        self, family: Family, parameters: Parameters, total_weight: float, reg_covar: float | Array
    ) -> Status | None:
        return check_parameters(family, parameters, total_weight, reg_covar)


MAXIMUM_LIKELIHOOD = MaximumLikelihood()
