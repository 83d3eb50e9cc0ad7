"""First parameters from first responsibilities: scikit-learn's four starts.

With all rows in the sample these are scikit-learn's starts, random number for random number. Where it is used itself,
it is imported late: most jobs do without, and its import takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.em.in_memory import filled_columns
from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD, Inference
from gmm_dask.em.loop import State, Status
from gmm_dask.errors import SINGULAR_REMEDY, SingularError
from gmm_dask.families import Family, Parameters, Statistics, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.clustering import k_means
from gmm_dask.kernels.constants import NK_FLOOR
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.map_reduce import map_on_threads
from gmm_dask.passes.model_batch import DOUBLE, NO_WEIGHTS, ROW_MULTIPLE, block_memory

Array = NDArray[np.float64]
# first responsibilities (n_rows, k), from rows (n_rows, n_features), their weights or None, k and a generator
Responsibilities = Callable[[Array, Array | None, int, np.random.RandomState], Array]

# parts are summed up on the threads, so many responsibilities at a time
PART_VALUES = 1 << 16
# statistics that wait to be made into parameters take at most so many bytes of each family
WAITING_BYTES = 1 << 20


def kmeans(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each row belongs to its k-means cluster: the one of scikit-learn's ``KMeans(k, n_init=1)``."""
    return one_hot(k_means(x, weights, k, random), k)


def kmeans_plus_plus(x: Array, weights: Array | None, k: int, random: np.random.RandomState) -> Array:
    """Each component is one row, chosen far from the others.

    Those of :mod:`gmm_dask.init.clustering` are drawn alike, but not to the last bit: of 2,160 clusterings of random
    rows, 5 had another row than scikit-learn's.
    """
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
    # component by component, as sums over rows take them
    resp: Array = (labels == np.arange(k)[:, None]).astype(float).T
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

    Each number of components begins with the generator as ``random_state`` gives it. Candidates that differ in their
    covariance type alone share responsibilities, and sums over the rows. A singular start is a state without
    parameters.
    """
    x, weights = data_summary.sample, data_summary.sample_weights
    # for small mixtures a call takes longer than what it computes: it makes some of a family
    waiting: dict[Family, dict[tuple[Candidate, int], Statistics]] = {}
    found: dict[tuple[Candidate, int], Parameters | None] = {}

    def make(family: Family) -> None:
        some = waiting.pop(family)
        made = inference.start_all(family, list(some.values()), _total(x, weights), reg_covar)
        found.update(zip(some, made, strict=True))

    random = random_state()
    begin = random.get_state()
    for number, k in enumerate(dict.fromkeys(candidate.n_components for candidate in candidates)):
        # scikit-learn draws all starts of a fit from one generator, one after another
        if number:
            random.set_state(begin)
        mine = [candidate for candidate in candidates if candidate.n_components == k]
        families = [get_family(candidate.covariance_type) for candidate in mine]
        for start in range(n_init):
            resp = responsibilities(x, weights, k, random)
            for candidate, family, one in zip(mine, families, _starts_of(families, x, weights, resp), strict=True):
                waiting.setdefault(family, {})[candidate, start] = one
                if one.s2.nbytes * len(waiting[family]) > WAITING_BYTES:
                    make(family)
    for family in list(waiting):
        make(family)
    return [
        State(candidate, start, parameters, status=Status.SINGULAR if parameters is None else Status.RUNNING)
        for candidate in candidates
        for start in range(n_init)
        for parameters in [found[candidate, start]]
    ]


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
    statistics = list(_starts_of([family], x, weights, resp))
    (found,) = inference.start_all(family, statistics, _total(x, weights), reg_covar)
    if found is None:
        raise SingularError(SINGULAR_REMEDY)
    return found


def _total(x: Array, weights: Array | None) -> float:
    return float(len(x)) if weights is None else float(weights.sum())


def _starts_of(families: Sequence[Family], x: Array, weights: Array | None, resp: Array) -> Iterator[Statistics]:
    """Yield the statistics that starts from responsibilities are made of, for each family."""

    def unassigned_moment() -> Array:
        unassigned = resp @ np.ones(resp.shape[1]) == 0.0
        if not unassigned.any():
            return np.zeros((x.shape[1], x.shape[1]))
        others = x[unassigned]
        moment: Array = others.T @ (others if weights is None else others * weights[unassigned, None])
        return moment

    for family, one in zip(families, _statistics_of_all(families, x, weights, resp), strict=True):
        yield replace(one, s2=family.start_s2(one.s2, one.origins, unassigned_moment))


def statistics_of(family: Family, x: Array, weights: Array | None, resp: Array) -> Statistics:
    """Return the statistics that responsibilities (n_rows, n_components) give.

    The sums are taken about each component's own mean, so that tight components far from each other lose no digits.
    """
    (found,) = _statistics_of_all([family], x, weights, resp)
    return found


def _statistics_of_all(
    families: Sequence[Family], x: Array, weights: Array | None, resp: Array
) -> Iterator[Statistics]:
    """Yield :func:`statistics_of` of each family, from sums that they share."""
    columns = [family.density_columns(x.shape[1]) for family in families]
    first, stop = min(one.start for one in columns), max(one.stop for one in columns)
    sums, means = sums_of_parts(slice(first, stop), x, weights, np.ascontiguousarray(resp.T))
    for family, one in zip(families, columns, strict=True):
        yield family.unpack_centred(sums[:, one.start - first : one.stop - first], means)


def sums_of_parts(
    columns: slice, x: Array, weights: Array | None, resp: Array, negligible: float = 0.0
) -> tuple[Array, Array]:
    """Return what each line of responsibilities (n_parts, n_rows) adds up to over the feature map, about its own mean.

    Parameters
    ----------
    columns : slice
        Of the feature map, which are summed up.
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
    first, second = filled_columns(x.shape[1], columns.start, columns.stop)
    sums = np.zeros((len(resp), len(first)))
    given = NO_WEIGHTS if weights is None else weights

    def add(part: slice) -> None:
        # blocks of the same rows whatever the columns, so that a sum has the same bits beside others
        z, memory, _ = block_memory(x.shape[1] + 2, 1, 0, len(x), DOUBLE)
        z = z[: 1 + int(second.max())]
        mine, origins, found = resp[part], means[part], sums[part]
        kernels.add_parts(x, given, mine, negligible, origins, first, second, z, memory, ROW_MULTIPLE, found)

    step = max(1, PART_VALUES // len(x))
    list(map_on_threads(add, [slice(start, start + step) for start in range(0, len(resp), step)]))
    return sums, means
