"""The Dask graph of one pass: the only module that builds graphs by hand, and that uses Dask's task classes.

``dask._task_spec`` is private. With Dask 2026.8, ``da.map_blocks`` and ``da.reduction(split_every=8,
concatenate=False)`` give the same bits, but

- a function that drops the axis of columns is not fused with the read: 12 chunks made 24 tasks instead of 12, so that
  a worker may hold more chunks than it has threads;
- each pass optimises the graph of the reads anew: a pass over 160 small chunks took 0.49 s instead of 0.23 s
  (alternated, median of 7), as here the reads are optimised once for all passes of a fit.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import dask
from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef, convert_legacy_graph
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from gmm_dask.passes.rows import Rows

# merges take this many results at a time, in the chunks' order
MERGE_WIDTH = 8

_passes = itertools.count()


@dataclass(frozen=True, eq=False)
class _Reading:
    """The optimised graph that reads the chunks, who needs its keys, and the keys of rows and weights by chunk."""

    graph: dict[Hashable, GraphNode]
    users: dict[Hashable, set[Hashable]]
    rows: list[Hashable]
    weights: list[Hashable] | list[None]


# one for all passes over the same rows
_readings: WeakKeyDictionary[Rows, _Reading] = WeakKeyDictionary()


def pass_graph(rows: Rows, function: Callable[..., Any], shared: Any, name: str) -> Delayed:
    """The sum of ``function(rows, weights, shared, number)`` over the chunks, each read and computed in one task.

    The tasks are called ``name``, ``merge`` and ``parameters``.
    """
    token = f"{next(_passes):06d}-{uuid4().hex}"  # forked processes may share a scheduler, and count alike
    graph, keys = _chunk_tasks(rows, function, shared, name, token)
    root = _merge_tasks(graph, keys, f"merge-{token}")
    layer = f"pass-{token}"
    return Delayed(root, HighLevelGraph({layer: graph}, {layer: set()}), layer=layer)


def _chunk_tasks(
    rows: Rows, function: Callable[..., Any], shared: Any, name: str, token: str
) -> tuple[dict[Hashable, GraphNode], list[Hashable]]:
    reading = _reading_of(rows)
    graph = dict(reading.graph)
    shared_key = f"parameters-{token}"
    graph[shared_key] = DataNode(shared_key, shared)
    keys: list[Hashable] = []
    # the read becomes a part of the task that uses it: a chunk that waited in memory for its task would be one more
    # than the memory projection counts for each thread
    for number, (row_key, weight_key) in enumerate(zip(reading.rows, reading.weights, strict=True)):
        key = (f"{name}-{token}", number)
        weights = None if weight_key is None else TaskRef(weight_key)
        task = Task(key, function, TaskRef(row_key), weights, TaskRef(shared_key), number)
        reads = _reads_of_one_chunk(reading, [k for k in (row_key, weight_key) if k is not None])
        graph[key] = Task.fuse(*(graph.pop(k) for k in reads), task)
        keys.append(key)
    return graph, keys


def _merge_tasks(graph: dict[Hashable, GraphNode], level: list[Hashable], name: str) -> Hashable:
    """Add the tree of merges over the chunks' keys to the graph; returns the key of its root."""
    # the shape depends on the number of chunks alone, never on which task ends first: the same bits each time
    for depth in itertools.count():
        groups = [level[i : i + MERGE_WIDTH] for i in range(0, len(level), MERGE_WIDTH)]
        level = [(name, depth, i) for i in range(len(groups))]
        for key, group in zip(level, groups, strict=True):
            graph[key] = Task(key, _add_up, *(TaskRef(k) for k in group))
        if len(level) == 1:
            break
    return level[0]


def _add_up(*results: Any) -> Any:
    return functools.reduce(operator.add, results)


def _reading_of(rows: Rows) -> _Reading:
    """How the chunks of some rows are read, found out once for all passes over them."""
    found = _readings.get(rows)
    if found is None:
        found = _readings[rows] = _optimized(rows)
    return found


def _optimized(rows: Rows) -> _Reading:
    collections = [rows.array] if rows.weights is None else [rows.array, rows.weights]
    collections = list(dask.optimize(*collections))
    graph: dict[Hashable, GraphNode] = {}
    for collection in collections:
        graph.update(convert_legacy_graph(dict(collection.__dask_graph__())))
    keys = [_without_aliases(graph, flatten(collection.__dask_keys__())) for collection in collections]
    return _Reading(graph, _users(graph), keys[0], keys[1] if len(keys) > 1 else [None] * len(keys[0]))


def _users(graph: dict[Hashable, GraphNode]) -> dict[Hashable, set[Hashable]]:
    """The keys that need each key."""
    users: dict[Hashable, set[Hashable]] = {key: set() for key in graph}
    for key, node in graph.items():
        for dependency in node.dependencies:
            users.setdefault(dependency, set()).add(key)
    return users


def _without_aliases(graph: dict[Hashable, GraphNode], keys: Iterable[Hashable]) -> list[Hashable]:
    """The keys that others stand for, which leave the graph: what is read must be a task of its own to be fused."""
    users = _users(graph)
    found = []
    for key in keys:
        while isinstance(node := graph.get(key), Alias) and not users[key]:
            users[node.target].discard(key)
            del graph[key]
            key = node.target
        found.append(key)
    return found


def _reads_of_one_chunk(reading: _Reading, keys: list[Hashable]) -> list[Hashable]:
    """The tasks that bring one chunk and nothing else: they become part of the task that uses it."""
    graph, users = reading.graph, reading.users
    found: dict[Hashable, None] = {}
    # a chunk that a cluster keeps has no task here
    queue = [key for key in keys if not users.get(key)]
    while queue:
        key = queue.pop()
        if isinstance(graph.get(key), Task):
            found[key] = None
            queue += [k for k in graph[key].dependencies if k in users and users[k] <= found.keys()]
    return list(found)
