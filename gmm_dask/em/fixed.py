"""EM in which some components stay as they are: groups that are known, beside what is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.inference import MaximumLikelihood
from gmm_dask.em.status import Status
from gmm_dask.errors import UserError
from gmm_dask.families import Family, Parameters, Statistics
from gmm_dask.families.noise import gaussians_of
from gmm_dask.kernels.constants import NK_FLOOR

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FixedComponents(MaximumLikelihood):
    """The M-step for the other components, and for the weights of all.

    The means and covariances of the fixed components are no part of the maximisation, so that each step still is the
    maximum of the expected likelihood over what is free, and the likelihood never falls.

    Attributes
    ----------
    fixed : ndarray of bool, shape (n_components,)
        Which components are.
    parameters : Parameters
        Those of the fixed components are kept.
    """

    is_compiled = False

    fixed: NDArray[np.bool_]
    parameters: Parameters

    def maximise_all(
        self,
        family: Family,
        statistics: Sequence[Statistics],
        reg_covar: float | Array,
        previous: Sequence[Parameters | None] | None = None,
    ) -> list[Parameters | None]:
        if self.fixed.all():
            return [self._weighted(self.parameters, one) for one in statistics]
        # of components that share nothing, the free ones alone have the M-step that they have among all
        free = [_chosen(one, ~self.fixed, ("s0", "s1", "s2", "origins")) for one in statistics]
        found = family.maximise_all(free, reg_covar)
        return [
            one and self._weighted(self._among_fixed(one), sums) for one, sums in zip(found, statistics, strict=True)
        ]

    def restored(self, parameters: Parameters) -> Parameters:
        kept = self.parameters.arrays()
        every: dict[str, Any] = {name: parameters.arrays()[name].copy() for name in kept if name != "weights"}
        for name, values in every.items():
            values[self.fixed] = kept[name][self.fixed]
        return replace(parameters, **every)

    def objection(
        self, family: Family, parameters: Parameters, total_weight: float, reg_covar: float | Array
    ) -> Status | None:
        # a fixed component may have no rows at all
        if self.fixed.all():
            return None
        share = parameters.weights.sum()
        free = _chosen(gaussians_of(family, parameters)[1], ~self.fixed, tuple(self.parameters.arrays()))
        weight = total_weight * share * free.weights.sum()
        free = replace(free, weights=free.weights / free.weights.sum())
        return super().objection(family.gaussians, free, weight, reg_covar)

    def _among_fixed(self, free: Parameters) -> Parameters:
        every: dict[str, Any] = {name: values.copy() for name, values in self.parameters.arrays().items()}
        for name, values in free.arrays().items():
            every[name][~self.fixed] = values
        return replace(free, **every)

    def _weighted(self, parameters: Parameters, statistics: Statistics) -> Parameters:
        nk = statistics.s0 + NK_FLOOR
        return replace(parameters, weights=nk / nk.sum())


def _chosen(value: Any, chosen: NDArray[np.bool_], names: Sequence[str]) -> Any:
    """Return statistics or parameters with some of the components alone."""
    return replace(value, **{name: getattr(value, name)[chosen] for name in names})


def check_fixed(fixed: Any, family: Family, n_components: int, parameters: Parameters | None) -> FixedComponents:
    """Check the parameter ``fixed``: numbers of components, whose first parameters are given.

    Raises
    ------
    UserError
        If a number is no component or is there twice, the parameters are not given, or the components share a part of
        their covariances.
    """
    try:
        numbers = np.asarray(fixed)
    except ValueError:  # lists of different lengths
        numbers = np.zeros((0, 0))
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer) or not len(numbers):
        raise UserError(f"fixed must be a list of numbers of components, such as [0, 2]; got {fixed!r}.")
    if numbers.min() < 0 or numbers.max() >= n_components or len(set(numbers.tolist())) < len(numbers):
        raise UserError(f"fixed must hold numbers from 0 to {n_components - 1}, each once; got {numbers.tolist()}.")
    if "E" in family.structure:
        raise UserError(
            f"fixed: with covariance_type={family.name!r} components share a part of their covariances, which cannot "
            "stay as it is and be fitted at once. Take full, diag or spherical."
        )
    if parameters is None:
        raise UserError(
            "fixed needs weights_init, means_init and precisions_init: what the fixed components are, and where the "
            "others begin."
        )
    return FixedComponents(np.isin(np.arange(n_components), numbers), replace(parameters, noise=None))


def n_fixed_parameters(family: Family, n_fixed: int, n_features: int) -> int:
    """Number of parameters that are not fitted: means and covariances of the fixed components."""
    return n_fixed * (n_features + family.n_covariance_parameters(1, n_features))
