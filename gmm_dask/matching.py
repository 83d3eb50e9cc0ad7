"""Which component of one mixture is which of another.

Two Gaussians are as far apart as their Bhattacharyya distance says, which is 0 where they are equal (Kailath 1967, "The
divergence and Bhattacharyya distance measures in signal selection"):

    D = d' S^-1 d / 8 + (log |S| - (log |S_a| + log |S_b|) / 2) / 2,  d = mean_a - mean_b,  S = (S_a + S_b) / 2

Over shared rows, two components are as alike as their sets of rows are: the Jaccard index of these is the number of
rows that both label, over the number that at least one does. Components are paired so that the sum of ``exp(-D)``, or
of the Jaccard indices, is the largest (Kuhn's assignment problem). A component without a near partner has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.passes.contingency import contingency_table
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.model_batch import Model

if TYPE_CHECKING:
    from gmm_dask.base import MixtureMethods

Array = NDArray[np.float64]

# two Gaussians of one covariance are this far apart if their means are 2 standard deviations apart: their equal mixture
# has two modes from there on (Ray and Lindsay 2005, "The topography of multivariate normal mixtures").
# benchmarks/identity.py: of 944 pairs of two nights 21 are missed and 5 are wrong; 54 and 2 up to 0.3, 21 and 28 up to
# 1.1; 63 and 68 by the later night's rows, as these are labelled by a mixture that does not know their new groups
FARTHEST = 0.5
# a cluster that no other resembles more than this is dissolved (Hennig 2008, "Dissolution point and isolation
# robustness"); more than half of the rows can be shared with one component only
LEAST_OVERLAP = 0.5


@dataclass(frozen=True)
class ComponentPair:
    """A component of one mixture, and the component of another that it is.

    Attributes
    ----------
    a, b : int
        Their positions in the two mixtures.
    distance : float
        The Bhattacharyya distance of the two Gaussians, 0 if they are equal; NaN if it is not known.
    overlap : float
        The Jaccard index of the rows with these labels, from 0 to 1; NaN without rows.
    """

    a: int
    b: int
    distance: float
    overlap: float = math.nan


@dataclass(frozen=True)
class ComponentMatching:
    """Which component of a mixture ``a`` is which of a mixture ``b``.

    Attributes
    ----------
    pairs : tuple of ComponentPair
        In the order of ``a``.
    only_a, only_b : tuple of int
        Components without a partner.
    changed : float
        Share of the rows whose two labels are no pair; NaN without rows.
    """

    pairs: tuple[ComponentPair, ...]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    changed: float = math.nan

    def numbers(self, numbers_of_a: Sequence[int], first_new: int) -> tuple[int, ...]:
        """Number the components of ``b``: as their partners in ``a``, those without one from ``first_new`` on."""
        new = dict(zip(self.only_b, range(first_new, first_new + len(self.only_b)), strict=True))
        found = {pair.b: numbers_of_a[pair.a] for pair in self.pairs} | new
        return tuple(found[k] for k in range(len(found)))


def match_components(a: MixtureMethods, b: MixtureMethods, X: Any = None) -> ComponentMatching:
    """Find which component of one fitted mixture is which of another.

    Parameters
    ----------
    a, b : GaussianMixture or GaussianMixtureSearch
        Fitted, to the same features in the same units. The numbers of components and covariance types may differ.
    X : array-like of shape (n_rows, n_features), optional
        Rows that both mixtures describe, such as those that both were fitted to: components are paired by the rows
        that they have in common, and each pair shares more than half of its rows. Without them the Gaussians
        themselves are compared, and each pair is at a Bhattacharyya distance of at most 0.5. Without X, too, the
        mixtures may be of different rows, such as those of two nights.

    Returns
    -------
    ComponentMatching

    Raises
    ------
    ValueError
        If an estimator is not fitted, the features differ, or X is not usable.
    """
    from gmm_dask.inputs import read_rows, require_mixture  # scikit-learn comes with them

    for estimator in (a, b):
        require_mixture(estimator)
    _require_same_features(a, b)
    if X is None:
        return match_models(a._model, b._model)
    rows = read_rows(a, X, reset=False, gaps=a._gaps and b._gaps)
    with one_blas_thread():
        table = contingency_table(rows, a._model, b._model)
    return match_labels(a._model, b._model, table)


def _require_same_features(a: MixtureMethods, b: MixtureMethods) -> None:
    names = [list(getattr(one, "feature_names_in_", [])) for one in (a, b)]
    counts = [one._model[1].means.shape[1] for one in (a, b)]
    if counts[0] != counts[1]:
        raise UserError(f"the mixtures have {counts[0]} and {counts[1]} features; components of the same are compared.")
    if all(names) and names[0] != names[1]:
        raise UserError(
            f"the mixtures have the features {', '.join(names[0])} and {', '.join(names[1])}; components of the same "
            "features, in the same order, are compared."
        )


def match_models(a: Model, b: Model, table: NDArray[np.int64] | None = None) -> ComponentMatching:
    """Match the components of two mixtures by the distances of their Gaussians.

    Parameters
    ----------
    a, b : (Family, Parameters)
        In the same units.
    table : ndarray of shape (n_components of a, n_components of b), optional
        Of :func:`contingency_table`, with one more line for the noise of a mixture that has some. It says how much the
        pairs overlap, and which share of the rows changed.
    """
    distances = bhattacharyya_distances(a, b)
    return _matching(np.where(distances <= FARTHEST, np.exp(-distances), 0.0), distances, table)


def describe_pairs(
    a: Model, b: Model, paired: Iterable[tuple[int, int]], table: NDArray[np.int64] | None = None
) -> ComponentMatching:
    """Describe pairs of components that are known, however far apart they are.

    Parameters
    ----------
    a, b, table
        As of :func:`match_models`.
    paired : iterable of (int, int)
        A component of ``a``, and the one of ``b`` that it is.
    """
    return describe_known(paired, bhattacharyya_distances(a, b), table)


def describe_known(
    paired: Iterable[tuple[int, int]], distances: Array, table: NDArray[np.int64] | None = None
) -> ComponentMatching:
    """Describe pairs as :func:`describe_pairs` does, given the distances of the Gaussians; NaN if not known."""
    return _describe(sorted(paired), distances, table)


def match_labels(a: Model, b: Model, table: NDArray[np.int64]) -> ComponentMatching:
    """Match the components of two mixtures by the rows that they share; parameters are as of :func:`match_models`."""
    return match_overlaps(bhattacharyya_distances(a, b), table)


def match_overlaps(distances: Array, table: NDArray[np.int64]) -> ComponentMatching:
    """Match components by the rows that they share, given the distances of the Gaussians; NaN if not known."""
    overlaps = _overlaps(table, distances)
    return _matching(np.where(overlaps > LEAST_OVERLAP, overlaps, 0.0), distances, table)


def _matching(scores: Array, distances: Array, table: NDArray[np.int64] | None) -> ComponentMatching:
    """Pair the components so that the sum of the scores is the largest; those with a score of 0 are no pair."""
    rows = np.flatnonzero(scores.max(axis=1) > 0.0)
    columns = scores.argmax(axis=1)[rows]
    if len(np.unique(columns)) < len(columns):
        from scipy.optimize import linear_sum_assignment  # most mixtures do without, and its import takes a while

        rows, columns = linear_sum_assignment(scores, maximize=True)
    paired = zip(rows.tolist(), columns.tolist(), strict=True)
    return _describe([(i, j) for i, j in paired if scores[i, j] > 0.0], distances, table)


def _describe(
    paired: Sequence[tuple[int, int]], distances: Array, table: NDArray[np.int64] | None
) -> ComponentMatching:
    overlaps = np.full(distances.shape, math.nan) if table is None else _overlaps(table, distances)
    (n_a, n_b), changed = distances.shape, math.nan
    if table is not None and (n_rows := int(table.sum())):
        both_noise = [(n_a, n_b)] if table.shape == (n_a + 1, n_b + 1) else []
        changed = 1.0 - sum(int(table[pair]) for pair in [*paired, *both_noise]) / n_rows
    return ComponentMatching(
        tuple(ComponentPair(i, j, float(distances[i, j]), float(overlaps[i, j])) for i, j in paired),
        only_a=tuple(sorted(set(range(n_a)) - {i for i, _ in paired})),
        only_b=tuple(sorted(set(range(n_b)) - {j for _, j in paired})),
        changed=changed,
    )


def _overlaps(table: NDArray[np.int64], distances: Array) -> Array:
    """Overlaps of components alone: the noise of a mixture is no component of it."""
    n_a, n_b = distances.shape
    return jaccard_indices(table)[:n_a, :n_b]


def jaccard_indices(table: NDArray[np.int64]) -> Array:
    """Jaccard indices of the sets of rows of each two labels; 0 where neither has a row."""
    either = table.sum(axis=1, keepdims=True) + table.sum(axis=0, keepdims=True) - table
    return np.asarray(table / np.maximum(either, 1))


def bhattacharyya_distances(a: Model, b: Model) -> Array:
    """Bhattacharyya distances (n_components of a, n_components of b) of the Gaussians of two mixtures."""
    (means, covariances), (others, other_covariances) = map(_gaussians, (a, b))
    log_det, other_log_det = (np.linalg.slogdet(matrices)[1] for matrices in (covariances, other_covariances))
    distances = np.empty((len(means), len(others)))
    for row, mean, covariance, log in zip(distances, means, covariances, log_det, strict=True):
        middle, difference = 0.5 * (covariance + other_covariances), mean - others
        squared = np.einsum("kd,kd->k", difference, np.linalg.solve(middle, difference[..., None])[..., 0])
        row[:] = squared / 8.0 + 0.5 * (np.linalg.slogdet(middle)[1] - 0.5 * (log + other_log_det))
    return np.maximum(distances, 0.0)  # rounding may leave less


def _gaussians(model: Model) -> tuple[Array, Array]:
    family, parameters = model
    return parameters.means, family.full_covariances(parameters)
