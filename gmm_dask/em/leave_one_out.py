"""Leave-one-out: how likely a row of the fit is by the mixture that the other rows give.

A row draws the mixture towards itself, and is more likely by it than a new row at the same place would be by a fit
without it. The sums of the M-step are additive: those without a row are the sums less the row's own part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import Parameters
from gmm_dask.passes.gaps.chunks import sums_of_chunk
from gmm_dask.passes.model_batch import Model, origins_of_model, sums_of_model
from gmm_dask.passes.predict import kernel_outputs, prediction_batch
from gmm_dask.passes.row_outputs import LOG_DENSITY

Array = NDArray[np.float64]

# rows of the tail that are left out one by one, for each that is to lie under the quantile, and at least
TAIL, FEWEST = 5, 100


def leave_one_out_quantile(x: Array, log_density: Array, model: Model, n_fitted: int, quantile: float) -> float:
    """Return the log density that this share of rows is under which took no part in the fit.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_features)
        Rows of the fit, all or a sample.
    log_density : ndarray of shape (n_rows,)
        By the model.
    model : tuple
        The family, and the parameters of the fit.
    n_fitted : int
        Rows of the fit.
    quantile : float
    """
    tail = np.argsort(log_density, kind="stable")[: max(FEWEST, TAIL * round(quantile * len(x)))]
    without = log_density.copy()
    without[tail] -= drops_without(x, tail, model, n_fitted)
    # of rows of the same distribution, j/(n + 1) lie under the j-th smallest of n on average (Weibull)
    return float(np.quantile(without, quantile, method="weibull"))


def drops_without(x: Array, chosen: Sequence[int] | NDArray[np.intp], model: Model, n_fitted: int) -> Array:
    """Return by how much the log densities of some rows drop when the row itself is left out of the last M-step."""
    family, parameters = model
    gaps = not np.isfinite(x).all()
    batch = prediction_batch(family, parameters, gaps)
    origins = origins_of_model(batch)
    whole = sums_of_model(batch, sums_of_chunk(x, None, batch)) * (n_fitted / len(x))
    (fitted,) = family.maximise_all([family.unpack_centred(whole, origins)], 0.0, [parameters])
    if fitted is None:
        return np.zeros(len(chosen))

    def log_density(i: int, parameters: Parameters) -> float:
        found = kernel_outputs(x[[i]], prediction_batch(family, parameters, gaps), (LOG_DENSITY.name,))
        return float(found[LOG_DENSITY.name][0])

    def drop(i: int) -> float:
        without = whole - sums_of_model(batch, sums_of_chunk(x[[i]], None, batch))
        # both are plain M-steps: what the fit added to the covariances, or had left to do, cancels
        (other,) = family.maximise_all([family.unpack_centred(without, origins)], 0.0, [parameters])
        return 0.0 if other is None else max(0.0, log_density(i, fitted) - log_density(i, other))

    return np.array([drop(int(i)) for i in chosen])
