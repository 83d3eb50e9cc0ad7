"""``log``: natural logarithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.transforms.base import Array, Function
from pipeline.transforms.onnx_graph import OnnxGraph


@dataclass(frozen=True, eq=False)
class Log(Function):
    """log(x)."""

    kind: ClassVar[str] = "log"
    functions: ClassVar[tuple[np.ufunc, np.ufunc]] = np.log, np.exp
    domain: ClassVar[str] = "greater than 0"

    def log_derivative(self, values: Array) -> Array:
        return -np.log(values)

    def onnx_image(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Log", x)

    def onnx_log_derivative(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Neg", graph.add("Log", x))
