"""Factors of many small matrices in one call: a library's overhead for each would take longer than the arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.jit import compiled

Array = NDArray[np.float64]


@compiled
def precision_factors(covariances: Array) -> Array:
    """U (n, n_features, n_features), upper triangular, with ``U U^T`` the inverse of each covariance.

    ``covariances`` (n, n_features, n_features) are overwritten. A factor is NaN where one is not positive definite.
    """
    n, d = covariances.shape[0], covariances.shape[1]
    factors = np.zeros((n, d, d))
    for i in range(n):
        if factorise(covariances[i]):
            invert_upper(covariances[i], factors[i])
        else:
            factors[i] = np.nan
    return factors


@compiled
def factorise(a: Array) -> bool:
    """Overwrite the upper triangle of a symmetric matrix with R, ``R^T R`` the matrix; whether it was possible."""
    # right-looking: row j of R is finished, then its outer product leaves the rest of the matrix. The inner loops run
    # along rows, which lie one after another in memory
    d = len(a)
    for j in range(d):
        # also refuses NaN, which compares as false
        if not 0.0 < a[j, j] < np.inf:
            return False
        pivot = 1.0 / np.sqrt(a[j, j])
        for b in range(j, d):
            a[j, b] *= pivot
        for i in range(j + 1, d):
            share = a[j, i]
            for b in range(i, d):
                a[i, b] -= share * a[j, b]
    return True


@compiled
def invert_upper(r: Array, inverse: Array) -> None:
    """Fill ``inverse``, which holds zeros, with that of an upper triangular matrix."""
    # from the last row up: row i of the inverse X follows from r_ii x_ib = delta_ib - sum_(k > i) r_ik x_kb
    d = len(r)
    for i in range(d - 1, -1, -1):
        pivot = 1.0 / r[i, i]
        for k in range(i + 1, d):
            share = r[i, k]
            for b in range(k, d):
                inverse[i, b] -= share * inverse[k, b]
        for b in range(i + 1, d):
            inverse[i, b] *= pivot
        inverse[i, i] = pivot
