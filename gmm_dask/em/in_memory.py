"""Fits over few rows in memory: each one compiled call, many side by side on the threads.

The path of a fit is that of :func:`gmm_dask.em.loop.run`, to which it is tested; only the time between the passes goes.
A fit runs on one thread from its begin to its end, so that its bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.em import loop
from gmm_dask.em.acceleration import BEGIN, ORDER, REGULARIZATION, FeatureScale, covariance_scale
from gmm_dask.em.loop import Collect, Settings, State, Status
from gmm_dask.em.spurious import is_beyond_doubt
from gmm_dask.families import Family, Parameters, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.kernels.constants import CONVERGED, FAILED, MAX_ITER, NEEDS_DOUBLE, SINGULAR
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.map_reduce import map_on_threads
from gmm_dask.passes.model_batch import (
    DOUBLE,
    MAX_KAPPA,
    MAX_SINGLE,
    NO_WEIGHTS,
    ROW_MULTIPLE,
    block_memory,
    filled_factors,
)
from gmm_dask.passes.rows import Rows, chunks_in_memory
from gmm_dask.passes.statistics import collect_statistics

Array = NDArray[np.float64]

# of the ends of a compiled fit; after others it goes on in double precision or in the loop of passes
_ENDS = {
    CONVERGED: Status.CONVERGED,
    MAX_ITER: Status.MAX_ITER,
    SINGULAR: Status.SINGULAR,
    FAILED: Status.FAILED,
}
# fits of one candidate that a call takes one after the other: enough to outweigh what the call costs, in little memory
GROUP = 16
GROUP_BYTES = 1 << 20


def is_compiled(rows: Rows) -> bool:
    """Whether fits of these rows run compiled as a whole: they are in memory, and one chunk of a pass."""
    return rows.in_memory and rows.holdout is None and len(chunks_in_memory(rows)) == 1


def fit_states(
    states: Sequence[State],
    rows: Rows,
    data_summary: DataSummary,
    settings: Settings,
    on_pass: Callable[[list[State]], None] | None = None,
) -> list[State]:
    """Run fits until none is running, compiled where the rows allow it.

    Parameters
    ----------
    states : sequence of State
    rows : Rows
        From anywhere.
    data_summary : DataSummary
        Of the rows.
    settings : Settings
    on_pass : callable, optional
        Called with the states after each pass; fits that run compiled as a whole cannot call it.
    """
    collect = partial(collect_statistics, rows, data_summary)
    if on_pass is None and is_compiled(rows):
        return run(states, rows, data_summary, collect, settings, rows.array.dtype)
    return loop.run(states, collect, data_summary.total_weight, settings, on_pass or (lambda states: None))


def run(
    states: Sequence[State],
    rows: Rows,
    data_summary: DataSummary,
    collect: Collect,
    settings: Settings,
    dtype: np.dtype[Any] = DOUBLE,
) -> list[State]:
    """Run fits until none is running, as :func:`gmm_dask.em.loop.run`.

    Parameters
    ----------
    states : sequence of State
    rows : Rows
        In memory.
    data_summary : DataSummary
        Of the rows.
    collect : callable
        A pass over the rows, for fits that cannot run compiled: components so tight that they are computed about their
        own means, and families without compiled M-steps.
    settings : Settings
    dtype : dtype
        Single precision is left where it would lose too much.
    """
    data = _Data.of(rows, data_summary, settings)
    after = list(states)
    groups = list(_groups(states, settings.max_iter))
    found = map_on_threads(lambda group: _run([states[i] for i in group], data, settings, dtype), groups)
    for group, ended in zip(groups, found, strict=True):
        for i, state in zip(group, ended, strict=True):
            after[i] = state
    return loop.run(after, collect, data_summary.total_weight, settings)


def _groups(states: Sequence[State], max_iter: int) -> Iterator[list[int]]:
    """Yield the positions of states of one candidate that can run compiled, a few at a time."""
    positions: dict[Candidate, list[int]] = {}
    for i, state in enumerate(states):
        is_known = get_family(state.covariance_type).kind is not None and state.history is None
        if is_known and state.status is Status.RUNNING and state.n_iter < max_iter:
            positions.setdefault(state.candidate, []).append(i)
    for mine in positions.values():
        n_bytes = sum(array.nbytes for array in vars(states[mine[0]].model[1]).values())
        size = max(1, min(GROUP, GROUP_BYTES // n_bytes))
        yield from (mine[start : start + size] for start in range(0, len(mine), size))


@dataclass(frozen=True, eq=False)
class _Data:
    """What all fits share; ``reg_covar`` (n_features,) is one number for each feature."""

    x: Array
    weights: Array
    summary: DataSummary
    reg_covar: Array

    @classmethod
    def of(cls, rows: Rows, data_summary: DataSummary, settings: Settings) -> Self:
        weights = NO_WEIGHTS if rows.weights is None else np.ascontiguousarray(rows.weights, dtype=np.float64)
        reg_covar = np.ascontiguousarray(np.broadcast_to(settings.reg_covar, rows.n_features), dtype=np.float64)
        return cls(np.ascontiguousarray(rows.array), weights, data_summary, reg_covar)


def _run(states: Sequence[State], data: _Data, settings: Settings, dtype: np.dtype[Any]) -> list[State]:
    """Run fits of one candidate as far as compiled code goes.

    A state is still running after it if it has to go on in another way.
    """
    (family, first_parameters), n = states[0].model, len(states)
    k, d = first_parameters.means.shape
    assert family.kind is not None
    first, second, n_lines = _monomials(family, d)
    models = [state.model[1] for state in states]
    vectors = np.stack([_to_vector(parameters) for parameters in models])
    factors = np.stack([parameters.precisions_cholesky.ravel() for parameters in models])
    scale = settings.acceleration
    origin, unit = _plain_scale(vectors.shape[1]) if scale is None else _vector_scale(family, k, scale)
    most = np.array([settings.max_iter - state.n_iter for state in states])
    bounds, counts, traces = np.empty((n, most.max())), np.empty((n, 4), dtype=np.int64), np.empty(n)
    kernels.fit_many(
        family.kind,
        data.x,
        data.weights,
        data.summary.total_weight,
        data.summary.center,
        data.summary.scatter,
        data.reg_covar,
        first,
        second,
        MAX_KAPPA,
        MAX_SINGLE,
        settings.tol,
        np.array([state.lower_bounds[-1] if state.lower_bounds else state.prior_bound for state in states]),
        BEGIN,
        0 if scale is None else ORDER,
        REGULARIZATION,
        origin,
        unit,
        vectors,
        factors,
        *block_memory(n_lines, k, 1, len(data.x), dtype),
        ROW_MULTIPLE,
        most,
        bounds,
        counts,
        traces,
    )
    ended = [
        _after(state, vectors[i], factors[i], bounds[i], counts[i].tolist(), float(traces[i]), data, settings)
        for i, state in enumerate(states)
    ]
    again = [i for i in range(n) if counts[i, 0] == NEEDS_DOUBLE]
    for i, state in zip(again, _run([ended[i] for i in again], data, settings, DOUBLE) if again else (), strict=True):
        ended[i] = state
    return ended


def _after(
    state: State,
    vector: Array,
    factors: Array,
    bounds: Array,
    counts: list[int],
    trace: float,
    data: _Data,
    settings: Settings,
) -> State:
    """Return the state in which a compiled fit left its mixture."""
    assert state.parameters is not None
    end, n_bounds, n_falls, n_extrapolations = counts
    status = _ENDS.get(end, Status.RUNNING)
    after = replace(
        state,
        parameters=_from_vector(vector, factors, state.parameters),
        lower_bounds=(*state.lower_bounds, *bounds[:n_bounds].tolist()),
        falls=state.falls + n_falls,
        extrapolations=state.extrapolations + n_extrapolations,
        status=status,
        converged=status is Status.CONVERGED,
    )
    total_weight = data.summary.total_weight
    if status not in (Status.CONVERGED, Status.MAX_ITER):
        return after
    if is_beyond_doubt(vector[: state.n_components], total_weight, trace):
        return replace(after, parameters=after.model[1].alone())
    return loop.end(after, status, total_weight, settings)


# -- a mixture as one vector ---------------------------------------------------------------------------------------


def _to_vector(parameters: Parameters) -> Array:
    """Return weights, means and covariances, one after another."""
    return np.concatenate([parameters.weights, parameters.means.ravel(), parameters.covariances.ravel()])


def _from_vector(vector: Array, factors: Array, like: Parameters) -> Parameters:
    """Return parameters of the shapes of ``like``."""
    (k, d), shape = like.means.shape, like.covariances.shape
    means, covariances = vector[k : k + k * d].reshape(k, d), vector[k + k * d :].reshape(shape)
    return Parameters(vector[:k], means, covariances, factors.reshape(shape))


@lru_cache(maxsize=64)
def _monomials(family: Family, n_features: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return the factors of a fit's monomials, and how many lines of a block they are made of."""
    first, second = filled_factors(n_features, family.fit_columns(n_features))
    return first, second, 1 + int(second.max())


@lru_cache(maxsize=64)
def _vector_scale(family: Family, n_components: int, scale: FeatureScale) -> tuple[Array, Array]:
    """Return the origin and the unit of each number of a vector, in which mixtures are extrapolated."""
    covariances = covariance_scale(family, scale)
    n_covariances = int(np.prod(family.covariance_shape(n_components, len(scale.center))))
    unit = [np.ones(n_components), np.tile(scale.deviations, n_components), np.resize(covariances, n_covariances)]
    origin = [np.zeros(n_components), np.tile(scale.center, n_components), np.zeros(n_covariances)]
    return np.concatenate(origin), np.concatenate(unit)


@lru_cache(maxsize=64)
def _plain_scale(n_values: int) -> tuple[Array, Array]:
    """Return the same where nothing is extrapolated."""
    return np.zeros(n_values), np.ones(n_values)
