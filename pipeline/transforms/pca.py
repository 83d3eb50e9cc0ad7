"""``pca``: principal components in the place of the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.passes.data_summary import DataSummary
from pipeline.config.transforms import PcaStep
from pipeline.transforms.base import Array, Positions, Transform, check_positions, example_of, positions_of
from pipeline.transforms.onnx_graph import OnnxGraph

# a component whose variance is a smaller share of the largest is lost in the rounding of the scatter
LEAST_SHARE = 1e-13


@dataclass(frozen=True, eq=False)
class Pca(Transform):
    """Principal components of some columns, after the columns that it does not take.

    Attributes
    ----------
    columns : ndarray of shape (n_taken,)
        Positions of the columns that it takes.
    mean : ndarray of shape (n_taken,)
    components : ndarray of shape (n_kept, n_taken)
        Axes of length one, the largest variance first.
    scale : ndarray of shape (n_kept,)
        What the coordinates are divided by: their standard deviations if whitened, else ones.
    variances : ndarray of shape (n_kept,)
        Of the rows along the axes, over their number less one.
    shares : ndarray of shape (n_kept,)
        Of the variance of all columns taken.
    prefix : str
        What the names begin with.
    """

    columns: Positions
    mean: Array
    components: Array
    scale: Array
    variances: Array
    shares: Array
    prefix: str

    kind: ClassVar[str] = "pca"
    learns: ClassVar[bool] = True
    dimensions: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "columns": ("column",),
        "mean": ("column",),
        "components": ("principal_component", "column"),
        "scale": ("principal_component",),
        "variances": ("principal_component",),
        "shares": ("principal_component",),
    }

    @classmethod
    def fit(cls, settings: PcaStep, names: Sequence[str], summary: DataSummary | None) -> Self:
        assert summary is not None
        columns = positions_of(settings.columns, names, cls.kind)
        n_rows = summary.n_rows
        # over the number of rows less one, as scikit-learn has it
        covariance = summary.scatter[np.ix_(columns, columns)] / summary.total_weight * (n_rows / (n_rows - 1))
        values, vectors = np.linalg.eigh(covariance)
        values, axes = values[::-1], vectors.T[::-1]
        # of constant columns rounding leaves a variance that is not quite 0
        if not values[0] > 0.0 or (summary.minimum == summary.maximum)[columns].all():
            named = ", ".join(repr(names[i]) for i in columns.tolist())
            raise UserError(
                f"data.transform: pca: the same value is in every row of {named} at that step, so that there are no "
                "principal components. Leave it out of data.columns, or name others by pca's columns: "
                "{pca: {columns: [...]}}."
            )
        n_kept = _n_kept(settings, values)
        rank = int(np.count_nonzero(values > LEAST_SHARE * max(values[0], 0.0)))
        if n_kept > rank:
            raise UserError(
                f"data.transform: pca is to keep {n_kept} components, and the columns vary in {rank} directions only. "
                f"Set n_components to {rank} or less."
            )
        # each axis has its sign such that the largest of its numbers is positive, as in scikit-learn
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
        axes = np.ascontiguousarray((axes * signs[:, None])[:n_kept])
        kept = values[:n_kept].copy()
        scale = np.sqrt(kept) if settings.whiten else np.ones(n_kept)
        shares = kept / np.maximum(values, 0.0).sum()
        return cls(columns, summary.center[columns], axes, scale, kept, shares, settings.prefix)

    @property
    def keeps_density(self) -> bool:
        return len(self.components) == len(self.columns)

    @property
    def keeps_columns(self) -> bool:
        return False

    @property
    def log_slope(self) -> float | None:
        return -float(np.log(self.scale).sum())

    def names(self, names: Sequence[str]) -> tuple[str, ...]:
        taken = set(self.columns.tolist())
        others = [name for i, name in enumerate(names) if i not in taken]
        return (*others, *(f"{self.prefix}{i}" for i in range(1, len(self.components) + 1)))

    def labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        return self.names(labels)

    def rows(self, x: Array) -> Array:
        found: Array = ((x[:, self.columns] - self.mean) @ self.components.T) / self.scale
        others = self._others(x.shape[1])
        return np.hstack([x[:, others], found]) if len(others) else found

    def undo(self, z: Array) -> Array:
        n_columns = z.shape[1] - len(self.components) + len(self.columns)
        others = self._others(n_columns)
        found = np.empty((len(z), n_columns))
        found[:, others] = z[:, : len(others)]
        found[:, self.columns] = (z[:, len(others) :] * self.scale) @ self.components + self.mean
        return found

    def log_slopes(self, x: Array) -> Array | float:
        return -float(np.log(self.scale).sum())

    def check(self, n_columns: int) -> int:
        check_positions(self.columns, n_columns)
        n_kept, n_taken = len(self.components), len(self.columns)
        if self.components.shape != (n_kept, n_taken) or self.mean.shape != (n_taken,) or not 0 < n_kept <= n_taken:
            raise ValueError("mean and components are not of its columns")
        for name in ("scale", "variances", "shares"):
            if getattr(self, name).shape != (n_kept,):
                raise ValueError(f"{name} is not of its {n_kept} components")
        if not all(np.isfinite(values).all() for values in (self.mean, self.components, self.scale)):
            raise ValueError("mean, components or scale have values that are not finite")
        if not (self.scale > 0.0).all():
            raise ValueError("scale has values that are not positive")
        return n_columns - n_taken + n_kept

    def to_sklearn(self, n_columns: int, names: Sequence[str] | None = None) -> Any:
        from sklearn.compose import ColumnTransformer
        from sklearn.decomposition import PCA

        n_kept, n_taken = self.components.shape
        pca = PCA(n_kept, whiten=bool((self.scale != 1.0).any()), svd_solver="covariance_eigh")
        others, found = self._others(n_columns), pca
        if len(others):
            parts = [("others", "passthrough", others.tolist()), ("pca", pca, self.columns.tolist())]
            # fitted to rows that have all directions, whose place the stored ones take then
            rows = example_of(np.vstack([np.eye(n_columns), np.zeros(n_columns)]), names)
            found = ColumnTransformer(parts).fit(rows)
            pca = found.named_transformers_["pca"]
        elif names is not None:
            pca.feature_names_in_ = np.array(names, dtype=object)
        pca.mean_, pca.components_ = self.mean, self.components
        pca.explained_variance_, pca.explained_variance_ratio_ = self.variances, self.shares
        pca.n_components_, pca.n_features_in_ = n_kept, n_taken
        return found

    def add_to_onnx(self, graph: OnnxGraph, x: str, n_columns: int) -> str:
        taken = graph.add("Gather", x, graph.constant(self.columns), axis=1)
        centred = graph.add("Sub", taken, graph.constant(self.mean))
        axes = graph.constant(np.ascontiguousarray(self.components.T))
        found = graph.add("Div", graph.add("MatMul", centred, axes), graph.constant(self.scale))
        others = self._others(n_columns)
        if not len(others):
            return found
        return graph.add("Concat", graph.add("Gather", x, graph.constant(others), axis=1), found, axis=1)

    def add_log_slopes_to_onnx(self, graph: OnnxGraph, x: str, n_columns: int) -> str | None:
        return None

    def _others(self, n_columns: int) -> Positions:
        return np.setdiff1d(np.arange(n_columns), self.columns)


def _n_kept(settings: PcaStep, variances: Array) -> int:
    """Return how many components are kept: as many as asked for, or the fewest that have the share of the variance."""
    wanted = settings.n_components
    if wanted is None:
        return len(variances)
    if isinstance(wanted, int):
        return wanted
    shares = np.cumsum(variances) / variances.sum()
    return int(np.searchsorted(shares, wanted, side="right")) + 1
