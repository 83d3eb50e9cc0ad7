"""How finely the data are resolved, and what repeats in them: rounded columns, frequent values, copies of rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.map_reduce import map_on_threads

Array = NDArray[np.float64]

# gaps between values below this share of the column's spread are no steps, but rounding errors of float32 and float64.
# A step so small does not matter: its square is far below the millionth of the variance that reg_covar adds anyway
NOISE = 1e-6
# the spread is that of the distinct values between these quantiles: a fill value, however large, has no part in it
BULK = (0.05, 0.95)
# a gap is a multiple of the step up to this share of the step, and most gaps are: a few values may be of finer steps
MULTIPLE = 0.05
MOST = 0.9


@dataclass(frozen=True, eq=False)
class Resolution:
    """What a sample of rows shows, the first five by column.

    Attributes
    ----------
    step : ndarray of shape (n_features,)
        What the column's values are rounded to, in its unit: the smallest gap between distinct values, if the others
        are multiples of it and a value repeats; 0 otherwise.
    spread : ndarray of shape (n_features,)
        Width of the central 90 % of the distinct values.
    ties : ndarray of shape (n_features,)
        Share of the rows whose value at least one other row has.
    frequent : ndarray of shape (n_features,)
        The most frequent value.
    frequent_share : ndarray of shape (n_features,)
        Share of the rows that have it.
    copies : float
        Share of the rows that equal an earlier row in every column.
    """

    step: Array
    spread: Array
    ties: Array
    frequent: Array
    frequent_share: Array
    copies: float

    @classmethod
    def of(cls, rows: Array) -> Self:
        """Return the resolution of rows (n_rows, n_features), which may have gaps; of no rows, zeros."""
        n_rows, n_features = rows.shape
        of_columns = np.array(list(map_on_threads(_of_column, list(rows.T)))).T if n_rows else np.zeros((5, n_features))
        step, spread, ties, frequent, frequent_share = of_columns
        # rows that differ from all others in one column are no copies
        return cls(step, spread, ties, frequent, frequent_share, _share_of_copies(rows) if ties.all() else 0.0)

    @property
    def distinct_share(self) -> float:
        """Share of the rows that are no copies; 1 where all columns are rounded, and rows are equal by chance."""
        return 1.0 if (self.step > 0.0).all() else 1.0 - self.copies

    def scaled(self, center: Array, scale: Array) -> Self:
        """Return the resolution of the rows ``(x - center) / scale``."""
        frequent = (self.frequent - center) / scale
        return type(self)(self.step / scale, self.spread / scale, self.ties, frequent, self.frequent_share, self.copies)

    def to_dict(self) -> dict[str, Any]:
        """Return it as numbers and lists, for a result store."""
        return {field.name: np.asarray(getattr(self, field.name)).tolist() for field in fields(self)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Return the resolution that :meth:`to_dict` was made from."""
        copies = float(stored["copies"])
        return cls(**{name: np.array(value) for name, value in stored.items() if name != "copies"}, copies=copies)


def _of_column(values: Array) -> tuple[float, float, float, float, float]:
    """Return step, spread, ties, frequent and frequent_share of the values (n_rows,) of a column."""
    values = values if (present := np.isfinite(values)).all() else values[present]
    if not len(values):
        return 0.0, 0.0, 0.0, 0.0, 0.0
    distinct, counts = _counted(values)
    low, high = _quantiles(distinct, BULK)
    is_tied, top = counts > 1, int(counts.argmax())
    return (
        _step(np.diff(distinct), float(high - low)) if is_tied.any() else 0.0,
        float(high - low),
        float(counts[is_tied].sum() / len(values)),
        float(distinct[top]),
        float(counts[top] / len(values)),
    )


def _counted(values: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return the distinct values, ascending, and how often each is there; as NumPy's, in half of the time."""
    ascending = np.sort(values)
    is_first = np.empty(len(ascending), dtype=bool)
    is_first[0] = True
    np.not_equal(ascending[1:], ascending[:-1], out=is_first[1:])
    firsts = np.flatnonzero(is_first)
    return ascending[firsts], np.diff(firsts, append=len(ascending))


def _quantiles(ascending: Array, shares: tuple[float, ...]) -> list[float]:
    """Return quantiles of ascending values, interpolated between two; as NumPy's, in a tenth of the time."""
    found = []
    for share in shares:
        place = share * (len(ascending) - 1)
        low = int(place)
        below, above = float(ascending[low]), float(ascending[min(low + 1, len(ascending) - 1)])
        t = place - low
        # from the nearer end, as NumPy does
        found.append(below + t * (above - below) if t < 0.5 else above - (above - below) * (1.0 - t))
    return found


def _step(gaps: Array, spread: float) -> float:
    """Return the step of a column from the gaps (n_gaps,) between its distinct values, and its spread."""
    gaps = gaps[gaps > NOISE * spread]
    if len(gaps) == 0:
        return 0.0
    step = float(gaps.min())
    multiples = gaps / step
    # values that are repeated without being rounded, such as those of copied rows, have gaps of any length
    is_multiple = np.abs(multiples - np.round(multiples)) < MULTIPLE
    return step if is_multiple.mean() > MOST else 0.0


def _share_of_copies(rows: Array) -> float:
    """Return the share of rows (n_rows, n_features) that equal an earlier one."""
    # a row's hash: its bits as integers, times odd numbers, added modulo 2^64. Of 262,144 distinct rows, two share a
    # hash about once in 10^8 samples; hashes are sorted much faster than rows
    bits = np.ascontiguousarray(rows + 0.0).view(np.uint64)  # + 0.0: minus zero is zero
    odd = np.random.Generator(np.random.Philox(0)).integers(0, 2**63, rows.shape[1], dtype=np.uint64)
    odd = odd * np.uint64(2) + np.uint64(1)
    mixed = bits ^ (bits >> np.uint64(32))  # doubles of few digits differ in their high bits alone
    return 1.0 - len(np.unique(mixed @ odd)) / len(rows)
