"""Components over groups so rare that a subsample does not hold them: starts that all rows take part in.

A group of one row in ten thousand has no row in the subsample that starts are searched for on, or one. All rows are
read once more for those that the best fit finds least likely (:mod:`gmm_dask.passes.least_likely`): the rows of a group
that lies apart from the others are among them, and near each other. A component that begins with such rows is fitted
beside those of the search, over the subsample and the least likely rows together. It is kept if it gains its price over
all rows, which a last read tells, and if it is no wider than a group is: the far rows of heavy tails are none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.loop import Settings, State
from gmm_dask.em.spurious import Evaluate, least_gain
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.moves import most_overlapping
from gmm_dask.init.subsample import Proposals, Subsample
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.least_likely import LeastLikely, least_likely
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.row_outputs import LOG_DENSITY
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.statistics import collect_totals

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
# opens all rows, for one pass
OpenRows = Callable[[], Rows]

# how dense a group is follows from the nearest rows of one of its own, this many times n_features + 1
NEAR_ROWS = 2
# another group begins so many times that distance away: of normal rows the nearest lie within a third of their radius
APART = 4.0
# in no direction has a group more than this many times the variance of the others: the far rows of heavy tails have
WIDE = 10.0


# the best fit of each candidate
Fits = dict[Candidate, State]


def with_rare_groups(
    searches: Sequence[Fits],
    subsample: Subsample,
    rows: OpenRows,
    data_summary: DataSummary,
    report: Callable[[str], None],
) -> list[Fits]:
    """Return what searches found, with components for rare groups where all rows are likelier by them.

    ``subsample`` has the rows that the best fits were last compared on.
    """
    best = _best_by_bic(searches, subsample)
    if best is None or all(candidate.n_components == 1 for found in searches for candidate in found):
        return list(searches)
    report("reading all rows for the least likely ones")
    least = least_likely(rows(), data_summary, best.model, subsample.budget.least_likely)
    try:
        stratified = _stratified(subsample, best, least, data_summary)
        groups = _groups(stratified, best, least)
        proposed = [_with_groups(found, stratified, groups, least) for found in searches]
    except np.linalg.LinAlgError:  # so close to singular that groups cannot be looked for
        return list(searches)
    if not any(proposed):
        return list(searches)
    report("comparing fits with components for rare groups on all rows")
    return _likelier(searches, proposed, rows(), data_summary)


def _best_by_bic(searches: Sequence[Fits], subsample: Subsample) -> State | None:
    """Return the best trusted fit of all searches, by BIC over the subsample's rows; None if there is none."""
    n_rows, d = subsample.x.shape

    def bic(state: State) -> float:
        n_parameters = state.candidate.n_parameters(d)
        return float(n_parameters * math.log(n_rows) - 2.0 * n_rows * state.lower_bound)

    return min((s for found in searches for s in found.values() if s.status.trusted), key=bic, default=None)


def _likelier(searches: Sequence[Fits], proposed: Sequence[Fits], rows: Rows, data_summary: DataSummary) -> list[Fits]:
    """Return what the searches found, with those of the proposed fits that pay over all rows and make them likelier."""
    after = [dict(found) for found in searches]
    new = [(mine, state) for mine, fits in zip(after, proposed, strict=True) for state in fits.values()]
    old = [mine[state.candidate] for mine, state in new]
    gain = _compare([state for _, state in new], old, partial(collect_totals, rows, data_summary), data_summary)
    for (mine, state), gains in zip(new, gain, strict=True):
        if gains:
            mine[state.candidate] = state
    return after


