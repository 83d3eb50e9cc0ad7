"""The Dask graph of one pass: the only module that builds graphs by hand, and that uses Dask's task classes.

``dask._task_spec`` is private. With Dask 2026.8, ``da.map_blocks`` and ``da.reduction(concatenate=False)`` have no runs
of chunks in one task, without which a scheduler limits a cluster, and

- a function that drops the axis of columns is not fused with the read: 12 chunks made 24 tasks instead of 12, so that
  a worker may hold more chunks than it has threads;
- each pass optimises the graph of the reads anew: a pass over 160 small chunks took 0.49 s instead of 0.23 s
  (alternated, median of 7), as here the reads are optimised once for all passes of a fit.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import cloudpickle
import dask
from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef, convert_legacy_graph
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from gmm_dask.passes.execution.merge_tree import add_in_tree, cut_into_runs, parts_of
from gmm_dask.passes.execution.read_ahead import compute_while_reading
from gmm_dask.passes.rows import Rows

# merges take up to so many results at a time
MERGE_WIDTH = 8

# the length of a run's key: its name and its first chunk; those of merges are longer
_RUN_KEY = 2

_passes = itertools.count()


class _Reads:
    """The tasks that read the chunks of a run, and the keys of what they need.

    They are pickled once for all passes, and unpickled only on workers: otherwise the client and the scheduler, which
    no number of workers makes faster, would do so for each chunk in each pass.
    """

    def __init__(self, tasks: list[Task] | bytes, inputs: list[Hashable]) -> None:
        self._tasks, self.inputs = tasks, inputs
        self._pickled = tasks if isinstance(tasks, bytes) else None

    @property
    def tasks(self) -> list[Task]:
        if isinstance(self._tasks, bytes):
            self._tasks = list(pickle.loads(self._tasks))
        return self._tasks

    def __reduce__(self) -> tuple[Any, ...]:
        if self._pickled is None:
            self._pickled = cloudpickle.dumps(self._tasks)
        return _Reads, (self._pickled, self.inputs)


@dataclass(frozen=True, eq=False)
class _Reading:
    """How chunks are read: a task for each, what several chunks need, and what was found out for runs of them."""

    chunks: list[Task]
    shared: dict[Hashable, GraphNode]
    _runs: dict[int | None, list[range]] = field(default_factory=dict)
    _reads: dict[range, _Reads] = field(default_factory=dict)

    def of_run(self, run: range) -> _Reads:
        if run not in self._reads:
            tasks = [self.chunks[i] for i in run]
            self._reads[run] = _Reads(tasks, list(set().union(*(task.dependencies for task in tasks))))
        return self._reads[run]

    def runs(self, n_threads: int | None) -> list[range]:
        """Runs of chunks that can be read one after the other.

        A task starts with all that it depends on in memory. Chunks that need results of other tasks, as those of an
        array that a cluster keeps one by one, have tasks of their own.
        """
        if n_threads not in self._runs:
            data = {key for key, node in self.shared.items() if isinstance(node, DataNode)}
            alone = [not chunk.dependencies <= data for chunk in self.chunks]
            self._runs[n_threads] = [
                part
                for run in cut_into_runs(len(self.chunks), n_threads)
                for part in ((range(i, i + 1) for i in run) if any(alone[i] for i in run) else [run])
            ]
        return self._runs[n_threads]


@dataclass(frozen=True, eq=False)
class _Run:
    """The work of a run's task: it reads and computes one chunk after the other.

    ``reads_ahead`` tells whether it reads the next chunk while it computes one.
    """

    chunks: range
    reads: _Reads
    function: Callable[..., Any]
    reads_ahead: bool

    def __call__(self, shared: Any, *inputs: Any) -> Any:
        return add_in_tree(self._computed(shared, dict(zip(self.reads.inputs, inputs, strict=True))))

    def _computed(self, shared: Any, inputs: dict[Hashable, Any]) -> Iterator[tuple[range, Any]]:
        reads = [partial(task, inputs) for task in self.reads.tasks]

        def compute(place: int, chunk: tuple[Any, Any]) -> tuple[range, Any]:
            number = self.chunks[place]
            return range(number, number + 1), self.function(*chunk, shared, number)

        if self.reads_ahead:
            yield from compute_while_reading(reads, compute)
            return
        for place, read in enumerate(reads):
            # no name holds a chunk here: it is gone before the next one is read
            yield compute(place, read())


# one for all passes over the same rows
_readings: WeakKeyDictionary[Rows, _Reading] = WeakKeyDictionary()


def pass_graph(
    rows: Rows, function: Callable[..., Any], shared: Any, name: str, n_threads: int | None = None
) -> Delayed:
    """The sum of ``function(rows, weights, shared, number)`` over the chunks.

    A task takes a run of chunks, and has one of them in memory at a time, or two if it reads ahead. The tasks are
    called ``name``, ``merge`` and ``parameters``.

    Parameters
    ----------
    n_threads : int, optional
        Threads of the cluster, by which the runs are cut; by default each chunk is a run.
    """
    token = f"{next(_passes):06d}-{uuid4().hex}"  # forked processes may share a scheduler, and count alike
    graph, runs = _run_tasks(rows, function, shared, name, token, n_threads)
    root = _merge_tasks(graph, runs, f"merge-{token}")
    return Delayed(root, _layer(graph, token), layer=token)


def keep_in_runs(rows: Rows, persist: Callable[[list[Delayed]], Iterable[Delayed]], n_threads: int | None) -> Rows:
    """Rows whose chunks a cluster keeps as it has read them, each run of them as one result.

    Parameters
    ----------
    rows : Rows
    persist : callable
        The method of a client.
    n_threads : int or None
        Threads of the cluster, by which the runs are cut; None makes each chunk a run.
    """
    import dask.array as da

    token = uuid4().hex
    graph, runs = _run_tasks(rows, _in_list, None, "read-chunk", token, n_threads)
    layer = _layer(graph, token)
    kept = persist([Delayed(key, layer, layer=token) for key in runs.values()])
    chunks = {key: value for run in kept for key, value in dict(run.__dask_graph__()).items()}
    names = f"kept-rows-{token}", f"kept-weights-{token}"
    for run, key in runs.items():
        for place, number in enumerate(run):
            for part, of_chunk in enumerate([(names[0], number, 0), (names[1], number)]):
                chunks[of_chunk] = Task(of_chunk, _of_kept, TaskRef(key), place, part)
    arrays = [
        None if array is None else da.Array(_layer(chunks, token), name, array.chunks, meta=array._meta)
        for name, array in zip(names, (rows.array, rows.weights), strict=True)
    ]
    return replace(rows, array=arrays[0], weights=arrays[1], on_read=None, runs=tuple(runs), reads_ahead=False)


def _layer(graph: dict[Hashable, Any], token: str) -> HighLevelGraph:
    return HighLevelGraph({token: MaterializedLayer(graph, {"priority": _priority})}, {token: set()})


def _priority(key: Hashable) -> int:
    """Runs in the chunks' order, so that short ones come last, and merges before them."""
    return -key[1] if isinstance(key, tuple) and len(key) == _RUN_KEY else 0


