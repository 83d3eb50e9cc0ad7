"""Moves from one fit to another: split a component, merge two, both at once, or change the covariance type.

EM alone cannot move a component across the others; splits and merges can (Ueda, Nakano, Ghahramani and Hinton 2000,
"SMEM algorithm for mixture models"). A move gives new responsibilities, from which EM begins again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.loop import State
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.subsample import RANK_TOLERANCE, Proposals, Subsample

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def neighbours(
    subsample: Subsample, state: State, candidates: Sequence[Candidate], attempt: int
) -> Iterator[Proposals]:
    """Yield mixtures that are one move away from a fit, of whichever candidates the moves lead to.

    The first attempt takes the likeliest moves. Later ones draw moves at random, and leave out those that improve a fit
    at first or never: counted over 56 searches, of 10,300 merges that were drawn at random 6 led to a better fit, of
    24,000 splits and merges at once 40, of 5,300 splits 45.
    """
    name, k, restart, first = state.covariance_type, state.n_components, state.start, attempt == 0
    resp = subsample.responsibilities(state)
    if k > 1 and first:
        for other in candidates:
            if other.n_components == k and other != state.candidate:
                yield from subsample.start((other, restart), resp)
    sides = _cuts(subsample, resp, first)
    pairs = most_overlapping(subsample, resp, first)[: subsample.budget.merges]
    # the proposals are put together from parts, so that what they share is summed up once: the components, then the
    # two halves of each that is cut, then the mergers
    added = [resp[j] * part for j, side in sides.items() for part in (side, ~side)]
    added += [resp[a] + resp[b] for a, b in pairs]
    parts = subsample.parts(name, resp)
    if added:
        parts = parts.followed_by(subsample.parts(name, np.array(added)))
    halves = {j: [k + 2 * i, k + 2 * i + 1] for i, j in enumerate(sides)}
    merged = {pair: k + 2 * len(sides) + i for i, pair in enumerate(pairs)}

    def without(*removed: int) -> list[int]:
        return [j for j in range(k) if j not in removed]

    moves = {
        k + 1: [without(j) + halves[j] for j in halves],
        # a fit of one component has a single optimum, which needs no merge
        k - 1: [[*without(*pair), merged[pair]] for pair in pairs] if k > 2 and first else [],
        # a split and a merge at once leave the number of components as it is (SMEM)
        k: [
            [*without(*pair, j), merged[pair], *halves[j]]
            for pair, j in itertools.product(pairs, halves)
            if j not in pair
        ],
    }
    for n_components, chosen in moves.items():
        candidate = Candidate(name, n_components)
        if candidate in candidates:
            yield from subsample.assemble((candidate, restart), parts, chosen)


# -- which components ----------------------------------------------------------------------------------------------


def most_overlapping(subsample: Subsample, resp: Array, first: bool) -> list[tuple[int, int]]:
    """Return the pairs of components by the cosine of their responsibilities, SMEM's merge criterion normalised."""
    # several components may hold no rows: each is divided by its own length, as the product of two may be zero
    directions = resp / (np.sqrt(np.sum(resp**2, axis=1)) + np.finfo(float).tiny)[:, None]
    cosines = directions @ directions.T
    a, b = np.triu_indices(len(cosines), k=1)
    order = _ranked(subsample, cosines[a, b], first)
    return list(zip(a[order].tolist(), b[order].tolist(), strict=True))


def _ranked(subsample: Subsample, values: Array, first: bool) -> list[int]:
    """Return positions by value, the largest first; after the first attempt in a random order that prefers them."""
    if not first:
        # the Gumbel trick: sorting log(v) plus Gumbel noise draws without replacement, in proportion to v
        with np.errstate(divide="ignore"):
            values = np.log(values) + subsample.random.gumbel(size=len(values))
    order: list[int] = np.argsort(-values, kind="stable").tolist()
    return order


# -- where a component is cut --------------------------------------------------------------------------------------


def _cuts(subsample: Subsample, resp: Array, first: bool) -> dict[int, Mask]:
    """Return which rows lie on one side of the cut through each component that is to be split.

    Components are chosen by the total squared distance from their means along their longest directions, in whitened
    space; the first attempt cuts them across these directions, at the mean.
    """
    totals, means, covariances = subsample.moments(resp)
    # eigenvalues come in ascending order: the last eigenvector is the first principal axis
    variances, directions = np.linalg.eigh(covariances)
    chosen = _ranked(subsample, np.maximum(variances[:, -1], 0.0) * totals, first)[: subsample.budget.splits]
    if not first:
        return {j: _cut_at_random(subsample, resp[j], means[j], variances[j], directions[j]) for j in chosen}
    longest = directions[chosen, :, -1]
    beyond = subsample.whitened @ longest.T > np.sum(means[chosen] * longest, axis=1)
    return {j: beyond[:, i] for i, j in enumerate(chosen)}


def _cut_at_random(subsample: Subsample, resp: Array, mean: Array, variances: Array, directions: Array) -> Mask:
    """Return the rows of one part of a component, which two of its rows bound, drawn in proportion to their weights.

    The part is one of three: the rows nearer to the second than to the first; those within the second's distance from
    the component's mean; or those within the second's distance from the first, both by the component's own covariance.
    A plane does not separate heavy tails, nor a group inside another one: an ellipsoid does.
    """
    random, z = subsample.random, subsample.whitened
    shares = np.cumsum(resp if subsample.weights is None else resp * subsample.weights)
    a, b = np.minimum(np.searchsorted(shares, random.uniform(0.0, shares[-1], 2), side="right"), len(z) - 1)
    shape = random.randint(3)
    if shape == 0:
        nearer: Mask = (z - (z[a] + z[b]) / 2.0) @ (z[b] - z[a]) > 0.0
        return nearer
    # squared Mahalanobis distances; a component of few rows spans few directions
    spanned = variances > RANK_TOLERANCE * max(variances[-1], np.finfo(float).tiny)
    y = (z - (mean if shape == 1 else z[a])) @ (directions[:, spanned] / np.sqrt(variances[spanned]))
    distances = np.einsum("nd,nd->n", y, y)
    within: Mask = distances < distances[b]
    return within