def _compare(new: Sequence[State], old: Sequence[State], evaluate: Evaluate, data_summary: DataSummary) -> list[bool]:
    """Return which fits are to replace others, by one pass over the rows of a data summary.

    They are likelier than fits that are trusted, and their last components gain their price: see
    :func:`gmm_dask.em.spurious.check_components`.
    """
    without = [(family, family.without(parameters, -1)) for family, parameters in (state.model for state in new)]
    totals = evaluate([state.model for state in new] + without + [state.model for state in old]) if new else []
    share = data_summary.resolution.distinct_share
    n, n_new = data_summary.total_weight * share, len(new)

    def replaces(i: int) -> bool:
        whole, reduced, other = (totals[i + j * n_new].log_likelihood for j in range(3))
        price = least_gain(new[i].model[0], new[i].n_components, len(data_summary.center), n)
        return share * (whole - reduced) >= price and (whole > other or not old[i].status.trusted)

    return [replaces(i) for i in range(n_new)]


# -- in memory -----------------------------------------------------------------------------------------------------


def _with_groups(found: Fits, subsample: Subsample, groups: Sequence[Mask], least: LeastLikely) -> Fits:
    """Return fits with a component for a rare group, of the candidates whose own fits are worse."""
    after, fresh = dict(found), {}
    densities = {candidate: _log_density(subsample, state) for candidate, state in found.items()}
    # from few components to many: several rare groups are found one after the other
    for candidate in sorted(found, key=lambda candidate: candidate.n_components):
        before = densities.get(_neighbour(candidate, -1))
        if candidate.n_components == 1 or (
            before is not None and _is_out_of_reach(before, densities[candidate], subsample, least)
        ):
            continue
        new = _fit(subsample, found[candidate], _proposals(subsample, candidate, found, after, groups))
        if new is not None:
            fresh[candidate] = after[candidate] = new
    return fresh


def _neighbour(candidate: Candidate, more: int) -> Candidate:
    return candidate._replace(n_components=candidate.n_components + more)


def _log_density(subsample: Subsample, state: State) -> Array:
    found: Array = predict_rows(subsample.rows, *state.model, [LOG_DENSITY.name])[LOG_DENSITY.name]
    return found


def _is_out_of_reach(before: Array, own: Array, subsample: Subsample, least: LeastLikely) -> bool:
    """Whether a fit is likelier than one of one component less by more than a component for a rare group could gain.

    Both are log densities of the subsample's rows; as many rows as the least likely ones could be as likely as the
    likeliest instead of the least likely one.
    """
    with np.errstate(invalid="ignore"):  # a row may have no density
        gap = np.average(own - before, weights=subsample.weights) * subsample.data_summary.total_weight
    return bool(gap > least.weights.sum() * (own.max() - before.min()))


def _stratified(subsample: Subsample, best: State, least: LeastLikely, data_summary: DataSummary) -> Subsample:
    """Return the subsample's rows, which stand for all others, followed by the least likely ones.

    It is a stratified sample: with its weights, log-likelihoods estimate those over all rows, and the least likely
    ones, all of which are there, have no part in the error.
    """
    others = _log_density(subsample, best) > least.log_density.max()
    x, weights = subsample.x[others], np.ones(subsample.n_rows) if subsample.weights is None else subsample.weights
    others_weight = data_summary.total_weight - least.weights.sum()
    weights = weights[others] * (others_weight / (weights[others].sum() or 1.0))  # there may be none
    sample = np.concatenate([x, least.rows])
    both = replace(
        data_summary,
        sample=sample,
        sample_weights=np.concatenate([weights, least.weights]),
        known_resolution=data_summary.resolution,
    )
    return subsample.larger(both, len(sample))


