"""The rows that passes read: a NumPy or a Dask array, with weights, in chunks of fixed order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.passes.holdout import Holdout

if TYPE_CHECKING:
    import dask.array as da

# rows in memory are cut into at most so many chunks, none of them smaller than this but the last
MOST_CHUNKS = 32
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as chunks that can be read again and again.

    Attributes
    ----------
    array : ndarray or dask.array.Array of shape (n_rows, n_features)
        A Dask array has one chunk of columns; the lengths of its chunks of rows may be unknown.
    weights : ndarray or dask.array.Array of shape (n_rows,), or None
        Of the same kind as ``array`` and chunked like its rows.
    holdout : Holdout or None
        Which rows the passes of a fit hold out; None holds out none.
    on_read : callable or None
        Called with the number of chunks whenever a pass reads them from where they are stored.
    runs : tuple of range, or None
        Runs of chunks that a cluster keeps together (:func:`gmm_dask.passes.execution.graph.keep_in_runs`).
    reads_ahead : bool
        Whether the task of a run reads the next chunk while it computes one, so that it has two in memory.
    gaps : bool
        Whether rows may have missing values, NaN or infinite, and take part with the others.
    """

    array: Any
    weights: Any = None
    holdout: Holdout | None = None
    on_read: Callable[[int], None] | None = None
    runs: tuple[range, ...] | None = None
    reads_ahead: bool = False
    gaps: bool = False

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return int(self.array.shape[1])

    @property
    def in_memory(self) -> bool:
        """Whether the rows are one NumPy array, which needs no graph."""
        return isinstance(self.array, np.ndarray)

    @property
    def lengths(self) -> tuple[float, ...]:
        """Rows of each chunk, NaN where unknown."""
        if self.in_memory:
            return tuple(chunk.stop - chunk.start for chunk in chunks_in_memory(self))
        found: tuple[float, ...] = self.array.chunks[0]
        return found


def chunks_in_memory(rows: Rows) -> list[slice]:
    """Cut rows in memory into chunks, which do not depend on the number of threads."""
    n_rows, n_features = rows.array.shape
    step = max(-(-n_rows // MOST_CHUNKS), CHUNK_BYTES // (8 * n_features), 1)
    return [slice(start, min(start + step, n_rows)) for start in range(0, max(1, n_rows), step)]


def as_rows(array: Any, weights: Any = None) -> Rows:
    """Rows from arrays, NumPy's with NumPy's weights, or Dask's with weights that are chunked like them."""
    if isinstance(array, np.ndarray):
        return Rows(array, weights)
    if array.numblocks[1] > 1:
        array = array.rechunk({1: -1})
    return Rows(array, None if weights is None else _align_weights(weights, array))


def sampled_rows(sample: NDArray[np.float64]) -> Rows:
    """A sample of rows (n_rows, n_features), which has gaps where the rows that it was drawn from have."""
    return Rows(sample, gaps=not np.isfinite(sample).all())


def hold_out(rows: Rows, share: float, seed: int, *, starts: Sequence[int] | None = None, drop: bool = False) -> Rows:
    """Rows of which a share is held out of the passes of a fit; ``seed``, ``starts``, ``drop`` as in pass 0."""
    holdout = Holdout(share, seed, first_rows(rows, starts), drop or rows.gaps, rows.gaps)
    return replace(rows, holdout=holdout) if share else rows


def first_rows(rows: Rows, starts: Sequence[int] | None) -> tuple[int, ...] | None:
    """Number of each chunk's first row: as given, or by the chunks' lengths; None if these are not known."""
    if starts is not None:
        return tuple(starts)
    if any(math.isnan(length) for length in rows.lengths):
        return None
    return 0, *itertools.accumulate(int(length) for length in rows.lengths[:-1])


def rows_bytes(rows: Rows, chunk_rows: int) -> int:
    """Bytes of all chunks in memory, where those of unknown length have ``chunk_rows`` rows."""
    n_rows = sum(chunk_rows if math.isnan(length) else int(length) for length in rows.lengths)
    row = rows.n_features * rows.array.dtype.itemsize + (0 if rows.weights is None else rows.weights.dtype.itemsize)
    return int(n_rows * row)


def _align_weights(weights: Any, array: da.Array) -> da.Array:
    import dask.array as da

    unknown = any(np.isnan(size) for size in array.chunks[0])
    if not isinstance(weights, da.Array):
        if unknown:
            raise UserError(
                "sample_weight in memory needs rows whose chunk lengths are known, and X's are not: call "
                "X.compute_chunk_sizes() first, or pass sample_weight as a Dask array with X's partitions."
            )
        return da.from_array(np.asarray(weights), chunks=(array.chunks[0],), name=False)
    if unknown and weights.numblocks[0] != array.numblocks[0]:
        raise UserError(
            f"sample_weight has {weights.numblocks[0]} partitions and X has {array.numblocks[0]}, of unknown lengths: "
            "they must be partitioned alike. Call compute_chunk_sizes() on both."
        )
    if not unknown and np.isnan(weights.shape[0]):
        raise UserError(
            "sample_weight has partitions of unknown lengths, and X's are known: call compute_chunk_sizes() on "
            "sample_weight first."
        )
    return weights if unknown else weights.rechunk((array.chunks[0],))
