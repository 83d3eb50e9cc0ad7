"""Softmax over the components of several mixtures, in SIMD lanes along the rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.jit import compiled

Array = NDArray[np.float64]

LOG2_E = 1.4426950408889634
# ln 2 in two parts, so that n ln 2 is exact to twice the precision for |n| < 2^11 (Cody and Waite 1980)
LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10
# adding it rounds to the nearest integer, which then stands in the low bits
ROUND = 6755399441055744.0
# e^x is a normal number from here on; what is smaller becomes zero
SMALLEST = -708.0


@compiled
def softmax(logits: Array, edges: NDArray[np.int64], weights: Array, top: Array, total: Array) -> None:
    """Responsibilities from weighted log densities, in place.

    The exponential is ``2^n e^r`` with x = n ln 2 + r and abs(r) <= ln 2 / 2, and e^r its Taylor polynomial of degree
    13, whose remainder is under r^14 / 14! e^r < 6e-18.

    Parameters
    ----------
    logits : ndarray of shape (n_components, n_rows)
        Of the components of all mixtures; overwritten with the responsibilities times the rows' weights.
    edges : ndarray of shape (n_mixtures + 1,)
        Where each mixture's components begin, and where the last one's end.
    weights : ndarray of shape (n_rows,)
    top, total : ndarray of shape (n_mixtures, n_rows)
        Receive each row's largest logit, and its sum of ``exp(logit - top)``.
    """
    bits = logits.view(np.int64)
    n_rows = logits.shape[1]
    scale = np.empty(n_rows)
    for m in range(len(edges) - 1):
        for i in range(n_rows):
            top[m, i] = logits[edges[m], i]
            total[m, i] = 0.0
        for k in range(edges[m] + 1, edges[m + 1]):
            for i in range(n_rows):
                # written so that NaN is kept
                top[m, i] = top[m, i] if logits[k, i] <= top[m, i] else logits[k, i]
        for k in range(edges[m], edges[m + 1]):
            for i in range(n_rows):
                x = logits[k, i] - top[m, i]
                n = (x * LOG2_E + ROUND) - ROUND
                r = (x - n * LN2_HIGH) - n * LN2_LOW
                p = 1.6059043836821613e-10
                p = p * r + 2.08767569878681e-09
                p = p * r + 2.505210838544172e-08
                p = p * r + 2.755731922398589e-07
                p = p * r + 2.7557319223985893e-06
                p = p * r + 2.48015873015873e-05
                p = p * r + 1.984126984126984e-04
                p = p * r + 1.388888888888889e-03
                p = p * r + 8.333333333333333e-03
                p = p * r + 4.1666666666666664e-02
                p = p * r + 1.6666666666666666e-01
                p = p * r + 0.5
                p = p * r + 1.0
                p = p * r + 1.0
                logits[k, i] = 0.0 if x < SMALLEST else p
                bits[k, i] += 0 if x < SMALLEST else np.int64(n) << 52
        for k in range(edges[m], edges[m + 1]):
            for i in range(n_rows):
                total[m, i] += logits[k, i]
        for i in range(n_rows):
            scale[i] = weights[i] / total[m, i]
        for k in range(edges[m], edges[m + 1]):
            for i in range(n_rows):
                logits[k, i] *= scale[i]
