"""The E-step of a block: from log densities to responsibilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def responsibilities(logits: Array) -> tuple[Array, Array]:
    """Turn weighted log densities into responsibilities, in place.

    Parameters
    ----------
    logits : ndarray of shape (..., n_components, n_rows)
        ``log weight + log density`` of one or several mixtures; overwritten with the responsibilities, which sum to
        one over each mixture's components.

    Returns
    -------
    log_density : ndarray of shape (..., n_rows)
        The mixture's log density of each row (log-sum-exp over the components).
    log_top : ndarray of shape (..., n_rows)
        The logarithm of each row's largest responsibility.
    """
    top = logits.max(axis=-2, keepdims=True)
    logits -= top
    np.exp(logits, out=logits)
    total = logits.sum(axis=-2, keepdims=True)
    logits /= total
    log_total = np.log(total)
    return (top + log_total)[..., 0, :], -log_total[..., 0, :]
