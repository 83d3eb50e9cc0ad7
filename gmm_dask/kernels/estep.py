"""The E-step of a block: from log densities to responsibilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.softmax import softmax

Array = NDArray[np.float64]


def responsibilities(logits: Array, edges: NDArray[np.int64], weights: Array) -> tuple[Array, Array]:
    """Turn weighted log densities into responsibilities, in place.

    Parameters
    ----------
    logits : ndarray of shape (n_components, n_rows)
        ``log weight + log density``, of the components of one or several mixtures; overwritten with the
        responsibilities, which sum to one over each mixture's components, times the rows' weights.
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
    top, total = np.empty((len(edges) - 1, len(weights))), np.empty((len(edges) - 1, len(weights)))
    softmax(logits, edges, weights, top, total)
    log_total = np.log(total)
    return top + log_total, -log_total
