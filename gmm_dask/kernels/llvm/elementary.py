"""Exponential and logarithm of vectors, for the softmax."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gmm_dask.kernels.llvm.vectors import Lanes


class Elementary(NamedTuple):
    """Exponential and logarithm in one precision.

    Attributes
    ----------
    mantissa, bias : int
        Of the floating point format: bits of the mantissa, exponent that stands for 2^0.
    ln2 : tuple of float
        ln 2 in two parts, so that its multiples are exact to twice the precision (Cody and Waite 1980).
    smallest : float
        From here on e^x is a normal number; what is smaller becomes zero.
    degree : int
        Of the Taylor polynomial of e^r, abs(r) <= ln 2 / 2; its remainder is under r^(degree + 1) / (degree + 1)! e^r,
        6e-18 in double and 8e-9 in single precision.
    terms : int
        Of the series of log m = 2 atanh s = 2 s (1 + s^2 / 3 + s^4 / 5 + ...), s = (m - 1) / (m + 1), for m between
        sqrt(1/2) and sqrt(2), where s^2 < 0.0295; the first one left out is under 7e-18 and 4e-9 of it.
    """

    mantissa: int
    bias: int
    ln2: tuple[float, float]
    smallest: float
    degree: int
    terms: int

    def exponential(self, x: Any, lanes: Lanes, builder: Any) -> Any:
        """e^x for x <= 0, as ``2^n e^r`` with x = n ln 2 + r."""
        # adding it rounds to the nearest integer, which then stands in the low bits
        rounding = lanes.constant(1.5 * 2.0**self.mantissa)
        shifted = lanes.multiply_add(x, lanes.constant(1.0 / math.log(2.0)), rounding)
        n = builder.fsub(shifted, rounding)
        # n ln2[0] is exact, as ln2[0] ends in zeros, and ln2[1] brings the digits that it lacks: r keeps full precision
        r = lanes.multiply_add(n, lanes.constant(-self.ln2[0]), x)
        r = lanes.multiply_add(n, lanes.constant(-self.ln2[1]), r)
        p = _polynomial([1.0 / math.factorial(k) for k in range(self.degree + 1)], r, lanes)
        # times 2^n by adding n to the exponent's bits
        power = builder.shl(lanes.as_integers(shifted), lanes.integer_constant(self.mantissa))
        scaled = lanes.as_floats(builder.add(lanes.as_integers(p), power))
        small = builder.fcmp_ordered("<", x, lanes.constant(self.smallest))
        return builder.select(small, lanes.constant(0.0), scaled)

    def logarithm(self, x: Any, lanes: Lanes, builder: Any) -> Any:
        """log x for a normal number x, as ``n ln 2 + log m``; NaN of NaN."""
        bits, large = lanes.as_integers(x), 2.0**self.mantissa
        exponent = builder.lshr(bits, lanes.integer_constant(self.mantissa))
        # an integer in the low bits of a large power of two is added to it
        n = lanes.as_floats(builder.or_(exponent, lanes.as_integers(lanes.constant(large))))
        n = builder.fsub(n, lanes.constant(large + self.bias))
        fraction = builder.and_(bits, lanes.integer_constant((1 << self.mantissa) - 1))
        m = lanes.as_floats(builder.or_(fraction, lanes.as_integers(lanes.constant(1.0))))
        # m between sqrt(1/2) and sqrt(2) keeps s small, and the logarithm near 0 where x is near 1
        high = builder.fcmp_ordered(">", m, lanes.constant(math.sqrt(2.0)))
        m = builder.select(high, builder.fmul(m, lanes.constant(0.5)), m)
        n = builder.select(high, builder.fadd(n, lanes.constant(1.0)), n)
        one = lanes.constant(1.0)
        s = builder.fdiv(builder.fsub(m, one), builder.fadd(m, one))
        p = _polynomial([2.0 / (2 * k + 1) for k in range(self.terms)], builder.fmul(s, s), lanes)
        low = lanes.multiply_add(n, lanes.constant(self.ln2[1]), builder.fsub(x, x))
        return lanes.multiply_add(n, lanes.constant(self.ln2[0]), lanes.multiply_add(s, p, low))


def _polynomial(coefficients: list[float], x: Any, lanes: Lanes) -> Any:
    """``c_0 + c_1 x + c_2 x^2 + ...`` in Horner's order."""
    *rest, last = coefficients
    value = lanes.constant(last)
    for coefficient in reversed(rest):
        value = lanes.multiply_add(value, x, lanes.constant(coefficient))
    return value


_DOUBLE = Elementary(52, 1023, (6.93147180369123816490e-01, 1.90821492927058770002e-10), -708.0, 13, 11)
_SINGLE = Elementary(23, 127, (0.693359375, -2.12194440e-4), -87.0, 7, 5)


def elementary(lanes: Lanes) -> Elementary:
    """The functions for vectors of one element type."""
    return _DOUBLE if lanes.double else _SINGLE
