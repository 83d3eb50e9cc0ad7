"""Fits over few rows in memory: each one compiled call, many side by side on the threads.

The path of a fit is that of :func:`gmm_dask.em.loop.run`, to which it is tested; only the time between the passes goes.
A fit runs on one thread from its begin to its end, so that its bits do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.em import loop
from gmm_dask.em.acceleration import BEGIN, ORDER, REGULARIZATION, FeatureScale, covariance_scale
from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD, Inference
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.em.spurious import is_beyond_doubt
from gmm_dask.families import Family, Noise, Parameters, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.kernels.arguments import Block, FitRows, FitSettings, Model, Monomials
from gmm_dask.kernels.constants import CONVERGED, FAILED, INNER_MAX_ITER, MAX_ITER, NEEDS_DOUBLE, SINGULAR
from gmm_dask.kernels.feature_map import Factors
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

# of the ends of a compiled fit; after the other it goes on in double precision
_ENDS = {
    CONVERGED: Status.CONVERGED,
    MAX_ITER: Status.MAX_ITER,
    INNER_MAX_ITER: Status.INNER_MAX_ITER,
    SINGULAR: Status.SINGULAR,
    FAILED: Status.FAILED,
}
# fits of one candidate that a call takes one after the other: enough to outweigh what the call costs, in little memory
GROUP = 16
GROUP_BYTES = 1 << 20


def is_compiled(rows: Rows, settings: Settings) -> bool:
    """Whether fits of these rows run compiled as a whole: they are in memory, complete, and one chunk of a pass."""
    return (
        settings.inference.is_compiled
        and rows.in_memory
        and rows.holdout is None
        and not rows.gaps
        and len(chunks_in_memory(rows)) == 1
    )


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
    if on_pass is None and is_compiled(rows, settings):
        return run(states, rows, data_summary, settings, rows.array.dtype)
    collect = partial(collect_statistics, rows, data_summary)
    return loop.run(states, collect, data_summary.total_weight, settings, on_pass or (lambda states: None))


def run(
    states: Sequence[State],
    rows: Rows,
    data_summary: DataSummary,
    settings: Settings,
    dtype: np.dtype[Any] = DOUBLE,
) -> list[State]:
    """Run fits until none is running, as :func:`gmm_dask.em.loop.run`.

    Parameters
    ----------
    states : sequence of State
        Those that are running have no history.
    rows : Rows
        In memory.
    data_summary : DataSummary
        Of the rows.
    settings : Settings
    dtype : dtype
        Single precision is left where it would lose too much.
    """
    if settings.max_iter == 0:
        return loop.run(states, lambda models: [], data_summary.total_weight, settings)
    data = FitData.of(rows, data_summary, settings.reg_covar)
    after = list(states)
    groups = list(_groups(after))
    ran = map_on_threads(lambda group: _run([states[i] for i in group], data, settings, dtype), groups)
    for group, ended in zip(groups, ran, strict=True):
        for i, state in zip(group, ended, strict=True):
            after[i] = state
    return after


def _groups(states: Sequence[State]) -> Iterator[list[int]]:
    """Yield the positions of running states of one candidate, a few at a time."""
    positions: dict[tuple[Candidate, Family], list[int]] = {}
    for i, state in enumerate(states):
        if state.status is Status.RUNNING:  # the family is that of one volume of the noise
            positions.setdefault((state.candidate, state.family), []).append(i)
    for mine in positions.values():
        n_bytes = sum(array.nbytes for array in states[mine[0]].model[1].arrays().values())
        size = group_size(n_bytes)
        yield from (mine[start : start + size] for start in range(0, len(mine), size))


def group_size(n_bytes: int) -> int:
    """Return how many fits of so many bytes each a call takes."""
    return max(1, min(GROUP, GROUP_BYTES // n_bytes))


@dataclass(frozen=True, eq=False)
class FitData:
    """Rows in memory and what all their fits share; ``reg_covar`` (n_features,) is one number for each feature."""

    x: Array
    weights: Array
    summary: DataSummary
    reg_covar: Array

    @property
    def compiled(self) -> FitRows:
        """Them as a compiled fit takes them."""
        summary = self.summary
        return FitRows(self.x, self.weights, summary.total_weight, summary.center, summary.scatter, self.reg_covar)

    @classmethod
    def of(cls, rows: Rows, data_summary: DataSummary, reg_covar: float | Array) -> Self:
        """Return those of rows in memory."""
        # of arrays that cannot be written, a kernel is another one, which is compiled for some seconds
        weights = NO_WEIGHTS if rows.weights is None else np.require(rows.weights, np.float64, ["C", "W"])
        each = np.array(np.broadcast_to(reg_covar, rows.n_features), dtype=np.float64)
        return cls(np.require(rows.array, requirements=["C", "W"]), weights, data_summary, each)


def _run(states: Sequence[State], data: FitData, settings: Settings, dtype: np.dtype[Any]) -> list[State]:
    """Run fits of one candidate, first in one precision, then in double where it would lose too much."""
    prior_bounds = np.array([state.lower_bounds[-1] if state.lower_bounds else state.prior_bound for state in states])
    mixtures = Mixtures.of(*states, inference=settings.inference)
    ends = fit(mixtures, data, settings, dtype, np.array([state.n_iter for state in states]), prior_bounds)
    ended = [ends.after(i, state, data, settings) for i, state in enumerate(states)]
    again = [i for i in range(len(states)) if ends.counts[i, 0] == NEEDS_DOUBLE]
    for i, state in zip(again, _run([ended[i] for i in again], data, settings, DOUBLE) if again else (), strict=True):
        ended[i] = state
    return ended


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Mixtures of one candidate, each one vector, in which fits begin.

    Attributes
    ----------
    candidate : Candidate
    vectors : ndarray of shape (n_mixtures, n_values)
        Weights, means and covariances, one after another, and what :mod:`gmm_dask.kernels.fit` keeps beside.
    factors : ndarray of shape (n_mixtures, n_factor_values)
        Those of the precisions.
    log_volume : float or None
        Of the noise; None without it.
    """

    candidate: Candidate
    vectors: Array
    factors: Array
    log_volume: float | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, chosen: Any) -> Mixtures:
        return replace(self, vectors=self.vectors[chosen], factors=self.factors[chosen])

    @classmethod
    def of(cls, *states: State, inference: Inference = MAXIMUM_LIKELIHOOD) -> Self:
        """Return those of states of one candidate and one volume of the noise."""
        models = [state.model[1] for state in states]
        vectors = np.stack([_vector(parameters, inference) for parameters in models])
        factors, noise = np.stack([p.precisions_cholesky.ravel() for p in models]), models[0].noise
        return cls(states[0].candidate, vectors, factors, noise and noise.log_volume)

    def groups(self) -> Iterator[Mixtures]:
        """Yield them a few at a time, as many as a call takes."""
        size = group_size(self.vectors[0].nbytes + self.factors[0].nbytes)
        yield from (self[start : start + size] for start in range(0, len(self), size))

    def model(self, n_features: int) -> Model:
        """Of what kind they are, as kernels take it."""
        return compiled_model(self.candidate, n_features, self.log_volume)

    def parameters(self, i: int, n_features: int) -> Parameters:
        """One of them, in memory of its own."""
        k, vector = self.candidate.n_components, self.vectors[i].copy()
        shape = get_family(self.candidate.covariance_type).covariance_shape(k, n_features)
        first = k + k * n_features
        means, covariances = vector[k:first].reshape(k, n_features), vector[first : first + math.prod(shape)]
        noise = None if self.log_volume is None else Noise(float(vector[-1]), self.log_volume)
        factors = self.factors[i].copy().reshape(shape)
        return Parameters(vector[:k], means, covariances.reshape(shape), factors, noise=noise)


