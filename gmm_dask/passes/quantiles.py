"""Quantiles of numbers that are seen chunk by chunk: a histogram that chooses its own resolution.

Numbers are counted by the leading bits of their order among float64, and as many bits are kept as leave at most
:data:`MOST_BINS` bins in use. How many that are depends on the numbers alone, so merging is exactly associative and
commutative: the same numbers give the same sketch in any chunks, in any order, on any number of threads. Few enough
numbers are counted each by itself. (Sketches with a bound on the rank known beforehand, such as KLL, draw random
numbers, and t-digests depend on the order of their merges.)

A quantile is answered by an edge between bins. How many numbers lie below an edge is known exactly, and with it how
far the answer is from the rank that was asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_BINS = 1 << 15
_MANTISSA_AND_EXPONENT = np.int64(0x7FFF_FFFF_FFFF_FFFF)
_LOWEST = float(np.finfo(np.float64).min)


@dataclass(frozen=True, eq=False)
class Sketch:
    """How many numbers fall into each bin.

    Attributes
    ----------
    bins : ndarray of int64
        The bins in use, ascending: each number's ordinal among all float64, without its last ``shift`` bits.
    counts : ndarray of int64
    shift : int
        0 where each bin holds one number only.
    """

    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    shift: int

    def __add__(self, other: Sketch) -> Sketch:
        """The sketch of all the numbers of both."""
        shift = max(self.shift, other.shift)
        bins = np.concatenate([part.bins >> (shift - part.shift) for part in (self, other)])
        order = np.argsort(bins, kind="stable")
        return _coarsen(bins[order], np.concatenate([self.counts, other.counts])[order], shift)


@dataclass(frozen=True)
class Threshold:
    """An answer of a sketch: ``below`` of ``total`` numbers are smaller than ``value``."""

    value: float
    below: int
    total: int

    def rank_error(self, quantile: float) -> float:
        """How far the share of the numbers below the threshold is from the quantile that was asked for."""
        return abs(self.below / self.total - quantile) if self.total else 0.0


def sketch_values(values: Array) -> Sketch:
    """Count numbers, of any shape; NaN is none."""
    numbers = np.ravel(values)
    ordinals = np.sort(_ordinals(np.clip(numbers[~np.isnan(numbers)], _LOWEST, None)))
    return _coarsen(ordinals, np.ones(len(ordinals), dtype=np.int64), 0)


NO_VALUES = Sketch(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 0)


def find_threshold(sketch: Sketch, quantile: float) -> Threshold:
    """The edge between bins that has a share of the numbers below it that is nearest to ``quantile``."""
    total = int(sketch.counts.sum())
    if not total:
        return Threshold(_LOWEST, 0, 0)
    below = np.cumsum(sketch.counts) - sketch.counts
    nearest = int(np.abs(below - quantile * total).argmin())
    return Threshold(_edge(int(sketch.bins[nearest]) << sketch.shift), int(below[nearest]), total)


def _ordinals(numbers: Array) -> NDArray[np.int64]:
    """Integers in the same order as the numbers: the bits of a float64, turned around where it is negative."""
    bits: NDArray[np.int64] = (numbers + 0.0).view(np.int64)  # + 0.0: there is one zero only
    return np.where(bits < 0, bits ^ _MANTISSA_AND_EXPONENT, bits)


def _edge(ordinal: int) -> float:
    """The number of an ordinal, or the lowest there is."""
    at = np.array([max(ordinal, int(_ordinals(np.array([_LOWEST]))[0]))], dtype=np.int64)
    bits = np.where(at < 0, at ^ _MANTISSA_AND_EXPONENT, at)
    return float(bits.view(np.float64)[0])


def _coarsen(bins: NDArray[np.int64], counts: NDArray[np.int64], shift: int) -> Sketch:
    """A sketch of ascending bins that may come several times, with as many bits dropped as leave few enough."""
    # the number of bins in use never rises as bits are dropped, so that the fewest that suffice are found by bisection;
    # they depend on the numbers alone, not on the order in which sketches were merged
    fewer = bisect_left(range(64), True, key=lambda bits: _in_use(bins >> bits) <= MOST_BINS)
    coarse = bins >> fewer
    first = np.flatnonzero(np.diff(coarse, prepend=coarse[:1] - 1))
    return Sketch(coarse[first], np.add.reduceat(counts, first) if len(first) else counts, shift + fewer)


def _in_use(bins: NDArray[np.int64]) -> int:
    return 1 + int(np.count_nonzero(bins[1:] != bins[:-1]))
