"""A block of rows as the products take it: transposed, centred, with a line of ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.jit import compiled


@compiled
def fill_lines(rows: NDArray[Any], center: NDArray[np.float64], z: NDArray[Any], n_rows: int) -> None:
    """Fill the lines of a block: ``1 | row - center | |row - center|^2``.

    Parameters
    ----------
    rows : ndarray of shape (n_given, n_features)
    center : ndarray of shape (n_features,)
    z : ndarray of shape (n_features + 1, n_block_rows) or (n_features + 2, n_block_rows)
        Without or with the last line; float64 or float32.
    n_rows : int
        Rows in use: those given, then rows of zeros.
    """
    n_given, n_features = rows.shape
    z[:, n_given:n_rows] = 0.0
    z[0, :n_given] = 1.0
    for a in range(n_features):
        for i in range(n_given):
            z[a + 1, i] = rows[i, a] - center[a]
    if len(z) > n_features + 1:
        z[n_features + 1, :n_given] = 0.0
        for a in range(1, n_features + 1):
            for i in range(n_given):
                z[n_features + 1, i] += z[a, i] * z[a, i]