@dataclass(frozen=True, eq=False)
class Ends:
    """How compiled fits ended; the arrays are those of :func:`gmm_dask.kernels.fit.fit_many`."""

    mixtures: Mixtures
    bounds: Array
    counts: NDArray[np.int64]
    traces: Array

    def __len__(self) -> int:
        return len(self.mixtures)

    def bound(self, i: int) -> float | None:
        """The last lower bound; minus infinity of a fit that failed, None if it has to go on in double precision."""
        end, n_bounds = self.counts[i, :2].tolist()
        if end not in _ENDS:
            return None
        return float(self.bounds[i, n_bounds - 1]) if _ENDS[end].usable else -np.inf

    def after(self, i: int, state: State, data: FitData, settings: Settings) -> State:
        """Return a state, which began a fit, at its end."""
        end, n_bounds, n_falls, n_extrapolations = self.counts[i].tolist()
        status, total_weight = _ENDS.get(end, Status.RUNNING), data.summary.total_weight
        if state.parameters is not None and not n_bounds:
            parameters = state.parameters.alone()
        else:
            family, left = get_family(state.covariance_type), self.mixtures.parameters(i, data.x.shape[1])
            parameters = settings.inference.of_compiled(family, left, total_weight)
        after = replace(
            state,
            parameters=parameters,
            lower_bounds=(*state.lower_bounds, *self.bounds[i, :n_bounds].tolist()),
            falls=state.falls + n_falls,
            extrapolations=state.extrapolations + n_extrapolations,
            status=status,
            converged=status in (Status.CONVERGED, Status.INNER_MAX_ITER),
        )
        if end not in _ENDS or not status.usable:
            return after
        if is_beyond_doubt(parameters.weights, total_weight, float(self.traces[i])):
            return after
        return loop.end(after, status, total_weight, settings)


