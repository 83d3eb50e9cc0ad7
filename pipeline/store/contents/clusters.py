"""The clusters that the components of the chosen model are merged into, in a result store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import zarr
from pydantic import PositiveInt

from gmm_dask.selection.cluster_tree import ClusterTree
from pipeline.store.arrays import get, open_root, put
from pipeline.store.attributes import Attributes
from pipeline.store.places import StorePath


@dataclass(frozen=True)
class ClusterAttributes(Attributes):
    """The attributes of stored clusters."""

    n_clusters: PositiveInt


def write_cluster_tree(path: StorePath, tree: ClusterTree, numbers: Sequence[int]) -> None:
    """Write the merges of the chosen model's components, in place of others that are there.

    Parameters
    ----------
    path : str or Path
        The result store.
    tree : ClusterTree
        Of the components in the order of the store.
    numbers : sequence of int
        Numbers of the components: merges and clusters are stored by these.
    """
    attributes = ClusterAttributes(tree.n_clusters).to_dict()
    group = open_root(path, "r+").create_group("clusters", overwrite=True, attributes=attributes)
    number = np.asarray(numbers)
    put(group, "component", number, ("component",))
    put(group, "cluster", number[tree.clusters()], ("component",))
    put(group, "merge", number[tree.merges], ("step", "pair"))
    put(group, "overlap", tree.overlap, ("step",))
    put(group, "entropy", tree.entropy, ("n_clusters",))


def read_cluster_tree(path: StorePath, numbers: Sequence[int]) -> ClusterTree:
    """Read the merges of components of these numbers; raises ValueError or KeyError if they are none."""
    group = cast(zarr.Group, open_root(path)["clusters"])
    k = len(numbers)
    if get(group, "component", np.int64, (k,)).tolist() != list(numbers):
        raise ValueError(f"its components are not {', '.join(map(str, numbers))}")
    merges = get(group, "merge", np.int64, (k - 1, 2))
    if not np.isin(merges, numbers).all():
        raise ValueError("merge has numbers that are not of its components")
    tree = ClusterTree(
        merges=np.searchsorted(np.asarray(numbers), merges),
        overlap=get(group, "overlap", np.float64, (k - 1,)),
        entropy=get(group, "entropy", np.float64, (k,)),
        n_clusters=ClusterAttributes.from_dict(group.attrs.asdict()).n_clusters,
    )
    if tree.n_clusters > k:
        raise ValueError(f"n_clusters is {tree.n_clusters}, and there are {k} components")
    return tree
