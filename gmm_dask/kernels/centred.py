"""Densities and statistics about each component's own centre: slower than the feature map, exact at any scale.

The feature map loses ``kappa * 1e-16`` of relative accuracy, where kappa grows with the squared distance of a
component from the data's centre over its own width. These kernels take differences first, and lose nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mahalanobis_matrix(x: Array, mean: Array, precision_cholesky: Array) -> Array:
    """Squared Mahalanobis distance of rows x (n_features, n_rows), with U (n_features, n_features)."""
    # the difference comes first: x and mean may agree in most of their digits
    y = precision_cholesky.T @ (x - mean[:, None])
    squares: Array = np.einsum("db,db->b", y, y)
    return squares


def mahalanobis_diagonal(x: Array, mean: Array, root_precision: Array) -> Array:
    """Squared Mahalanobis distance of rows (n_features, n_rows), with root precisions of shape (n_features,)."""
    y = (x - mean[:, None]) * root_precision[:, None]
    squares: Array = np.einsum("db,db->b", y, y)
    return squares


def scatter_matrix(y: Array, weights: Array) -> Array:
    """``sum w y y^T`` of centred rows y (n_features, n_rows), weights (n_rows,)."""
    return (y * weights) @ y.T


def scatter_diagonal(y: Array, weights: Array) -> Array:
    """``sum w y_a^2`` of centred rows y (n_features, n_rows), weights (n_rows,)."""
    return (y * y) @ weights
