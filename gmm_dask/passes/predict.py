"""Row outputs of a fitted mixture: labels, responsibilities and log densities, and its score over all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.errors import UserError
from gmm_dask.families import Family, Parameters
from gmm_dask.passes.map_reduce import map_in_memory, map_reduce
from gmm_dask.passes.model_batch import (
    ROW_MULTIPLE,
    BatchSums,
    ModelBatch,
    Totals,
    build_batch,
    centred_inputs,
    chunk_sums,
    unpack_totals,
)
from gmm_dask.passes.row_outputs import KERNEL_OUTPUTS, ROW_OUTPUTS, Outputs, kernel_inputs, with_derived
from gmm_dask.passes.rows import Rows

Array = NDArray[np.float64]


def prediction_batch(family: Family, parameters: Parameters) -> ModelBatch:
    """A batch of one model, for row outputs; the mixture's own mean is its centre."""
    # about its own mean a mixture's kappa is smallest; no scatter is needed where each density is complete
    center = parameters.weights @ parameters.means
    return build_batch([(family, parameters)], center, np.zeros((len(center), len(center))), densities=True)


def predict_rows(rows: Rows, family: Family, parameters: Parameters, requested: Sequence[str]) -> dict[str, Any]:
    """Row outputs of all rows, in their order: ndarrays for rows in memory, otherwise lazy Dask arrays.

    Parameters
    ----------
    rows : Rows
    family : Family
    parameters : Parameters
    requested : sequence of str
        Names of :data:`gmm_dask.passes.row_outputs.ROW_OUTPUTS`. Lazy outputs that are computed together share one
        read of each chunk.

    Returns
    -------
    outputs : dict of ndarray or dask.array.Array
    """
    batch = prediction_batch(family, parameters)
    if rows.in_memory:
        parts = list(map_in_memory(rows, _predict_in_memory, (batch, requested)))
        return {name: np.concatenate([part[name] for part in parts]) for name in requested}
    shared = dask.delayed(batch, pure=False)
    chunks = rows.array.to_delayed().ravel()
    found = [dask.delayed(_predict_finite, pure=False)(chunk, shared, tuple(requested)) for chunk in chunks]
    return {name: _join(found, name, rows.array.chunks[0], len(parameters.weights)) for name in requested}


def _predict_in_memory(rows: Any, weights: Any, shared: tuple[ModelBatch, Sequence[str]], number: int) -> Outputs:
    return predict_chunk(rows, *shared)


def _predict_finite(rows: Any, batch: ModelBatch, requested: tuple[str, ...]) -> Outputs:
    return predict_chunk(_finite(rows), batch, requested)


def predict_chunk(rows: NDArray[np.floating], batch: ModelBatch, requested: Sequence[str]) -> Outputs:
    """Row outputs of one model for the rows (n_rows, n_features) of a chunk."""
    return with_derived(kernel_outputs(rows, batch, kernel_inputs(requested)), requested)


def kernel_outputs(rows: NDArray[np.floating], batch: ModelBatch, requested: Sequence[str]) -> Outputs:
    """The most probable component, the mixture's log density, the responsibilities: what is requested of these.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    batch : ModelBatch
        Of one model, from :func:`prediction_batch`.
    requested : sequence of str
        Names of :data:`gmm_dask.passes.row_outputs.KERNEL_OUTPUTS`.
    """
    (family, parameters), n_components = batch.models[0], len(batch.models[0][1].weights)
    # the kernels compute what they get a buffer for; one without rows says that its output is not requested
    buffers = {
        output.name: np.empty(output.shape(len(rows) if output.name in requested else 0, n_components), output.dtype)
        for output in KERNEL_OUTPUTS
    }
    for group in batch.groups:
        first, second = group.factors
        z, logits, shares = group.workspace(len(rows))
        kernels.predict_chunk(
            rows=rows,
            origins=batch.center[None],
            eta=group.eta,
            first=first,
            second=second,
            z=z,
            logits=logits,
            shares=shares,
            row_multiple=ROW_MULTIPLE,
            **buffers,
        )
    if batch.centred:
        inputs = centred_inputs(rows, family, parameters)
        kernels.predict_chunk(rows=rows, **inputs, row_multiple=ROW_MULTIPLE, **buffers)
    return {name: buffers[name] for name in requested}


def _finite(rows: Any) -> NDArray[np.floating[Any]]:
    """A chunk as an array; raises :class:`UserError` if it holds NaN or infinity."""
    array = np.asarray(rows)
    bad = int(np.count_nonzero(~np.isfinite(array).all(axis=1)))
    if bad:
        raise UserError(
            f"Input X contains NaN or infinity in {bad} of a chunk's {len(array)} rows. Drop or impute them first."
        )
    return array


def _join(found: list[Any], name: str, sizes: Sequence[float], n_components: int) -> da.Array:
    output = ROW_OUTPUTS[name]
    parts = [
        da.from_delayed(part[name], shape=output.shape(size, n_components), dtype=output.dtype)
        for part, size in zip(found, sizes, strict=True)
    ]
    return da.concatenate(parts)


@dataclass(frozen=True, eq=False)
class _ScoreSums:
    """Sums over rows, their total weight, and how many weights are negative or not finite."""

    sums: BatchSums
    total_weight: float
    n_bad: int

    def __add__(self, other: _ScoreSums) -> _ScoreSums:
        total_weight = self.total_weight + other.total_weight
        return _ScoreSums(self.sums + other.sums, total_weight, self.n_bad + other.n_bad)


def total_rows(rows: Rows, family: Family, parameters: Parameters) -> tuple[Totals, float]:
    """Log-likelihood over all rows with its ICL term, and the rows' total weight, from one read.

    Raises
    ------
    UserError
        If there are no rows, or if a weight is negative or not finite, or they add up to zero.
    """
    batch = prediction_batch(family, parameters)
    found = map_reduce(rows, _score_chunk, batch, "log-likelihood")
    if rows.weights is None and found.total_weight == 0.0:
        raise UserError("X has no rows (n_samples = 0), and a mean over none is not defined.")
    if found.n_bad or found.total_weight == 0.0:
        what = f"{found.n_bad} are not" if found.n_bad else "they add up to zero"
        raise UserError(f"sample_weight must hold finite numbers of at least 0, one of them above 0; {what}.")
    return unpack_totals(batch, found.sums)[0], found.total_weight


def _score_chunk(rows: Any, weights: Any, batch: ModelBatch, number: int) -> _ScoreSums:
    array = _finite(rows)
    if weights is None:
        return _ScoreSums(chunk_sums(array, None, batch, statistics=False), float(len(array)), 0)
    given = np.asarray(weights, dtype=np.float64)
    bad = ~(given >= 0.0) | np.isinf(given)
    if bad.any():  # the sums are not wanted
        given = np.where(bad, 0.0, given)
    sums = chunk_sums(array, given, batch, statistics=False)
    return _ScoreSums(sums, float(given.sum()), int(np.count_nonzero(bad)))
