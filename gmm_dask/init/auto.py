"""The start ``auto``: a search for each candidate's best local optimum, on a subsample in memory.

EM ends at the local optimum that its start leads to. A pass over a subsample costs next to nothing beside one over all
rows, so the search tries many starts there (the em-EM strategy of Biernacki, Celeux and Govaert 2003, "Choosing
starting values for the EM algorithm", with the moves of SMEM):

1. *What is tried.* For each number of components six clusterings of the subsample (k-means in raw and in whitened
   space, and rows drawn far from each other, two of each) give first responsibilities to all covariance types. Then, in
   rounds, the best fit of each candidate proposes neighbours: split and merge moves, and other covariance types
   (:mod:`gmm_dask.init.moves`). The fit that the k-means start ends with is always among them.
2. *How far.* Every proposal gets 5 iterations of EM, and the 2 best of each candidate get 25 more. The 2 best fits of a
   candidate are retained.
3. *When it stops.* A candidate's best fit is moved from about three times, more often where moves have led to other
   fits (:func:`_n_tries`). When no fit is left to move from, after 20 rounds, or after the work of some seconds a
   candidate, all retained fits run to convergence, on the subsample, on a larger one, and on the whole sample where the
   data are much larger still.
4. *What it cannot see.* A group of too few rows for the subsample is looked for among all rows, which takes one or two
   passes over them (:mod:`gmm_dask.init.rare`).
5. *What it gives.* The best fit of each candidate is the start over all rows. Each of ``n_init`` starts is a search of
   its own; where the subsample is small, a start is the best of two independent restarts.

The numbers are those of :class:`gmm_dask.init.budget.SearchBudget`. All fits of a round share one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.budget import BUDGET, SearchBudget, Work, searched_candidates
from gmm_dask.init.clustering import k_means, nearest_of_distant_rows
from gmm_dask.init.moves import neighbours
from gmm_dask.init.rare import Fits, OpenRows, with_rare_groups
from gmm_dask.init.responsibilities import kmeans, one_hot, start_states
from gmm_dask.init.subsample import Proposals, Slot, Subsample, distinct, resume
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.rows import as_rows

Array = NDArray[np.float64]
# is told what is being done
Report = Callable[[str], None]
# the best fits found so far, the best first
Pool = dict[Slot, list[State]]


def search_states(
    candidates: Sequence[Candidate],
    data_summary: DataSummary,
    n_init: int,
    random_state: Callable[[], np.random.RandomState],
    reg_covar: float | Array,
    budget: SearchBudget = BUDGET,
    effort: float = 1.0,
    report: Report = lambda text: None,
    rows: OpenRows | None = None,
) -> list[State]:
    """Return the best fits of ``n_init`` independent searches, as :func:`gmm_dask.init.starts.first_states` does.

    ``effort`` is how many times the budget's work they may do; ``report`` is told what is being done; ``rows`` opens
    all rows for a pass, without it the sample is all of them.
    """
    if len(data_summary.sample) == 1:  # there is nothing to search
        return start_states(kmeans, candidates, data_summary, n_init, random_state, reg_covar)
    n_sample, n_features = data_summary.sample.shape
    affordable = budget.affords_search(candidates, n_sample, n_features, effort)
    chosen = searched_candidates(candidates) if affordable else candidates
    searched = [candidate for candidate in chosen if candidate.n_components <= n_sample]
    # one generator through all searches: each draws other clusterings and moves than those before
    random = random_state()
    n_rows = budget.n_rows(searched, n_features)
    found = []
    for start in range(n_init):
        work = Work(effort * budget.numbers_per_candidate * len(candidates) if affordable else 0.0)
        subsample = Subsample.of(data_summary, n_rows, random, reg_covar, budget, work)
        # with the first, k-means starts as it does where it is the start: the search never ends below it
        kmeans_random = random if start else random_state()
        which = f"start {start + 1} of {n_init}: " if n_init > 1 else ""
        largest, fits = _search(subsample, searched, data_summary, kmeans_random, partial(_prefixed, report, which))
        found.append(fits)
    if affordable and n_rows < data_summary.n_rows:  # the searches have not seen all rows
        sample = partial(as_rows, data_summary.sample, data_summary.sample_weights)
        found = with_rare_groups(found, largest, rows or sample, data_summary, report)
    return [
        resume(found[start][candidate], start)
        if candidate in found[start]
        else State(candidate, start, None, status=Status.SINGULAR)
        for candidate in candidates
        for start in range(n_init)
    ]


def _prefixed(report: Report, which: str, text: str) -> None:
    report(which + text)


def _search(
    subsample: Subsample,
    candidates: Sequence[Candidate],
    data_summary: DataSummary,
    kmeans_random: np.random.RandomState,
    report: Report,
) -> tuple[Subsample, Fits]:
    """Return the best fit of each candidate, none where all were singular, and the rows that they were compared on."""
    budget = subsample.budget
    n_restarts = budget.n_restarts(candidates, *subsample.x.shape)
    found = run_restarts(subsample, candidates, n_restarts, kmeans_random, report)
    # from here on the restarts' fits are compared with each other
    every = (replace(state, start=0) for states in found.values() for state in states)
    pool = _best({(candidate, 0): [] for candidate in candidates}, every, budget)
    short_run = Settings(budget.tol, budget.short_run)
    # what is best on few rows need not be best on more: compare again, on as many as are worth their passes
    if subsample.n_rows < len(data_summary.sample):
        subsample = subsample.larger(data_summary, budget.second_subsample * subsample.n_rows)
        report(f"comparing the best fits on {subsample.n_rows:,} rows")
        pool = _refined(subsample, pool, short_run)
    worth = budget.whole_sample_ratio
    if data_summary.n_rows > worth * len(data_summary.sample) > worth * subsample.n_rows:
        subsample = subsample.larger(data_summary, len(data_summary.sample))
        report(f"comparing the best fits on {subsample.n_rows:,} rows")
        pool = _refined(subsample, {slot: states[:1] for slot, states in pool.items()}, short_run)
    return subsample, {candidate: states[0] for (candidate, _), states in pool.items() if states}


def run_restarts(
    subsample: Subsample,
    candidates: Sequence[Candidate],
    n_restarts: int,
    kmeans_random: np.random.RandomState,
    report: Report = lambda text: None,
) -> Pool:
    """Return the best fits of every candidate on a subsample, of several independent restarts side by side."""
    budget, work = subsample.budget, subsample.work
    is_search, restarts = not work.is_done, range(n_restarts)
    report(f"clusterings of {subsample.n_rows:,} rows")
    # generators: fits are made as batches have room for them, so that those of a round are never all in memory
    first = (state for restart in restarts for state in _from_clusterings(subsample, candidates, restart))
    empty: Pool = {(candidate, restart): [] for restart in restarts for candidate in candidates}
    pool = _best(empty, _from_kmeans(subsample, candidates, kmeans_random), budget)
    if is_search:
        pool = _best(pool, _short_runs(subsample, first), budget)
    moved_from: dict[Slot, list[float]] = {slot: [] for slot in pool}
    for number in range(budget.rounds):
        chosen = _fits_to_move_from(subsample, pool, moved_from)
        if not chosen or work.is_done:
            break
        report(f"round {number + 1} of at most {budget.rounds}: moves from {len(chosen)} fits")
        proposals = (
            new
            for state, attempt in chosen
            if not work.is_done
            for new in neighbours(subsample, state, candidates, attempt)
        )
        # fits that the last round's short run left before they converged resume beside the new ones
        unfinished = [state for states in pool.values() for state in states if state.status is not Status.CONVERGED]
        pool = _best(pool, _short_runs(subsample, proposals, unfinished), budget)
    report("the last iterations of the best fits")
    return _refined(subsample, pool, budget.long_run(candidates, subsample.x.shape, work))


def _short_runs(
    subsample: Subsample, proposals: Iterable[Proposals], unfinished: Sequence[State] = ()
) -> Iterator[State]:
    """Yield the best proposals for each slot after short runs of EM, and the unfinished fits after as many iterations.

    Most proposals are given up after a few iterations, which rank them well enough.
    """
    budget = subsample.budget
    left = subsample.screen(proposals, budget.screening, budget.retained)
    return subsample.run([*left, *unfinished], Settings(budget.tol, budget.short_run))


def _fits_to_move_from(
    subsample: Subsample, pool: Pool, moved_from: dict[Slot, list[float]]
) -> list[tuple[State, int]]:
    """Return the best fit of each slot that has not been moved from often enough, with how often it has been.

    ``moved_from`` holds the lower bounds of the fits that a slot was moved from before; those returned are added.
    """
    budget = subsample.budget
    largest = max(candidate.n_components for candidate, _ in pool)
    chosen = []
    for (candidate, restart), states in pool.items():
        for state in states[:1]:
            bounds = moved_from[candidate, restart]
            attempt = sum(abs(state.lower_bound - bound) <= budget.same_optimum for bound in bounds)
            if attempt < _n_tries(subsample, state, bounds, candidate.n_components == largest):
                bounds.append(state.lower_bound)
                chosen.append((state, attempt))
    return chosen


def _n_tries(subsample: Subsample, state: State, bounds: Sequence[float], is_largest: bool) -> float:
    """Return how often a fit is moved from.

    It is three times; once more for each time that moves have led to another best fit of the slot, as they may again,
    up to three; and once more for every five components, as there are more moves then. On a small subsample a try is
    cheap: each halving of its rows counts once more for each such change, and for the largest candidates, to which no
    merge leads from above.
    """
    budget = subsample.budget
    halvings = np.log2(max(1.0, budget.subsample_rows / subsample.n_rows))
    n_changes = np.count_nonzero(np.abs(np.diff([*bounds, state.lower_bound])) > budget.change)
    tries = budget.tries + min(n_changes, budget.max_changes) * (1.0 + halvings)
    return float(tries + (state.n_components // budget.components_per_try + (halvings if is_largest else 0.0)))


# -- the best fits -------------------------------------------------------------------------------------------------


def _best(pool: Pool, fresh: Iterable[State], budget: SearchBudget) -> Pool:
    """Return the best of the pool and of fresh states, for each slot.

    The last of them has converged, if any has: the others may still turn out spurious.
    """
    every = {slot: list(states) for slot, states in pool.items()}
    for state in fresh:
        if state.usable and np.isfinite(state.lower_bound):
            every[state.candidate, state.start].append(state)
    best = {slot: distinct(states, budget.retained, budget.same_optimum) for slot, states in every.items()}
    # a fit on its way to a spurious optimum has a high likelihood, and is known as spurious only when it gets there:
    # one that has converged is retained beside it, to be moved from and to fall back on
    for slot, states in best.items():
        converged = distinct([s for s in every[slot] if s.status is Status.CONVERGED], 1, budget.same_optimum)
        if converged and all(state.status is not Status.CONVERGED for state in states):
            states[budget.retained - 1 :] = converged
    return best


def _refined(subsample: Subsample, pool: Pool, settings: Settings) -> Pool:
    """Return the pool's states after more iterations on the subsample, the best first."""
    fresh = subsample.run([state for states in pool.values() for state in states], settings)
    return _best({slot: [] for slot in pool}, fresh, subsample.budget)