def _in_list(rows: Any, weights: Any, shared: None, number: int) -> list[tuple[Any, Any]]:
    return [(rows, weights)]


def _of_kept(chunks: list[tuple[Any, Any]], place: int, part: int) -> Any:
    return chunks[place][part]


def _run_tasks(
    rows: Rows, function: Callable[..., Any], shared: Any, name: str, token: str, n_threads: int | None
) -> tuple[dict[Hashable, GraphNode], dict[range, Hashable]]:
    """A graph with a task for each run, and the keys of these."""
    reading = _reading_of(rows)
    parameters = f"parameters-{token}"
    graph = {**reading.shared, parameters: DataNode(parameters, shared)}
    runs: dict[range, Hashable] = {}
    for run in rows.runs or reading.runs(n_threads):
        runs[run] = key = f"{name}-{token}", run.start
        reads = reading.of_run(run)
        inputs = TaskRef(parameters), *map(TaskRef, reads.inputs)
        work = _Run(run, reads, function, rows.reads_ahead and len(run) > 1)
        graph[key] = Task(key, work, *inputs, _data_producer=True)
    return graph, runs


def _merge_tasks(graph: dict[Hashable, GraphNode], runs: dict[range, Hashable], name: str) -> Hashable:
    """Add the tasks that merge the runs' results to the graph; returns the key of the last one."""

    def merge(parts: list[tuple[range, Hashable]]) -> tuple[range, Hashable]:
        nodes, keys = zip(*parts, strict=True)
        whole = range(nodes[0].start, nodes[-1].stop)
        key = name, whole.start, whole.stop
        graph[key] = Task(key, _merge, nodes, *map(TaskRef, keys))
        return whole, key

    parts = parts_of(range(max(run.stop for run in runs)), {run: (run, runs[run]) for run in runs}, MERGE_WIDTH, merge)
    return merge(parts)[1]


def _merge(nodes: tuple[range, ...], *results: Any) -> Any:
    return add_in_tree(zip(nodes, results, strict=True))


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
    users = _users(graph)
    # the read becomes a part of the task that uses it: a chunk that waited in memory for its task would be one more
    # than the memory projection counts for each thread
    chunks = [
        _read_task(graph, users, number, list(of_chunk)) for number, of_chunk in enumerate(zip(*keys, strict=True))
    ]
    return _Reading(chunks, graph)


def _read_task(
    graph: dict[Hashable, GraphNode], users: dict[Hashable, set[Hashable]], number: int, keys: list[Hashable]
) -> Task:
    """Take the tasks that bring a chunk and nothing else out of the graph: one task, for rows and weights or None."""
    reads = [graph.pop(key) for key in _reads_of_one_chunk(graph, users, keys)]
    return Task.fuse(*reads, Task(("chunk", number), _as_chunk, *map(TaskRef, keys)))


def _as_chunk(rows: Any, weights: Any = None) -> tuple[Any, Any]:
    return rows, weights


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


def _reads_of_one_chunk(
    graph: dict[Hashable, GraphNode], users: dict[Hashable, set[Hashable]], keys: list[Hashable]
) -> list[Hashable]:
    found: dict[Hashable, None] = {}
    # a chunk that a cluster keeps has no task here
    queue = [key for key in keys if not users.get(key)]
    while queue:
        key = queue.pop()
        if isinstance(graph.get(key), Task):
            found[key] = None
            queue += [k for k in graph[key].dependencies if k in users and users[k] <= found.keys()]
    return list(found)
