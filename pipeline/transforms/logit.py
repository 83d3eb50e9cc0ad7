"""``logit``: log(x / (1 - x)), of shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import expit, logit

from gmm_dask.passes.data_summary import DataSummary
from pipeline.config.transforms import LogitStep
from pipeline.transforms.base import Array, ColumnByColumn, positions_of
from pipeline.transforms.onnx_graph import OnnxGraph


@dataclass(frozen=True, eq=False)
class Logit(ColumnByColumn):
    """log(x / (1 - x))."""

    kind: ClassVar[str] = "logit"
    domain: ClassVar[str] = "between 0 and 1"

    @classmethod
    def fit(cls, settings: LogitStep, names: Sequence[str], summary: DataSummary | None) -> Self:
        return cls(np.sort(positions_of(settings.columns, names, cls.kind)))

    def image(self, values: Array) -> Array:
        found: Array = logit(values)
        return found

    def preimage(self, images: Array) -> Array:
        found: Array = expit(images)
        return found

    def log_derivative(self, values: Array) -> Array:
        return -np.log(values) - np.log1p(-values)

    def sklearn_function(self) -> Any:
        from sklearn.preprocessing import FunctionTransformer

        return FunctionTransformer(logit, expit, validate=True, check_inverse=False)

    def onnx_image(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Sub", graph.add("Log", x), graph.add("Log", _complement(graph, x)))

    def onnx_log_derivative(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.add("Neg", graph.add("Add", graph.add("Log", x), graph.add("Log", _complement(graph, x))))


def _complement(graph: OnnxGraph, x: str) -> str:
    return graph.add("Sub", graph.constant(np.array(1.0)), x)
