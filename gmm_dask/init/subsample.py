"""A subsample of the rows in memory, on which many short runs of EM are compared before any pass over all rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em import in_memory
from gmm_dask.em.acceleration import FeatureScale
from gmm_dask.em.loop import Settings, State
from gmm_dask.em.spurious import check_components
from gmm_dask.families import Statistics, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.budget import SearchBudget
from gmm_dask.init.responsibilities import statistics_of
from gmm_dask.passes.data_summary import DataSummary, Draw, finish_summary, summarize_chunk
from gmm_dask.passes.model_batch import DOUBLE
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.rows import Rows, as_rows
from gmm_dask.passes.statistics import collect_statistics, collect_totals

Array = NDArray[np.float64]

# directions whose variance is below this share of the largest are rounding errors of columns that depend on others
RANK_TOLERANCE = 1e-9
# with fewer values, single precision saves less than compiling for it takes
SINGLE_VALUES = 1 << 15


@dataclass(frozen=True, eq=False)
class Subsample:
    """Some rows of the sample, and what runs of EM on them need.

    Attributes
    ----------
    x : ndarray of shape (n_rows, n_features)
    weights : ndarray of shape (n_rows,), or None
    whitened : ndarray of shape (n_rows, n_directions)
        The rows in uncorrelated directions of variance one; directions without variance are left out.
    data_summary : DataSummary
        Of these rows.
    random : RandomState
    reg_covar : float or ndarray of shape (n_features,)
    budget : SearchBudget
    """

    x: Array
    weights: Array | None
    whitened: Array
    data_summary: DataSummary
    random: np.random.RandomState
    reg_covar: float | Array
    budget: SearchBudget

    @classmethod
    def of(
        cls,
        data_summary: DataSummary,
        n_rows: int,
        random: np.random.RandomState,
        reg_covar: float | Array,
        budget: SearchBudget,
    ) -> Self:
        """Draw up to ``n_rows`` rows of the data summary's sample."""
        x, weights = data_summary.sample, data_summary.sample_weights
        if n_rows < len(x):
            chosen = np.sort(random.choice(len(x), n_rows, replace=False))
            x, weights = x[chosen], None if weights is None else weights[chosen]
        # a data summary of these rows alone: centre and scatter are the origin and the scale of their passes
        draw = Draw.of(len(x), x.shape[1], seed=0)
        own = finish_summary(summarize_chunk(x, weights, draw, 0))
        return cls(x, weights, _whitened(x, own), own, random, reg_covar, budget)

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.x)

    @property
    def rows(self) -> Rows:
        """The rows, for a pass."""
        return as_rows(self.x, self.weights)

    # -- runs of EM ------------------------------------------------------------------------------------------

    def screen(self, states: Iterable[State], settings: Settings) -> Iterator[State]:
        """Run a few plain iterations of each state, in single precision where that saves time: enough to rank them."""
        dtype = np.dtype(np.float32 if self.x.size >= SINGLE_VALUES else np.float64)
        for batch in self._batches(states):
            yield from self._em(batch, settings, dtype)

    def run(self, states: Iterable[State], settings: Settings) -> Iterator[State]:
        """Run EM of each state, accelerated where memory allows; states that had ended resume.

        Only usable states are returned, and those with a spurious component have that status.
        """
        n_features = self.x.shape[1]
        evaluate = partial(collect_totals, self.rows, self.data_summary)
        for batch in self._batches(states):
            # the settings are those of a whole batch: it is plain EM if one of its fits is too large for a history
            small = all(self.budget.is_accelerated(state.candidate, n_features) for state in batch)
            ran = self._em(batch, replace(settings, acceleration=FeatureScale.of(self.data_summary) if small else None))
            if usable := [state for state in ran if state.usable]:
                distinct_share = self.data_summary.resolution.distinct_share
                yield from check_components(usable, evaluate, self.data_summary.total_weight, distinct_share)[0]

    def _em(self, states: Sequence[State], settings: Settings, dtype: np.dtype[Any] = DOUBLE) -> list[State]:
        settings = replace(settings, reg_covar=self.reg_covar)
        # new states, running again whatever their status was; their earlier iterations are counted as sample_iter
        resumed = [resume(state, state.start) for state in states]
        collect = partial(collect_statistics, self.rows, self.data_summary, dtype=dtype)
        return in_memory.run(resumed, self.rows, self.data_summary, collect, settings, dtype)

    def _batches(self, states: Iterable[State]) -> Iterator[list[State]]:
        """Yield as many states at a time as the budget's memory has room for."""
        batch: list[State] = []
        used = 0
        for state in states:
            size = self.budget.fit_bytes(state.candidate, self.x.shape[1])
            if batch and used + size > self.budget.batch_bytes:
                yield batch
                batch, used = [], 0
            batch.append(state)
            used += size
        if batch:
            yield batch

    # -- states from responsibilities ------------------------------------------------------------------------

    def responsibilities(self, state: State) -> Array:
        """Return the responsibilities (n_rows, n_components) of a state."""
        found: Array = predict_rows(self.rows, *state.model, ["responsibility"])["responsibility"]
        return found

    def weighted_rows(self, resp: Array) -> tuple[NDArray[np.intp], Array]:
        """Return the rows that a component holds, and their weights in it, from its responsibilities (n_rows,)."""
        rows = np.flatnonzero(resp > self.budget.negligible)
        return rows, resp[rows] if self.weights is None else resp[rows] * self.weights[rows]

    def component_statistics(self, name: str, resp: Array) -> list[Statistics]:
        """Return the statistics of each component by itself, from responsibilities (n_rows, n_components).

        A mixture can be assembled from those of components of several responsibilities: moves that differ in one
        component share the others.
        """
        family, found = get_family(name), []
        for of_component in resp.T:
            rows, weights = self.weighted_rows(of_component)
            found.append(statistics_of(family, self.x[rows], weights[:, None]))
        return found

    def assemble(self, name: str, mixtures: Sequence[Sequence[Statistics]], restart: int) -> Iterator[State]:
        """Yield states from the statistics of their components, leaving out those that would be singular."""
        family, n_features = get_family(name), self.x.shape[1]
        sizes = [self.budget.fit_bytes(Candidate(name, len(parts)), n_features) for parts in mixtures]
        # an M-step of many mixtures at once is one call of LAPACK for each kind of matrix, not one for each mixture
        step = max(1, self.budget.assembly_bytes // max(sizes, default=1))
        for i in range(0, len(mixtures), step):
            statistics = [family.together(parts) for parts in mixtures[i : i + step]]
            found = family.maximise_all(statistics, self.reg_covar)
            yield from (State(Candidate(name, len(p.weights)), restart, p) for p in found if p is not None)

    def start(self, name: str, resp: Array, restart: int = 0) -> Iterator[State]:
        """Yield the state that begins with these responsibilities; none if it would be singular."""
        return self.assemble(name, [self.component_statistics(name, resp)], restart)


def resume(state: State, start: int) -> State:
    """Return a new state with the parameters of one that ran on a subsample, as this start."""
    return State(state.candidate, start, state.parameters, sample_iter=state.sample_iter + state.n_iter)


def _whitened(x: Array, data_summary: DataSummary) -> Array:
    """Return the rows in the eigenvectors of their correlation matrix, each scaled to variance one (PCA whitening)."""
    deviations = np.sqrt(np.diag(data_summary.scatter) / data_summary.total_weight)
    varying = deviations > 0.0
    if not varying.any():
        return x
    # columns are standardised first, so that the eigenvalues compare: correlations do not depend on units
    z = (x[:, varying] - data_summary.center[varying]) / deviations[varying]
    scatter = data_summary.scatter[np.ix_(varying, varying)] / np.outer(deviations[varying], deviations[varying])
    values, vectors = np.linalg.eigh(scatter / data_summary.total_weight)
    directions = values > RANK_TOLERANCE * values[-1]
    whitened: Array = z @ (vectors[:, directions] / np.sqrt(values[directions]))
    return whitened
