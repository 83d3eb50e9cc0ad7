"""Starts that compete: many short fits over a scout of the sample, of which the best go on over all rows.

First responsibilities come from clusterings in raw and in whitened space. What they lead to is then improved by moves
between neighbours: a component is split, two are merged, both at once (Ueda, Nakano, Ghahramani and Hinton 2000, "SMEM
algorithm for mixture models"), or another covariance type takes the responsibilities over. All fits of a round share
one batch, and the rows are in memory: such passes cost next to nothing beside one over all rows.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning

from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.families import Statistics
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.responsibilities import STARTS, require_rows, start_states
from gmm_dask.init.subsample import Scout, continued
from gmm_dask.memory import KEPT, affordable_competitions, affordable_promising
from gmm_dask.passes.data_summary import DataSummary

Array = NDArray[np.float64]
Place = tuple[str, int, int]  # covariance type, number of components, number of the competition
Pool = dict[Place, list[State]]

AUTO = "auto"
INIT_PARAMS = (*STARTS, AUTO)

# rows of the scout: enough for the largest candidate's components to have a shape
SCOUT_ROWS = 8192
ROWS_A_MEAN = 20  # times n_components times n_features
# the best of the scout's fits are compared once more over so many times its rows
SECOND_SCOUT = 8
# the whole sample is worth its passes where a pass over all rows costs so many times as much
WORTH_REFINING = 4

CLUSTERINGS = 2  # of each kind
ROUNDS = 20
# how often moves are tried from the best fit of a candidate: the likeliest, then some drawn at random. Once more for
# each time that they have led to another fit, up to so many times, and for every five components, as there are more
# moves then. Where rows are few a try is cheap: each halving of them counts once more for each other fit, and for the
# largest candidates, which no merge leads to
TRIES, MOST_CHANGES, COMPONENTS_A_TRY = 3, 3, 5
SPLITS = 6
MERGES = 4
# fits after the first few iterations, and after some more: of each candidate only the most promising go on
GLIMPSE, SECOND_GLIMPSE = Settings(tol=1e-5, max_iter=3), Settings(tol=1e-5, max_iter=5)
SHORT = Settings(tol=1e-5, max_iter=25)
LONG = Settings(tol=1e-7, max_iter=200)
REFINING = Settings(tol=1e-5, max_iter=25)
# mean log-likelihoods closer than this are one optimum; an improvement by less is none
SAME = 1e-5
# a fit that differs from the one before by more than this is another one, not the same a few iterations later
CHANGE = 1e-4


def first_states(
    candidates: Sequence[Candidate],
    data_summary: DataSummary,
    *,
    init_params: str,
    n_init: int,
    random_state: Callable[[], np.random.RandomState],
    reg_covar: float | Array,
) -> list[State]:
    """First states of all candidates, each with ``n_init`` starts.

    Parameters
    ----------
    candidates : sequence of (covariance_type, n_components)
    data_summary : DataSummary
        Of the rows, with the sample of them that starts are made from.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data', 'auto'}
        With 'auto' the candidates' fits over the sample compete, and help each other; a sample of one row leaves
        nothing to compete for. With the others :func:`gmm_dask.init.responsibilities.start_states` makes them.
    n_init, random_state, reg_covar
        As in :func:`gmm_dask.init.responsibilities.start_states`.

    Returns
    -------
    states : list of State
        Candidate by candidate, start by start. Those of a candidate with more components than there are rows have
        failed.
    """
    possible = [candidate for candidate in candidates if candidate[1] <= len(data_summary.sample)]
    if len(possible) < len(candidates):
        settings: dict[str, Any] = {"init_params": init_params, "n_init": n_init, "random_state": random_state}
        found = iter(first_states(possible, data_summary, reg_covar=reg_covar, **settings) if possible else ())
        starts = itertools.product(candidates, range(n_init))
        return [next(found) if c in possible else State(c, start, None, status=Status.FAILED) for c, start in starts]
    if init_params == AUTO and len(data_summary.sample) > 1:
        return auto_states(candidates, data_summary, n_init, random_state(), reg_covar)
    return start_states(
        candidates,
        data_summary.sample,
        data_summary.sample_weights,
        init_params="kmeans" if init_params == AUTO else init_params,
        n_init=n_init,
        random_state=random_state,
        reg_covar=reg_covar,
    )


def auto_states(
    candidates: Sequence[Candidate],
    data_summary: DataSummary,
    n_init: int,
    random: np.random.RandomState,
    reg_covar: float | Array,
) -> list[State]:
    """The best fits over the sample of ``n_init`` competitions that know nothing of each other.

    They come as :func:`first_states` returns them.
    """
    won = [_best_fits(candidates, data_summary, random, reg_covar) for _ in range(n_init)]
    return [_as_start(candidate, start, won[start]) for candidate in candidates for start in range(n_init)]


def _as_start(candidate: Candidate, start: int, won: Pool) -> State:
    """A new state where the best fit of a competition has come to."""
    found = won[*candidate, 0]
    return continued(found[0], start) if found else State(candidate, start, None, status=Status.SINGULAR)


# -- the competition -----------------------------------------------------------------------------------------------


def _best_fits(
    candidates: Sequence[Candidate], data_summary: DataSummary, random: np.random.RandomState, reg_covar: float | Array
) -> Pool:
    """The best fit of each candidate over the sample; none where all were singular."""
    largest = max(k for _, k in candidates)
    require_rows(len(data_summary.sample), largest)
    n_features = len(data_summary.center)
    n_rows = max(SCOUT_ROWS, ROWS_A_MEAN * largest * n_features)
    scout = Scout.of(data_summary, n_rows, random, reg_covar)
    promising = affordable_promising(candidates, n_features)
    found = _compete(scout, candidates, promising, affordable_competitions(candidates, len(scout.x), n_features))
    every = (replace(state, start=0) for states in found.values() for state in states)
    pool = _best({(*candidate, 0): [] for candidate in candidates}, every)
    if len(scout.x) < len(data_summary.sample):
        scout = Scout.of(data_summary, SECOND_SCOUT * n_rows, random, reg_covar)
        pool = _refined(scout, pool)
    if data_summary.n_rows > WORTH_REFINING * len(data_summary.sample) > WORTH_REFINING * len(scout.x):
        scout = Scout.of(data_summary, len(data_summary.sample), random, reg_covar)
        pool = _refined(scout, {place: states[:1] for place, states in pool.items()})
    return {place: states[:1] for place, states in pool.items()}


def _compete(scout: Scout, candidates: Sequence[Candidate], promising: int, n_competitions: int) -> Pool:
    """The best fits of every candidate over the scout, the best first, of several competitions side by side."""
    names = {k: [name for name, n in candidates if n == k] for _, k in candidates}
    places = [(*candidate, number) for number in range(n_competitions) for candidate in candidates]
    first = (
        state
        for number, k in itertools.product(range(n_competitions), names)
        for resp in _clusterings(scout, k)
        for name in names[k]
        for state in scout.start(name, resp, number)
    )
    pool = _best({place: [] for place in places}, _promising(scout, first, promising))
    tried: dict[Place, list[float]] = {place: [] for place in places}
    for _ in range(ROUNDS):
        chosen = _untried(scout, pool, tried)
        if not chosen:
            break
        proposals = (p for state, again in chosen for p in _neighbours(scout, state, pool, again))
        going_on = [state for found in pool.values() for state in found if state.status is not Status.CONVERGED]
        pool = _best(pool, _promising(scout, proposals, promising, going_on))
    return _refined(scout, pool, LONG)


def _promising(
    scout: Scout, proposals: Iterable[State], promising: int, going_on: Sequence[State] = ()
) -> Iterator[State]:
    """The best proposals for each place after a short fit, and others that go on."""
    left = proposals
    for glimpse, kept in ((GLIMPSE, promising), (SECOND_GLIMPSE, KEPT)):
        best: Pool = {}
        for state in scout.glimpse(left, glimpse):
            if state.usable:
                found = best.setdefault(_place(state), [])
                found[:] = _distinct([*found, state], kept)
        left = list(itertools.chain(*best.values()))
    return scout.run([*left, *going_on], SHORT)


def _place(state: State) -> Place:
    return state.covariance_type, state.n_components, state.start


def _best(pool: Pool, fresh: Iterable[State]) -> Pool:
    """The best of the pool and of fresh states, at each place.

    The last of them is one that has converged, if there is any: others may still turn into spikes.
    """
    every = {place: list(found) for place, found in pool.items()}
    for state in fresh:
        if state.usable and np.isfinite(state.lower_bound):
            every[_place(state)].append(state)
    best = {place: _distinct(found, KEPT) for place, found in every.items()}
    for place, found in best.items():
        certain = _distinct([s for s in every[place] if s.status is Status.CONVERGED], 1)
        if certain and all(state.status is not Status.CONVERGED for state in found):
            found[KEPT - 1 :] = certain
    return best


def _distinct(states: Iterable[State], kept: int) -> list[State]:
    """The best states that differ in their likelihood; those that are not trusted come last."""
    chosen: list[State] = []
    for state in sorted(states, key=lambda state: (not state.status.trusted, -state.lower_bound)):
        if len(chosen) < kept and all(abs(state.lower_bound - other.lower_bound) > SAME for other in chosen):
            chosen.append(state)
    return chosen


def _untried(scout: Scout, pool: Pool, tried: dict[Place, list[float]]) -> list[tuple[State, int]]:
    """The best states from which moves have not been tried often enough, with how often; once more from now on."""
    found = []
    largest = max(k for _, k, _ in pool)
    halvings = np.log2(max(1.0, SCOUT_ROWS / len(scout.x)))
    for place, states in pool.items():
        for state in states[:1]:
            before = sum(abs(state.lower_bound - bound) <= SAME for bound in tried[place])
            n_changes = np.count_nonzero(np.abs(np.diff([*tried[place], state.lower_bound])) > CHANGE)
            tries = TRIES + min(n_changes, MOST_CHANGES) * (1.0 + halvings)
            tries += state.n_components // COMPONENTS_A_TRY + (halvings if state.n_components == largest else 0.0)
            if before < tries:
                tried[place].append(state.lower_bound)
                found.append((state, before))
    return found


def _refined(scout: Scout, pool: Pool, settings: Settings = REFINING) -> Pool:
    """The pool's states after more iterations over the scout's rows, the best first."""
    fresh = scout.run([state for found in pool.values() for state in found], settings)
    return _best({place: [] for place in pool}, fresh)


# -- where fits begin ----------------------------------------------------------------------------------------------


def _clusterings(scout: Scout, k: int) -> Iterator[Array]:
    """First responsibilities of k components."""
    if k == 1:
        yield np.ones((len(scout.x), 1))
        return
    for _ in range(CLUSTERINGS):
        for labels in (_kmeans(scout, scout.x, k), _kmeans(scout, scout.whitened, k), _nearest(scout, k)):
            yield _one_hot(labels, k)


def _kmeans(scout: Scout, x: Array, k: int) -> NDArray[np.intp]:
    with warnings.catch_warnings():  # fewer distinct rows than clusters leave some of them empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(k, n_init=1, random_state=scout.random).fit(x, sample_weight=scout.weights)
    labels: NDArray[np.intp] = fitted.labels_
    return labels


def _nearest(scout: Scout, k: int) -> NDArray[np.intp]:
    """Each row to the nearest of k rows, drawn far from each other."""
    z = scout.whitened
    centers, _ = kmeans_plusplus(z, k, sample_weight=scout.weights, random_state=scout.random, n_local_trials=1)
    distances = np.sum(centers**2, axis=1) - 2.0 * z @ centers.T
    labels: NDArray[np.intp] = distances.argmin(axis=1)
    return labels


# -- moves between neighbours --------------------------------------------------------------------------------------


def _neighbours(scout: Scout, state: State, pool: Pool, again: int) -> Iterator[State]:
    """States that begin where one of the pool has come to.

    Moves drawn at random are splits, and splits and merges at once: other merges are found at first or never.
    """
    name, k, number = _place(state)
    resp = scout.resp(state)
    if k > 1 and not again:
        for other, *rest in pool:
            if rest == [k, number] and other != name:
                yield from scout.start(other, resp, number)
    cut = _cut_at_random if again else _cut
    sides = {j: cut(scout, resp[:, j])[:, None] for j in _widest(scout, resp, again)[:SPLITS]}
    pairs = _overlapping(scout, resp, again)[:MERGES]
    # every proposal is put together from these: what they share is computed once
    parts = dict(enumerate(scout.parts(name, resp)))
    halves = {j: scout.parts(name, resp[:, [j]] * np.hstack([side, ~side])) for j, side in sides.items()}
    merged = {pair: scout.parts(name, resp[:, pair].sum(axis=1, keepdims=True)) for pair in pairs}

    def changed(gone: Sequence[int], new: list[Statistics]) -> list[Statistics]:
        return [part for j, part in parts.items() if j not in gone] + new

    proposals = []
    if (name, k + 1, number) in pool:
        proposals += [changed([j], halves[j]) for j in halves]
    if (name, k - 1, number) in pool and k > 2 and not again:
        proposals += [changed(pair, merged[pair]) for pair in pairs]
    for pair, j in itertools.product(pairs, halves):
        if j not in pair:
            proposals.append(changed([*pair, j], merged[pair] + halves[j]))
    yield from scout.assembled(name, proposals, number)


def _cut(scout: Scout, share: Array) -> NDArray[np.bool_]:
    """On which side of a component each row lies: cut at its mean, across its longest direction in whitened space."""
    _, direction, offset = _longest(scout, share)
    beyond: NDArray[np.bool_] = scout.whitened @ direction > offset
    return beyond


def _cut_at_random(scout: Scout, share: Array) -> NDArray[np.bool_]:
    """A part of a component that two of its rows, drawn from it, bound.

    They are the rows that are nearer to the second than to the first; or those up to the second, by the component's
    own covariance, about its mean or about the first: tails that are heavy, and groups inside, are not found across.
    """
    shares = share if scout.weights is None else share * scout.weights
    total = shares.sum()
    a, b = scout.random.choice(len(shares), 2, p=shares / total if total > 0.0 else None)
    z = scout.whitened
    kind = scout.random.choice(["across", "about its mean", "about a row"])
    if kind == "across":
        nearer: NDArray[np.bool_] = (z - (z[a] + z[b]) / 2.0) @ (z[b] - z[a]) > 0.0
        return nearer
    mean, covariance = _moments(scout, share)
    y = z - (mean if kind == "about its mean" else z[a])
    distances = np.sum(y @ np.linalg.pinv(covariance, hermitian=True) * y, axis=1)
    within: NDArray[np.bool_] = distances < distances[b]
    return within


def _one_hot(labels: NDArray[np.intp], k: int) -> Array:
    resp: Array = (labels[:, None] == np.arange(k)).astype(float)
    return resp


def _longest(scout: Scout, share: Array) -> tuple[float, Array, float]:
    """Variance along a component's longest direction in whitened space, the direction, and where its mean lies."""
    mean, covariance = _moments(scout, share)
    values, vectors = np.linalg.eigh(covariance)
    direction: Array = vectors[:, -1]
    return float(values[-1]), direction, float(mean @ direction)


