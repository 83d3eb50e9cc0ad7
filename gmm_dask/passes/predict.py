"""Row outputs of a fitted mixture: labels, responsibilities and log densities, and its score over all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.errors import UserError
from gmm_dask.families import Family, Parameters
from gmm_dask.passes.gaps.chunks import predict_incomplete, split_rows, sums_of_chunk
from gmm_dask.passes.holdout import usable_rows
from gmm_dask.passes.map_reduce import map_in_memory, map_reduce
from gmm_dask.passes.model_batch import (
    BatchSums,
    ModelBatch,
    Totals,
    build_batch,
    centred_inputs,
    unpack_totals,
)
from gmm_dask.passes.row_outputs import (
    KERNEL_OUTPUTS,
    LABEL,
    LOG_DENSITY,
    NOISE_LABEL,
    RESPONSIBILITY,
    ROW_OUTPUTS,
    Outputs,
    empty_outputs,
)
from gmm_dask.passes.rows import Rows

if TYPE_CHECKING:
    import dask.array as da

Array = NDArray[np.float64]


def prediction_batch(family: Family, parameters: Parameters, gaps: bool = False) -> ModelBatch:
    """A batch of one model, for row outputs; the mixture's own mean is its centre.

    ``gaps`` tells whether rows may have missing values.
    """
    # about its own mean a mixture's kappa is smallest; no scatter is needed where each density is complete
    center = np.average(parameters.means, axis=0, weights=parameters.weights)
    scatter = np.zeros((len(center), len(center)))
    return build_batch([(family, parameters)], center, scatter, densities=True, gaps=gaps)


def predict_rows(rows: Rows, family: Family, parameters: Parameters, requested: Sequence[str]) -> dict[str, Any]:
    """Row outputs of all rows, in their order: ndarrays for rows in memory, otherwise lazy Dask arrays.

    Parameters
    ----------
    rows : Rows
    family : Family
    parameters : Parameters
    requested : sequence of str
        Names of :data:`gmm_dask.passes.row_outputs.KERNEL_OUTPUTS`. Lazy outputs that are computed together share one
        read of each chunk.

    Returns
    -------
    outputs : dict of ndarray or dask.array.Array
    """
    batch = prediction_batch(family, parameters, rows.gaps)
    if rows.in_memory:
        parts = list(map_in_memory(rows, _predict_in_memory, (batch, requested)))
        return {name: np.concatenate([part[name] for part in parts]) for name in requested}
    shared = dask.delayed(batch, pure=False)
    chunks = rows.array.to_delayed().ravel()
    found = [dask.delayed(_predict_finite, pure=False)(chunk, shared, tuple(requested)) for chunk in chunks]
    return {name: _join(found, name, rows.array.chunks[0], parameters.n_densities) for name in requested}


def _predict_in_memory(rows: Any, weights: Any, shared: tuple[ModelBatch, Sequence[str]], number: int) -> Outputs:
    return predict_chunk(rows, *shared)


def _predict_finite(rows: Any, batch: ModelBatch, requested: tuple[str, ...]) -> Outputs:
    return predict_chunk(finite_rows(rows, batch.gaps), batch, requested)


def predict_chunk(rows: NDArray[np.floating], batch: ModelBatch, requested: Sequence[str]) -> Outputs:
    """Row outputs of one model for the rows (n_rows, n_features) of a chunk."""
    _, parameters = batch.models[0]
    if parameters.noise is None:
        return kernel_outputs(rows, batch, requested)
    found = kernel_outputs(rows, batch, tuple(dict.fromkeys((*requested, LOG_DENSITY.name))))
    overflown_to_noise(found, parameters)
    return {name: found[name] for name in requested}


def overflown_to_noise(found: Outputs, parameters: Parameters) -> None:
    """Give rows to the noise whose squares overflow, and whose log density is NaN therefore, in place."""
    assert parameters.noise is not None
    density = found[LOG_DENSITY.name]
    lost = np.isnan(density)
    if not lost.any():
        return
    with np.errstate(divide="ignore"):
        density[lost] = np.log(parameters.noise.weight) - parameters.noise.log_volume
    if LABEL.name in found:
        found[LABEL.name][lost] = NOISE_LABEL
    if RESPONSIBILITY.name in found:
        found[RESPONSIBILITY.name][lost] = np.arange(parameters.n_densities) == len(parameters.weights)


def kernel_outputs(rows: NDArray[np.floating], batch: ModelBatch, requested: Sequence[str]) -> Outputs:
    """The most probable component, the mixture's log density, the responsibilities: what is requested of these.

    The noise, where there is some, has the label :data:`NOISE_LABEL`, and the last responsibility.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    batch : ModelBatch
        Of one model, from :func:`prediction_batch`.
    requested : sequence of str
        Names of :data:`gmm_dask.passes.row_outputs.KERNEL_OUTPUTS`.
    """
    split = split_rows(rows) if batch.gaps else None
    if split is None:
        return _complete_outputs(rows, batch, requested)
    complete, patterns = split
    _, parameters = batch.models[0]
    found = empty_outputs(requested, len(rows), parameters.n_densities, parameters.noise is not None)
    for name, values in _complete_outputs(rows[complete], batch, requested).items():
        found[name][complete] = values
    buffers = _buffers(requested, len(patterns.positions), parameters.n_densities)
    for output in KERNEL_OUTPUTS:
        buffers[output.name][...] = output.fill_value  # of rows without any value
    predict_incomplete(rows[patterns.positions], patterns, batch, buffers)
    for name in requested:
        found[name][patterns.positions] = buffers[name]
    return found


def _buffers(requested: Sequence[str], n_rows: int, n_densities: int) -> Outputs:
    """Memory for what the kernels compute; one without rows says that its output is not requested."""
    return {
        output.name: np.empty(output.shape(n_rows if output.name in requested else 0, n_densities), output.dtype)
        for output in KERNEL_OUTPUTS
    }


def _complete_outputs(rows: NDArray[np.floating], batch: ModelBatch, requested: Sequence[str]) -> Outputs:
    """:func:`kernel_outputs` of rows without gaps."""
    family, parameters = batch.models[0]
    n_components = len(parameters.weights)
    buffers = _buffers(requested, len(rows), parameters.n_densities)
    for group in batch.groups:
        kernels.predict_chunk(rows=rows, **group.inputs(batch.center, len(rows)), **buffers)
    if batch.centred:
        kernels.predict_chunk(rows=rows, **centred_inputs(rows, family, parameters), **buffers)
    if parameters.noise is not None:
        labels = buffers[LABEL.name]
        labels[labels == n_components] = NOISE_LABEL
    return {name: buffers[name] for name in requested}


def count_labels(labels: NDArray[np.int64], parameters: Parameters) -> NDArray[np.int64]:
    """Count rows by their labels (n_rows,), (n_densities,); those of the noise, whose label is -1, last."""
    positions = np.where(labels == NOISE_LABEL, len(parameters.weights), labels)
    return np.bincount(positions, minlength=parameters.n_densities)


def finite_rows(rows: Any, gaps: bool = False) -> NDArray[np.floating[Any]]:
    """A chunk as an array; raises :class:`UserError` if it holds NaN or infinity, unless rows may have gaps."""
    array = np.asarray(rows)
    if gaps:
        return array
    bad = int(np.count_nonzero(~np.isfinite(array).all(axis=1)))
    if bad:
        raise UserError(
            f"Input X contains NaN or infinity in {bad} of a chunk's {len(array)} rows. Drop or impute them first."
        )
    return array


def _join(found: list[Any], name: str, sizes: Sequence[float], n_components: int) -> da.Array:
    import dask.array as da

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
    batch = prediction_batch(family, parameters, rows.gaps)
    found = map_reduce(rows, _score_chunk, batch, "log-likelihood")
    if rows.weights is None and found.total_weight == 0.0:
        raise UserError("X has no rows (n_samples = 0), and a mean over none is not defined.")
    if found.n_bad or found.total_weight == 0.0:
        what = f"{found.n_bad} are not" if found.n_bad else "they add up to zero"
        raise UserError(f"sample_weight must hold finite numbers of at least 0, one of them above 0; {what}.")
    return unpack_totals(batch, found.sums)[0], found.total_weight


def _score_chunk(rows: Any, weights: Any, batch: ModelBatch, number: int) -> _ScoreSums:
    array = finite_rows(rows, batch.gaps)
    if batch.gaps and not (valued := usable_rows(array, gaps=True)).all():
        array, weights = array[valued], None if weights is None else np.asarray(weights)[valued]
    if weights is None:
        return _ScoreSums(sums_of_chunk(array, None, batch, statistics=False), float(len(array)), 0)
    given = np.asarray(weights, dtype=np.float64)
    bad = ~(given >= 0.0) | np.isinf(given)
    if bad.any():  # the sums are not wanted
        given = np.where(bad, 0.0, given)
    sums = sums_of_chunk(array, given, batch, statistics=False)
    return _ScoreSums(sums, float(given.sum()), int(np.count_nonzero(bad)))
