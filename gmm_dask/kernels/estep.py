"""The E-step of a block: from log densities to responsibilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.softmax import softmax

Array = NDArray[np.float64]


def responsibilities(logits: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Turn weighted log densities into responsibilities, in place.

    Parameters
    ----------
    logits : ndarray of shape (n_mixtures, n_components, n_rows)
        ``log weight + log density`` of several mixtures; overwritten with the responsibilities, which sum to one over
        each mixture's components, times the rows' weights.
    weights : ndarray of shape (n_rows,), or None for ones

    Returns
    -------
    log_density : ndarray of shape (n_mixtures, n_rows)
        Each mixture's log density of each row (log-sum-exp over its components).
    log_top : ndarray of shape (n_mixtures, n_rows)
        The logarithm of each row's largest responsibility, without its weight.
    """
    n_mixtures, _, n_rows = logits.shape
    top, total = np.empty((n_mixtures, n_rows)), np.empty((n_mixtures, n_rows))
    softmax(logits, np.ones(n_rows) if weights is None else weights, top, total)
    log_total = np.log(total)
    return top + log_total, -log_total
