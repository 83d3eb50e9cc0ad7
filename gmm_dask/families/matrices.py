"""What the full and the tied family share: symmetric matrices, packed as the feature map has them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families.base import Array


@lru_cache(maxsize=16)
def _pairs(n_features: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the entries above the diagonal."""
    a, b = np.triu_indices(n_features, k=1)
    return a, b


def pack_quadratic(precision: Array) -> Array:
    """Coefficients of ``-z^T precision z / 2`` in the columns ``z_a^2 | z_a z_b (a < b)``.

    Parameters
    ----------
    precision : ndarray of shape (..., n_features, n_features)
        Symmetric.

    Returns
    -------
    coefficients : ndarray of shape (..., n_features (n_features + 1) / 2)
    """
    upper = _pairs(precision.shape[-1])
    squares = -0.5 * np.diagonal(precision, axis1=-2, axis2=-1)
    return np.concatenate([squares, -precision[..., upper[0], upper[1]]], axis=-1)


def unpack_scatter(sums: Array, n_features: int) -> Array:
    """Symmetric matrices (..., n_features, n_features) from sums of ``z_a^2 | z_a z_b (a < b)``."""
    matrices = np.empty((*sums.shape[:-1], n_features, n_features))
    diagonal = np.arange(n_features)
    upper = _pairs(n_features)
    matrices[..., diagonal, diagonal] = sums[..., :n_features]
    matrices[..., upper[0], upper[1]] = sums[..., n_features:]
    matrices[..., upper[1], upper[0]] = sums[..., n_features:]
    return matrices


def add_to_diagonal(matrices: Array, value: float | Array) -> Array:
    """Matrices (..., n, n) with ``value``, a number or n, added to each diagonal, in place."""
    diagonal = np.arange(matrices.shape[-1])
    matrices[..., diagonal, diagonal] += value
    return matrices
