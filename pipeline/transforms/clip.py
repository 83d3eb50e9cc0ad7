"""``clip``: values beyond an end become the end, as of saturated sensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from gmm_dask.passes.data_summary import DataSummary
from pipeline.config.transforms import ClipStep
from pipeline.transforms.base import Array, ColumnByColumn, positions_of
from pipeline.transforms.onnx_graph import OnnxGraph


@dataclass(frozen=True, eq=False)
class Clip(ColumnByColumn):
    """Values at most and at least at the ends. Clipped rows have no density: those of results are of clipped values.

    Attributes
    ----------
    ends : ndarray of shape (2,)
        Infinite where there is none.
    """

    ends: Array

    kind: ClassVar[str] = "clip"
    dimensions: ClassVar[Mapping[str, tuple[str, ...]]] = {"columns": ("column",), "ends": ("end",)}

    @classmethod
    def fit(cls, settings: ClipStep, names: Sequence[str], summary: DataSummary | None) -> Self:
        low = -math.inf if settings.minimum is None else settings.minimum
        high = math.inf if settings.maximum is None else settings.maximum
        return cls(np.sort(positions_of(settings.columns, names, cls.kind)), np.array([low, high]))

    def image(self, values: Array) -> Array:
        # an infinite value is unusable, and stays so
        return np.where(np.isfinite(values), np.clip(values, *self.ends), values)

    def preimage(self, images: Array) -> Array:
        return images

    def log_derivative(self, values: Array) -> Array:
        return np.zeros(values.shape)

    def check(self, n_columns: int) -> int:
        if self.ends.shape != (2,) or not self.ends[0] < self.ends[1]:
            raise ValueError("ends are not two ascending numbers")
        return super().check(n_columns)

    def sklearn_function(self) -> Any:
        from sklearn.preprocessing import FunctionTransformer

        low, high = self.ends.tolist()
        return FunctionTransformer(np.clip, validate=True, kw_args={"a_min": low, "a_max": high})

    def onnx_image(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        low, high = (graph.constant(np.array(end)) for end in self.ends.tolist())
        return graph.add("Min", graph.add("Max", x, low), high)

    def onnx_log_derivative(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.constant(np.zeros((1, n_columns)))
