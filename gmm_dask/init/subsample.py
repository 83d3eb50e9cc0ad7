"""A subsample of the rows in memory, on which many short runs of EM are compared before any pass over all rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.em import in_memory
from gmm_dask.em.acceleration import FeatureScale
from gmm_dask.em.in_memory import Ends, FitData, Mixtures
from gmm_dask.em.loop import Settings, State
from gmm_dask.em.spurious import check_components
from gmm_dask.families import Family, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.families.matrix_base import unpack_scatter
from gmm_dask.init.budget import SearchBudget, Work
from gmm_dask.init.responsibilities import sums_of_parts
from gmm_dask.passes.data_summary import DataSummary, Draw, finish_summary, summarize_chunk
from gmm_dask.passes.map_reduce import map_on_threads
from gmm_dask.passes.model_batch import DOUBLE, MAX_KAPPA, ROW_MULTIPLE, block_memory
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.rows import Rows, as_rows
from gmm_dask.passes.statistics import collect_totals

Array = NDArray[np.float64]
Item = TypeVar("Item")
# a candidate in one of the independent restarts, whose number is that of its states' starts
Slot = tuple[Candidate, int]
# mixtures from which fits of a slot may begin
Proposals = tuple[Slot, Mixtures]

# directions whose variance is below this share of the largest are rounding errors of columns that depend on others
RANK_TOLERANCE = 1e-9
# with fewer values, single precision saves less than compiling for it takes
SINGLE_VALUES = 1 << 15
# a log density is then off by up to 1e-5, less than fits that differ, and fits of columns that are nearly dependent
# take a third less time. What they lead to is computed as everywhere
SCREENING_KAPPA = 1e11


@dataclass(frozen=True, eq=False)
class Parts:
    """What may become components, each a column of responsibilities: its sums over the feature map about its mean."""

    sums: Array
    means: Array

    def followed_by(self, other: Parts) -> Parts:
        """Return these parts and then those of another."""
        return Parts(np.concatenate([self.sums, other.sums]), np.concatenate([self.means, other.means]))


@dataclass(frozen=True, eq=False)
class Subsample:
    """Rows in memory, with the generator that starts on them are drawn from.

    Attributes
    ----------
    x : ndarray of shape (n_rows, n_features)
    weights : ndarray of shape (n_rows,) or None
    whitened : ndarray of shape (n_rows, n_directions)
        The rows in directions of variance one, without those in which the rows do not vary.
    data_summary : DataSummary
        Of these rows alone.
    random : RandomState
    reg_covar : float or ndarray of shape (n_features,)
    budget : SearchBudget
    work : Work
        What its runs are counted in.
    """

    x: Array
    weights: Array | None
    whitened: Array
    data_summary: DataSummary
    random: np.random.RandomState
    reg_covar: float | Array
    budget: SearchBudget
    work: Work

    @classmethod
    def of(
        cls,
        data_summary: DataSummary,
        n_rows: int,
        random: np.random.RandomState,
        reg_covar: float | Array,
        budget: SearchBudget,
        work: Work,
    ) -> Self:
        """Draw up to ``n_rows`` rows of the data summary's sample."""
        x, weights = data_summary.sample, data_summary.sample_weights
        if n_rows < len(x):
            chosen = np.sort(random.choice(len(x), n_rows, replace=False))
            x, weights = x[chosen], None if weights is None else weights[chosen]
        # a data summary of these rows alone: centre and scatter are the origin and the scale of their passes
        draw = Draw.of(len(x), x.shape[1], seed=0)
        own = finish_summary(summarize_chunk(x, weights, draw, 0))
        return cls(x, weights, _whitened(x, own), own, random, reg_covar, budget, work)

    def larger(self, data_summary: DataSummary, n_rows: int) -> Subsample:
        """Return a subsample of more rows, with the same generator."""
        return Subsample.of(data_summary, n_rows, self.random, self.reg_covar, self.budget, self.work)

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.x)

    @property
    def rows(self) -> Rows:
        """The rows, for a pass."""
        return as_rows(self.x, self.weights)

    @cached_property
    def fit_data(self) -> FitData:
        """The rows, for compiled fits."""
        return FitData.of(self.rows, self.data_summary, self.reg_covar)

    # -- runs of EM ------------------------------------------------------------------------------------------

    def states(self, proposals: Iterable[Proposals]) -> Iterator[State]:
        """Yield a state for each mixture that is proposed."""
        for slot, mixtures in proposals:
            yield from (State(*slot, mixtures.parameters(i, self.x.shape[1])) for i in range(len(mixtures)))

    def screen(self, proposals: Iterable[Proposals], n_iter: int, size: int) -> list[State]:
        """Run a few plain iterations of each proposal, and return the ``size`` best of each slot.

        Single precision, where it saves time, is enough to rank them.
        """
        dtype = screening_dtype(self.x.size)
        settings, data = Settings(self.budget.tol, n_iter, self.reg_covar), self.fit_data
        best: dict[Slot, list[State]] = {}
        for batch in self._batches(proposals, lambda one: len(one[1]) * self._fit_bytes(one[0][0])):
            groups = [(slot, group) for slot, mixtures in batch for group in mixtures.groups()]
            for (candidate, _), mixtures in batch:
                self.work.spend(candidate, self.x.shape, n_iter * len(mixtures))
            ended: dict[Slot, list[Ends]] = {}
            fitted = map_on_threads(
                lambda one: in_memory.fit(one[1], data, settings, dtype, max_kappa=SCREENING_KAPPA), groups
            )
            for (slot, _), ends in zip(groups, fitted, strict=True):
                ended.setdefault(slot, []).append(ends)
            for slot, mine in ended.items():
                # shortened at once, so that no more states are in memory than shortlists hold
                fresh = self._best_of(slot, mine, settings, size)
                best[slot] = distinct([*best.get(slot, []), *fresh], size, self.budget.same_optimum)
        return [state for states in best.values() for state in states]

    def _best_of(self, slot: Slot, several: Sequence[Ends], settings: Settings, size: int) -> list[State]:
        """Return the states of ended fits of a slot, the best first, as far as they are needed for a shortlist."""
        new, data = State(*slot, None), self.fit_data
        ended, left = [], []
        for ends in several:
            for i in range(len(ends)):
                bound = ends.bound(i)
                if bound is None:  # it goes on in double precision
                    left.append(ends.after(i, new, data, settings))
                elif np.isfinite(bound):
                    ended.append((-bound, ends, i))
        found = [state for state in self._em(left, settings) if state.usable] if left else []
        n_trusted = 0
        for minus_bound, ends, i in sorted(ended, key=lambda one: one[0]):
            if n_trusted == size:
                break
            # a state takes longer to make than to see that its fit is one that is there
            if all(abs(minus_bound + other.lower_bound) > self.budget.same_optimum for other in found):
                found.append(ends.after(i, new, data, settings))
                n_trusted += found[-1].status.trusted
        return found

    def run(self, states: Iterable[State], settings: Settings) -> Iterator[State]:
        """Run EM of each state, accelerated where memory allows; states that had ended resume.

        Only usable states are returned, and those with a spurious component have that status.
        """
        n_features = self.x.shape[1]
        evaluate = partial(collect_totals, self.rows, self.data_summary)
        for batch in self._batches(states, lambda state: self._fit_bytes(state.candidate)):
            # the settings are those of a whole batch: it is plain EM if one of its fits is too large for a history
            small = all(self.budget.is_accelerated(state.candidate, n_features) for state in batch)
            ran = self._em(batch, replace(settings, acceleration=FeatureScale.of(self.data_summary) if small else None))
            if usable := [state for state in ran if state.usable]:
                distinct_share = self.data_summary.resolution.distinct_share
                yield from check_components(usable, evaluate, self.data_summary.total_weight, distinct_share)[0]

    def _em(self, states: Sequence[State], settings: Settings) -> list[State]:
        settings = replace(settings, reg_covar=self.reg_covar)
        # new states, running again whatever their status was; their earlier iterations are counted as sample_iter
        resumed = [resume(state, state.start) for state in states]
        ran = in_memory.run(resumed, self.rows, self.data_summary, settings)
        for state in ran:
            self.work.spend(state.candidate, self.x.shape, state.n_iter)
        return ran

    def _fit_bytes(self, candidate: Candidate) -> int:
        return self.budget.fit_bytes(candidate, self.x.shape[1])

    def _batches(self, items: Iterable[Item], n_bytes: Callable[[Item], int]) -> Iterator[list[Item]]:
        """Yield as many items at a time as the budget's memory has room for."""
        batch: list[Item] = []
        used = 0
        for item in items:
            size = n_bytes(item)
            if batch and used + size > self.budget.batch_bytes:
                yield batch
                batch, used = [], 0
            batch.append(item)
            used += size
        if batch:
            yield batch

    # -- mixtures from responsibilities ----------------------------------------------------------------------

    def responsibilities(self, state: State) -> Array:
        """Return the responsibilities (n_components, n_rows) of a state."""
        (family, parameters), (n_rows, d) = state.model, self.x.shape
        k = state.n_components
        first, second, n_lines = in_memory.monomials(family, d)
        resp = np.empty((k, n_rows))
        kappa = kernels.fill_responsibilities(
            family.kind,
            self.x,
            self.data_summary.center[None],
            parameters.vector(),
            parameters.precisions_cholesky.ravel(),
            first,
            second,
            *block_memory(n_lines, k, 1, n_rows, DOUBLE),
            ROW_MULTIPLE,
            resp,
        )
        if kappa <= MAX_KAPPA:
            return resp
        # too tight for the feature map about one centre
        found: Array = predict_rows(self.rows, family, parameters, ["responsibility"])["responsibility"]
        return np.ascontiguousarray(found.T)

    def parts(self, name: str, resp: Array) -> Parts:
        """Return what responsibilities (n_parts, n_rows) add up to, for a covariance type."""
        return self._sums(self.x, get_family(name), resp)

    def moments(self, resp: Array) -> tuple[Array, Array, Array]:
        """Return weights, means and covariances in whitened space of responsibilities (n_parts, n_rows)."""
        d = self.whitened.shape[1]
        parts = self._sums(self.whitened, get_family("full"), resp)
        # a part that holds no rows has a total of zero: its mean is then zero, and its covariance too
        totals = np.maximum(parts.sums[:, 0], np.finfo(float).tiny)
        shifts = parts.sums[:, 1 : 1 + d] / totals[:, None]
        scatter = unpack_scatter(parts.sums[:, 1 + d : 1 + d + d * (d + 1) // 2], d)
        covariances = scatter / totals[:, None, None] - shifts[:, :, None] * shifts[:, None, :]
        return parts.sums[:, 0], parts.means + shifts, covariances

    def _sums(self, x: Array, family: Family, resp: Array) -> Parts:
        return Parts(*sums_of_parts(family.density_columns(x.shape[1]), x, self.weights, resp, self.budget.negligible))

    def assemble(self, slot: Slot, parts: Parts, chosen: Sequence[Sequence[int]]) -> Iterator[Proposals]:
        """Yield the mixtures of a slot that are made of chosen parts, without those that would be singular."""
        if not chosen:
            return
        k, d = slot[0].n_components, self.x.shape[1]
        family = get_family(slot[0].covariance_type)
        vectors = np.empty((len(chosen), k * (d + 1) + math.prod(family.covariance_shape(k, d))))
        factors = np.zeros((len(chosen), math.prod(family.covariance_shape(k, d))))
        sound, reg_covar = np.empty(len(chosen), dtype=bool), self.fit_data.reg_covar
        kernels.assemble(
            in_memory.compiled_model(slot[0], d),
            np.array(chosen),
            parts.sums,
            parts.means,
            reg_covar,
            vectors,
            factors,
            sound,
        )
        if sound.any():
            yield slot, Mixtures(slot[0], vectors, factors)[sound]

    def start(self, slot: Slot, resp: Array) -> Iterator[Proposals]:
        """Yield the mixture that begins with responsibilities (n_components, n_rows); none if it would be singular."""
        return self.assemble(slot, self.parts(slot[0].covariance_type, resp), [range(len(resp))])


def screening_dtype(n_values: int) -> np.dtype[Any]:
    """Return the precision in which proposals are ranked, over so many values."""
    return np.dtype(np.float32 if n_values >= SINGLE_VALUES else np.float64)


def distinct(states: Iterable[State], size: int, same_optimum: float) -> list[State]:
    """Return the best states that differ in their likelihood; those that are not trusted come last."""
    chosen: list[State] = []
    # fits of one optimum differ by as much as their last iterations, and are one
    for state in sorted(states, key=lambda state: (not state.status.trusted, -state.lower_bound)):
        if len(chosen) == size:
            break
        if all(abs(state.lower_bound - other.lower_bound) > same_optimum for other in chosen):
            chosen.append(state)
    return chosen


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
