"""Settings that follow from the data: ``reg_covar="auto"``, and the scale in which steps are extrapolated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.acceleration import FeatureScale
from gmm_dask.em.loop import Settings
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.resolution import Resolution

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
    variances = np.diag(data_summary.scatter) / data_summary.total_weight
    return automatic_reg_covar(data_summary.minimum, data_summary.maximum, variances, data_summary.resolution)


def automatic_reg_covar(minimum: Array, maximum: Array, variances: Array, resolution: Resolution) -> Array:
    """Return what ``"auto"`` adds to each feature, given its range, variance and resolution.

    It is a millionth of the variance, so that a fit does not depend on units. The variance is not taken for more than
    the square of the spread, in which a fill value far outside has no part; of a normal column the square is ten times
    the variance. A column whose variance is zero, as it is constant or as one row has all the weight, gets a millionth
    of its smallest value's square, or of one where that square is zero in float64.

    It is not less than h^2 / 12, the variance of the rounding error of values that are rounded to steps of h
    (Sheppard's correction): within a step nothing is known of a value, and no component is narrower.
    """
    with np.errstate(over="ignore", under="ignore"):
        squares = minimum**2
        within = np.where(resolution.spread > 0.0, np.minimum(variances, resolution.spread**2), variances)
        rounding = resolution.step**2 / 12.0
    is_constant = (minimum == maximum) | (variances == 0.0)
    relative: Array = SHARE * np.where(is_constant, np.where(squares == 0.0, 1.0, squares), within)
    return np.maximum(relative, rounding)
