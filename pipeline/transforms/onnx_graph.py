"""Nodes and constants of an ONNX graph that grows node by node; it needs no package until it is written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class OnnxGraph:
    """The nodes and the constants of a graph.

    Attributes
    ----------
    nodes : list of tuple
        Operator, names of what it takes, name of what it gives, options.
    constants : dict of str to ndarray
    """

    def __init__(self) -> None:
        self.nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def add(self, operator: str, *takes: str, **options: Any) -> str:
        """Add a node; returns the name of its result."""
        gives = f"transform_{len(self.nodes)}"
        self.nodes.append((operator, list(takes), gives, options))
        return gives

    def constant(self, values: Any) -> str:
        """Add a constant; returns its name."""
        name = f"transform_constant_{len(self.constants)}"
        self.constants[name] = np.asarray(values)
        return name

    def where(self, mask: NDArray[np.bool_], x: str, otherwise: str) -> str:
        """Take ``x`` in some columns, and ``otherwise`` in the others."""
        return x if mask.all() else self.add("Where", self.constant(mask), x, otherwise)

    def sum_of_columns(self, x: str) -> str:
        """Add up the columns of each row: (rows, 1)."""
        return self.add("ReduceSum", x, self.constant(np.array([1])), keepdims=1)