# -- where the first fits begin ------------------------------------------------------------------------------------


def _from_kmeans(
    subsample: Subsample, candidates: Sequence[Candidate], random: np.random.RandomState
) -> Iterator[State]:
    """Yield what the k-means start ends with, so that no candidate ends below it."""
    state = random.get_state()
    proposals: list[Proposals] = []
    for k in dict.fromkeys(candidate.n_components for candidate in candidates):
        random.set_state(state)  # the start draws the clusterings of every number of components from an equal one
        resp = _responsibilities(k_means(subsample.x, subsample.weights, k, random), k)
        for candidate in candidates:
            if candidate.n_components == k:
                proposals += subsample.start((candidate, 0), resp)
    budget = subsample.budget
    return subsample.run(subsample.states(proposals), budget.long_run(candidates, subsample.x.shape, subsample.work))


def _from_clusterings(subsample: Subsample, candidates: Sequence[Candidate], restart: int) -> Iterator[Proposals]:
    """Yield where the first fits of a restart begin; covariance types share the clusterings."""
    for k in dict.fromkeys(candidate.n_components for candidate in candidates):
        mine = [candidate for candidate in candidates if candidate.n_components == k]
        for resp in _clusterings(subsample, k):
            for candidate in mine:
                yield from subsample.start((candidate, restart), resp)


def _clusterings(subsample: Subsample, k: int) -> Iterator[Array]:
    """Yield first responsibilities (k, n_rows)."""
    if k == 1:
        yield np.ones((1, subsample.n_rows))
        return
    for _ in range(subsample.budget.clusterings):
        # k-means finds round groups: in whitened space also those that are long in the data's units
        raw = k_means(subsample.x, subsample.weights, k, subsample.random)
        whitened = k_means(subsample.whitened, subsample.weights, k, subsample.random)
        nearest = nearest_of_distant_rows(subsample.whitened, subsample.weights, k, subsample.random)
        yield from (_responsibilities(labels, k) for labels in (raw, whitened, nearest))


def _responsibilities(labels: NDArray[np.intp], k: int) -> Array:
    return np.ascontiguousarray(one_hot(labels, k).T)
