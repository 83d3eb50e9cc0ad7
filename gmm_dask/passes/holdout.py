"""Which rows take part in a fit: those that are usable and not held out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# rows of a chunk (n_rows, n_features), with their weights (n_rows,) or None
Weighted = tuple[NDArray[np.floating[Any]], Array | None]

# where chunks begin that are numbered only, apart from each other by more rows than any has
APART = 1 << 40
# the key's second half, one for each use of a seed; of resamples and of columns that are filled, for the first of them
SAMPLING, HOLDING_OUT, RESAMPLING, FILLING = 0, 1, 2, 1 << 32


def usable_rows(
    rows: NDArray[np.floating[Any]], weights: Array | None = None, *, gaps: bool = False
) -> NDArray[np.bool_]:
    """Which rows, (n_rows, n_features), have finite numbers only, or with ``gaps`` any; and a finite weight."""
    finite = np.isfinite(rows)
    usable = np.ones(len(rows), dtype=bool)
    if not finite.all():
        usable = finite.any(axis=1) if gaps else finite.all(axis=1)
    return usable if weights is None else usable & np.isfinite(weights)


def random_by_row(seed: int, use: int, starts: tuple[int, ...] | None, number: int, n_rows: int) -> Array:
    """A random number between 0 and 1 for each row of a chunk, by the row's number among all rows.

    How the rows are cut into chunks does not matter. Where the chunks' first rows, ``starts``, are not known, chunks
    are numbered far apart.
    """
    start = number * APART if starts is None else starts[number]
    # the generator makes four numbers for each value of its counter
    block, skipped = divmod(start, 4)
    stream = np.random.Philox(key=np.array([seed, use], dtype=np.uint64), counter=block)
    return np.random.Generator(stream).random(skipped + n_rows)[skipped:]


@dataclass(frozen=True)
class Holdout:
    """Which rows are held out of a fit: a random choice by each row's number among all rows.

    Attributes
    ----------
    share : float
        Probability of a row to be held out.
    seed : int
    starts : tuple of int, or None
        Number of each chunk's first row; None if unknown.
    drop : bool
        Whether rows that are not usable are left out.
    gaps : bool
        Whether rows with any value are usable, instead of those with all.
    """

    share: float
    seed: int
    starts: tuple[int, ...] | None
    drop: bool = False
    gaps: bool = False

    def is_held_out(self, number: int, n_rows: int) -> NDArray[np.bool_]:
        """Which rows of a chunk, by its number, are held out."""
        return random_by_row(self.seed, HOLDING_OUT, self.starts, number, n_rows) < self.share

    def positions(self, chunk: Weighted, number: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where the rows of a chunk are that are fitted, and those that are held out."""
        held_out = self.is_held_out(number, len(chunk[0]))
        usable = usable_rows(*chunk, gaps=self.gaps) if self.drop else np.ones(len(held_out), dtype=bool)
        return np.flatnonzero(usable & ~held_out), np.flatnonzero(usable & held_out)

    def split(self, chunk: Weighted, number: int) -> tuple[Weighted, Weighted]:
        """The rows of a chunk that are fitted, and those that are held out."""
        held_out = self.is_held_out(number, len(chunk[0]))
        return self._take(chunk, ~held_out), self._take(chunk, held_out)

    def fitted(self, chunk: Weighted, number: int) -> Weighted:
        """The rows of a chunk that are fitted."""
        return self._take(chunk, ~self.is_held_out(number, len(chunk[0])))

    def _take(self, chunk: Weighted, chosen: NDArray[np.bool_]) -> Weighted:
        rows, weights = chunk
        if self.drop:
            chosen = chosen & usable_rows(rows, weights, gaps=self.gaps)
        # taken by position, rows are copied nearly twice as fast as by a mask
        positions = np.flatnonzero(chosen)
        return rows.take(positions, axis=0), None if weights is None else weights[positions]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The rows that are held out of a fit, all together.

    Attributes
    ----------
    n_rows : int
    total_weight : float
    center : ndarray of shape (n_features,)
        Weighted mean, in which a missing value counts as 0.
    log_scale : float
        What a log density of theirs has too much, on average: as :attr:`DataSummary.log_scale`.
    weights : ndarray of shape (n_features,), or None
        Total weight of the rows that have the column; None if no value is missing.
    """

    n_rows: int
    total_weight: float
    center: Array
    log_scale: float = 0.0
    weights: Array | None = None

    @property
    def gaps(self) -> bool:
        """Whether any of their values is missing."""
        return self.weights is not None

    @property
    def column_weights(self) -> Array:
        """Total weight of the rows that have a column, (n_features,)."""
        return np.full(len(self.center), self.total_weight) if self.weights is None else self.weights

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None) -> HeldOut:
        """Those of a chunk: rows (n_rows, n_features), and weights (n_rows,) or None."""
        total = float(len(x)) if w is None else float(w.sum())
        weights = None
        if not (present := np.isfinite(x)).all():
            weights = (np.ones(len(x)) if w is None else w) @ present
            x = np.where(present, x, 0.0)
        with np.errstate(over="ignore", invalid="ignore"):  # values that overflow are refused by name, in the end
            sums = x.sum(axis=0, dtype=np.float64) if w is None else w @ x
        return cls(len(x), total, sums / total if total else np.zeros(x.shape[1]), weights=weights)

    def __add__(self, other: HeldOut) -> HeldOut:
        weight = self.total_weight + other.total_weight
        share = other.total_weight / weight if weight else 0.0
        center = self.center + (other.center - self.center) * share
        weights = self.column_weights + other.column_weights if self.gaps or other.gaps else None
        return HeldOut(self.n_rows + other.n_rows, weight, center, weights=weights)
