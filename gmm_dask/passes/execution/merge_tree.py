"""The tree in which a pass adds up the results of its chunks, and the runs of chunks that share a task.

The tree is binary, and its shape depends on the number of chunks alone. A node is a range of consecutive chunks:
``2**l`` of them, the first a multiple of ``2**l``, or what is left of these at the end of the chunks. A run is a node:
its task adds up the results of its chunks as the tree does, so that a sum has the same bits whatever the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

# a run is at most a half of a thread's share of the chunks, which is lost with its worker, and at least a 16th of it,
# by which the threads' ends of a pass may differ
LONGEST, SHORTEST = 2, 16
# what follows for the number of runs
MOST_PER_THREAD = 7


def level_of(node: range) -> int:
    """How many levels of the tree are below a node."""
    return (len(node) - 1).bit_length()


def halves(node: range) -> list[range]:
    """The two nodes below a node of several chunks."""
    middle = node.start + (1 << (level_of(node) - 1))
    return [range(node.start, middle), range(middle, node.stop)]


def cut_into_runs(n_chunks: int, n_threads: int | None) -> list[range]:
    """Cut the chunks into runs for so many threads: long ones first, short ones last, for the threads to end together.

    Parameters
    ----------
    n_chunks : int
    n_threads : int or None
        None makes each chunk a run.

    Returns
    -------
    list of range
        The chunks of each run, in their order. A run is not longer than a thread's share in the chunks that are left.
    """
    runs: list[range] = []
    start, threads = 0, n_chunks if n_threads is None else max(1, n_threads)
    share = n_chunks // threads
    while start < n_chunks:
        wanted = max(1, min((n_chunks - start) // threads, share // LONGEST), share // SHORTEST)
        # runs never get longer, so that their starts are multiples of their lengths
        length = 1 << (wanted.bit_length() - 1)
        runs.append(range(start, min(start + length, n_chunks)))
        start += length
    return runs


def parts_of(node: range, runs: Mapping[range, Part], most: int, merge: Callable[[list[Part]], Part]) -> list[Part]:
    """What makes up a node, in the chunks' order: up to ``most`` runs, and results of merges of so many parts.

    Parameters
    ----------
    node : range
    runs : mapping from range to object
    most : int
    merge : callable
        Returns the part that stands for several consecutive ones.
    """
    if node in runs:
        return [runs[node]]
    left, right = (parts_of(half, runs, most, merge) for half in halves(node))
    if len(left) + len(right) > most and len(left) > 1:
        left = [merge(left)]
    if len(left) + len(right) > most:
        right = [merge(right)]
    return left + right


def add_in_tree(nodes: Iterable[tuple[range, Result]]) -> Result:
    """Add up the results of consecutive nodes as the tree does.

    No more than one result of each level waits for its neighbour while the next one is made.
    """
    waiting: list[tuple[int, Any]] = []
    for node, result in nodes:
        level = level_of(node)
        while waiting and waiting[-1][0] == level:
            level, result = level + 1, waiting.pop()[1] + result
        waiting.append((level, result))
    total = waiting.pop()[1]
    while waiting:  # at the end of the chunks, nodes have neighbours of higher levels
        total = waiting.pop()[1] + total
    found: Result = total
    return found
