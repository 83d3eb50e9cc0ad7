"""Answers about each row: labels, responsibilities and log densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.errors import UserError
from gmm_dask.families import Family, Parameters
from gmm_dask.passes.map_reduce import Rows, map_in_memory, map_reduce
from gmm_dask.passes.model_batch import (
    ROW_MULTIPLE,
    Stack,
    Totals,
    add_sums,
    build_stack,
    centred_blocks,
    chunk_sums,
    unpack_totals,
)

Array = NDArray[np.float64]


def answer_stack(family: Family, parameters: Parameters) -> Stack:
    """A stack of one model, for answers; the mixture's own mean is its centre."""
    center = parameters.weights @ parameters.means
    return build_stack([(family, parameters)], center, np.zeros((len(center), len(center))), answers=True)


def answer_rows(rows: Rows, family: Family, parameters: Parameters, wanted: Sequence[str]) -> dict[str, Any]:
    """Answers for all rows, in their order: ndarrays for rows in memory, otherwise lazy Dask arrays.

    Parameters
    ----------
    rows : Rows
    family : Family
    parameters : Parameters
    wanted : sequence of {'label', 'log_density', 'responsibility'}
        Lazy answers that are computed together share one read of each chunk.

    Returns
    -------
    answers : dict of ndarray or dask.array.Array
        Labels (n_rows,), log densities (n_rows,) and responsibilities (n_rows, n_components).
    """
    stack = answer_stack(family, parameters)
    if rows.in_memory:
        parts = list(map_in_memory(rows, _answers_in_memory, (stack, wanted)))
        return {name: np.concatenate([part[name] for part in parts]) for name in wanted}
    shared = dask.delayed(stack, pure=False)
    chunks = rows.array.to_delayed().ravel()
    found = [dask.delayed(_answers_of_chunk, pure=False)(chunk, shared, tuple(wanted)) for chunk in chunks]
    return {name: _join(found, name, rows.array.chunks[0], len(parameters.weights)) for name in wanted}


def _answers_in_memory(rows: Any, weights: Any, shared: tuple[Stack, Sequence[str]], number: int) -> Any:
    return chunk_answers(rows, *shared)


def chunk_answers(rows: NDArray[np.floating], stack: Stack, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    """What one model says about each row of a chunk.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    stack : Stack
        Of one model, built for answers.
    wanted : sequence of {'label', 'log_density', 'responsibility'}

    Returns
    -------
    answers : dict of ndarray
        The most probable component (n_rows,), the mixture's log density (n_rows,) and the responsibilities
        (n_rows, n_components): those that are wanted.
    """
    (family, parameters), n_components = stack.models[0], len(stack.models[0][1].weights)
    found = {
        name: np.empty(shape if name in wanted else (0, *shape[1:]), dtype)
        for name, (shape, dtype) in answer_shapes(len(rows), n_components).items()
    }
    for group in stack.groups:
        kernels.answer_chunk(
            rows, stack.center, group.eta, *group.factors, *group.workspace(len(rows)), ROW_MULTIPLE, *found.values()
        )
    if stack.centred:
        for place, x in centred_blocks(rows, n_components):
            logits, shares = family.centred_logits(x, parameters), np.ones((3, x.shape[1]))
            kernels.answer_block(
                logits, np.array([0, n_components]), shares, x.shape[1], *(a[place] for a in found.values())
            )
    return {name: found[name] for name in wanted}


def answer_shapes(n_rows: float, n_components: int) -> dict[str, tuple[Any, Any]]:
    """Shape and dtype of each answer."""
    return {
        "label": ((n_rows,), np.int64),
        "log_density": ((n_rows,), np.float64),
        "responsibility": ((n_rows, n_components), np.float64),
    }


def _answers_of_chunk(rows: Any, stack: Stack, wanted: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    return chunk_answers(_finite(rows), stack, wanted)


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
    parts = []
    for part, size in zip(found, sizes, strict=True):
        shape, dtype = answer_shapes(size, n_components)[name]
        parts.append(da.from_delayed(part[name], shape=shape, dtype=dtype))
    return da.concatenate(parts)


def total_rows(rows: Rows, family: Family, parameters: Parameters) -> tuple[Totals, float]:
    """Log-likelihood over all rows with its ICL term, and the rows' total weight, from one read.

    Raises
    ------
    UserError
        If a weight is negative or not finite, or if they add up to zero.
    """
    stack = answer_stack(family, parameters)
    sums = map_reduce(rows, _totals_of_chunk, add_sums, stack, "log-likelihood")
    total_weight, n_bad = sums[-1].tolist()
    if n_bad or total_weight == 0.0:
        what = f"{n_bad:.0f} are not" if n_bad else "they add up to zero"
        raise UserError(f"sample_weight must hold finite numbers of at least 0, one of them above 0; {what}.")
    return unpack_totals(stack, sums)[0], total_weight


def _totals_of_chunk(rows: Any, weights: Any, stack: Stack, number: int) -> list[Array]:
    array = _finite(rows)
    if weights is None:
        return [*chunk_sums(array, None, stack, statistics=False), np.array([len(array), 0.0])]
    given = np.asarray(weights, dtype=np.float64)
    bad = ~(given >= 0.0) | np.isinf(given)
    if bad.any():  # the sums are not wanted
        given = np.where(bad, 0.0, given)
    return [*chunk_sums(array, given, stack, statistics=False), np.array([given.sum(), np.count_nonzero(bad)])]
