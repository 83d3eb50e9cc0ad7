"""What a stored model has beside its parameters if it is variational: the rest of its posterior, and its priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.families import Family, Parameters, Posterior, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.variational.priors import DISTRIBUTION, Priors
from pipeline.store.arrays import get, put

# the array by whose presence a variational model is known
_KEY = "mean_precision"


def write_posterior(group: zarr.Group, posterior: Posterior, priors: Priors, dimensions: Sequence[str]) -> None:
    """Write the numbers of rows behind a posterior and the priors; ``dimensions`` are those of the covariances."""
    each = tuple(dimensions[: posterior.degrees_of_freedom.ndim])
    put(group, "weight_concentration", posterior.weight_concentration, ("component",))
    put(group, "mean_precision", posterior.mean_precision, ("component",))
    put(group, "degrees_of_freedom", posterior.degrees_of_freedom, each)
    put(group, "weight_concentration_prior", np.array(priors.weight_concentration), ())
    put(group, "mean_precision_prior", np.array(priors.mean_precision), ())
    put(group, "degrees_of_freedom_prior", np.array(priors.degrees_of_freedom), ())
    put(group, "mean_prior", priors.mean, ("feature",))
    put(group, "covariance_prior", priors.covariance, ("feature", "feature_other")[: np.ndim(priors.covariance)])


def sorted_posterior(posterior: Posterior, order: NDArray[np.intp], each: NDArray[np.intp] | slice) -> Posterior:
    """Return a posterior with its components in another order, which changes nothing under a Dirichlet distribution."""
    assert posterior.weight_concentration.ndim == 1
    dof = posterior.degrees_of_freedom
    return replace(
        posterior,
        weight_concentration=posterior.weight_concentration[order],
        mean_precision=posterior.mean_precision[order],
        degrees_of_freedom=dof[each] if dof.ndim else dof,
    )


def read_posterior(group: zarr.Group, parameters: Parameters, family: Family) -> Parameters:
    """Return the posterior of a variational model, the parameters of another; raises ValueError if it is none."""
    if _KEY not in group:
        return parameters
    k = len(parameters.weights)
    shapes = {
        "weight_concentration": (k,),
        "mean_precision": (k,),
        "degrees_of_freedom": () if family.is_shared else (k,),
    }
    more: dict[str, Any] = {name: get(group, name, np.float64, shape) for name, shape in shapes.items()}
    for name, values in more.items():
        if not (np.asarray(values) > 0.0).all():
            raise ValueError(f"{name} has values that are not positive")
    if not (more["degrees_of_freedom"] > parameters.means.shape[1] - 1).all():
        raise ValueError("degrees_of_freedom has values that are too small for the number of features")
    return Posterior(
        parameters.weights, parameters.means, parameters.covariances, parameters.precisions_cholesky, **more
    )


def read_priors(group: zarr.Group, candidate: Candidate, n_features: int) -> Priors | None:
    """Return the priors of a variational model; None of another."""
    if _KEY not in group:
        return None
    covariance = get_family(candidate.covariance_type).shape_of_one(n_features)
    return Priors(
        DISTRIBUTION,
        float(get(group, "weight_concentration_prior", np.float64, ())),
        float(get(group, "mean_precision_prior", np.float64, ())),
        get(group, "mean_prior", np.float64, (n_features,)),
        float(get(group, "degrees_of_freedom_prior", np.float64, ())),
        get(group, "covariance_prior", np.float64, covariance),
    )
