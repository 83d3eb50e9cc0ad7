"""The rows of all passes must be the same: each pass adds up a few numbers, which are compared with those of pass 0."""

from __future__ import annotations

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
# rows of a block, which stays in a core's cache: the sums took 0.7 to 1.4 ns a value on one thread, for 2 to 40 columns
# (28 November 2026); to read a value and to fit one component to it takes some 6 ns
BLOCK_ROWS = 4096
_ONES = np.ones(BLOCK_ROWS)


@dataclass(frozen=True, eq=False)
class RowSums:
    """Sums over the rows of a fit: their number, their weights, and each column, (n_features,), times the weights."""

    n_rows: int
    weight: float
    columns: Array

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None) -> RowSums:
        """Return the sums of rows (n_rows, n_features), with weights (n_rows,) or None."""
        columns = np.zeros(x.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):  # rows that have changed may hold anything
            for start in range(0, len(x), BLOCK_ROWS):
                block = x[start : start + BLOCK_ROWS].astype(np.float64, copy=False)
                columns += (_ONES[: len(block)] if w is None else w[start : start + BLOCK_ROWS]) @ block
            return cls(len(x), float(len(x)) if w is None else float(w.sum()), columns)

    def __add__(self, other: RowSums) -> RowSums:
        with np.errstate(over="ignore", invalid="ignore"):
            return RowSums(self.n_rows + other.n_rows, self.weight + other.weight, self.columns + other.columns)


def check_rows(rows: Rows, data_summary: DataSummary) -> None:
    """Read the rows once, and raise :class:`ChangedRowsError` if they are not those of the data summary."""
    found: RowSums = map_reduce(rows, _sums_of_chunk, rows.holdout, "check-rows")
    require_unchanged(found, data_summary, rows.array.dtype)


def _sums_of_chunk(rows: Any, weights: Any, holdout: Holdout | None, number: int) -> RowSums:
    chunk = np.asarray(rows), None if weights is None else np.asarray(weights)
    return RowSums.of(*(chunk if holdout is None else holdout.fitted(chunk, number)))


def require_unchanged(found: RowSums, data_summary: DataSummary, dtype: np.dtype[Any]) -> None:
    """Raise :class:`ChangedRowsError` if the sums of a pass over rows of a dtype are not those that pass 0 found."""
    if found.n_rows != data_summary.n_rows:
        raise ChangedRowsError(f"there were {data_summary.n_rows:,} of them, and now there are {found.n_rows:,}")
    total, tolerance = data_summary.total_weight, TOLERANCE + float(np.finfo(dtype).eps)
    if not abs(found.weight - total) <= TOLERANCE * total:  # nor NaN
        raise ChangedRowsError(f"their weights added up to {total:.10g}, and now to {found.weight:.10g}")
    size = np.abs(data_summary.center) + np.sqrt(np.diagonal(data_summary.scatter) / total)
    means = found.columns / total
    off = np.flatnonzero(~(np.abs(means - data_summary.center) <= tolerance * size))
    if len(off):
        i = int(off[0])
        raise ChangedRowsError(f"the mean of column {i} was {data_summary.center[i]:.10g}, and now is {means[i]:.10g}")
