"""The picture of how components are merged."""

import numpy as np
from matplotlib.figure import Figure

from gmm_dask.plotting.cluster_trees import MOST_NAMES, _merges_of, draw_tree, shown_components
from gmm_dask.selection.cluster_tree import cluster_tree


def tree_of(n_components, pairs):
    """The tree of components that are sure, but for pairs whose rows belong to both."""
    sure = np.eye(n_components).repeat(3, axis=0)
    unsure = [0.5 * (np.eye(n_components)[a] + np.eye(n_components)[b]) for a, b in pairs for _ in range(6)]
    return cluster_tree(np.concatenate([sure, unsure]))


def test_of_few_components_all_are_shown():
    tree = tree_of(6, [(0, 1)])
    assert shown_components(tree) == list(range(6))
    merges, steps = _merges_of(tree, range(6))
    np.testing.assert_array_equal(merges, tree.linkage())
    assert steps == list(range(5))


def test_of_many_components_those_that_are_merged_are_shown():
    pairs = [(3, 50), (7, 8), (8, 9)]
    tree = tree_of(60, pairs)
    assert tree.n_components > MOST_NAMES
    shown = shown_components(tree)
    assert shown == [3, 7, 8, 9, 50]
    merges, steps = _merges_of(tree, shown)
    assert merges.shape == (4, 4)
    assert merges[-1, 3] == 5  # all of them are one at last
    # the merges within clusters come first: 3 with 50, and 7, 8 and 9
    assert sum(step < tree.n_components - tree.n_clusters for step in steps) == 3
    axes = Figure().subplots()
    names = [f"number {k}" for k in range(60)]
    draw_tree(axes, tree, range(60), names)
    assert {label.get_text() for label in axes.get_yticklabels()} == {names[k] for k in shown}