def _groups(subsample: Subsample, best: State, least: LeastLikely) -> list[Mask]:
    """Return groups of the least likely rows, the last rows of the subsample, as masks of its rows.

    They are where the rows are denser than the best fit says, by the largest factors. The density of D columns at a row
    is taken as 1 / r^D, with r the distance to the row that is nearest but for some, in units of the components' mean
    covariance.
    """
    from scipy.spatial.distance import cdist

    family, parameters = best.model
    within = np.linalg.cholesky(np.tensordot(parameters.weights, family.full_covariances(parameters), axes=1))
    z = np.linalg.solve(within, (least.rows - least.rows.mean(axis=0)).T).T
    distances, n_near = cdist(z, z), NEAR_ROWS * (z.shape[1] + 1)
    groups: list[Mask] = []
    left = np.arange(len(z))
    while len(groups) < subsample.budget.rare_groups and len(left) > n_near:
        radii = np.partition(distances[np.ix_(left, left)], n_near, axis=1)[:, n_near]
        with np.errstate(divide="ignore"):  # of equal rows
            densities = -z.shape[1] * np.log(radii) - least.log_density[left]
        center, radius = left[densities.argmax()], radii[densities.argmax()]
        group = np.zeros(subsample.n_rows, dtype=bool)
        group[subsample.n_rows - len(z) + left[distances[center, left] <= radius]] = True
        groups.append(group)
        left = left[distances[center, left] > APART * radius]
    return groups


def _proposals(
    subsample: Subsample, candidate: Candidate, before: Fits, after: Fits, groups: Sequence[Mask]
) -> Iterator[Proposals]:
    """Yield mixtures of a candidate whose last component may be a rare group.

    They are the fits of one component less, without and with a rare group, with one of the groups beside; where there
    are none, two of the candidate's own components become one. The search itself may have found a rare group with one
    component more: then two of the others become one.
    """
    fewer, more, slot = _neighbour(candidate, -1), _neighbour(candidate, 1), (candidate, 0)
    bases: Iterable[Array]
    if fewer in before:
        bases = (subsample.responsibilities(state) for state in dict.fromkeys([before[fewer], after[fewer]]))
    else:
        bases = _merged(subsample, before[candidate])
    # one after the other: responsibilities of many components take much memory
    for resp in bases:
        for group in groups:
            beside = np.empty((len(resp) + 1, len(group)))
            np.multiply(resp, ~group, out=beside[:-1])
            beside[-1] = group
            yield from subsample.start(slot, beside)
    if more in before:
        for resp in _merged(subsample, before[more]):
            yield from subsample.start(slot, resp)


def _merged(subsample: Subsample, state: State) -> Iterator[Array]:
    """Yield responsibilities in which two overlapping components are one; that of the fewest rows is the last."""
    order = np.argsort(-state.model[1].weights, kind="stable")
    resp = subsample.responsibilities(state)[order]
    for a, b in most_overlapping(subsample, resp, first=True)[: subsample.budget.rare_merges]:
        merged = np.empty((len(resp) - 1, resp.shape[1]))
        np.add(resp[a], resp[b], out=merged[0])
        merged[1:] = np.delete(resp, [a, b], axis=0)
        yield merged


def _fit(subsample: Subsample, old: State, proposals: Iterator[Proposals]) -> State | None:
    """Return the best fit from the proposals, if it is to replace another one; None otherwise."""
    budget, data_summary = subsample.budget, subsample.data_summary
    evaluate = partial(collect_totals, subsample.rows, data_summary)

    def better(states: Sequence[State]) -> list[State]:
        compact = [state for state in states if _is_compact(state)]
        gains = _compare(compact, [old] * len(compact), evaluate, data_summary)
        return [state for state, is_better in zip(compact, gains, strict=True) if is_better]

    first = better(subsample.screen(proposals, budget.screening, 2 * (budget.rare_groups + budget.rare_merges)))[:1]
    last = better(list(subsample.run(first, Settings(budget.tol, budget.short_run))))
    return last[0] if last and last[0].status.trusted else None


def _is_compact(state: State) -> bool:
    """Whether the last component is not far wider than the mean of all, in any direction."""
    family, parameters = state.model
    matrices = family.full_covariances(parameters)
    inverse = np.linalg.inv(np.linalg.cholesky(np.tensordot(parameters.weights, matrices, axes=1)))
    return bool(np.linalg.eigvalsh(inverse @ matrices[-1] @ inverse.T)[-1] <= WIDE)
