"""The E-step of a block: from log densities to responsibilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels

Array = NDArray[np.float64]


def responsibilities(logits: NDArray[Any], edges: NDArray[np.int64], weights: Array) -> tuple[Array, Array]:
    """Turn weighted log densities into responsibilities, in place.

    Parameters
    ----------
    logits : ndarray of shape (n_components, n_rows)
        ``log weight + log density``, of the components of one or several mixtures, float64 or float32; overwritten
        with the responsibilities, which sum to one over each mixture's components, times the rows' weights.
    edges : ndarray of shape (n_mixtures + 1,)
        Where each mixture's components begin, and where the last one's end.
    weights : ndarray of shape (n_rows,)

    Returns
    -------
    log_density : ndarray of shape (n_mixtures, n_rows)
        Each mixture's log density of each row (log-sum-exp over its components).
    log_top : ndarray of shape (n_mixtures, n_rows)
        The logarithm of each row's largest responsibility, without its weight.
    """
    shape = (len(edges) - 1, len(weights))
    top, total = np.empty(shape, logits.dtype), np.empty(shape, logits.dtype)
    kernels.softmax(logits, edges, weights.astype(logits.dtype, copy=False), top, total)
    log_total = np.log(total, dtype=np.float64)
    return top + log_total, -log_total
