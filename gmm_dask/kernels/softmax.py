"""Softmax over the components of several mixtures, and the exponential that it needs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from gmm_dask.kernels.jit import compiled
from gmm_dask.kernels.lanes import REGISTER_BYTES, Lanes, inlined, integer, matrices


class Exponential(NamedTuple):
    """How e^x is computed for x <= 0: ``2^n e^r`` with x = n ln 2 + r and abs(r) <= ln 2 / 2.

    ``ln2`` is in two parts, so that n ln 2 is exact to twice the precision (Cody and Waite 1980). Adding ``round``
    rounds to the nearest integer, which then stands in the low bits. ``e^r`` is its Taylor polynomial of ``degree``,
    with a remainder under ``r^(degree + 1) / (degree + 1)! e^r``: 6e-18 in float64, 8e-9 in float32. From ``smallest``
    on e^x is a normal number; what is smaller becomes zero.
    """

    ln2: tuple[float, float]
    round: float
    degree: int
    smallest: float
    mantissa: int

    def of(self, x: Any, lanes: Lanes, builder: Any) -> Any:
        """Code for the exponential of a vector."""
        shifted = lanes.multiply_add(x, lanes.constant(1.0 / math.log(2.0)), lanes.constant(self.round))
        n = builder.fsub(shifted, lanes.constant(self.round))
        r = lanes.multiply_add(n, lanes.constant(-self.ln2[0]), x)
        r = lanes.multiply_add(n, lanes.constant(-self.ln2[1]), r)
        p = lanes.constant(1.0 / math.factorial(self.degree))
        for k in reversed(range(self.degree)):
            p = lanes.multiply_add(p, r, lanes.constant(1.0 / math.factorial(k)))
        power = builder.shl(lanes.as_integers(shifted), lanes.integer_constant(self.mantissa))
        scaled = lanes.as_floats(builder.add(lanes.as_integers(p), power))
        small = builder.fcmp_ordered("<", x, lanes.constant(self.smallest))
        return builder.select(small, lanes.constant(0.0), scaled)


DOUBLE = Exponential((6.93147180369123816490e-01, 1.90821492927058770002e-10), 6755399441055744.0, 13, -708.0, 52)
SINGLE = Exponential((0.693359375, -2.12194440e-4), 12582912.0, 7, -87.0, 23)


@inlined
def _softmax_lanes(
    typing: Any, logits: Any, weights: Any, top: Any, total: Any, first: Any, stop: Any, mixture: Any, row: Any
) -> Any:
    """The softmax of one mixture for as many rows as a register holds."""
    signature = types.void(logits, weights, top, total, *[types.intp] * 4)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (logits, weights, top, total), numbers = matrices(context, builder, signature, args)
        first, stop, mixture, row = numbers
        lanes = Lanes(builder, logits.scalar)
        exponential = DOUBLE if lanes.double else SINGLE

        largest = lanes.variable(lanes.load(logits.at(first, row)))
        with cgutils.for_range_slice(builder, first, stop, integer(1)) as (k, _):
            x, known = lanes.load(logits.at(k, row)), builder.load(largest)
            # written so that NaN is kept
            builder.store(builder.select(builder.fcmp_ordered("<=", x, known), known, x), largest)
        peak = builder.load(largest)

        sum_ = lanes.variable(lanes.constant(0.0))
        with cgutils.for_range_slice(builder, first, stop, integer(1)) as (k, _):
            share = exponential.of(builder.fsub(lanes.load(logits.at(k, row)), peak), lanes, builder)
            lanes.store(share, logits.at(k, row))
            builder.store(builder.fadd(builder.load(sum_), share), sum_)

        lanes.store(peak, top.at(mixture, row))
        lanes.store(builder.load(sum_), total.at(mixture, row))
        scale = builder.fdiv(lanes.load(weights.at(integer(0), row)), builder.load(sum_))
        with cgutils.for_range_slice(builder, first, stop, integer(1)) as (k, _):
            lanes.store(builder.fmul(lanes.load(logits.at(k, row)), scale), logits.at(k, row))
        return context.get_dummy_value()

    return signature, code


@compiled
def softmax(
    logits: NDArray[Any], edges: NDArray[np.int64], weights: NDArray[Any], top: NDArray[Any], total: NDArray[Any]
) -> None:
    """Responsibilities from weighted log densities, in place.

    Parameters
    ----------
    logits : ndarray of shape (n_components, n_rows)
        Of the components of all mixtures; overwritten with the responsibilities times the rows' weights. Float64 or
        float32; ``n_rows`` is a multiple of ``REGISTER_BYTES``.
    edges : ndarray of shape (n_mixtures + 1,)
        Where each mixture's components begin, and where the last one's end.
    weights : ndarray of shape (n_rows,)
    top, total : ndarray of shape (n_mixtures, n_rows)
        Receive each row's largest logit, and its sum of ``exp(logit - top)``.
    """
    for mixture in range(len(edges) - 1):
        for row in range(0, logits.shape[1], REGISTER_BYTES // logits.itemsize):
            _softmax_lanes(logits, weights, top, total, edges[mixture], edges[mixture + 1], mixture, row)
