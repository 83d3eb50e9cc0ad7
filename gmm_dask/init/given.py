"""Initial parameters that the user gives: ``weights_init``, ``means_init`` and ``precisions_init``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from gmm_dask.errors import SingularError, UserError
from gmm_dask.families import Family, Parameters

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GivenParameters:
    """Checked initial parameters, each None where the start's own are used; shapes as in :class:`Parameters`."""

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
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(parameters, **given)

    def parameters(self) -> Parameters:
        """Return the user's parameters, which must be complete."""
        return Parameters(**vars(self))


def check_given(
    family: Family, n_components: int, n_features: int, weights: Any, means: Any, precisions: Any
) -> GivenParameters:
    """Check ``weights_init``, ``means_init`` and ``precisions_init``.

    Raises
    ------
    UserError
        If a shape is wrong, the weights are not proportions that add up to one, or a precision is not symmetric
        and positive definite.
    """
    weights = _check_shape("weights_init", weights, (n_components,))
    means = _check_shape("means_init", means, (n_components, n_features))
    if weights is not None:
        _check_proportions(weights)
    precisions = _check_shape("precisions_init", precisions, family.covariance_shape(n_components, n_features))
    covariances, factors = (None, None) if precisions is None else _factor(family, precisions)
    return GivenParameters(weights, means, covariances, factors)


def _check_shape(name: str, value: Any, shape: tuple[int, ...]) -> Array | None:
    if value is None:
        return None
    array: Array = check_array(value, dtype=np.float64, ensure_2d=False, allow_nd=True, input_name=name)
    if array.shape != shape:
        raise UserError(f"{name} must have the shape {shape}; got {array.shape}.")
    return array


def _check_proportions(weights: Array) -> None:
    if (weights < 0).any() or (weights > 1).any() or not np.isclose(weights.sum(), 1.0, rtol=0, atol=1e-6):
        raise UserError(
            f"weights_init must be proportions between 0 and 1 that add up to 1; got minimum {weights.min():g}, "
            f"maximum {weights.max():g}, sum {weights.sum():g}."
        )


def _factor(family: Family, precisions: Array) -> tuple[Array, Array]:
    message = f"precisions_init must be symmetric and positive definite for covariance_type={family.name!r}."
    try:
        covariances, factors = family.from_precisions(precisions)
    except (SingularError, np.linalg.LinAlgError) as error:
        raise UserError(message) from error
    # a Cholesky factor is made from one triangle: a matrix that is not symmetric does not come back from it
    if not np.allclose(family.precisions(factors), precisions, rtol=1e-5):
        raise UserError(message)
    return covariances, factors
