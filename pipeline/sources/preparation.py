"""The preparation of rows for a fit, chunk by chunk as they are read: columns transformed, unusable rows dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.spurious import weights_warning
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.holdout import usable_rows
from pipeline.sources.repeats import repeat_notes
from pipeline.transforms import NO_TRANSFORM, Chain

Array = NDArray[np.float64]
Chunk = NDArray[np.floating[Any]]

# columns are reported as dependent if their squared correlation is this close to one: no more than rounding
DEPENDENT = 1e-12


@dataclass(frozen=True, eq=False)
class Preparation:
    """The preparation of a chunk between the read and the fit.

    Attributes
    ----------
    transform : Chain
        By which rows come to the units of the fit.
    drop : bool
        Whether rows that are not usable are dropped.
    gaps : bool
        Whether rows with any value are usable, instead of those with all.
    """

    transform: Chain = NO_TRANSFORM
    drop: bool = False
    gaps: bool = False

    def chunk(self, rows: Chunk, weights: Array | None = None) -> tuple[Chunk, Array | None]:
        """Return a chunk as it is fitted: transformed, and without unusable rows, if they are dropped."""
        rows = self.transform.rows(rows)
        if self.gaps and (infinite := np.isinf(rows)).any():  # missing as well, and NaN wherever rows are kept
            rows = np.where(infinite, rows.dtype.type(np.nan), rows)
        if self.drop:
            usable = usable_rows(rows, weights, gaps=self.gaps)
            if not usable.all():
                rows, weights = rows[usable], None if weights is None else weights[usable]
        return rows, weights


# -- constant and dependent columns ---------------------------------------------------------------


def missing_of(data_summary: DataSummary, columns: Sequence[str]) -> dict[str, Any]:
    """Return how many rows were dropped, and have gaps, and missing values by column, as the store holds them."""
    unusable, gaps = data_summary.unusable, data_summary.gaps
    counts = sum((one.columns for one in (unusable, gaps) if one), start=np.zeros(len(columns), dtype=np.int64))
    return {
        "rows": unusable.n_rows if unusable else 0,
        "columns": {name: count for name, count in zip(columns, counts.tolist(), strict=True) if count},
        **({"incomplete": gaps.n_rows} if gaps else {}),
    }


def column_notes(data_summary: DataSummary, columns: Sequence[str]) -> list[str]:
    """Return remarks of pass 0 about the columns: constant ones, those that depend on another, and what repeats."""
    constant = _constant(data_summary)
    notes = [
        f"the column {columns[i]!r} has the same value in every row ({data_summary.minimum[i]:g})" for i in constant
    ]
    unusable = data_summary.unusable
    if unusable:
        n_rows = sum(data_summary.read_rows)
        what = "have no value or no weight" if data_summary.gaps else "have missing or infinite values"
        notes.append(f"{unusable.n_rows:,} of {n_rows:,} rows {what} and are left out")
    if gaps := data_summary.gaps:
        notes.append(
            f"{gaps.n_rows:,} of {data_summary.n_rows:,} rows have gaps and take part with the values they have"
        )
    for i, j in _dependent(data_summary, constant):
        same = _is_same(data_summary, i, j)
        how = "is a duplicate of" if same else "is a linear function of"
        notes.append(f"the column {columns[j]!r} {how} {columns[i]!r}; leave one of them out")
    notes += repeat_notes(data_summary, columns)
    if said := weights_warning(data_summary.total_weight, data_summary.n_rows):
        notes.append(said[0].lower() + said[1:].rstrip("."))
    return notes


def _constant(data_summary: DataSummary) -> list[int]:
    return np.flatnonzero(data_summary.minimum == data_summary.maximum).tolist()


def _dependent(data_summary: DataSummary, constant: Sequence[int]) -> list[tuple[int, int]]:
    """Return each column that is perfectly correlated with an earlier one, after the first such column."""
    variances = np.diagonal(data_summary.scatter).copy()
    variances[list(constant)] = np.nan
    squared = data_summary.scatter**2 / np.outer(variances, variances)
    pairs = np.argwhere(np.triu(squared >= 1.0 - DEPENDENT, k=1))
    first: dict[int, int] = {}
    for i, j in pairs.tolist():
        first.setdefault(j, i)
    return [(i, j) for j, i in first.items()]


def _is_same(data_summary: DataSummary, i: int, j: int) -> bool:
    ends = np.array([data_summary.minimum, data_summary.maximum, data_summary.center])
    return bool(np.allclose(ends[:, i], ends[:, j], rtol=1e-12) and data_summary.scatter[i, j] > 0.0)
