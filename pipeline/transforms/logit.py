"""``logit``: log(x / (1 - x)), of shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit, logit

from pipeline.transforms.base import Array, Function
from pipeline.transforms.onnx_graph import OnnxGraph


@dataclass(frozen=True, eq=False)
class Logit(Function):
    """log(x / (1 - x))."""

    kind: ClassVar[str] = "logit"
    functions: ClassVar[tuple[np.ufunc, np.ufunc]] = logit, expit
    domain: ClassVar[str] = "between 0 and 1"

    def log_derivative(self, values: Array) -> Array:
        return -np.log(values) - np.log1p(-values)

    def onnx_image(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Sub", graph.add("Log", x), graph.add("Log", _complement(graph, x)))

    def onnx_log_derivative(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Neg", graph.add("Add", graph.add("Log", x), graph.add("Log", _complement(graph, x))))


def _complement(graph: OnnxGraph, x: str) -> str:
    return graph.add("Sub", graph.constant(np.array(1.0)), x)
