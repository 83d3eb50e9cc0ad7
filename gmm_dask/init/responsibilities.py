"""Starts: first parameters of every candidate, made from the sample of rows that pass 0 brought.

With all rows in the sample these are scikit-learn's starts, random number for random number. The clusterings
themselves are scikit-learn's own ``KMeans`` and ``kmeans_plusplus``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, kmeans_plusplus

from gmm_dask.em.loop import State, Status
from gmm_dask.errors import SingularError, UserError
from gmm_dask.families import Family, Parameters, Statistics, get_family
from gmm_dask.families.base import NK_FLOOR
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.model_batch import add_centred

Array = NDArray[np.float64]

_BLOCK_ROWS = 4096


def kmeans_start(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each row belongs to its k-means cluster."""
    fitted = KMeans(n_clusters=k, n_init=1, random_state=random).fit(x, sample_weight=weights)
    resp = np.zeros((len(x), k))
    resp[np.arange(len(x)), fitted.labels_] = 1.0
    return resp


def kmeans_plusplus_start(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each component is one row, chosen far from the others."""
    _, indices = kmeans_plusplus(x, k, sample_weight=weights, random_state=random)
    return _one_row_each(len(x), indices)


def random_start(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each row belongs to all components, in random shares."""
    shares: Array = random.uniform(size=(len(x), k))
    shares /= shares.sum(axis=1)[:, None]
    return shares


def random_from_data_start(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each component is one row, drawn with probability proportional to its weight."""
    shares = None if weights is None else weights / weights.sum()
    return _one_row_each(len(x), random.choice(len(x), size=k, replace=False, p=shares))


def _one_row_each(n_rows: int, indices: NDArray[np.int64]) -> Array:
    resp = np.zeros((n_rows, len(indices)))
    resp[indices, np.arange(len(indices))] = 1.0
    return resp


Start = Callable[[Array, Array | None, int, np.random.RandomState], Array]

STARTS: dict[str, Start] = {
    "kmeans": kmeans_start,
    "k-means++": kmeans_plusplus_start,
    "random": random_start,
    "random_from_data": random_from_data_start,
}


def start_states(
    candidates: Sequence[Candidate],
    sample: Array,
    sample_weights: Array | None,
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
    sample : ndarray of shape (n_sampled, n_features)
    sample_weights : ndarray of shape (n_sampled,), or None
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}
    n_init : int
    random_state : callable
        Gives the generator that a candidate's starts are drawn from. It is asked once for each number of
        components: candidates that differ in their covariance type alone share their responsibilities.
    reg_covar : float or ndarray of shape (n_features,)

    Returns
    -------
    states : list of State
        Candidate by candidate, start by start. A singular start is a state without parameters.
    """
    found: dict[tuple[str, int, int], State] = {}
    for k in dict.fromkeys(k for _, k in candidates):
        require_rows(len(sample), k)
        types = [name for name, n_components in candidates if n_components == k]
        random = random_state()
        for start in range(n_init):
            resp = STARTS[init_params](sample, sample_weights, k, random)
            for name in types:
                found[name, k, start] = _state(name, k, start, sample, sample_weights, resp, reg_covar)
    return [found[name, k, start] for name, k in candidates for start in range(n_init)]


def require_rows(n_rows: int, n_components: int) -> None:
    """Raise :class:`UserError` if there are fewer rows than components."""
    if n_rows < n_components:
        raise UserError(
            f"Expected n_samples >= n_components but got n_components = {n_components}, n_samples = {n_rows}: "
            "ask for fewer components or bring more rows."
        )


def _state(
    name: str, k: int, start: int, sample: Array, sample_weights: Array | None, resp: Array, reg_covar: float | Array
) -> State:
    try:
        parameters = start_parameters(get_family(name), sample, sample_weights, resp, reg_covar)
    except SingularError:
        return State(Candidate(name, k), start, None, status=Status.SINGULAR)
    return State(Candidate(name, k), start, parameters)


def start_parameters(
    family: Family, x: Array, weights: Array | None, resp: Array, reg_covar: float | Array
) -> Parameters:
    """Parameters that responsibilities give, as scikit-learn starts from them.

    The weights are sums over the number of rows, and are not renormalised: with one row a component they add up to
    n_components / n_rows. The sums are taken about each component's own mean, so that tight components far from
    each other lose no digits.

    Raises
    ------
    SingularError
        If a covariance is not positive definite.
    """
    total = float(len(x)) if weights is None else float(weights.sum())
    unassigned = ~resp.any(axis=1)
    if weights is not None:
        resp = resp * weights[:, None]
    statistics = statistics_of(family, x, resp)
    moment = _second_moment(x[unassigned], None if weights is None else weights[unassigned])
    s2 = family.start_s2(statistics.s2, statistics.origins, moment)
    parameters = family.maximise(replace(statistics, s2=s2), reg_covar)
    return replace(parameters, weights=(statistics.s0 + NK_FLOOR) / total)


def statistics_of(family: Family, x: Array, resp: Array) -> Statistics:
    """The statistics that responsibilities (n_rows, n_components) give, about each component's own mean."""
    k, d = resp.shape[1], x.shape[1]
    means = (resp.T @ x) / (resp.sum(axis=0) + NK_FLOOR)[:, None]
    s0, s1, s2 = np.zeros(k), np.zeros((k, d)), family.zero_s2(k, d)
    for start in range(0, len(x), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        add_centred(family, x[block].T, resp[block].T, means, [s0, s1, s2])
    return Statistics(s0, s1, s2, means)


def _second_moment(x: Array, weights: Array | None) -> Array:
    return x.T @ (x if weights is None else x * weights[:, None])
