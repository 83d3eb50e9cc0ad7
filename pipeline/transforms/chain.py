"""A chain of fitted transforms: the way of a row from the user's units to those of the fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.transforms.arcsinh import Arcsinh
from pipeline.transforms.base import Array, ColumnByColumn, Transform
from pipeline.transforms.clip import Clip
from pipeline.transforms.log import Log
from pipeline.transforms.log1p import Log1p
from pipeline.transforms.logit import Logit
from pipeline.transforms.onnx_graph import OnnxGraph
from pipeline.transforms.pca import Pca
from pipeline.transforms.scale import Scale

Chunk = NDArray[np.floating[Any]]

# by the names of the steps in the configuration
TRANSFORMS: dict[str, type[Transform]] = {one.kind: one for one in (Scale, Log, Log1p, Logit, Arcsinh, Clip, Pca)}
# rows are transformed in blocks: no float64 copy of a chunk of float32
BLOCK_ROWS = 8192
# features that a message lists by name
LISTED = 12


@dataclass(frozen=True, eq=False)
class Chain:
    """Fitted transforms, in the order in which they are applied; none leave rows as they are."""

    steps: tuple[Transform, ...] = ()

    def then(self, step: Transform) -> Chain:
        """Return the chain with one more step; two scalings in a row are one."""
        last = self.steps[-1] if self.steps else None
        if isinstance(step, Scale) and isinstance(last, Scale):
            return Chain((*self.steps[:-1], last.then(step)))
        return Chain((*self.steps, step))

    @property
    def scaling(self) -> Scale | None:
        """The only step, if it scales columns: a mixture in its units is one in the user's units, too."""
        only = self.steps[0] if len(self.steps) == 1 else None
        return only if isinstance(only, Scale) else None

    @property
    def folds(self) -> bool:
        """Whether mixtures are told in the user's units: columns are as they were, or are scaled only."""
        return not self.steps or self.scaling is not None

    @property
    def is_linear(self) -> bool:
        """Whether every step is linear, up to a constant."""
        return all(step.log_slope is not None for step in self.steps)

    @property
    def keeps_density(self) -> bool:
        """False where a step drops dimensions: rows have a density in the units after it only."""
        return all(step.keeps_density for step in self.steps)

    @property
    def keeps_columns(self) -> bool:
        """Whether each column has an image of its own, so that rows with gaps have images."""
        return all(step.keeps_columns for step in self.steps)

    @property
    def is_clipped(self) -> bool:
        """Whether a step clips, so that densities are of the clipped values."""
        return any(isinstance(step, Clip) for step in self.steps)

    def has_densities_of(self, other: Chain) -> bool:
        """Whether densities after both chains are of the same values, so that likelihoods compare.

        They are of the columns, unless a step clips them or drops dimensions: then of what the last such step makes.
        """
        return self._until_loss.same_as(other._until_loss)

    @property
    def _until_loss(self) -> Chain:
        losing = [i for i, step in enumerate(self.steps) if isinstance(step, Clip) or not step.keeps_density]
        return Chain(self.steps[: losing[-1] + 1 if losing else 0])

    @property
    def log_slope(self) -> float | None:
        """Logarithm of the derivative's determinant where it is the same for all rows, else None."""
        slopes = [step.log_slope for step in self._with_density]
        return None if any(slope is None for slope in slopes) else float(sum(slope for slope in slopes if slope))

    @property
    def _with_density(self) -> tuple[Transform, ...]:
        """The steps that come into densities: from the last one on that drops dimensions."""
        drops = [i for i, step in enumerate(self.steps) if not step.keeps_density]
        return self.steps[drops[-1] if drops else 0 :]

    def names(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the names by which a next step finds its columns."""
        names = tuple(columns)
        for step in self.steps:
            names = step.names(names)
        return names

    def labels(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return what the features of a fit are called: ``scale(log(income))``; the columns if they are only scaled."""
        labels = tuple(columns)
        for step in () if self.folds else self.steps:
            labels = step.labels(labels)
        return labels

    @overload
    def rows(self, rows: Array) -> Array: ...

    @overload
    def rows(self, rows: Chunk) -> Chunk: ...

    def rows(self, rows: Chunk) -> Chunk:
        """Return rows (n_rows, n_columns) in the units of the fit, (n_rows, n_features), of the same dtype.

        Rows with a value that is not finite, or that a step has no image of, have one that is not finite.
        """
        if not self.steps:
            return rows
        found: Chunk | None = None
        for start in range(0, max(1, len(rows)), BLOCK_ROWS):
            block = self._block(rows[start : start + BLOCK_ROWS].astype(np.float64))
            if found is None:
                found = np.empty((len(rows), block.shape[1]), dtype=rows.dtype)
            found[start : start + BLOCK_ROWS] = block
        assert found is not None
        return found

    def _block(self, block: Array) -> Array:
        with np.errstate(all="ignore"):  # values without an image are found afterwards
            for step in self.steps:
                block = step.rows(block)
        return block

    def undo(self, rows: Array) -> Array:
        """Return rows in the user's units that have these images, at the mean in dimensions that were dropped."""
        for step in reversed(self.steps):
            rows = step.undo(rows)
        return rows

    def undone(self, means: Array, covariances: Array) -> tuple[Array, Array]:
        """Return the means and the covariances, of a linear chain, of rows that are undone.

        Parameters
        ----------
        means : ndarray of shape (n_components, n_features)
        covariances : ndarray of shape (n_components, n_features, n_features)

        Returns
        -------
        means : ndarray of shape (n_components, n_columns)
        covariances : ndarray of shape (n_components, n_columns, n_columns)
            Singular where dimensions were dropped, in which they have no variance.
        """
        n_features = means.shape[1]
        origin, *axes = self.undo(np.vstack([np.zeros(n_features), np.eye(n_features)]))
        linear = np.array(axes) - origin
        return self.undo(means), linear.T @ covariances @ linear

    def log_slopes(self, rows: Chunk) -> Array | float:
        """Return what a log density in the units of the fit lacks in the user's: (n_rows,), or one number for all.

        It is the logarithm of the determinant of the derivative, log |dz/dx|. Where a step drops dimensions it is that
        of the steps after it: the density is of the coordinates that it keeps, in the units that it was given. Of rows
        with gaps it is that of the columns that they have.
        """
        constant = self.log_slope
        if constant is not None and not (self.steps and self.keeps_columns and not np.isfinite(rows).all()):
            return constant
        counted = self._with_density
        first = len(self.steps) - len(counted)
        found = np.zeros(len(rows))
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), BLOCK_ROWS):
                x = block = rows[start : start + BLOCK_ROWS].astype(np.float64)
                slopes = found[start : start + BLOCK_ROWS]
                for i, step in enumerate(self.steps):
                    if i >= first:
                        slopes += step.log_slopes(block)
                    block = step.rows(block)
                if self.keeps_columns and not (present := np.isfinite(block)).all():
                    incomplete = ~present.all(axis=1)
                    slopes[incomplete] = self._log_slopes_of_present(x[incomplete], present[incomplete])
        return found

    def _log_slopes_of_present(self, block: Array, present: NDArray[np.bool_]) -> Array:
        found = np.zeros(block.shape)
        for step in self.steps:
            found += step.log_slopes_of_values(block)
            block = step.rows(block)
        slopes: Array = found.sum(axis=1, where=present)
        return slopes

    def filled(self, rows: Chunk, images: Chunk, expected: Array) -> Array:
        """Return rows whose missing values are those with the expected images; ``images`` are those of the rows."""
        return np.where(np.isfinite(images), rows, self.undo(expected))

    def domain_of(self, column: int) -> tuple[str, str]:
        """Return which values of a column are taken, and by which step; two empty texts if any are."""
        for step in self.steps:
            if isinstance(step, ColumnByColumn) and step.domain and column in step.columns:
                return step.domain, step.kind
        return "", ""

    def outside(self, rows: Array, columns: Sequence[str]) -> list[tuple[str, str, int]]:
        """Return which finite values of rows have no image: column, what is expected, and how many there are."""
        found, block, names = list[tuple[str, str, int]](), rows.astype(np.float64), tuple(columns)
        with np.errstate(all="ignore"):
            for step in self.steps:
                after = step.rows(block)
                if isinstance(step, ColumnByColumn) and step.domain:
                    bad = np.count_nonzero(np.isfinite(block) & ~np.isfinite(after), axis=0)
                    expected = f"{step.kind} takes values {step.domain}"
                    found += [(names[i], expected, int(bad[i])) for i in np.flatnonzero(bad).tolist()]
                block, names = after, step.names(names)
        return found

    def to_sklearn(self, columns: Sequence[str], *, named: bool) -> list[tuple[str, Any]]:
        """Return fitted transformers of scikit-learn, with names, as the steps of a pipeline."""
        found, names = list[tuple[str, Any]](), tuple(columns)
        for i, step in enumerate(self.steps):
            found.append((f"{step.kind}_{i + 1}", step.to_sklearn(len(names), names if named and i == 0 else None)))
            names = step.names(names)
        return found

    def add_to_onnx(self, graph: OnnxGraph, x: str, n_columns: int) -> tuple[str, str]:
        """Add nodes for rows ``x`` in the units of the fit, and for :meth:`log_slopes`, (rows, 1) or one number."""
        counted = self._with_density
        first = len(self.steps) - len(counted)
        slopes = graph.constant(np.array(sum((step.log_slope or 0.0 for step in counted), start=0.0)))
        names = tuple(map(str, range(n_columns)))
        for i, step in enumerate(self.steps):
            more = step.add_log_slopes_to_onnx(graph, x, len(names)) if i >= first else None
            slopes = slopes if more is None else graph.add("Add", slopes, more)
            x, names = step.add_to_onnx(graph, x, len(names)), step.names(names)
        return x, slopes

    def described(self, columns: Sequence[str]) -> str:
        """Return what was fitted, for messages: the features, and what principal components keep."""
        kept = [
            f"{len(step.components)} principal components of {len(step.columns)} columns have "
            f"{step.shares.sum():.1%} of their variance"
            for step in self.steps
            if isinstance(step, Pca)
        ]
        labels = self.labels(columns)
        shown = ", ".join(labels[:LISTED]) + (f" and {len(labels) - LISTED:,} more" if len(labels) > LISTED else "")
        return "; ".join([f"the features of the fit are {shown}", *kept])

    def same_as(self, other: Chain) -> bool:
        """Whether two chains are the same, number by number."""
        if [step.kind for step in self.steps] != [step.kind for step in other.steps]:
            return False
        return all(
            np.array_equal(a, b)
            for one, another in zip(self.steps, other.steps, strict=True)
            for a, b in zip(vars(one).values(), vars(another).values(), strict=True)
        )

    def arrays(self) -> list[NDArray[Any]]:
        """Return all numbers of the chain, which tell it from others."""
        return [value for step in self.steps for value in vars(step).values() if isinstance(value, np.ndarray)]


NO_TRANSFORM = Chain()
