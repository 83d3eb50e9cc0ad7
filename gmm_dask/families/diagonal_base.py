"""What the diagonal and the spherical family share: precisions that are plain numbers."""

from __future__ import annotations

import math

import numpy as np

from gmm_dask.families.base import Array, Family, Parameters, require_positive


class DiagonalFamily(Family):
    """Families whose ``covariances`` hold variances instead of matrices."""

    def precisions_cholesky(self, covariances: Array) -> Array:
        # U is diagonal: reciprocal standard deviations
        sound = np.isfinite(covariances) & (covariances > 0.0)
        factors: Array = 1.0 / np.sqrt(np.where(sound, covariances, np.nan))
        return factors

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky**2

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        require_positive(precisions)
        return 1.0 / precisions, np.sqrt(precisions)

    def whitening_error(self, parameters: Parameters) -> float:
        factors = parameters.precisions_cholesky
        if not (factors > 0.0).all():
            return math.nan
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.abs(factors * parameters.covariances * factors - 1.0).max())

    def draw(self, rng: np.random.RandomState, parameters: Parameters, k: int, n_rows: int) -> Array:
        normals = rng.standard_normal(size=(n_rows, parameters.means.shape[1]))
        rows: Array = parameters.means[k] + normals * np.sqrt(parameters.covariances[k])
        return rows
