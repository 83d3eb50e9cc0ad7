"""The priors of a variational mixture: those of a mixture, and what a user gives of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Family, Parameters, Posterior
from gmm_dask.families.base import Array

PROCESS, DISTRIBUTION = "dirichlet_process", "dirichlet_distribution"
PRIOR_TYPES = (PROCESS, DISTRIBUTION)


@dataclass(frozen=True, eq=False)
class Priors:
    """Prior distributions of a mixture's parameters, the same for each component.

    Attributes
    ----------
    weight_concentration_type : str
        One of :data:`PRIOR_TYPES`: a Dirichlet process, or a Dirichlet distribution.
    weight_concentration : float
        The smaller, the fewer components have weight.
    mean_precision : float
        How many rows the prior of a mean counts as.
    mean : ndarray of shape (n_features,)
    degrees_of_freedom : float
        How many rows the prior of a covariance counts as.
    covariance : ndarray
        The inverse of the Wishart distribution's scale matrix, a scatter in the squared units of the data: full and
        tied (n_features, n_features), diag (n_features,), spherical ().
    """

    weight_concentration_type: str
    weight_concentration: float
    mean_precision: float
    mean: Array
    degrees_of_freedom: float
    covariance: Array

    def weight_concentrations(self, n_components: int) -> Array:
        """:attr:`Posterior.weight_concentration` of no rows."""
        prior = np.full(n_components, self.weight_concentration)
        return np.stack([np.ones(n_components), prior]) if self.is_process else prior

    def unscaled(self, family: Family, center: Array, scale: Array) -> Priors:
        """Return the priors of rows ``z * scale + center`` for those of rows z."""
        d = len(self.mean)
        covariances = np.reshape(self.covariance, family.covariance_shape(1, d))
        one = Parameters(np.ones(1), self.mean[None], covariances, family.precisions_cholesky(covariances))
        name, found = family.unscaled(one, center, scale)
        shape = FAMILIES[name].shape_of_one(d)
        return replace(self, mean=found.means[0], covariance=found.covariances.reshape(shape))

    def counted_rows(self, posterior: Posterior) -> float:
        """How many rows the bound without constants counts for each row: those of the components' priors, too.

        Where rows are scaled, so many times the logarithm of the scale is missing in the bound per row.
        """
        k = len(posterior.weights)
        n_rows = float(posterior.mean_precision.sum()) - k * self.mean_precision
        return 1.0 + k * self.degrees_of_freedom / n_rows

    @property
    def is_process(self) -> bool:
        """Whether the prior of the weights is a Dirichlet process."""
        return self.weight_concentration_type == PROCESS


@dataclass(frozen=True, eq=False)
class GivenPriors:
    """Checked priors, each None where its default is taken; as in :class:`Priors`."""

    weight_concentration_type: str = PROCESS
    weight_concentration: float | None = None
    mean_precision: float | None = None
    mean: Array | None = None
    degrees_of_freedom: float | None = None
    covariance: Array | None = None


NO_PRIORS = GivenPriors()


def check_priors(
    family: Family,
    n_features: int,
    concentration_type: str,
    concentration: float | None,
    mean_precision: float | None,
    mean: Any,
    degrees_of_freedom: float | None,
    covariance: Any,
) -> GivenPriors:
    """Check priors that a user gives.

    Raises
    ------
    UserError
        If a shape is wrong, the degrees of freedom are too few, or the covariance is not positive definite.
    """
    if degrees_of_freedom is not None and not degrees_of_freedom > n_features - 1.0:
        raise UserError(
            f"The parameter 'degrees_of_freedom_prior' should be greater than {n_features - 1}, but got "
            f"{degrees_of_freedom:.3f}. Leave it out for n_features, or pass a larger number."
        )
    return GivenPriors(
        concentration_type,
        None if concentration is None else float(concentration),
        None if mean_precision is None else float(mean_precision),
        _shaped("mean_prior", mean, (n_features,)),
        None if degrees_of_freedom is None else float(degrees_of_freedom),
        _checked_covariance(family, covariance, n_features),
    )


def _shaped(name: str, value: Any, shape: tuple[int, ...]) -> Array | None:
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise UserError(f"The parameter '{name}' should have the shape {shape}; got {array.shape}.")
    if not np.isfinite(array).all():
        raise UserError(f"The parameter '{name}' should hold finite numbers; got {array[~np.isfinite(array)][0]}.")
    return array


def _checked_covariance(family: Family, value: Any, n_features: int) -> Array | None:
    covariance = _shaped("covariance_prior", value, family.shape_of_one(n_features))
    if covariance is None:
        return None
    factors = family.precisions_cholesky(np.broadcast_to(covariance, family.covariance_shape(1, n_features)))
    symmetric = covariance.ndim < 2 or np.allclose(covariance, covariance.T)
    if not (symmetric and np.isfinite(factors).all()):
        raise UserError(
            "The parameter 'covariance_prior' should be positive definite, and symmetric where it is a matrix, for "
            f"covariance_type={family.name!r}."
        )
    return covariance
