"""Drawing of how components are merged into clusters: the tree, and the entropy by number of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.plotting.drawing import FAINT, INK, soften
from gmm_dask.plotting.marks import color_of
from gmm_dask.selection.cluster_tree import ClusterTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

# of more components, the tree shows those that are merged; of more than so many of these, it has no names
MOST_NAMES = 40


def shown_components(tree: ClusterTree) -> list[int]:
    """Return the components that the picture of a tree shows: all, or of many those in clusters of several."""
    if tree.n_components <= MOST_NAMES:
        return list(range(tree.n_components))
    clusters = tree.clusters()
    sizes = np.bincount(clusters, minlength=tree.n_components)
    return np.flatnonzero(sizes[clusters] > 1).tolist()


def draw_tree(axes: Axes, tree: ClusterTree, numbers: Sequence[int], names: Sequence[str]) -> None:
    """Draw the merges as a dendrogram, from left to right: the clusters in their colours, further merges grey.

    Parameters
    ----------
    axes : Axes
    tree : ClusterTree
    numbers : sequence of int
        Numbers of the components, which give the colours.
    names : sequence of str
        Names of the components.
    """
    from scipy.cluster.hierarchy import dendrogram

    shown, clusters = shown_components(tree), tree.clusters()
    merges, steps = _merges_of(tree, shown)
    within = tree.n_components - tree.n_clusters
    merged = [color_of(numbers[clusters[tree.merges[step][0]]]) if step < within else FAINT for step in steps]
    colors = [*(color_of(numbers[clusters[k]]) for k in shown), *merged]
    dendrogram(
        merges,
        ax=axes,
        orientation="right",
        labels=[names[k] for k in shown],
        no_labels=len(shown) > MOST_NAMES,
        link_color_func=colors.__getitem__,
        leaf_font_size=8.5,
    )
    axes.set_xlabel("entropy removed, nats per row")
    axes.set_xlim(left=-0.02 * axes.get_xlim()[0], right=axes.get_xlim()[1])
    soften(axes, grid=False)


def _merges_of(tree: ClusterTree, shown: Sequence[int]) -> tuple[Array, list[int]]:
    """Return the merges that join some of the components, in the form of a linkage, and the steps of the tree."""
    node: dict[int, int] = {k: i for i, k in enumerate(shown)}  # by the cluster that it is in
    size = dict.fromkeys(shown, 1)
    found, steps = [], []
    for step, ((kept, other), (_, _, height, _)) in enumerate(zip(tree.merges.tolist(), tree.linkage(), strict=True)):
        if kept in node and other in node:
            size[kept] += size[other]
            found.append([min(node[kept], node[other]), max(node[kept], node[other]), height, size[kept]])
            steps.append(step)
            node[kept] = len(shown) + len(found) - 1
        elif other in node:
            node[kept], size[kept] = node[other], size[other]
    return np.array(found, dtype=np.float64), steps


def draw_entropy(axes: Axes, tree: ClusterTree) -> None:
    """Draw the entropy by number of clusters, with a ring at the number that is proposed."""
    from matplotlib.ticker import MaxNLocator

    counts = np.arange(1, tree.n_components + 1)
    axes.plot(counts, tree.entropy, marker="o", ms=4.5, lw=1.5, color=color_of(0))
    ring: dict[str, Any] = {"marker": "o", "ms": 12, "mfc": "none", "mec": INK, "mew": 1.4, "ls": "none"}
    axes.plot(tree.n_clusters, tree.entropy[tree.n_clusters - 1], clip_on=False, **ring)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("number of clusters")
    axes.set_ylabel("entropy, nats per row")
    soften(axes)
