"""Settings that follow from the data: ``reg_covar="auto"``, and the scale in which steps are extrapolated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.acceleration import FeatureScale
from gmm_dask.em.loop import Settings
from gmm_dask.passes.data_summary import DataSummary

Array = NDArray[np.float64]

AUTO = "auto"
# share of each feature's variance: scikit-learn's default, 1e-6, is that for features of variance one
SHARE = 1e-6


def settings_for(
    data_summary: DataSummary, tol: float, max_iter: int, reg_covar: float | str, accelerate: bool
) -> Settings:
    """Return the settings of a fit of these data."""
    return Settings(
        tol, max_iter, reg_covar_of(reg_covar, data_summary), FeatureScale.of(data_summary) if accelerate else None
    )


def reg_covar_of(reg_covar: float | str, data_summary: DataSummary) -> float | Array:
    """Return the number itself, or for ``"auto"`` one for each feature, in its squared unit."""
    if not isinstance(reg_covar, str):
        return reg_covar
    return automatic_reg_covar(
        data_summary.minimum, data_summary.maximum, np.diag(data_summary.scatter) / data_summary.total_weight
    )


def automatic_reg_covar(minimum: Array, maximum: Array, variances: Array) -> Array:
    """Return what ``"auto"`` adds to each feature, given its range and variance.

    It is a millionth of the variance, so that a fit does not depend on units. A constant column, whose variance is
    zero, gets a millionth of its value's square, or of one where that square is zero in float64.
    """
    with np.errstate(over="ignore", under="ignore"):
        squares = minimum**2
    found: Array = SHARE * np.where(minimum == maximum, np.where(squares == 0.0, 1.0, squares), variances)
    return found
