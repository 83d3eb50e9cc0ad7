"""What the chain needs of a transform, and what transforms column by column have in common."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.formatting import did_you_mean
from gmm_dask.passes.data_summary import DataSummary
from pipeline.transforms.onnx_graph import OnnxGraph

Array = NDArray[np.float64]
Positions = NDArray[np.int64]


class Transform(ABC):
    """A fitted transform: a frozen dataclass of arrays and texts, which the store has under the same names.

    Attributes
    ----------
    kind : str
        Its name in the configuration.
    learns : bool
        Whether it follows from the data.
    dimensions : mapping of str to tuple of str
        Names of the dimensions of each array.
    keeps_density : bool
        False where dimensions are dropped, so that rows have no density in the units before.
    log_slope : float or None
        Logarithm of the determinant of its derivative where that is the same for all rows, as of a linear transform;
        None where it depends on the row.
    """

    kind: ClassVar[str]
    learns: ClassVar[bool] = False
    dimensions: ClassVar[Mapping[str, tuple[str, ...]]]

    @classmethod
    @abstractmethod
    def fit(cls, settings: Any, names: Sequence[str], summary: DataSummary | None) -> Self:
        """Return the transform of these columns; ``summary`` is of the rows that it is given, None if none is needed.

        Raises
        ------
        UserError
            If the data do not have what it takes.
        """

    @property
    def keeps_density(self) -> bool:
        """Whether rows have a density in the units before."""
        return True

    @property
    def log_slope(self) -> float | None:
        """Logarithm of the derivative's determinant, if it is the same for all rows."""
        return None

    @property
    def keeps_columns(self) -> bool:
        """Whether each column has an image of its own, so that a value has one whatever else is missing in its row."""
        return True

    def names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the columns that it makes of columns of these names, for the steps that follow."""
        return tuple(names)

    @abstractmethod
    def labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return what the columns are called in results."""

    @abstractmethod
    def rows(self, x: Array) -> Array:
        """Transform rows (n_rows, n_columns); what has no image is not finite, nor is the image of such values."""

    @abstractmethod
    def undo(self, z: Array) -> Array:
        """Return rows with these images, (n_rows, n_columns)."""

    @abstractmethod
    def log_slopes(self, x: Array) -> Array | float:
        """Return the logarithm of the derivative's determinant at rows, (n_rows,), or for all of them."""

    def log_slopes_of_values(self, x: Array) -> Array:
        """Return the logarithm of the derivative at each value, (n_rows, n_columns), if each has an image."""
        raise NotImplementedError(self.kind)

    @abstractmethod
    def check(self, n_columns: int) -> int:
        """Return the number of columns that it makes; raises ValueError if its arrays are not for so many columns."""

    @abstractmethod
    def to_sklearn(self, n_columns: int, names: Sequence[str] | None = None) -> Any:
        """Return the fitted transformer of scikit-learn; ``names`` are those of its input, if that is a table."""

    @abstractmethod
    def add_to_onnx(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        """Add nodes that transform the value ``x``, (rows, columns); returns the name of the result."""

    @abstractmethod
    def add_log_slopes_to_onnx(self, graph: OnnxGraph, x: str, n_columns: int) -> str | None:
        """Add nodes for :meth:`log_slopes`, (rows, 1), of transforms that have no constant one."""


def positions_of(columns: Sequence[str] | None, names: Sequence[str], kind: str) -> Positions:
    """Return the positions of the columns of a step, by default of all; raises :class:`UserError` if one is missing."""
    if columns is None:
        return np.arange(len(names))
    place = {name: i for i, name in enumerate(names)}
    missing = [name for name in columns if name not in place]
    if missing:
        hint = did_you_mean(missing[0], names)
        raise UserError(
            f"data.transform: {kind} is to take the column {missing[0]!r}{hint}, and at that step there are "
            f"{', '.join(names)}."
        )
    return np.array([place[name] for name in columns], dtype=np.int64)


def check_positions(columns: Positions, n_columns: int) -> None:
    """Raise ValueError if positions are not some of so many columns, each once."""
    if columns.ndim != 1 or not len(columns) or len(np.unique(columns)) < len(columns):
        raise ValueError("columns are none, or not distinct")
    if columns.min() < 0 or columns.max() >= n_columns:
        raise ValueError(f"columns are beyond the {n_columns} that there are")


def example_of(rows: Array, names: Sequence[str] | None) -> Any:
    """Return rows as scikit-learn is fitted to them: a table, if their columns have names."""
    import pandas as pd

    return rows if names is None else pd.DataFrame(rows, columns=list(names))


def with_columns_passed(
    transformer: Any, columns: Positions, n_columns: int, names: Sequence[str] | None = None
) -> Any:
    """Return a fitted transformer of scikit-learn that takes some of the columns, in their places."""
    from sklearn.compose import ColumnTransformer

    example = example_of(np.full((2, n_columns), 0.5), names)  # in the domain of all
    if len(columns) == n_columns:
        return transformer.fit(example)
    taken, parts = set(columns.tolist()), list[Any]()
    # one part for each run of columns that are treated alike, so that their order stays
    for is_taken, run in itertools.groupby(range(n_columns), lambda i: i in taken):
        positions = list(run)
        parts.append((f"columns_{positions[0]}", transformer if is_taken else "passthrough", positions))
    return ColumnTransformer(parts).fit(example)


def fitted_scaler(center: Array, scale: Array, names: Sequence[str] | None = None) -> Any:
    """Return a fitted ``StandardScaler``."""
    from sklearn.preprocessing import StandardScaler

    found = StandardScaler()
    found.mean_, found.scale_, found.var_ = center, scale, scale**2
    found.n_features_in_, found.n_samples_seen_ = len(center), 0
    if names is not None:
        found.feature_names_in_ = np.array(names, dtype=object)
    return found


@dataclass(frozen=True, eq=False)
class ColumnByColumn(Transform):
    """A transform of the values of some columns, each by itself.

    Attributes
    ----------
    columns : ndarray of shape (n_taken,)
        Positions of the columns that it takes, ascending.
    domain : str
        Which values it takes, for messages; empty if any.
    """

    columns: Positions

    domain: ClassVar[str] = ""
    dimensions: ClassVar[Mapping[str, tuple[str, ...]]] = {"columns": ("column",)}

    @abstractmethod
    def image(self, values: Array) -> Array:
        """Return the images of values of the columns, (n_rows, n_taken)."""

    @abstractmethod
    def preimage(self, images: Array) -> Array:
        """Return the values that have these images."""

    @abstractmethod
    def log_derivative(self, values: Array) -> Array:
        """Return the logarithm of the derivative at values, (n_rows, n_taken)."""

    @abstractmethod
    def sklearn_function(self) -> Any:
        """Return the transformer of scikit-learn for the columns that it takes."""

    @abstractmethod
    def onnx_image(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        """Add the nodes for images of all columns."""

    @abstractmethod
    def onnx_log_derivative(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        """Add the nodes for the logarithm of the derivative at values of all columns."""

    def labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        taken = set(self.columns.tolist())
        return tuple(f"{self.kind}({label})" if i in taken else label for i, label in enumerate(labels))

    def rows(self, x: Array) -> Array:
        found = x.copy()
        found[:, self.columns] = self.image(x[:, self.columns])
        return found

    def undo(self, z: Array) -> Array:
        found = z.copy()
        found[:, self.columns] = self.preimage(z[:, self.columns])
        return found

    def log_slopes(self, x: Array) -> Array | float:
        found: Array = self.log_derivative(x[:, self.columns]).sum(axis=1)
        return found

    def log_slopes_of_values(self, x: Array) -> Array:
        found = np.zeros(x.shape)
        found[:, self.columns] = self.log_derivative(x[:, self.columns])
        return found

    def check(self, n_columns: int) -> int:
        check_positions(self.columns, n_columns)
        return n_columns

    def to_sklearn(self, n_columns: int, names: Sequence[str] | None = None) -> Any:
        return with_columns_passed(self.sklearn_function(), self.columns, n_columns, names)

    def add_to_onnx(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        return graph.where(self._mask(n_columns), self.onnx_image(graph, x, n_columns), x)

    def add_log_slopes_to_onnx(self, graph: OnnxGraph, x: str, n_columns: int) -> str | None:
        slopes = self.onnx_log_derivative(graph, x, n_columns)
        return graph.sum_of_columns(graph.where(self._mask(n_columns), slopes, graph.constant(np.zeros(n_columns))))

    def _mask(self, n_columns: int) -> NDArray[np.bool_]:
        return np.isin(np.arange(n_columns), self.columns)

    def spread_out(self, values: Array, n_columns: int, fill: float) -> Array:
        """Return a number for each of all columns, with these for those that it takes."""
        found = np.full(n_columns, fill)
        found[self.columns] = values
        return found


class Function(ColumnByColumn):
    """A function and its inverse, NumPy's or SciPy's, which nothing is fitted for."""

    functions: ClassVar[tuple[np.ufunc, np.ufunc]]

    @classmethod
    def fit(cls, settings: Any, names: Sequence[str], summary: DataSummary | None) -> Self:
        return cls(np.sort(positions_of(settings.columns, names, cls.kind)))

    def image(self, values: Array) -> Array:
        found: Array = self.functions[0](values)
        return found

    def preimage(self, images: Array) -> Array:
        found: Array = self.functions[1](images)
        return found

    def sklearn_function(self) -> Any:
        from sklearn.preprocessing import FunctionTransformer

        return FunctionTransformer(*self.functions, validate=True, check_inverse=False)