def fit(
    mixtures: Mixtures,
    data: FitData,
    settings: Settings,
    dtype: np.dtype[Any],
    n_iter: NDArray[np.int64] | int = 0,
    prior_bounds: Array | float = -np.inf,
    max_kappa: float = MAX_KAPPA,
) -> Ends:
    """Run fits from mixtures, in which they end, one after another.

    ``n_iter`` and ``prior_bounds`` (n_mixtures,) are the iterations of each so far, and its last lower bound. From
    ``max_kappa`` on components are computed about their own means.
    """
    family, model = get_family(mixtures.candidate.covariance_type), mixtures.model(data.x.shape[1])
    n, total_weight = len(mixtures), data.summary.total_weight
    # noise has no part in what components share
    first, second, n_lines = monomials(family, model.n_features, complete=model.is_noisy)
    centred_first, centred_second, _ = monomials(family, model.n_features, complete=True)
    most = np.full(n, settings.max_iter) - n_iter
    ends = Ends(mixtures, np.empty((n, most.max())), np.empty((n, 4), dtype=np.int64), np.empty(n))
    kernels.fit_many(
        model,
        settings.inference.compiled_prior(family, model.n_components, total_weight),
        data.compiled,
        Monomials(first, second),
        Monomials(centred_first, centred_second),
        Block(*block_memory(n_lines, model.n_components + model.is_noisy, 1, len(data.x), dtype), ROW_MULTIPLE),
        _compiled_settings(settings, family, mixtures, max_kappa),
        mixtures.vectors,
        mixtures.factors,
        np.full(n, prior_bounds),
        most,
        ends.bounds,
        ends.counts,
        ends.traces,
    )
    return ends


def _compiled_settings(settings: Settings, family: Family, mixtures: Mixtures, max_kappa: float) -> FitSettings:
    scale, k = settings.acceleration, mixtures.candidate.n_components
    if scale is None:
        order, (origin, unit) = 0, _plain_scale(mixtures.vectors.shape[1])
    else:
        order, (origin, unit) = ORDER, _vector_scale(family, k, scale, mixtures.log_volume is not None)
    tol = float(settings.tol)  # with an integer it would be another kernel
    return FitSettings(tol, max_kappa, MAX_SINGLE, BEGIN, order, REGULARIZATION, origin, unit)


# -- a mixture as one vector ---------------------------------------------------------------------------------------


def compiled_model(candidate: Candidate, n_features: int, log_volume: float | None = None) -> Model:
    """Return which mixtures a candidate's are, as kernels take it; ``log_volume`` is that of the noise, if any."""
    family = get_family(candidate.covariance_type)
    return Model(
        family.kind,
        family.constraint,
        family.constrain_address,
        candidate.n_components,
        n_features,
        log_volume is not None,
        log_volume or 0.0,
    )


@lru_cache(maxsize=64)
def monomials(
    family: Family, n_features: int, complete: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return the factors of a fit's monomials, or all of the density's, and how many lines of a block they take."""
    columns = family.density_columns(n_features) if complete else family.in_memory_columns(n_features)
    first, second = filled_columns(n_features, columns.start, columns.stop)
    return first, second, 1 + int(second.max())


@lru_cache(maxsize=64)
def filled_columns(n_features: int, start: int, stop: int) -> Factors:
    """Return the factors of columns of the feature map, as kernels take them."""
    return filled_factors(n_features, slice(start, stop))


def _vector(parameters: Parameters, inference: Inference) -> Array:
    """Return a mixture as one vector, as :mod:`gmm_dask.kernels.fit` has it."""
    if not inference.of_likelihood:  # a posterior, whose log weights are not those of the weights
        ones = np.ones_like(parameters.weights)
        return np.append(replace(parameters, weights=ones).vector(), parameters.log_weights())
    vector = parameters.vector()
    return vector if parameters.noise is None else np.append(vector, parameters.noise.weight)


@lru_cache(maxsize=64)
def _vector_scale(family: Family, n_components: int, scale: FeatureScale, is_noisy: bool) -> tuple[Array, Array]:
    """Return the origin and the unit of each number of a vector, in which mixtures are extrapolated."""
    covariances = covariance_scale(family, scale)
    n_covariances = int(np.prod(family.covariance_shape(n_components, len(scale.center))))
    noise = np.ones(int(is_noisy))
    unit = [
        np.ones(n_components),
        np.tile(scale.deviations, n_components),
        np.resize(covariances, n_covariances),
        noise,
    ]
    origin = [np.zeros(n_components), np.tile(scale.center, n_components), np.zeros(n_covariances), 0.0 * noise]
    return np.concatenate(origin), np.concatenate(unit)


@lru_cache(maxsize=64)
def _plain_scale(n_values: int) -> tuple[Array, Array]:
    """Return the same where nothing is extrapolated."""
    return np.zeros(n_values), np.ones(n_values)
