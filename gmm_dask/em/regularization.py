"""What of a fit's settings follows the data: ``reg_covar="auto"``, and the units in which steps are accelerated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.acceleration import Units
from gmm_dask.em.loop import Settings
from gmm_dask.passes.data_summary import Profile

Array = NDArray[np.float64]

AUTO = "auto"
# share of each feature's variance, which is scikit-learn's default for features of variance one
SHARE = 1e-6


def settings_for(profile: Profile, tol: float, max_iter: int, reg_covar: float | str, accelerate: bool) -> Settings:
    """The settings of a fit of data with this profile."""
    units = Units.of(profile.center, profile.scatter, profile.total_weight) if accelerate else None
    return Settings(tol, max_iter, reg_covar_of(reg_covar, profile), units)


def reg_covar_of(reg_covar: float | str, profile: Profile) -> float | Array:
    """The number itself, or for ``"auto"`` one for each feature, in the square of its unit.

    It is a millionth of the feature's variance, so that a fit does not depend on units. A column of one value alone,
    which has none, gets a millionth of that value's square, or of one where the square is zero in float64.
    """
    if not isinstance(reg_covar, str):
        return reg_covar
    return automatic(profile.minimum, profile.maximum, np.diag(profile.scatter) / profile.total_weight)


def automatic(minimum: Array, maximum: Array, variances: Array) -> Array:
    """What ``"auto"`` adds to each feature of such a range and variance."""
    with np.errstate(over="ignore", under="ignore"):
        squares = minimum**2
    found: Array = SHARE * np.where(minimum == maximum, np.where(squares == 0.0, 1.0, squares), variances)
    return found
