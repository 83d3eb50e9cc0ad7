"""The scout: rows in memory on which many short fits compete before any pass over all rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em import loop
from gmm_dask.em.acceleration import FeatureScale
from gmm_dask.em.loop import Settings, State
from gmm_dask.em.spurious import check_components
from gmm_dask.families import Statistics, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.responsibilities import statistics_of
from gmm_dask.memory import STATES_BYTES, is_accelerated, state_bytes, work
from gmm_dask.passes.data_summary import DataSummary, Draw, finish_summary, summarize_chunk
from gmm_dask.passes.map_reduce import Rows, as_rows, collect_statistics, collect_totals
from gmm_dask.passes.model_batch import Model
from gmm_dask.passes.predict import predict_rows

Array = NDArray[np.float64]

# responsibilities up to this are left out of a component's statistics, from which a fit only begins
FAINT = 1e-6
# states that begin are computed together up to so many bytes
TOGETHER_BYTES = 1 << 20
# a pass is cut into chunks that add up so many numbers, about a millisecond's work, but into no more than a few
CHUNK_WORK, SCOUT_CHUNKS = 4_000_000, 4


@dataclass(frozen=True, eq=False)
class Scout:
    """Some rows of the sample, on which fits compete.

    Attributes
    ----------
    x : ndarray of shape (n_rows, n_features)
    weights : ndarray of shape (n_rows,), or None
    whitened : ndarray of shape (n_rows, n_directions)
        The rows in directions of variance one that are not correlated; those without variance are left out.
    data_summary : DataSummary
        Of these rows.
    random : RandomState
    reg_covar : float or ndarray of shape (n_features,)
    """

    x: Array
    weights: Array | None
    whitened: Array
    data_summary: DataSummary
    random: np.random.RandomState
    reg_covar: float | Array

    @classmethod
    def of(
        cls, data_summary: DataSummary, n_rows: int, random: np.random.RandomState, reg_covar: float | Array
    ) -> Scout:
        """Up to ``n_rows`` rows of the data summary's sample."""
        x, weights = data_summary.sample, data_summary.sample_weights
        if n_rows < len(x):
            chosen = np.sort(random.choice(len(x), n_rows, replace=False))
            x, weights = x[chosen], None if weights is None else weights[chosen]
        draw = Draw.of(len(x), x.shape[1], seed=0)
        own = finish_summary(summarize_chunk(x, weights, draw, 0))
        return cls(x, weights, _whitened(x, own), own, random, reg_covar)

    @property
    def rows(self) -> Rows:
        """The rows, for a pass."""
        return as_rows(self.x, self.weights)

    def glimpse(self, states: Iterable[State], settings: Settings) -> Iterator[State]:
        """A few plain iterations of the states, many at a time, which tell how promising they are."""
        for part in self._parts(states):
            yield from self._ran(part, replace(settings, reg_covar=self.reg_covar), np.dtype(np.float32))

    def run(self, states: Iterable[State], settings: Settings) -> Iterator[State]:
        """EM of the states, many at a time; those that had ended go on. Steps are accelerated where there is room.

        Only the usable ones come back, with a verdict on spikes of chance.
        """
        n_features = self.x.shape[1]
        evaluate = partial(collect_totals, self.rows, self.data_summary)
        for part in self._parts(states):
            small = all(is_accelerated(s.candidate, n_features) for s in part)
            acceleration = FeatureScale.of(self.data_summary) if small else None
            ran = self._ran(part, replace(settings, reg_covar=self.reg_covar, acceleration=acceleration))
            if usable := [state for state in ran if state.usable]:
                yield from check_components(usable, evaluate, self.data_summary.total_weight)[0]

    def _ran(self, states: Sequence[State], settings: Settings, dtype: np.dtype[Any] | None = None) -> list[State]:
        again = [continued(state, state.start) for state in states]
        collect = partial(self._collect, dtype=dtype)
        return loop.run(again, collect, self.data_summary.total_weight, settings)

    def _collect(self, models: Sequence[Model], dtype: np.dtype[Any] | None) -> list[Statistics]:
        """A pass, by several threads where there is enough to do."""
        candidates = (Candidate(family.name, len(parameters.weights)) for family, parameters in models)
        n_chunks = min(SCOUT_CHUNKS, 1 + work(candidates, *self.x.shape) // CHUNK_WORK)
        return collect_statistics(replace(self.rows, n_chunks=n_chunks), self.data_summary, models, dtype)

    def _parts(self, states: Iterable[State]) -> Iterator[list[State]]:
        """As many states at a time as there is room for."""
        part: list[State] = []
        used = 0
        for state in states:
            size = state_bytes(state.candidate, self.x.shape[1])
            if part and used + size > STATES_BYTES:
                yield part
                part, used = [], 0
            part.append(state)
            used += size
        if part:
            yield part

    def start(self, name: str, resp: Array, number: int = 0) -> Iterator[State]:
        """A state, so numbered, from responsibilities (n_rows, n_components); none if it would be singular."""
        return self.assembled(name, [self.parts(name, resp)], number)

    def answered(self, share: Array) -> tuple[NDArray[np.intp], Array]:
        """The rows that a component answers for, and what each counts, from its responsibilities (n_rows,)."""
        rows = np.flatnonzero(share > FAINT)
        return rows, share[rows] if self.weights is None else share[rows] * self.weights[rows]

    def parts(self, name: str, resp: Array) -> list[Statistics]:
        """The statistics of each component by itself, from responsibilities (n_rows, n_components)."""
        family, found = get_family(name), []
        for share in resp.T:
            rows, weights = self.answered(share)
            found.append(statistics_of(family, self.x[rows], weights[:, None]))
        return found

    def assembled(self, name: str, mixtures: Sequence[Sequence[Statistics]], number: int = 0) -> Iterator[State]:
        """States, so numbered, from the statistics of their components; none of those that would be singular."""
        family, n_features = get_family(name), self.x.shape[1]
        sizes = [state_bytes(Candidate(name, len(parts)), n_features) for parts in mixtures]
        together = max(1, TOGETHER_BYTES // max(sizes, default=1))
        for i in range(0, len(mixtures), together):
            some = [family.together(parts) for parts in mixtures[i : i + together]]
            found = family.maximise_all(some, self.reg_covar)
            yield from (State(Candidate(name, len(p.weights)), number, p) for p in found if p is not None)

    def resp(self, state: State) -> Array:
        """Responsibilities (n_rows, n_components)."""
        found: Array = predict_rows(self.rows, *state.model, ["responsibility"])["responsibility"]
        return found


def continued(state: State, start: int) -> State:
    """A new state where one over the sample has come to, of such a number of its start."""
    done = state.sample_iter + state.n_iter
    return State(state.candidate, start, state.parameters, sample_iter=done)


def _whitened(x: Array, data_summary: DataSummary) -> Array:
    width = np.sqrt(np.diag(data_summary.scatter) / data_summary.total_weight)
    varying = width > 0.0
    if not varying.any():
        return x
    z = (x[:, varying] - data_summary.center[varying]) / width[varying]
    scatter = data_summary.scatter[np.ix_(varying, varying)] / np.outer(width[varying], width[varying])
    values, vectors = np.linalg.eigh(scatter / data_summary.total_weight)
    kept = values > 1e-9 * values[-1]
    whitened: Array = z @ (vectors[:, kept] / np.sqrt(values[kept]))
    return whitened
