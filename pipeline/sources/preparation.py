"""The preparation of rows for a fit, chunk by chunk as they are read: unusable rows dropped, columns scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.spurious import weights_warning
from gmm_dask.errors import UserError
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.holdout import usable_rows
from pipeline.config.data import DataConfig
from pipeline.sources.repeats import repeat_notes

Array = NDArray[np.float64]
Chunk = NDArray[np.floating[Any]]

# columns are reported as dependent if their squared correlation is this close to one: no more than rounding
DEPENDENT = 1e-12


@dataclass(frozen=True, eq=False)
class Preparation:
    """The preparation of a chunk between the read and the fit.

    Attributes
    ----------
    center, scale : ndarray of shape (n_features,), or None
        Rows are fitted as ``(x - center) / scale``; None where they are fitted as they are.
    drop : bool
        Whether rows that are not usable are dropped.
    """

    center: Array | None = None
    scale: Array | None = None
    drop: bool = False

    @property
    def log_scale(self) -> float:
        """The log density in fitted units minus that in the user's units: the sum of the scales' logarithms."""
        return 0.0 if self.scale is None else float(np.log(self.scale).sum())

    def rows(self, rows: Chunk) -> Chunk:
        """Return rows in fitted units, (n_rows, n_features), of the same dtype: float32 stays float32."""
        if self.center is None or self.scale is None:
            return rows
        scaled = np.empty_like(rows)
        for start in range(0, len(rows), 8192):  # in blocks: no float64 copy of a chunk of float32
            part = slice(start, start + 8192)
            scaled[part] = (rows[part] - self.center) / self.scale
        return scaled

    def chunk(self, rows: Chunk, weights: Array | None = None) -> tuple[Chunk, Array | None]:
        """Return a chunk as it is fitted: without unusable rows, if they are dropped, and scaled."""
        if self.drop:
            usable = usable_rows(rows, weights)
            if not usable.all():
                rows, weights = rows[usable], None if weights is None else weights[usable]
        return self.rows(rows), weights


def preparation_of(data: DataConfig, contents: Mapping[str, Any]) -> Preparation:
    """Return the preparation that a configuration sets, with ``contents``, the results of pass 0 as stored."""
    drop = data.missing == "drop"
    if data.scale == "none":
        return Preparation(drop=drop)
    return Preparation(np.array(contents["means"]), np.array(contents["deviations"]), drop)


def scaled_summary(data_summary: DataSummary, preparation: Preparation) -> DataSummary:
    """The data summary in fitted units, without a second read: pass 0 of the scaled rows would find the same."""
    center, scale = preparation.center, preparation.scale
    if center is None or scale is None:
        return data_summary
    held_out = data_summary.held_out
    return replace(
        data_summary,
        center=(data_summary.center - center) / scale,
        scatter=data_summary.scatter / np.outer(scale, scale),
        minimum=(data_summary.minimum - center) / scale,
        maximum=(data_summary.maximum - center) / scale,
        sample=(data_summary.sample - center) / scale,
        known_resolution=data_summary.resolution.scaled(center, scale),
        log_scale=preparation.log_scale,
        held_out=held_out and replace(held_out, center=(held_out.center - center) / scale),
    )


# -- constant and dependent columns ---------------------------------------------------------------


def require_varying(data_summary: DataSummary, columns: Sequence[str]) -> None:
    """Raise :class:`UserError` if a column that is to be scaled has one value only."""
    constant = [repr(columns[i]) for i in _constant(data_summary)]
    if constant:
        raise UserError(
            f"data.scale: the same value is in every row of {', '.join(constant)}, so that no scale makes the standard "
            "deviation one. Leave it out of data.columns, or set data.scale: none."
        )


def missing_of(data_summary: DataSummary, columns: Sequence[str]) -> dict[str, Any]:
    """Return the number of rows that were dropped, and of missing values by column, as the store holds them."""
    unusable = data_summary.unusable
    if unusable is None:
        return {"rows": 0, "columns": {}}
    counts = dict(zip(columns, unusable.columns.tolist(), strict=True))
    return {"rows": unusable.n_rows, "columns": {name: count for name, count in counts.items() if count}}


def column_notes(data_summary: DataSummary, columns: Sequence[str]) -> list[str]:
    """Return remarks of pass 0 about the columns: constant ones, those that depend on another, and what repeats."""
    constant = _constant(data_summary)
    notes = [
        f"the column {columns[i]!r} has the same value in every row ({data_summary.minimum[i]:g})" for i in constant
    ]
    unusable = data_summary.unusable
    if unusable:
        n_rows = sum(data_summary.read_rows)
        notes.append(f"{unusable.n_rows:,} of {n_rows:,} rows have missing or infinite values and are left out")
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
