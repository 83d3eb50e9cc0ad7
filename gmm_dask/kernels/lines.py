"""A block of rows as the products take it: transposed, centred, with a line of ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.jit import compiled


@compiled
def fill_lines(rows: NDArray[Any], center: NDArray[np.float64], z: NDArray[Any]) -> None:
    """Fill a block: ``1 | row - center | |row - center|^2``, and zeros for the rows that it has more.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    center : ndarray of shape (n_features,)
    z : ndarray of shape (n_features + 1, n_block_rows) or (n_features + 2, n_block_rows)
        Without or with the last line; float64 or float32, with at least as many rows.
    """
    n_rows, n_features = rows.shape
    z[0, :n_rows] = 1.0
    for a in range(n_features):
        for i in range(n_rows):
            z[a + 1, i] = rows[i, a] - center[a]
    z[:, n_rows:] = 0.0
    if len(z) > n_features + 1:
        z[n_features + 1] = 0.0
        for a in range(1, n_features + 1):
            for i in range(n_rows):
                z[n_features + 1, i] += z[a, i] * z[a, i]
