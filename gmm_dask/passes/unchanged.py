"""The rows of all passes must be the same: each pass adds up a few numbers, which are compared with those of pass 0."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import ChangedRowsError
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.holdout import Holdout
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import Rows

Array = NDArray[np.float64]

# relative to the sizes of the values: sums of the same rows, in other chunks or units, agree to better than this, and
# to the rounding of the rows where single precision is scaled
TOLERANCE = 1e-9
# rows of a block, which stays in a core's cache: the sums took 0.4 to 0.9 ns a value on one thread, for 2 to 40 columns
# (28 November 2026), up to a third of what a small mixture takes. So a pass of a fit adds up two columns, at 2 to 4 ns
# a row, each pass the next two, and only the final pass all
BLOCK_ROWS = 4096
COLUMNS = 2
ALL = slice(None)
_ONES = np.ones(BLOCK_ROWS)

_turns = itertools.count()


def columns_in_turn(n_features: int) -> slice:
    """Return the columns that a pass adds up: two, and the next two when it is called again."""
    first = COLUMNS * (next(_turns) % -(-n_features // COLUMNS))
    return slice(first, first + COLUMNS)


@dataclass(frozen=True, eq=False)
class RowSums:
    """Sums over the rows of a fit: their number, their weights, and those of some ``columns`` times the weights."""

    n_rows: int
    weight: float
    columns: slice
    values: Array

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None, columns: slice) -> RowSums:
        """Return the sums of rows (n_rows, n_features), with weights (n_rows,) or None."""
        values = np.zeros(x[:0, columns].shape[1])
        with np.errstate(over="ignore", invalid="ignore"):  # rows that have changed may hold anything
            for start in range(0, len(x), BLOCK_ROWS):
                block = x[start : start + BLOCK_ROWS, columns].astype(np.float64, copy=False)
                values += (_ONES[: len(block)] if w is None else w[start : start + BLOCK_ROWS]) @ block
            return cls(len(x), float(len(x)) if w is None else float(w.sum()), columns, values)

    def __add__(self, other: RowSums) -> RowSums:
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.values + other.values
            return RowSums(self.n_rows + other.n_rows, self.weight + other.weight, self.columns, values)


def check_rows(rows: Rows, data_summary: DataSummary) -> None:
    """Read the rows once, and raise :class:`ChangedRowsError` if they are not those of the data summary."""
    found: RowSums = map_reduce(rows, _sums_of_chunk, rows.holdout, "check-rows")
    require_unchanged(found, data_summary, rows.array.dtype)


def _sums_of_chunk(rows: Any, weights: Any, holdout: Holdout | None, number: int) -> RowSums:
    chunk = np.asarray(rows), None if weights is None else np.asarray(weights)
    x, w = chunk if holdout is None else holdout.fitted(chunk, number)
    return RowSums.of(x, w, ALL)


def require_unchanged(found: RowSums, data_summary: DataSummary, dtype: np.dtype[Any]) -> None:
    """Raise :class:`ChangedRowsError` if the sums of a pass over rows of a dtype are not those that pass 0 found."""
    if found.n_rows != data_summary.n_rows:
        raise ChangedRowsError(f"there were {data_summary.n_rows:,} of them, and now there are {found.n_rows:,}")
    total, tolerance = data_summary.total_weight, TOLERANCE + float(np.finfo(dtype).eps)
    if not abs(found.weight - total) <= TOLERANCE * total:  # nor NaN
        raise ChangedRowsError(f"their weights added up to {total:.10g}, and now to {found.weight:.10g}")
    center = data_summary.center[found.columns]
    size = np.abs(center) + np.sqrt(np.diagonal(data_summary.scatter)[found.columns] / total)
    means = found.values / total
    off = np.flatnonzero(~(np.abs(means - center) <= tolerance * size))
    if len(off):
        i = int(off[0])
        raise ChangedRowsError(
            f"the mean of column {i + (found.columns.start or 0)} was {center[i]:.10g}, and now is {means[i]:.10g}"
        )
