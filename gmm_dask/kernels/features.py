"""The feature map: the monomials of a block of rows up to degree two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def n_monomials(n_features: int) -> int:
    """Number of rows of the feature map, P + 1 with P = (D + 1)(D + 2) / 2."""
    return (n_features + 1) * (n_features + 2) // 2 + 1


def fill_features(z: Array, out: Array, squared_norm: bool) -> None:
    """Write the monomials of a block, in the order ``|z|^2 | 1 | z_a | z_a^2 | z_a z_b (a < b)``.

    Parameters
    ----------
    z : ndarray of shape (n_features, n_rows)
        The block, centred.
    out : ndarray of shape (n_features + 2, n_rows), (2 n_features + 2, n_rows) or (n_monomials, n_rows)
        Receives the monomials, up to the linear, the squared or the last ones.
    squared_norm : bool
        Whether the first row, ``|z|^2``, is wanted too.
    """
    d = len(z)
    if squared_norm:
        np.einsum("db,db->b", z, z, out=out[0])
    out[1] = 1.0
    out[2 : d + 2] = z
    if len(out) > d + 2:
        np.multiply(z, z, out=out[d + 2 : 2 * d + 2])
    if len(out) > 2 * d + 2:
        _fill_products(z, out[2 * d + 2 :])


def _fill_products(z: Array, out: Array) -> None:
    start = 0
    for a in range(len(z) - 1):
        stop = start + len(z) - 1 - a
        np.multiply(z[a], z[a + 1 :], out=out[start:stop])
        start = stop
