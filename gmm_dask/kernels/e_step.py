"""The E-step of a block: from log densities to responsibilities, of several mixtures at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from gmm_dask.kernels.compilation.jit import compiled
from gmm_dask.kernels.llvm.elementary import elementary
from gmm_dask.kernels.llvm.vectors import REGISTER_BYTES, Lanes, inlined, integer, matrices


@inlined
def _softmax_lanes(
    typing: Any,
    logits: Any,
    weights: Any,
    log_density: Any,
    log_top: Any,
    first: Any,
    stop: Any,
    mixture: Any,
    row: Any,
) -> Any:
    """The softmax of one mixture for as many rows as a register holds."""
    signature = types.void(logits, weights, log_density, log_top, *[types.intp] * 4)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (logits, weights, log_density, log_top), numbers = matrices(context, builder, signature, args)
        first, stop, mixture, row = numbers
        lanes = Lanes(builder, logits.scalar)
        functions = elementary(lanes)

        # log sum_k e^x_k = top + log sum_k e^(x_k - top), with top the largest: no exponential overflows, and the sum
        # is at least 1
        largest = lanes.variable(lanes.load(logits.at(first, row)))
        with cgutils.for_range_slice(builder, first, stop, integer(1)) as (k, _):
            x, known = lanes.load(logits.at(k, row)), builder.load(largest)
            builder.store(builder.select(builder.fcmp_ordered(">", x, known), x, known), largest)
        top = builder.load(largest)

        total = lanes.variable(lanes.constant(0.0))
        with cgutils.for_range_slice(builder, first, stop, integer(1)) as (k, _):
            share = functions.exponential(builder.fsub(lanes.load(logits.at(k, row)), top), lanes, builder)
            lanes.store(share, logits.at(k, row))
            builder.store(builder.fadd(builder.load(total), share), total)

        log_total = functions.logarithm(builder.load(total), lanes, builder)
        lanes.store(builder.fadd(top, log_total), log_density.at(mixture, row))
        # the largest responsibility is e^0 / total
        lanes.store(builder.fsub(lanes.constant(0.0), log_total), log_top.at(mixture, row))
        scale = builder.fdiv(lanes.load(weights.at(integer(0), row)), builder.load(total))
        with cgutils.for_range_slice(builder, first, stop, integer(1)) as (k, _):
            lanes.store(builder.fmul(lanes.load(logits.at(k, row)), scale), logits.at(k, row))
        return context.get_dummy_value()

    return signature, code


@compiled
def softmax(
    logits: NDArray[Any],
    edges: NDArray[np.int64],
    weights: NDArray[Any],
    log_density: NDArray[Any],
    log_top: NDArray[Any],
    n_rows: int,
) -> None:
    """Responsibilities from weighted log densities, in place.

    Parameters
    ----------
    logits : ndarray of shape (n_components, n_block_rows)
        ``log weight + log density``, of the components of one or several mixtures, float64 or float32; overwritten
        with the responsibilities, which sum to one over each mixture's components, times the rows' weights.
    edges : ndarray of shape (n_mixtures + 1,)
        Where each mixture's components begin, and where the last one's end.
    weights : ndarray of shape (n_block_rows,)
    log_density : ndarray of shape (n_mixtures, n_block_rows)
        Receives each mixture's log density of each row (log-sum-exp over its components).
    log_top : ndarray of shape (n_mixtures, n_block_rows)
        Receives the logarithm of each row's largest responsibility, without its weight.
    n_rows : int
        Rows in use; a multiple of ``REGISTER_BYTES`` bytes.
    """
    for mixture in range(len(edges) - 1):
        for row in range(0, n_rows, REGISTER_BYTES // logits.itemsize):
            _softmax_lanes(logits, weights, log_density, log_top, edges[mixture], edges[mixture + 1], mixture, row)
