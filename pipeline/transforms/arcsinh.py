"""``arcsinh``: arcsinh(x / cofactor), as in flow cytometry: linear near 0, logarithmic far from it, on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from gmm_dask.passes.data_summary import DataSummary
from pipeline.config.transforms import ArcsinhStep
from pipeline.transforms.base import Array, ColumnByColumn, fitted_scaler, positions_of
from pipeline.transforms.onnx_graph import OnnxGraph


@dataclass(frozen=True, eq=False)
class Arcsinh(ColumnByColumn):
    """arcsinh(x / cofactor).

    Attributes
    ----------
    cofactor : ndarray of shape (n_taken,)
    """

    cofactor: Array

    kind: ClassVar[str] = "arcsinh"
    dimensions: ClassVar[Mapping[str, tuple[str, ...]]] = {"columns": ("column",), "cofactor": ("column",)}

    @classmethod
    def fit(cls, settings: ArcsinhStep, names: Sequence[str], summary: DataSummary | None) -> Self:
        given = settings.cofactor
        columns = positions_of(tuple(given) if isinstance(given, dict) else settings.columns, names, cls.kind)
        values = np.array(list(given.values())) if isinstance(given, dict) else np.full(len(columns), given)
        order = np.argsort(columns)
        return cls(columns[order], values[order])

    def image(self, values: Array) -> Array:
        return np.arcsinh(values / self.cofactor)

    def preimage(self, images: Array) -> Array:
        return np.sinh(images) * self.cofactor

    def log_derivative(self, values: Array) -> Array:
        return -np.log(np.hypot(values, self.cofactor))

    def check(self, n_columns: int) -> int:
        if self.cofactor.shape != self.columns.shape:
            raise ValueError("cofactor is not one number for each of its columns")
        if not (np.isfinite(self.cofactor).all() and (self.cofactor > 0.0).all()):
            raise ValueError("cofactor has values that are not positive and finite")
        return super().check(n_columns)

    def sklearn_function(self) -> Any:
        from sklearn.preprocessing import FunctionTransformer

        return FunctionTransformer(np.arcsinh, np.sinh, validate=True, check_inverse=False)

    def to_sklearn(self, n_columns: int, names: Sequence[str] | None = None) -> Any:
        from sklearn.pipeline import make_pipeline

        divided = fitted_scaler(np.zeros(n_columns), self.spread_out(self.cofactor, n_columns, 1.0), names)
        return make_pipeline(divided, super().to_sklearn(n_columns))

    def onnx_image(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        # sign(x) log(|x| + sqrt(x^2 + 1)) of x / cofactor: Asinh of float64 is no operator that runtimes have
        scaled = graph.add("Div", x, graph.constant(self.spread_out(self.cofactor, n_columns, 1.0)))
        size = graph.add("Abs", scaled)
        root = graph.add("Sqrt", graph.add("Add", graph.add("Mul", size, size), graph.constant(np.array(1.0))))
        return graph.add("Mul", graph.add("Sign", scaled), graph.add("Log", graph.add("Add", size, root)))

    def onnx_log_derivative(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        squares = graph.constant(self.spread_out(self.cofactor, n_columns, 1.0) ** 2)
        root = graph.add("Sqrt", graph.add("Add", graph.add("Mul", x, x), squares))
        return graph.add("Neg", graph.add("Log", root))
