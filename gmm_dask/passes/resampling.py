"""Resamples of the rows, and the passes of the fits to them: one read of each chunk serves all resamples.

A bootstrap resample of n rows has each of them a number of times that is Poisson(1) distributed, but for terms of order
1 / n. Drawn row by row, these numbers need no other row (Chamandy, Muralidharan, Najmi and Naidu 2012, "Estimating
uncertainty for massive data streams"). A row's numbers follow from the seed, the resample and the row's number among
all rows, so that neither chunks nor threads change them. A resample is the rows with these numbers as weights.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import Statistics
from gmm_dask.passes.data_summary import DataSummary, Moments
from gmm_dask.passes.held_out_densities import HeldOutDensities, held_out_batches
from gmm_dask.passes.holdout import RESAMPLING, Holdout, Weighted, random_by_row
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.model_batch import (
    BatchSums,
    Model,
    ModelBatch,
    Totals,
    build_batch,
    chunk_sums,
    unpack_sums,
    unpack_totals,
)
from gmm_dask.passes.rows import Rows, first_rows
from gmm_dask.passes.unchanged import RowSums, require_unchanged

Array = NDArray[np.float64]
Sums = TypeVar("Sums", BatchSums, Moments)

# probabilities of a Poisson(1) number to be at most 0, 1, ...; the last is 1 in double precision
POISSON = np.cumsum([math.exp(-1.0) / math.factorial(count) for count in range(20)])


@dataclass(frozen=True)
class Resampling:
    """How often resamples have each row.

    Attributes
    ----------
    seed : int
    starts : tuple of int, or None
        Number of each chunk's first row; None if unknown.
    """

    seed: int
    starts: tuple[int, ...] | None

    @classmethod
    def of(cls, rows: Rows, seed: int) -> Self:
        """Return the one of rows whose chunks' lengths say how they are numbered."""
        return cls(seed, first_rows(rows, None))

    def counts(self, resample: int, number: int, n_rows: int) -> Array:
        """How often a resample has each row of a chunk, by the chunk's number."""
        uniform = random_by_row(self.seed, RESAMPLING + resample, self.starts, number, n_rows)
        return np.searchsorted(POISSON, uniform, side="right").astype(np.float64)

    def take(self, chunk: Weighted, resample: int, number: int, positions: NDArray[np.intp] | None = None) -> Weighted:
        """The rows that a resample has of a chunk, or of some positions in it, with their weights in the resample."""
        rows, weights = chunk
        counts = self.counts(resample, number, len(rows))
        if weights is not None:
            counts *= weights
        chosen = np.flatnonzero(counts) if positions is None else positions[counts[positions] != 0.0]
        return rows.take(chosen, axis=0), counts[chosen]


def summary_of(data_summary: DataSummary, resample: Moments) -> DataSummary:
    """The summary of all rows with the weight, mean and scatter of a resample."""
    return replace(data_summary, total_weight=resample.weight, center=resample.mean, scatter=resample.scatter)


@dataclass(frozen=True, eq=False)
class _Shared:
    """What the driver sends to the chunks.

    ``batches`` and ``held_out`` are the models of each resample, ``statistics`` tells whether the M-step follows;
    ``adds_up_rows`` whether the sums are taken that tell whether the rows are those of pass 0.
    """

    resampling: Resampling
    holdout: Holdout | None
    adds_up_rows: bool
    batches: Mapping[int, ModelBatch]
    statistics: bool = True
    held_out: Mapping[int, tuple[ModelBatch, ...]] | None = None


@dataclass(frozen=True, eq=False)
class _ResampledSums(Generic[Sums]):
    """Sums over the rows of each resample: what the models add up, or the moments; and over all rows."""

    of_resamples: tuple[Sums, ...]
    rows: RowSums | None
    held_out: tuple[HeldOutDensities, ...] = ()

    def __add__(self, other: _ResampledSums[Sums]) -> _ResampledSums[Sums]:
        return _ResampledSums(
            tuple(map(operator.add, self.of_resamples, other.of_resamples)),
            self.rows + other.rows if self.rows and other.rows else None,
            tuple(map(operator.add, self.held_out, other.held_out)),
        )


def summarize_resamples(
    rows: Rows, data_summary: DataSummary, resampling: Resampling, n_resamples: int
) -> list[Moments]:
    """Total weight, mean and scatter of each resample, from one read.

    Raises
    ------
    ChangedRowsError
        If the rows are not those of the data summary.
    """
    shared = resampling, rows.holdout, not rows.in_memory, n_resamples
    sums: _ResampledSums[Moments] = map_reduce(rows, _moments_of_chunk, shared, "resamples")
    _require_same_rows(sums, rows, data_summary)
    return list(sums.of_resamples)


