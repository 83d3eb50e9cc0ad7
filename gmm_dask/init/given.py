"""Initial parameters that the user gives: ``weights_init``, ``means_init`` and ``precisions_init``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from gmm_dask.errors import SingularError, UserError
from gmm_dask.families import Family, Noise, Parameters

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GivenParameters:
    """Checked initial parameters, each None where the start's own are used; shapes as in :class:`Parameters`.

    ``weights`` are those of all densities: with noise, its own is the last.
    """

    weights: Array | None
    means: Array | None
    covariances: Array | None
    precisions_cholesky: Array | None

    @property
    def are_complete(self) -> bool:
        """Whether all are given, so that no start is needed."""
        return all(part is not None for part in (self.weights, self.means, self.precisions_cholesky))

    def replace_in(self, parameters: Parameters) -> Parameters:
        """Return the parameters of a start, with what the user gave in place of its own."""
        return replace(parameters, **self._given(parameters.noise and parameters.noise.log_volume))

    def parameters(self, log_volume: float | None = None) -> Parameters:
        """Return the user's parameters, which must be complete, beside noise in a box of this volume."""
        return Parameters(**self._given(log_volume))

    def _given(self, log_volume: float | None) -> dict[str, Any]:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if log_volume is not None and self.weights is not None:
            given |= {"weights": self.weights[:-1], "noise": Noise(float(self.weights[-1]), log_volume)}
        return given


NOTHING_GIVEN = GivenParameters(None, None, None, None)


def check_given(
    family: Family,
    n_components: int,
    n_features: int,
    weights: Any,
    means: Any,
    precisions: Any,
    *,
    noise: bool = False,
) -> GivenParameters:
    """Check ``weights_init``, ``means_init`` and ``precisions_init``; with ``noise``, the last weight is its own.

    Raises
    ------
    UserError
        If a shape is wrong, the weights are not proportions that add up to one, or a precision is not symmetric
        and positive definite.
    """
    weights = _check_shape("weights_init", weights, (n_components + noise,), " (the last is the noise's)" * noise)
    means = _check_shape("means_init", means, (n_components, n_features))
    if weights is not None:
        _check_proportions(weights)
        weights = np.maximum(weights, np.finfo(np.float64).tiny)  # the logarithm of zero is none
    precisions = _check_shape("precisions_init", precisions, family.covariance_shape(n_components, n_features))
    covariances, factors = (None, None) if precisions is None else _factor(family, precisions)
    return GivenParameters(weights, means, covariances, factors)


def _check_shape(name: str, value: Any, shape: tuple[int, ...], meaning: str = "") -> Array | None:
    if value is None:
        return None
    array: Array = check_array(value, dtype=np.float64, ensure_2d=False, allow_nd=True, input_name=name)
    if array.shape != shape:
        raise UserError(f"{name} must have the shape {shape}{meaning}; got {array.shape}.")
    return array


def _check_proportions(weights: Array) -> None:
    if (weights < 0).any() or (weights > 1).any() or not np.isclose(weights.sum(), 1.0, rtol=0, atol=1e-6):
        raise UserError(
            f"weights_init must be proportions between 0 and 1 that add up to 1; got minimum {weights.min():g}, "
            f"maximum {weights.max():g}, sum {weights.sum():g}."
        )


def _factor(family: Family, precisions: Array) -> tuple[Array, Array]:
    message = f"precisions_init must be symmetric and positive definite for covariance_type={family.name!r}."
    if family.constraint:
        message += f" They must be of the model, in which {family.description}."
    try:
        given, factors = family.from_precisions(precisions)
        # a fit begins within its model, or the likelihood could fall in the first step
        covariances = family.common(np.ones(len(given)), given)
        if covariances is not given:
            factors = family.precisions_cholesky(covariances)
    except (SingularError, np.linalg.LinAlgError) as error:
        raise UserError(message) from error
    # a Cholesky factor is made from one triangle: a matrix that is not symmetric does not come back from it
    if not np.allclose(family.precisions(factors), precisions, rtol=1e-5, atol=1e-8 * np.abs(precisions).max()):
        raise UserError(message)
    return covariances, factors
