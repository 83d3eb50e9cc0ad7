"""From components to clusters: overlapping components are merged, two at a time (Baudry et al. 2010).

BIC counts Gaussians: a cluster that is not elliptic takes several. At each step the two clusters are merged that lower
the entropy of the responsibilities, ``-sum_i w_i sum_k r_ik log r_ik``, the most. Those that overlap come first, and
the entropy falls steeply until they are merged.

Source: Baudry, Raftery, Celeux, Lo and Gottardo (2010), "Combining mixture components for clustering", Journal of
Computational and Graphical Statistics 19, 332-353.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from gmm_dask.errors import UserError
from gmm_dask.passes.row_outputs import NOISE_LABEL

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# smaller responsibilities have no part in it: each changes an entropy by less than 3e-9 of its row's weight
NEGLIGIBLE = 1e-10
# Two clusters overlap if this share of what is not known of their rows without the features remains with them. Two
# normal distributions of equal weights and variances overlap so where they are 3.5 standard deviations apart.
LEAST_OVERLAP = 0.15


@dataclass(frozen=True, eq=False)
class ClusterTree:
    """The merges of a mixture's components, from each a cluster of its own to one cluster of all.

    A cluster has the number of its component of the largest weight.

    Attributes
    ----------
    merges : ndarray of shape (n_components - 1, 2)
        The clusters that each step merges: the one whose number the result has, and the other.
    overlap : ndarray of shape (n_components - 1,)
        How much these two overlap: the entropy of their rows' responsibilities, as a share of what it would be if
        the features told nothing; 0 to 1.
    entropy : ndarray of shape (n_components,)
        Mean entropy of a row's responsibilities, in nats: ``entropy[k - 1]`` that of k clusters.
    n_clusters : int
        Number of clusters that is proposed: that at the elbow of ``entropy``, or a larger one, such that no clusters
        are merged that hardly overlap (:data:`LEAST_OVERLAP`).
    """

    merges: Indices
    overlap: Array
    entropy: Array
    n_clusters: int

    @property
    def n_components(self) -> int:
        """Number of components."""
        return len(self.entropy)

    def clusters(self, n_clusters: int | None = None) -> Indices:
        """Return the cluster of each component.

        Parameters
        ----------
        n_clusters : int, optional
            Number of clusters, from 1 to ``n_components``; by default the one that is proposed.

        Returns
        -------
        clusters : ndarray of shape (n_components,)
        """
        n = self.n_clusters if n_clusters is None else n_clusters
        if not 1 <= n <= self.n_components:
            raise UserError(f"n_clusters must be from 1 to {self.n_components}, the number of components; got {n}.")
        found = np.arange(self.n_components)
        for kept, other in self.merges[: self.n_components - n]:
            found[found == other] = kept
        return found

    def labels(self, responsibilities: ArrayLike, n_clusters: int | None = None) -> Indices:
        """Return the most probable cluster of each row.

        Parameters
        ----------
        responsibilities : array-like of shape (n_rows, n_components)
            The probability of each component for each row, as ``predict_proba`` has it.
        n_clusters : int, optional
            As in :meth:`clusters`.

        Returns
        -------
        labels : ndarray of shape (n_rows,)
            -1 for rows of the noise, where the mixture has it.
        """
        return cluster_labels(np.asarray(responsibilities), self.clusters(n_clusters))

    def linkage(self) -> Array:
        """Return the tree in the form of :func:`scipy.cluster.hierarchy.linkage`.

        Returns
        -------
        linkage : ndarray of shape (n_components - 1, 4)
            The height of a merge is the entropy that the merges up to it have removed, a row.
        """
        nodes, sizes = np.arange(self.n_components), np.ones(self.n_components)
        found = np.empty((self.n_components - 1, 4))
        for step, (kept, other) in enumerate(self.merges):
            sizes[kept] += sizes[other]
            height = self.entropy[-1] - self.entropy[-2 - step]
            found[step] = min(nodes[kept], nodes[other]), max(nodes[kept], nodes[other]), height, sizes[kept]
            nodes[kept] = self.n_components + step
        return found


def cluster_tree(responsibilities: ArrayLike, weights: ArrayLike | None = None) -> ClusterTree:
    """Merge components, two at a time, until one cluster is left.

    Parameters
    ----------
    responsibilities : array-like of shape (n_rows, n_components)
        The probability of each component for each row.
    weights : array-like of shape (n_rows,), optional
        How often each row counts.
    """
    resp = np.asarray(responsibilities, dtype=np.float64)
    w = np.ones(len(resp)) if weights is None else np.asarray(weights, dtype=np.float64)
    overlaps = _Overlaps(resp, w)
    n_components = resp.shape[1]
    entropy = np.empty(n_components)
    entropy[-1] = w @ entr(resp).sum(axis=1)
    merges, overlap = np.empty((n_components - 1, 2), dtype=np.int64), np.empty(n_components - 1)
    for step in range(n_components - 1):
        kept, other, gain, overlap[step] = overlaps.merge_most()
        merges[step] = kept, other
        entropy[-2 - step] = entropy[-1 - step] - gain
    entropy = np.maximum(entropy, 0.0) / w.sum()  # of one cluster it is 0, but for rounding
    hardly = np.flatnonzero(overlap < LEAST_OVERLAP)
    least = n_components - (hardly[0] if len(hardly) else n_components - 1)
    return ClusterTree(merges, overlap, entropy, int(max(elbow(entropy), least)))


def cluster_labels(responsibilities: Array, clusters: Indices) -> Indices:
    """Return the most probable cluster of each row, from the cluster of each component; -1 is the noise, the last."""
    if responsibilities.shape[1] > len(clusters):
        clusters = np.append(clusters, NOISE_LABEL)
    numbers, position = np.unique(clusters, return_inverse=True)
    members = np.zeros((len(clusters), len(numbers)))
    members[np.arange(len(clusters)), position] = 1.0
    found: Indices = numbers[(responsibilities @ members).argmax(axis=1)]
    return found


def elbow(entropy: Array) -> int:
    """Return the number of clusters at which the entropy begins to rise faster.

    Two lines that meet at a number of clusters, fitted by least squares to the entropies up to it and from it on, leave
    the least; this is how mclust finds it. Of less than three components, no two are merged.
    """
    n = len(entropy)
    k = np.arange(1.0, n + 1)

    def residual(part: slice) -> float:
        x, y = k[part] - k[part].mean(), entropy[part] - entropy[part].mean()
        return float(np.sum((y - x * (x @ y) / (x @ x)) ** 2))

    return min(range(2, n), key=lambda c: residual(slice(c)) + residual(slice(c - 1, n)), default=n)


class _Overlaps:
    """The entropy that each two clusters would lose as one.

    Only the responsibilities that are not negligible are kept, one after another: a row has few of them.
    """

    def __init__(self, resp: Array, weights: Array) -> None:
        self._weights = weights
        self._row, self._cluster = np.nonzero(resp > NEGLIGIBLE)
        self._value = resp[self._row, self._cluster]
        self._size = resp.shape[1]
        self._mass = weights @ resp
        self._largest = self._mass.copy()  # of the components of a cluster
        self._gain = np.full((self._size, self._size), -np.inf)
        self._alive = np.ones(self._size, dtype=bool)
        for k in range(self._size):
            self._update(k)

    def merge_most(self) -> tuple[int, int, float, float]:
        """Merge the two clusters that lose most; returns them, the larger first, the loss, and their overlap."""
        a, b = sorted(divmod(int(self._gain.argmax()), self._size), key=lambda k: (-self._largest[k], k))
        gain = float(self._gain[a, b])
        without_features = entr(self._mass[[a, b]]).sum() - entr(self._mass[[a, b]].sum())
        overlap = gain / without_features if without_features > 0.0 else 0.0
        self._cluster[self._cluster == b] = a
        self._add_up(a)
        self._mass[a] += self._mass[b]
        self._alive[b] = False
        self._gain[b], self._gain[:, b] = -np.inf, -np.inf
        self._update(a)
        return a, b, gain, overlap

    def _add_up(self, k: int) -> None:
        """Let a cluster have one responsibility a row."""
        mine = self._cluster == k
        total = np.bincount(self._row[mine], self._value[mine], len(self._weights))
        rows = np.flatnonzero(total)
        self._row = np.concatenate([self._row[~mine], rows])
        self._cluster = np.concatenate([self._cluster[~mine], np.full(len(rows), k)])
        self._value = np.concatenate([self._value[~mine], total[rows]])

    def _update(self, k: int) -> None:
        """Compute what a cluster loses as one with each other."""
        mine = self._cluster == k
        own = np.zeros(len(self._weights))
        own[self._row[mine]] = self._value[mine]
        shared = (own[self._row] > 0.0) & ~mine
        row, value = self._row[shared], self._value[shared]
        lost = self._weights[row] * (entr(own[row]) + entr(value) - entr(own[row] + value))
        gain = np.zeros(self._size)
        np.add.at(gain, self._cluster[shared], lost)
        gain[~self._alive], gain[k] = -np.inf, -np.inf
        self._gain[k], self._gain[:, k] = gain, gain
