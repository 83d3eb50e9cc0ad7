"""Factors of many small matrices in one call: a library's overhead for each would take longer than the arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.compilation.jit import ZERO, compiled, compiled_part

Array = NDArray[np.float64]


@compiled
def precision_factors(covariances: Array) -> Array:
    """U (n, n_features, n_features), upper triangular, with ``U U^T`` the inverse of each covariance.

    ``covariances`` (n, n_features, n_features) are overwritten. A factor is NaN where one is not positive definite.
    """
    n, d = covariances.shape[0], covariances.shape[1]
    factors = np.empty((n, d, d))
    flat, flat_factors = covariances.reshape((n, d * d)), factors.reshape((n, d * d))
    for i in range(n):
        if factorise(flat[i], d):
            invert_upper(flat[i], d, flat_factors[i], ZERO)
        else:
            factors[i] = np.nan
    return factors


@compiled_part
def factorise(a: Array, d: int) -> bool:
    """Overwrite the upper triangle of a flat symmetric matrix with R, ``R^T R`` the matrix; whether it was possible."""
    # right-looking: row j of R is finished, then its outer product leaves the rest of the matrix. The inner loops run
    # along rows, which lie one after another in memory
    for j in range(d):
        # also refuses NaN, which compares as false
        if not 0.0 < a[j * d + j] < np.inf:
            return False
        pivot = 1.0 / np.sqrt(a[j * d + j])
        for b in range(j, d):
            a[j * d + b] *= pivot
        for i in range(j + 1, d):
            share = a[j * d + i]
            for b in range(i, d):
                a[i * d + b] -= share * a[j * d + b]
    return True


@compiled_part
def invert_upper(r: Array, d: int, inverse: Array, start: int) -> None:
    """Fill ``inverse``, flat, from position ``start`` on, with that of an upper triangular matrix."""
    # from the last row up: row i of the inverse X follows from r_ii x_ib = delta_ib - sum_(k > i) r_ik x_kb
    for i in range(d - 1, -1, -1):
        row, pivot = start + i * d, 1.0 / r[i * d + i]
        for b in range(d):
            inverse[row + b] = 0.0
        for k in range(i + 1, d):
            share = r[i * d + k]
            for b in range(k, d):
                inverse[row + b] -= share * inverse[start + k * d + b]
        for b in range(i + 1, d):
            inverse[row + b] *= pivot
        inverse[row + i] = pivot