def _moments(scout: Scout, share: Array) -> tuple[Array, Array]:
    """A component's mean (n_directions,) and covariance (n_directions, n_directions) in whitened space."""
    rows, weights = scout.answered(share)
    total = max(float(weights.sum()), np.finfo(float).tiny)
    z = scout.whitened[rows]
    mean: Array = weights @ z / total
    y = z - mean
    covariance: Array = (y * weights[:, None]).T @ y / total
    return mean, covariance


def _widest(scout: Scout, resp: Array, again: int) -> list[int]:
    """Components by how far their rows reach, all together."""
    reach = [_longest(scout, resp[:, j])[0] * resp[:, j].sum() for j in range(resp.shape[1])]
    return _ranked(scout, np.array(reach), again)


def _ranked(scout: Scout, values: Array, again: int) -> list[int]:
    """Positions by value, the largest first; the next times in a random order that prefers large ones."""
    if again:
        with np.errstate(divide="ignore"):
            values = np.log(values) + scout.random.gumbel(size=len(values))
    order: list[int] = np.argsort(-values, kind="stable").tolist()
    return order


def _overlapping(scout: Scout, resp: Array, again: int) -> list[tuple[int, int]]:
    """Pairs of components by how alike their responsibilities are, the most alike first."""
    lengths = np.sqrt(np.sum(resp**2, axis=0)) + np.finfo(float).tiny
    alike = (resp / lengths).T @ (resp / lengths)
    a, b = np.triu_indices(len(alike), k=1)
    order = _ranked(scout, alike[a, b], again)
    return list(zip(a[order].tolist(), b[order].tolist(), strict=True))
