"""The rows of all passes must be the same: each pass adds up a few numbers, which are compared with those of pass 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import ChangedRowsError
from gmm_dask.families import Statistics
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.holdout import Holdout
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import Rows

Array = NDArray[np.float64]

# relative to the sizes of the values: sums of the same rows, in other chunks or units, agree to better than this, and
# to the rounding of the rows where single precision is scaled
TOLERANCE = 1e-9
# of a component's sums in single precision, which were found to be off by up to 1e-8
SINGLE_TOLERANCE = 1e-6
# rows of a block, which stays in a core's cache: the sums took 0.4 to 0.9 ns a value on one thread, for 2 to 40 columns
BLOCK_ROWS = 4096
_ONES = np.ones(BLOCK_ROWS)


@dataclass(frozen=True, eq=False)
class RowSums:
    """Sums over the rows of a fit: their number, their weights, and those of the columns times the weights."""

    n_rows: int
    weight: float
    values: Array

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None, gaps: bool = False) -> RowSums:
        """Return the sums of rows (n_rows, n_features), with weights (n_rows,) or None.

        With ``gaps`` they are those of the values that are there; rows without any are none.
        """
        if gaps and not (present := np.isfinite(x)).all():
            valued = present.any(axis=1)
            x, w = np.where(present[valued], x[valued], 0.0), None if w is None else w[valued]
        values = np.zeros(x.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):  # rows that have changed may hold anything
            for start in range(0, len(x), BLOCK_ROWS):
                block = x[start : start + BLOCK_ROWS].astype(np.float64, copy=False)
                values += (_ONES[: len(block)] if w is None else w[start : start + BLOCK_ROWS]) @ block
            return cls(len(x), float(len(x)) if w is None else float(w.sum()), values)

    def __add__(self, other: RowSums) -> RowSums:
        with np.errstate(over="ignore", invalid="ignore"):
            return RowSums(self.n_rows + other.n_rows, self.weight + other.weight, self.values + other.values)


def check_rows(rows: Rows, data_summary: DataSummary) -> None:
    """Read the rows once, and raise :class:`ChangedRowsError` if they are not those of the data summary."""
    found: RowSums = map_reduce(rows, _sums_of_chunk, (rows.holdout, rows.gaps), "check-rows")
    require_unchanged(found, data_summary, rows.array.dtype)


def _sums_of_chunk(rows: Any, weights: Any, shared: tuple[Holdout | None, bool], number: int) -> RowSums:
    holdout, gaps = shared
    chunk = np.asarray(rows), None if weights is None else np.asarray(weights)
    x, w = chunk if holdout is None else holdout.fitted(chunk, number)
    return RowSums.of(x, w, gaps)


def require_unchanged(found: RowSums, data_summary: DataSummary, dtype: np.dtype[Any]) -> None:
    """Raise :class:`ChangedRowsError` if the sums of a pass over rows of a dtype are not those that pass 0 found."""
    if found.n_rows != data_summary.n_rows:
        raise ChangedRowsError(f"there were {data_summary.n_rows:,} of them, and now there are {found.n_rows:,}")
    tolerance = TOLERANCE + float(np.finfo(dtype).eps)
    weights = data_summary.total_weight if data_summary.gaps is None else data_summary.gaps.weights
    _require_sums(found.weight, found.values / weights, data_summary, TOLERANCE, tolerance)


def require_unchanged_statistics(
    statistics: Sequence[Statistics], rows: Rows, data_summary: DataSummary, dtype: np.dtype[Any]
) -> None:
    """Raise :class:`ChangedRowsError` if the statistics of a pass, in ``dtype``, are not of the rows that pass 0 found.

    A row's responsibilities add up to one, so the components' sums are those of all rows. If no model has finite ones,
    it is asked of another read whether the rows or the models are why.
    """
    for one in statistics:
        s0, s1, origins = one.s0, one.s1, one.origins
        if one.noise is not None:
            s0, s1 = np.append(s0, one.noise.s0), np.vstack([s1, one.noise.s1])
            origins = np.vstack([origins, one.noise.origin])
        moved = s0[:, None] * (origins - data_summary.center)
        sums = s1 + moved
        if math.isfinite(one.log_likelihood) and np.isfinite(sums).all():
            tolerance = SINGLE_TOLERANCE if dtype == np.float32 else TOLERANCE + float(np.finfo(rows.array.dtype).eps)
            means = data_summary.center + sums.sum(axis=0) / data_summary.total_weight
            moves = np.abs(moved).sum(axis=0) / data_summary.total_weight  # their rounding comes in
            _require_sums(float(s0.sum()), means, data_summary, tolerance, tolerance, moves)
            return
    check_rows(rows, data_summary)


def _require_sums(
    weight: float,
    means: Array,
    data_summary: DataSummary,
    of_weight: float,
    of_means: float,
    moves: Array | float = 0.0,
) -> None:
    """Compare with pass 0, up to these relative tolerances: of the total weight, and of the sizes of the columns.

    ``moves`` is added to the sizes: how far the means were moved to the origin of pass 0.
    """
    total, center = data_summary.total_weight, data_summary.center
    if not abs(weight - total) <= of_weight * total:  # nor NaN
        if total == data_summary.n_rows:
            raise ChangedRowsError(f"there were {total:,.0f} of them, and now there are {weight:,.0f}")
        raise ChangedRowsError(f"their weights added up to {total:.10g}, and now to {weight:.10g}")
    # of a constant column the scatter is rounding, of either sign
    variances = np.maximum(np.diagonal(data_summary.scatter), 0.0) / total
    size = np.abs(center) + np.sqrt(variances) + moves
    off = np.flatnonzero(~(np.abs(means - center) <= of_means * size))
    if len(off):
        i = int(off[0])
        raise ChangedRowsError(f"the mean of column {i} was {center[i]:.10g}, and now is {means[i]:.10g}")
