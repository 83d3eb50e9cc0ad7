"""First parameters from first responsibilities: scikit-learn's four starts.

With all rows in the sample these are scikit-learn's starts, random number for random number. The clusterings
themselves are scikit-learn's own ``KMeans`` and ``kmeans_plusplus``. It is imported where it is used: the names of the
starts are needed by many commands that make none, and its import takes two seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.em.in_memory import monomials
from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD, Inference
from gmm_dask.em.loop import State, Status
from gmm_dask.errors import SINGULAR_REMEDY, SingularError
from gmm_dask.families import Family, Parameters, Statistics, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.kernels.constants import NK_FLOOR
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.map_reduce import map_on_threads, one_blas_thread
from gmm_dask.passes.model_batch import DOUBLE, NO_WEIGHTS, ROW_MULTIPLE, block_memory

Array = NDArray[np.float64]
# first responsibilities (n_rows, k), from rows (n_rows, n_features), their weights or None, k and a generator
Responsibilities = Callable[[Array, Array | None, int, np.random.RandomState], Array]

# parts are summed up on the threads, so many responsibilities at a time
PART_VALUES = 1 << 16


def kmeans(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each row belongs to its k-means cluster."""
    if k == 1:  # whatever is drawn
        return np.ones((len(x), 1))
    from sklearn import config_context
    from sklearn.cluster import KMeans

    # the import may have loaded libraries that an earlier limit did not know; of few rows, checks take half of the time
    with one_blas_thread(), config_context(assume_finite=True, skip_parameter_validation=True):
        labels = KMeans(n_clusters=k, n_init=1, random_state=random).fit(x, sample_weight=weights).labels_
    return one_hot(labels, k)


def kmeans_plus_plus(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each component is one row, chosen far from the others."""
    from sklearn.cluster import kmeans_plusplus

    _, indices = kmeans_plusplus(x, k, sample_weight=weights, random_state=random)
    return _one_row_each(len(x), indices)


def random_shares(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each row belongs to all components, in random shares."""
    shares: Array = random.uniform(size=(len(x), k))
    shares /= shares.sum(axis=1)[:, None]
    return shares


def random_from_data(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each component is one row, drawn with probability proportional to its weight."""
    shares = None if weights is None else weights / weights.sum()
    return _one_row_each(len(x), random.choice(len(x), size=k, replace=False, p=shares))


def one_hot(labels: NDArray[np.integer], k: int) -> Array:
    """Return the responsibilities of rows that belong to one component each."""
    resp: Array = (labels[:, None] == np.arange(k)).astype(float)
    return resp


def _one_row_each(n_rows: int, indices: NDArray[np.int64]) -> Array:
    resp = np.zeros((n_rows, len(indices)))
    resp[indices, np.arange(len(indices))] = 1.0
    return resp


def start_states(
    responsibilities: Responsibilities,
    candidates: Sequence[Candidate],
    data_summary: DataSummary,
    n_init: int,
    random_state: Callable[[], np.random.RandomState],
    reg_covar: float | Array,
    inference: Inference = MAXIMUM_LIKELIHOOD,
) -> list[State]:
    """Return the first states of all candidates, from the sample of rows of pass 0.

    ``random_state`` is called once for each number of components: candidates that differ in their covariance type
    alone share their responsibilities. A singular start is a state without parameters.
    """
    found: dict[tuple[Candidate, int], State] = {}
    for k in dict.fromkeys(candidate.n_components for candidate in candidates):
        # scikit-learn draws all starts of a fit from one generator, one after another
        random = random_state()
        for start in range(n_init):
            resp = responsibilities(data_summary.sample, data_summary.sample_weights, k, random)
            for candidate in candidates:
                if candidate.n_components == k:
                    found[candidate, start] = _state(candidate, start, data_summary, resp, reg_covar, inference)
    return [found[candidate, start] for candidate in candidates for start in range(n_init)]


def _state(
    candidate: Candidate,
    start: int,
    data_summary: DataSummary,
    resp: Array,
    reg_covar: float | Array,
    inference: Inference,
) -> State:
    family, x, weights = get_family(candidate.covariance_type), data_summary.sample, data_summary.sample_weights
    try:
        parameters = start_parameters(family, x, weights, resp, reg_covar, inference)
    except SingularError:
        return State(candidate, start, None, status=Status.SINGULAR)
    return State(candidate, start, parameters)


def start_parameters(
    family: Family,
    x: Array,
    weights: Array | None,
    resp: Array,
    reg_covar: float | Array,
    inference: Inference = MAXIMUM_LIKELIHOOD,
) -> Parameters:
    """Return the parameters that scikit-learn starts from, given these responsibilities.

    Raises
    ------
    SingularError
        If a covariance is not positive definite.
    """
    total = float(len(x)) if weights is None else float(weights.sum())
    statistics = statistics_of(family, x, weights, resp)

    def unassigned_moment() -> Array:
        unassigned = ~resp.any(axis=1)
        others = x[unassigned]
        moment: Array = others.T @ (others if weights is None else others * weights[unassigned, None])
        return moment

    s2 = family.start_s2(statistics.s2, statistics.origins, unassigned_moment)
    found = inference.start(family, replace(statistics, s2=s2), total, reg_covar)
    if found is None:
        raise SingularError(SINGULAR_REMEDY)
    return found


def statistics_of(family: Family, x: Array, weights: Array | None, resp: Array) -> Statistics:
    """Return the statistics that responsibilities (n_rows, n_components) give.

    The sums are taken about each component's own mean, so that tight components far from each other lose no digits.
    """
    sums, means = sums_of_parts(family, x, weights, np.ascontiguousarray(resp.T))
    columns = family.density_columns(x.shape[1])
    return family.unpack_centred(sums[:, : columns.stop - columns.start], means)


def sums_of_parts(
    family: Family, x: Array, weights: Array | None, resp: Array, negligible: float = 0.0
) -> tuple[Array, Array]:
    """Return what each line of responsibilities (n_parts, n_rows) adds up to over the feature map, about its own mean.

    Parameters
    ----------
    family : Family
        Whose density's columns are summed up.
    x : ndarray of shape (n_rows, n_features)
    weights : ndarray of shape (n_rows,) or None
    resp : ndarray of shape (n_parts, n_rows)
    negligible : float
        Rows with no more than this are left out.

    Returns
    -------
    sums : ndarray of shape (n_parts, n_columns or up to two more)
    means : ndarray of shape (n_parts, n_features)
    """
    shares = resp if weights is None else resp * weights
    # a component without rows gets the mean zero instead of 0 / 0, as in scikit-learn, by the floor of nk
    means = (shares @ x) / (shares.sum(axis=1) + NK_FLOOR)[:, None]
    first, second, n_lines = monomials(family, x.shape[1], complete=True)
    sums = np.zeros((len(resp), len(first)))
    given = NO_WEIGHTS if weights is None else weights

    def add(part: slice) -> None:
        z, memory, _ = block_memory(n_lines, 1, 0, len(x), DOUBLE)
        mine, origins, found = resp[part], means[part], sums[part]
        kernels.add_parts(x, given, mine, negligible, origins, first, second, z, memory, ROW_MULTIPLE, found)

    step = max(1, PART_VALUES // len(x))
    list(map_on_threads(add, [slice(start, start + step) for start in range(0, len(resp), step)]))
    return sums, means
