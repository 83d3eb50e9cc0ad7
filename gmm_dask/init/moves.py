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
from gmm_dask.families import Statistics
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.subsample import Subsample

Array = NDArray[np.float64]


def neighbours(subsample: Subsample, state: State, candidates: Sequence[Candidate], attempt: int) -> Iterator[State]:
    """Yield new states that are one move away from a fit, of whichever candidates the moves lead to.

    The first attempt takes the likeliest moves. Later ones draw moves at random, and leave out those that improve a fit
    at first or never: counted over 56 searches, of 10,300 merges that were drawn at random 6 led to a better fit, of
    24,000 splits and merges at once 40, of 5,300 splits 45.
    """
    (name, k), restart = state.candidate, state.start
    budget, first = subsample.budget, attempt == 0
    resp = subsample.responsibilities(state)
    if k > 1 and first:
        for other in candidates:
            if other.n_components == k and other != state.candidate:
                yield from subsample.start(other.covariance_type, resp, restart)
    # a split gives the rows on one side of a component to one half, and the others to the other half
    cut = _cut_at_mean if first else _cut_at_random
    sides = {j: cut(subsample, resp[:, j])[:, None] for j in _widest(subsample, resp, first)[: budget.splits]}
    pairs = _most_overlapping(subsample, resp, first)[: budget.merges]
    # the proposals are assembled from statistics of components, so that what they share is computed once
    parts = dict(enumerate(subsample.component_statistics(name, resp)))
    halves = {
        j: subsample.component_statistics(name, resp[:, [j]] * np.hstack([side, ~side])) for j, side in sides.items()
    }
    merged = {pair: subsample.component_statistics(name, resp[:, pair].sum(axis=1, keepdims=True)) for pair in pairs}

    def replaced(removed: Sequence[int], added: list[Statistics]) -> list[Statistics]:
        return [part for j, part in parts.items() if j not in removed] + added

    proposals = []
    if Candidate(name, k + 1) in candidates:
        proposals += [replaced([j], halves[j]) for j in halves]
    # a fit of one component has a single optimum, which needs no merge
    if Candidate(name, k - 1) in candidates and k > 2 and first:
        proposals += [replaced(pair, merged[pair]) for pair in pairs]
    # a split and a merge at once leave the number of components as it is (SMEM)
    for pair, j in itertools.product(pairs, halves):
        if j not in pair:
            proposals.append(replaced([*pair, j], merged[pair] + halves[j]))
    yield from subsample.assemble(name, proposals, restart)


# -- which components ----------------------------------------------------------------------------------------------


def _widest(subsample: Subsample, resp: Array, first: bool) -> list[int]:
    """Return the components by their total squared distance from their means along their longest directions."""
    reach = [_longest_direction(subsample, resp[:, j])[0] * resp[:, j].sum() for j in range(resp.shape[1])]
    return _ranked(subsample, np.array(reach), first)


def _most_overlapping(subsample: Subsample, resp: Array, first: bool) -> list[tuple[int, int]]:
    """Return the pairs of components by the cosine of their responsibilities, SMEM's merge criterion normalised."""
    lengths = np.sqrt(np.sum(resp**2, axis=0)) + np.finfo(float).tiny
    cosines = (resp / lengths).T @ (resp / lengths)
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


def _cut_at_mean(subsample: Subsample, resp: Array) -> NDArray[np.bool_]:
    """Return which rows lie on one side of a component's mean, along its longest direction in whitened space."""
    _, direction, offset = _longest_direction(subsample, resp)
    beyond: NDArray[np.bool_] = subsample.whitened @ direction > offset
    return beyond


def _cut_at_random(subsample: Subsample, resp: Array) -> NDArray[np.bool_]:
    """Return the rows of one part of a component, which two of its rows bound, drawn in proportion to their weights.

    The part is one of three: the rows nearer to the second than to the first; those within the second's distance from
    the component's mean; or those within the second's distance from the first, both by the component's own covariance.
    A plane does not separate heavy tails, nor a group inside another one: an ellipsoid does.
    """
    weights = resp if subsample.weights is None else resp * subsample.weights
    total = weights.sum()
    a, b = subsample.random.choice(len(weights), 2, p=weights / total if total > 0.0 else None)
    z = subsample.whitened
    shape = subsample.random.choice(["plane", "about the mean", "about a row"])
    if shape == "plane":
        nearer: NDArray[np.bool_] = (z - (z[a] + z[b]) / 2.0) @ (z[b] - z[a]) > 0.0
        return nearer
    mean, covariance = _moments(subsample, resp)
    y = z - (mean if shape == "about the mean" else z[a])
    # squared Mahalanobis distances; the pseudo-inverse, as a component of few rows spans few directions
    distances = np.sum(y @ np.linalg.pinv(covariance, hermitian=True) * y, axis=1)
    within: NDArray[np.bool_] = distances < distances[b]
    return within


def _longest_direction(subsample: Subsample, resp: Array) -> tuple[float, Array, float]:
    """Return the variance along a component's longest direction, that direction, and the mean's position along it."""
    mean, covariance = _moments(subsample, resp)
    # eigenvalues come in ascending order: the last eigenvector is the first principal axis
    values, vectors = np.linalg.eigh(covariance)
    direction: Array = vectors[:, -1]
    return float(values[-1]), direction, float(mean @ direction)


def _moments(subsample: Subsample, resp: Array) -> tuple[Array, Array]:
    """Return a component's mean (n_directions,) and covariance (n_directions, n_directions) in whitened space."""
    rows, weights = subsample.weighted_rows(resp)
    # a component that holds no rows has a total of zero: its mean is then zero, and its covariance too
    total = max(float(weights.sum()), np.finfo(float).tiny)
    z = subsample.whitened[rows]
    mean: Array = weights @ z / total
    y = z - mean
    covariance: Array = (y * weights[:, None]).T @ y / total
    return mean, covariance