def collect_resampled_statistics(
    rows: Rows,
    data_summary: DataSummary,
    resampling: Resampling,
    resamples: Sequence[Moments],
    models: Mapping[int, Sequence[Model]],
) -> dict[int, list[Statistics]]:
    """One pass: the sufficient statistics of models of resamples, by the resample's number, from one read.

    Parameters
    ----------
    rows : Rows
    data_summary : DataSummary
        Of the rows.
    resampling : Resampling
    resamples : sequence of Moments
        Of all resamples.
    models : mapping of int to sequence of Model
        Models by the number of their resample.

    Raises
    ------
    ChangedRowsError
        If the rows are not those of the data summary.
    """
    batches = _batches(models, resamples, rows.array.dtype)
    shared = _Shared(resampling, rows.holdout, not rows.in_memory, batches)
    sums: _ResampledSums[BatchSums] = map_reduce(rows, _sums_of_chunk, shared, "resampled-statistics")
    _require_same_rows(sums, rows, data_summary)
    found = zip(batches.items(), sums.of_resamples, strict=True)
    return {number: unpack_sums(batch, of_resample) for (number, batch), of_resample in found}


def collect_resampled_totals(
    rows: Rows,
    data_summary: DataSummary,
    resampling: Resampling,
    resamples: Sequence[Moments],
    models: Mapping[int, Sequence[Model]],
) -> dict[int, list[Totals]]:
    """The final pass: the log-likelihoods of models of resamples, each over its resample, in double precision.

    Parameters and errors are those of :func:`collect_resampled_statistics`. Rows that are held out are resampled too.
    """
    batches = _batches(models, resamples, np.dtype(np.float64))
    held_out = None
    if rows.holdout is not None:
        held_out = {number: held_out_batches(of_resample) for number, of_resample in models.items()}
    shared = _Shared(resampling, rows.holdout, not rows.in_memory, batches, statistics=False, held_out=held_out)
    sums: _ResampledSums[BatchSums] = map_reduce(rows, _sums_of_chunk, shared, "resampled-log-likelihood")
    _require_same_rows(sums, rows, data_summary)
    found = zip(batches.items(), sums.of_resamples, strict=True)
    totals = {number: unpack_totals(batch, of_resample) for (number, batch), of_resample in found}
    for number, densities in zip(totals, sums.held_out, strict=False):
        totals[number] = densities.added_to(totals[number])
    return totals


def _batches(
    models: Mapping[int, Sequence[Model]], resamples: Sequence[Moments], dtype: np.dtype[Any]
) -> dict[int, ModelBatch]:
    return {
        number: build_batch(of_resample, resamples[number].mean, resamples[number].scatter, dtype=dtype)
        for number, of_resample in models.items()
    }


def _require_same_rows(sums: _ResampledSums[Any], rows: Rows, data_summary: DataSummary) -> None:
    if sums.rows is not None:
        require_unchanged(sums.rows, data_summary, rows.array.dtype)


def _moments_of_chunk(
    rows: Any, weights: Any, shared: tuple[Resampling, Holdout | None, bool, int], number: int
) -> _ResampledSums[Moments]:
    resampling, holdout, adds_up_rows, n_resamples = shared
    chunk = _chunk(rows, weights)
    fitted = None if holdout is None else holdout.positions(chunk, number)[0]
    moments = (Moments.of(*resampling.take(chunk, i, number, fitted)) for i in range(n_resamples))
    return _ResampledSums(tuple(moments), _row_sums(chunk, fitted) if adds_up_rows else None)


def _sums_of_chunk(rows: Any, weights: Any, shared: _Shared, number: int) -> _ResampledSums[BatchSums]:
    chunk, fitted, held_out = _chunk(rows, weights), None, None
    if shared.holdout is not None:
        fitted, held_out = shared.holdout.positions(chunk, number)
    take = shared.resampling.take
    found = [
        chunk_sums(*take(chunk, resample, number, fitted), batch, statistics=shared.statistics)
        for resample, batch in shared.batches.items()
    ]
    densities = [
        HeldOutDensities.of(take(chunk, resample, number, held_out), batches)
        for resample, batches in (shared.held_out or {}).items()
    ]
    row_sums = _row_sums(chunk, fitted) if shared.adds_up_rows else None
    return _ResampledSums(tuple(found), row_sums, tuple(densities))


def _row_sums(chunk: Weighted, positions: NDArray[np.intp] | None) -> RowSums:
    rows, weights = chunk
    if positions is None:
        return RowSums.of(rows, weights)
    return RowSums.of(rows.take(positions, axis=0), None if weights is None else weights[positions])


def _chunk(rows: Any, weights: Any) -> Weighted:
    return np.asarray(rows), None if weights is None else np.asarray(weights)
