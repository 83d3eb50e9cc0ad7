"""``log1p``: natural logarithm of 1 + x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.transforms.base import Array, Function
from pipeline.transforms.onnx_graph import OnnxGraph


@dataclass(frozen=True, eq=False)
class Log1p(Function):
    """log(1 + x)."""

    kind: ClassVar[str] = "log1p"
    functions: ClassVar[tuple[np.ufunc, np.ufunc]] = np.log1p, np.expm1
    domain: ClassVar[str] = "greater than -1"

    def log_derivative(self, values: Array) -> Array:
        return -np.log1p(values)

    def onnx_image(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Log", graph.add("Add", x, graph.constant(np.array(1.0))))

    def onnx_log_derivative(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Neg", self.onnx_image(graph, x, n_columns))
