"""Chunks with missing values: complete rows go through a batch as ever, the others by which columns they have.

A value that is NaN or infinite is missing. Rows without any value are as if they were not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gmm_dask import kernels
from gmm_dask.families import Family, Parameters
from gmm_dask.passes.holdout import FILLING, random_by_row
from gmm_dask.passes.model_batch import (
    DOUBLE,
    NO_SUMS,
    NO_WEIGHTS,
    ROW_MULTIPLE,
    BatchSums,
    ModelBatch,
    block_memory,
    build_batch,
    chunk_sums,
    filled_factors,
)

Array = NDArray[np.float64]
NO_LABELS = np.zeros(0, dtype=np.int64)
Chunk = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Patterns:
    """The incomplete rows of a chunk, those that have the same columns one after another.

    Attributes
    ----------
    positions : ndarray of shape (n_incomplete,)
        Where the rows are in the chunk.
    starts : ndarray of shape (n_patterns + 1,)
        Where those of each pattern begin among the positions, and where the last one's end.
    present : ndarray of shape (n_patterns, n_features)
    """

    positions: NDArray[np.int64]
    starts: NDArray[np.int64]
    present: NDArray[np.bool_]


def split_rows(rows: Chunk) -> tuple[NDArray[np.int64], Patterns] | None:
    """Positions of the complete rows of a chunk, and the others by pattern; None where all are complete."""
    complete, positions, starts = kernels.sort_by_pattern(rows)
    if not len(positions):
        return None
    return complete, Patterns(positions, starts, np.isfinite(rows.take(positions[starts[:-1]], axis=0)))


def sums_of_chunk(rows: Chunk, weights: Array | None, batch: ModelBatch, statistics: bool = True) -> BatchSums:
    """:func:`gmm_dask.passes.model_batch.chunk_sums`, with expected sums over incomplete rows if the batch has gaps."""
    if not batch.gaps or (split := split_rows(rows)) is None:
        return chunk_sums(rows, weights, batch, statistics)
    complete, patterns = split
    taken = rows.take(complete, axis=0)
    sums = chunk_sums(taken, None if weights is None else weights[complete], batch, statistics)
    x, w = rows.take(patterns.positions, axis=0), NO_WEIGHTS if weights is None else weights[patterns.positions]
    for i in range(len(batch.models)):
        totals = np.zeros((2, 1))
        kernels.add_incomplete(
            rows=x,
            row_weights=w,
            **_inputs(batch, i, patterns, len(x)),
            totals=totals,
            sums=sums.incomplete[i] if statistics else NO_SUMS,
        )
        sums.log_likelihood[i] += totals[0, 0]
        sums.log_top[i] += totals[1, 0]
    return sums


def predict_incomplete(rows: Chunk, patterns: Patterns, batch: ModelBatch, buffers: dict[str, NDArray[Any]]) -> None:
    """Fill what the kernels tell of incomplete rows, in the order of the patterns, by a batch of one model."""
    kernels.predict_incomplete(rows=rows, **_inputs(batch, 0, patterns, len(rows)), **buffers)


def condition_incomplete(
    rows: Chunk, patterns: Patterns, batch: ModelBatch, responsibility: Array
) -> tuple[Array, Array]:
    """The mean and variance of each value of incomplete rows, in the order of the patterns, by a batch of one model.

    A value that is there has itself as mean, and no variance; both are NaN of rows without any value.
    """
    present = np.isfinite(rows)
    mean, variance = np.where(present, rows, np.nan).astype(np.float64), np.where(present, 0.0, np.nan)
    kernels.condition_incomplete(
        rows=rows, **_mixture(patterns, *batch.models[0]), responsibility=responsibility, mean=mean, variance=variance
    )
    return mean, variance


def draw_incomplete(rows: Array, family: Family, parameters: Parameters, random: np.random.RandomState) -> Array:
    """Rows (n_rows, n_features), each with any value, whose gaps are filled with draws, given what is there."""
    split = split_rows(rows)
    if split is None:
        return rows
    _, patterns = split
    n_incomplete, d = len(patterns.positions), rows.shape[1]
    uniform = random.uniform(size=n_incomplete)
    return _filled(rows, patterns, family, parameters, uniform, random.standard_normal((n_incomplete, d)))


def draw_by_row(rows: Array, family: Family, parameters: Parameters, numbers: NDArray[np.int64]) -> Array:
    """:func:`draw_incomplete`, with draws that follow from the number of each row, ascending, among all rows.

    They do not depend on chunks, and need random numbers for all rows from the first to the last.
    """
    split = split_rows(rows)
    if split is None:
        return rows
    _, patterns = split
    first, n_rows = int(numbers[0]), int(numbers[-1] - numbers[0]) + 1
    chosen = numbers[patterns.positions] - first
    uniform, *others = (
        random_by_row(0, FILLING + i, (first,), 0, n_rows)[chosen] for i in range(1 + rows.shape[1])
    )  # one to choose the component, and one for each column
    normals = ndtri(np.maximum(np.column_stack(others), np.finfo(np.float64).tiny))
    return _filled(rows, patterns, family, parameters, uniform, normals)


def _filled(
    rows: Array, patterns: Patterns, family: Family, parameters: Parameters, uniform: Array, normals: Array
) -> Array:
    """Rows with their gaps filled by random numbers of incomplete rows, in the order of the patterns."""
    x = rows[patterns.positions]
    batch = build_batch([(family, parameters)], parameters.means.mean(axis=0), NO_SUMS, densities=True, gaps=True)
    responsibility = np.empty((len(x), len(parameters.weights)))
    predict_incomplete(
        x, patterns, batch, {"label": NO_LABELS, "log_density": NO_WEIGHTS, "responsibility": responsibility}
    )
    shares = np.cumsum(responsibility, axis=1)
    chosen = np.count_nonzero(shares[:, :-1] < uniform[:, None] * shares[:, -1:], axis=1)
    drawn = x.copy()
    kernels.draw_incomplete(
        rows=x, **_mixture(patterns, family, parameters), chosen=chosen, normals=normals, drawn=drawn
    )
    found = rows.copy()
    found[patterns.positions] = drawn
    return found


def _inputs(batch: ModelBatch, i: int, patterns: Patterns, n_rows: int) -> dict[str, Any]:
    """What the kernels take of model i of a batch: the mixture, the patterns, monomials and memory."""
    family, parameters = batch.models[i]
    first, second = _factor_table(family, len(batch.center))
    z, logits, shares = block_memory(1 + int(second.max()), len(parameters.weights), 1, n_rows, DOUBLE)
    return {
        **_mixture(patterns, family, parameters),
        "origins": np.ascontiguousarray(parameters.means if i in batch.centred else batch.center[None]),
        "first": first,
        "second": second,
        "z": z,
        "logits": logits,
        "shares": shares,
        "row_multiple": ROW_MULTIPLE,
    }


def _mixture(patterns: Patterns, family: Family, parameters: Parameters) -> dict[str, Any]:
    """The patterns of some rows, and the mixture, as all kernels of gaps take them."""
    return {
        "kind": family.kind,
        "starts": patterns.starts,
        "present": patterns.present,
        "mixture": parameters.vector(),
    }


@lru_cache(maxsize=64)
def _factor_table(family: Family, n_features: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The factors of the monomials of 0, 1, .. n_features columns, a line each."""
    every = [filled_factors(n, family.density_columns(n)) for n in range(n_features + 1)]
    tables = np.zeros((2, n_features + 1, len(every[-1][0])), dtype=np.int64)
    for n, pair in enumerate(every[1:], start=1):
        tables[:, n, : len(pair[0])] = pair
    return tables[0], tables[1]
