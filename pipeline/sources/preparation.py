"""Rows made ready for a fit, chunk by chunk as they are read: unusable ones left out, columns scaled."""

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

Array = NDArray[np.float64]
Chunk = NDArray[np.floating[Any]]

# columns are called dependent if their squared correlation is this close to one: rounding, and no more
DEPENDENT = 1e-12


@dataclass(frozen=True, eq=False)
class Preparation:
    """What happens to a chunk between the read and the fit.

    Attributes
    ----------
    center, scale : ndarray of shape (n_features,), or None
        Rows are fitted as ``(x - center) / scale``; None where they are fitted as they are.
    drop : bool
        Whether rows that are not usable are left out.
    """

    center: Array | None = None
    scale: Array | None = None
    drop: bool = False

    @property
    def log_scale(self) -> float:
        """What a log density in fitted units has more than in the user's: the sum of the scales' logarithms."""
        return 0.0 if self.scale is None else float(np.log(self.scale).sum())

    def usable(self, rows: Chunk, weights: Array | None = None) -> NDArray[np.bool_]:
        """Which rows, (n_rows, n_features), have finite numbers only, their weight included."""
        usable: NDArray[np.bool_] = usable_rows(rows, weights)
        return usable

    def rows(self, rows: Chunk) -> Chunk:
        """Rows in fitted units, as (n_rows, n_features) of the same dtype: float32 stays float32."""
        if self.center is None or self.scale is None:
            return rows
        scaled = np.empty_like(rows)
        for start in range(0, len(rows), 8192):  # in blocks: no float64 copy of a chunk of float32
            part = slice(start, start + 8192)
            scaled[part] = (rows[part] - self.center) / self.scale
        return scaled

    def chunk(self, rows: Chunk, weights: Array | None = None) -> tuple[Chunk, Array | None]:
        """A chunk as it is fitted: without unusable rows, if they are dropped, and scaled."""
        if self.drop:
            usable = self.usable(rows, weights)
            if not usable.all():
                rows, weights = rows[usable], None if weights is None else weights[usable]
        return self.rows(rows), weights


def preparation_of(data: DataConfig, contents: Mapping[str, Any]) -> Preparation:
    """The preparation that a configuration asks for; ``contents`` is what pass 0 found, as the store holds it."""
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
        log_scale=preparation.log_scale,
        held_out=held_out and replace(held_out, center=(held_out.center - center) / scale),
    )


# -- columns that tell nothing, or nothing new ---------------------------------------------------------------


def require_varying(data_summary: DataSummary, columns: Sequence[str]) -> None:
    """Raise :class:`UserError` if a column that is to be scaled has one value only."""
    constant = [columns[i] for i in _constant(data_summary)]
    if constant:
        raise UserError(
            f"data.scale: {_listed(constant)} the same value in every row, so that no scale makes the standard "
            "deviation one. Leave it out of data.columns, or take data.scale: none."
        )


def missing_of(data_summary: DataSummary, columns: Sequence[str]) -> dict[str, Any]:
    """Rows that were left out, and how many values each column lacks, as the store holds them."""
    unusable = data_summary.unusable
    if unusable is None:
        return {"rows": 0, "columns": {}}
    counts = dict(zip(columns, unusable.columns.tolist(), strict=True))
    return {"rows": unusable.n_rows, "columns": {name: count for name, count in counts.items() if count}}


def column_notes(data_summary: DataSummary, columns: Sequence[str]) -> list[str]:
    """What pass 0 noticed about columns: those of one value, and those that follow from another."""
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
    if said := weights_warning(data_summary.total_weight, data_summary.n_rows):
        notes.append(said[0].lower() + said[1:].rstrip("."))
    return notes


def _constant(data_summary: DataSummary) -> list[int]:
    return np.flatnonzero(data_summary.minimum == data_summary.maximum).tolist()


def _dependent(data_summary: DataSummary, constant: Sequence[int]) -> list[tuple[int, int]]:
    """Each column that is perfectly correlated with an earlier one, and the first such."""
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


def _listed(names: Sequence[str]) -> str:
    words = ", ".join(map(repr, names))
    return f"the column {words} has" if len(names) == 1 else f"the columns {words} have"
