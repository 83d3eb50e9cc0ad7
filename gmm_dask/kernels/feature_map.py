"""The feature map: the monomials of a row up to degree two, each the product of two lines of a block."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Factors = tuple[NDArray[np.int64], NDArray[np.int64]]


def n_monomials(n_features: int) -> int:
    """Length of the feature map, P + 1 with P = (D + 1)(D + 2) / 2."""
    return (n_features + 1) * (n_features + 2) // 2 + 1


@lru_cache(maxsize=16)
def factors(n_features: int) -> Factors:
    """The feature map ``|z|^2 | 1 | z_a | z_a^2 | z_a z_b (a < b)``.

    Returns
    -------
    first, second : ndarray of shape (n_monomials,)
        The lines of a block, ``1 | z_1 .. z_D | |z|^2``, whose product is each monomial.
    """
    # each monomial up to degree two is a product of two lines: z_a is 1 z_a, and |z|^2, summed once, is 1 |z|^2
    features = np.arange(1, n_features + 1)
    a, b = np.triu_indices(n_features, k=1)
    ones = np.zeros(n_features, dtype=np.int64)
    first = np.concatenate([[0, 0], ones, features, a + 1])
    second = np.concatenate([[n_features + 1, 0], features, features, b + 1])
    first.flags.writeable = second.flags.writeable = False
    return first, second
