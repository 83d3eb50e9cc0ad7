"""``log1p``: natural logarithm of 1 + x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from gmm_dask.passes.data_summary import DataSummary
from pipeline.config.transforms import Log1pStep
from pipeline.transforms.base import Array, ColumnByColumn, positions_of
from pipeline.transforms.onnx_graph import OnnxGraph


@dataclass(frozen=True, eq=False)
class Log1p(ColumnByColumn):
    """log(1 + x)."""

    kind: ClassVar[str] = "log1p"
    domain: ClassVar[str] = "greater than -1"

    @classmethod
    def fit(cls, settings: Log1pStep, names: Sequence[str], summary: DataSummary | None) -> Self:
        return cls(np.sort(positions_of(settings.columns, names, cls.kind)))

    def image(self, values: Array) -> Array:
        return np.log1p(values)

    def preimage(self, images: Array) -> Array:
        return np.expm1(images)

    def log_derivative(self, values: Array) -> Array:
        return -np.log1p(values)

    def sklearn_function(self) -> Any:
        from sklearn.preprocessing import FunctionTransformer

        return FunctionTransformer(np.log1p, np.expm1, validate=True, check_inverse=False)

    def onnx_image(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Log", graph.add("Add", x, graph.constant(np.array(1.0))))

    def onnx_log_derivative(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Neg", self.onnx_image(graph, x, n_columns))
