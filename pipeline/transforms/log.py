"""``log``: natural logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from gmm_dask.passes.data_summary import DataSummary
from pipeline.config.transforms import LogStep
from pipeline.transforms.base import Array, ColumnByColumn, positions_of
from pipeline.transforms.onnx_graph import OnnxGraph


@dataclass(frozen=True, eq=False)
class Log(ColumnByColumn):
    """log(x)."""

    kind: ClassVar[str] = "log"
    domain: ClassVar[str] = "greater than 0"

    @classmethod
    def fit(cls, settings: LogStep, names: Sequence[str], summary: DataSummary | None) -> Self:
        return cls(np.sort(positions_of(settings.columns, names, cls.kind)))

    def image(self, values: Array) -> Array:
        return np.log(values)

    def preimage(self, images: Array) -> Array:
        return np.exp(images)

    def log_derivative(self, values: Array) -> Array:
        return -np.log(values)

    def sklearn_function(self) -> Any:
        from sklearn.preprocessing import FunctionTransformer

        return FunctionTransformer(np.log, np.exp, validate=True, check_inverse=False)

    def onnx_image(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Log", x)

    def onnx_log_derivative(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Neg", graph.add("Log", x))
