"""What is missing in a row, given what is there: the conditional mean and variance of each value by a mixture."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask
import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import Family, Parameters
from gmm_dask.passes.gaps.chunks import condition_incomplete, split_rows
from gmm_dask.passes.map_reduce import map_in_memory
from gmm_dask.passes.model_batch import ModelBatch
from gmm_dask.passes.predict import kernel_outputs, prediction_batch
from gmm_dask.passes.row_outputs import RESPONSIBILITY
from gmm_dask.passes.rows import Rows

Array = NDArray[np.float64]


class Conditional(NamedTuple):
    """The mean and the variance of each value of some rows, both (n_rows, n_features) and of the kind of the rows.

    Attributes
    ----------
    mean : array
        A value that is there, and the expectation of one that is missing, given those that are there.
    variance : array
        0 of a value that is there.
    """

    mean: Any
    variance: Any


def condition_rows(rows: Rows, family: Family, parameters: Parameters) -> Conditional:
    """Condition rows: ndarrays for rows in memory, otherwise lazy Dask arrays that share one read of each chunk."""
    import dask.array as da

    batch = prediction_batch(family, parameters, gaps=True)
    if rows.in_memory:
        parts = list(map_in_memory(rows, _condition, batch))
        return Conditional(*(np.concatenate(side) for side in zip(*parts, strict=True)))
    shared = dask.delayed(batch, pure=False)
    found = [dask.delayed(condition_chunk, pure=False, nout=2)(x, shared) for x in rows.array.to_delayed().ravel()]
    sizes, d = rows.array.chunks[0], rows.n_features
    sides = (
        [da.from_delayed(part[i], shape=(size, d), dtype=np.float64) for part, size in zip(found, sizes, strict=True)]
        for i in range(2)
    )
    return Conditional(*map(da.concatenate, sides))


def condition_partitions(frame: Any, family: Family, parameters: Parameters) -> Conditional:
    """Condition the rows of a Dask DataFrame: two, lazy, with its columns, partitions and divisions."""
    batch = dask.delayed(prediction_batch(family, parameters, gaps=True), pure=False)
    meta = frame._meta.astype(np.float64)
    return Conditional(*(frame.map_partitions(_condition_partition, batch, i, meta=meta) for i in range(2)))


def _condition_partition(part: Any, batch: ModelBatch, side: int) -> Any:
    numbers = part.astype(np.float64)
    found = condition_chunk(np.ascontiguousarray(numbers.to_numpy()), batch)[side]
    return type(numbers)(found, index=part.index, columns=part.columns)


def _condition(rows: Any, weights: Any, batch: ModelBatch, number: int) -> Conditional:
    return condition_chunk(rows, batch)


def condition_chunk(rows: Any, batch: ModelBatch, responsibility: Array | None = None) -> Conditional:
    """Condition the rows (n_rows, n_features) of a chunk, by a batch of one model from :func:`prediction_batch`.

    ``responsibility`` (n_rows, n_components) are the rows' by this model, where they are known.
    """
    x = np.asarray(rows)
    mean, variance = x.astype(np.float64), np.zeros(x.shape)
    if (split := split_rows(x)) is not None:
        _, patterns = split
        incomplete = x[patterns.positions]
        if responsibility is None:
            ordered = kernel_outputs(incomplete, batch, (RESPONSIBILITY.name,))[RESPONSIBILITY.name]
        else:
            ordered = responsibility[patterns.positions]
        mean[patterns.positions], variance[patterns.positions] = condition_incomplete(
            incomplete, patterns, batch, ordered
        )
    return Conditional(mean, variance)
