"""Rows of three groups in columns of very different units, and a share of noise all around them."""

from __future__ import annotations

import numpy as np

N, SHARE = 900, 0.05
SCALE, OFFSET = np.array([1.0, 100.0]), np.array([5.0, 0.0])


def noisy_groups(n_rows=N, share=SHARE, seed=0):
    """Rows (n_rows, 2), and the group of each; -1 is noise."""
    random = np.random.default_rng(seed)
    centers = np.array([[0.0, 0.0], [9.0, 9.0], [0.0, 9.0]])
    groups = random.choice([-1, 0, 1, 2], n_rows, p=[share, *[(1.0 - share) / 3.0] * 3])
    z = centers[groups] + random.normal(size=(n_rows, 2)) * [1.0, 0.5]
    z[groups < 0] = random.uniform(-12.0, 21.0, (np.count_nonzero(groups < 0), 2))
    return z * SCALE + OFFSET, groups


def f1_of_noise(labels, groups):
    """How well the rows of the noise are found."""
    return 2.0 * np.sum((labels == -1) & (groups == -1)) / (np.sum(labels == -1) + np.sum(groups == -1))
