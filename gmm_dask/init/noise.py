"""Starts beside noise: rows in thin places are taken for noise, and the components begin with the others.

The distance of a row to its K-th nearest row says how dense the rows are there. Over rows of two densities, those of
the groups and that of the noise, the D-th powers of these distances are a mixture of two gamma distributions,
which tells the two apart (Byers and Raftery 1998, "Nearest-neighbor clutter removal for estimating features in spatial
point processes", whose NNclean mclust's users take for ``initialization = list(noise = ...)``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.in_memory import fit_states
from gmm_dask.em.loop import Settings, State, best_start
from gmm_dask.families import Noise
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.subsample import resume
from gmm_dask.passes.data_summary import DataSummary, Draw, finish_summary, summarize_chunk
from gmm_dask.passes.rows import Rows, as_rows

Array = NDArray[np.float64]

# the nearest rows that a row's density is taken from: NNclean's usual number
NEAREST = 12
# rows of the sample that are looked at: the search for neighbours of so many takes a second
MOST_ROWS = 1 << 15
# no more than this share of the rows is taken for noise
LARGEST_SHARE = 0.5
ITERATIONS = 50
# of the components without noise, before it comes
FIRST_ITERATIONS = 20
# of the noise beside components that all rows began with
SMALL_WEIGHT = 0.05


def states_beside_noise(
    candidates: Sequence[Candidate],
    plain: Sequence[State],
    data_summary: DataSummary,
    log_volume: float,
    settings: Settings,
    starts: Callable[[Sequence[Candidate], DataSummary], list[State]],
) -> list[State]:
    """Return the first states of candidates with noise: of two, the one that EM leads higher over rows of the sample.

    One begins with the rows that are no noise by their neighbours. A wide group looks like noise beside a dense one, so
    the other begins with all rows and little noise (``benchmarks/noise.py``).

    Parameters
    ----------
    candidates : sequence of Candidate
        All with noise.
    plain : sequence of State
        First states of the same without noise.
    data_summary : DataSummary
    log_volume : float
        Of the box that noise is uniform in.
    settings : Settings
        Of the fits over rows of the sample.
    starts : callable
        Makes the first states of candidates without noise, from the sample of a data summary.
    """
    step = slice(None, None, -(-len(data_summary.sample) // MOST_ROWS))
    weights = data_summary.sample_weights
    x, weights = data_summary.sample[step], None if weights is None else weights[step]
    whole = _summary_of(x, weights)
    is_noise = thin_places(x / np.where(np.ptp(x, axis=0) > 0.0, x.std(axis=0), 1.0))
    clean = _summary_of(x[~is_noise], None if weights is None else weights[~is_noise])
    share = 1.0 - clean.total_weight / whole.total_weight
    twins = [candidate._replace(noise=False) for candidate in candidates]
    first = _begun(starts(twins, clean), clean, Noise(share, log_volume), whole, settings)
    second = _begun(plain, whole, Noise(SMALL_WEIGHT, log_volume), whole, settings)
    pairs = zip(first, second, strict=True)
    return [_resumed(best_start(pair, trusted=True) or pair[0]) for pair in pairs]


def _begun(
    states: Sequence[State], summary: DataSummary, noise: Noise, whole: DataSummary, settings: Settings
) -> list[State]:
    """Run EM from states without noise over their rows, and then beside noise over the whole sample."""
    # a component that begins with one row is too narrow for any other beside noise, which would take them all
    settled = fit_states(states, _rows_of(summary), summary, replace(settings, max_iter=FIRST_ITERATIONS))
    return fit_states([beside_noise(_resumed(state), noise) for state in settled], _rows_of(whole), whole, settings)


def _resumed(state: State) -> State:
    """Return a state as a new one, unless it has no parameters."""
    return state if state.parameters is None else resume(state, state.start)


def _rows_of(summary: DataSummary) -> Rows:
    return as_rows(summary.sample, summary.sample_weights)


def _summary_of(x: Array, weights: Array | None) -> DataSummary:
    return finish_summary(summarize_chunk(x, weights, Draw.of(len(x), x.shape[1], seed=0), 0))


def beside_noise(state: State, noise: Noise) -> State:
    """Return a state of a candidate without noise as one of the same with noise."""
    candidate, parameters = state.candidate._replace(noise=True), state.parameters
    if parameters is not None:
        parameters = replace(parameters, weights=parameters.weights * (1.0 - noise.weight), noise=noise)
    return replace(state, candidate=candidate, parameters=parameters)


def thin_places(x: Array) -> NDArray[np.bool_]:
    """Return which rows (n_rows, n_features) lie where rows are thin."""
    from scipy.spatial import cKDTree

    n_rows, d = x.shape
    if n_rows <= NEAREST:
        return np.zeros(n_rows, dtype=bool)
    k = NEAREST
    distances = cKDTree(x).query(x, k + 1)[0][:, k]
    # the volume of the ball to the k-th nearest row is gamma distributed, with shape k and a rate that is the density
    logs = d * np.log(np.maximum(distances, np.finfo(float).tiny ** (0.5 / d)))
    volumes = np.exp(logs - logs.max())
    resp = (volumes > np.median(volumes)).astype(float)
    for _ in range(ITERATIONS):
        sizes = np.array([np.sum(1.0 - resp), np.sum(resp)])
        if not sizes.all():
            break
        rates = k * sizes / np.maximum([(1.0 - resp) @ volumes, resp @ volumes], np.finfo(float).tiny)
        odds = np.log(sizes[1] / sizes[0]) + k * np.log(rates[1] / rates[0]) - (rates[1] - rates[0]) * volumes
        resp = 1.0 / (1.0 + np.exp(-np.clip(odds, -500.0, 500.0)))
    thin: NDArray[np.bool_] = resp > 0.5
    if np.mean(thin) > LARGEST_SHARE:
        thin = volumes > np.quantile(volumes, 1.0 - LARGEST_SHARE)
    return thin
