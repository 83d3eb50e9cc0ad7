"""``scale``: columns less a centre, divided by a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.passes.data_summary import DataSummary
from pipeline.config.transforms import ScaleStep
from pipeline.transforms.base import Array, Transform, fitted_scaler, positions_of
from pipeline.transforms.onnx_graph import OnnxGraph

QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, eq=False)
class Scale(Transform):
    """Columns less a centre, divided by a scale.

    Attributes
    ----------
    center, scale : ndarray of shape (n_columns,)
        0 and 1 for columns that stay as they are.
    """

    center: Array
    scale: Array

    kind: ClassVar[str] = "scale"
    learns: ClassVar[bool] = True
    dimensions: ClassVar[Mapping[str, tuple[str, ...]]] = {"center": ("column",), "scale": ("column",)}

    @classmethod
    def fit(cls, settings: ScaleStep, names: Sequence[str], summary: DataSummary | None) -> Self:
        assert summary is not None
        columns = positions_of(settings.columns, names, cls.kind)
        found = _robust(summary) if settings.method == "robust" else _standard(summary)
        center, scale = np.zeros(len(names)), np.ones(len(names))
        center[columns], scale[columns] = found[0][columns], found[1][columns]
        # of a constant column rounding leaves a deviation that is not quite 0
        constant = (summary.minimum == summary.maximum) | ~(scale > 0.0)
        if named := [repr(names[i]) for i in columns.tolist() if constant[i]]:
            raise UserError(_constant(settings, ", ".join(named)))
        return cls(center, scale)

    @property
    def log_slope(self) -> float | None:
        return -float(np.log(self.scale).sum())

    def then(self, other: Scale) -> Scale:
        """Return this scaling and another one after it as one."""
        return Scale(self.center + other.center * self.scale, self.scale * other.scale)

    def labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        stays = (self.center == 0.0) & (self.scale == 1.0)
        return tuple(label if same else f"{self.kind}({label})" for label, same in zip(labels, stays, strict=True))

    def rows(self, x: Array) -> Array:
        return (x - self.center) / self.scale

    def undo(self, z: Array) -> Array:
        return z * self.scale + self.center

    def log_slopes(self, x: Array) -> Array | float:
        return -float(np.log(self.scale).sum())

    def log_slopes_of_values(self, x: Array) -> Array:
        return np.broadcast_to(-np.log(self.scale), x.shape)

    def check(self, n_columns: int) -> int:
        if not self.center.shape == self.scale.shape == (n_columns,):
            raise ValueError(f"center and scale are not of {n_columns} columns")
        if not np.isfinite(self.center).all():
            raise ValueError("center has values that are not finite")
        if not (np.isfinite(self.scale).all() and (self.scale > 0.0).all()):
            raise ValueError("scale has values that are not positive and finite")
        return n_columns

    def to_sklearn(self, n_columns: int, names: Sequence[str] | None = None) -> Any:
        return fitted_scaler(self.center, self.scale, names)

    def add_to_onnx(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Div", graph.add("Sub", x, graph.constant(self.center)), graph.constant(self.scale))

    def add_log_slopes_to_onnx(self, graph: OnnxGraph, x: str, n_columns: int) -> str | None:
        return None


def _standard(summary: DataSummary) -> tuple[Array, Array]:
    if summary.gaps is not None:
        return summary.center, np.sqrt(np.maximum(summary.gaps.variances, 0.0))
    return summary.center, np.sqrt(np.maximum(np.diag(summary.scatter), 0.0) / summary.total_weight)


def _robust(summary: DataSummary) -> tuple[Array, Array]:
    """Return the medians, and the ranges between the quartiles, of the sample of rows."""
    found = [_quartiles(column, summary.sample_weights) for column in summary.sample.T]
    low, middle, high = np.array(found).T
    return middle, high - low


def _quartiles(values: Array, weights: Array | None) -> Array:
    """Return the quartiles of the values that are there; NaN if none is."""
    there = np.isfinite(values)
    if not there.any():
        return np.full(3, np.nan)
    if weights is None:
        return np.quantile(values[there], QUARTILES)
    found: Array = np.quantile(values[there], QUARTILES, weights=weights[there], method="inverted_cdf")
    return found


def _constant(settings: ScaleStep, named: str) -> str:
    if settings.method == "robust":
        return (
            f"data.transform: scale (robust) finds no range between the quartiles of {named}, as half of the sampled "
            "rows or more have one value. Take scale: standard, or leave the column out by scale's columns."
        )
    if settings.key == "data.transform":
        return (
            f"data.transform: scale: the same value is in every row of {named} at that step, so that no scale makes "
            "the standard deviation one. Leave it out of data.columns, or name the others by scale's columns: "
            "{scale: {columns: [...]}}."
        )
    return (
        f"{settings.key}: the same value is in every row of {named}, so that no scale makes the standard deviation "
        f"one. Leave it out of data.columns, or set {settings.key}: none."
    )
