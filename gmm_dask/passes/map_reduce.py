"""Passes over the data: one Dask graph a pass, one task a chunk, and a tree of merges of fixed shape.

This is the only module that builds graphs, and it knows no statistics: a pass is handed the function that a chunk
goes through and the function that merges. NumPy rows go through the same functions in a pool of threads, without a
graph, which would cost more than a small fit does.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, TypeVar
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef, convert_legacy_graph
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.system import CPU_COUNT
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from gmm_dask.errors import UserError
from gmm_dask.families import Statistics
from gmm_dask.passes.data_summary import DataSummary, Draw, finish_summary, merge_parts, summarize_chunk
from gmm_dask.passes.holdout import Holdout, Weighted
from gmm_dask.passes.model_batch import (
    Model,
    ModelBatch,
    Totals,
    add_sums,
    build_batch,
    chunk_sums,
    unpack_sums,
    unpack_totals,
)

Array = NDArray[np.float64]
Result = TypeVar("Result")
# (rows, weights or None, what the driver sends, number of the chunk) -> result
ChunkFunction = Callable[[Any, Any, Any, int], Result]
Merge = Callable[[Sequence[Result]], Result]

# merges take this many results at a time, in the chunks' order
MERGE_WIDTH = 8
# rows in memory are cut into at most so many chunks, none of them smaller than this but the last
MOST_CHUNKS = 32
CHUNK_BYTES = 1 << 20

_passes = itertools.count()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS and OpenMP to one thread each: Dask's threads use the cores, and the bits stay the same.

    It is entered around a whole fit, never inside tasks, where the limit would leak between threads.
    """
    with _thread_pools().limit(limits=1):
        yield


@cache
def _thread_pools() -> ThreadpoolController:
    """The libraries with threads of their own; finding them takes as long as a small fit."""
    return ThreadpoolController()


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as chunks that can be read again and again.

    Attributes
    ----------
    array : ndarray or dask.array.Array of shape (n_rows, n_features)
        A Dask array has one chunk of columns; the lengths of its chunks of rows may be unknown.
    weights : ndarray or dask.array.Array of shape (n_rows,), or None
        Of the same kind as ``array`` and chunked like its rows.
    holdout : Holdout or None
        Which rows the passes of a fit hold out; None holds out none.
    n_chunks : int
        Into how many chunks rows in memory are cut at least.
    """

    array: Any
    weights: Any = None
    holdout: Holdout | None = None
    n_chunks: int = 1

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return int(self.array.shape[1])

    @property
    def in_memory(self) -> bool:
        """Whether the rows are one NumPy array, which needs no graph."""
        return isinstance(self.array, np.ndarray)

    @property
    def lengths(self) -> tuple[float, ...]:
        """Rows of each chunk, NaN where unknown."""
        if self.in_memory:
            return tuple(chunk.stop - chunk.start for chunk in _chunks_in_memory(self))
        found: tuple[float, ...] = self.array.chunks[0]
        return found

    @cached_property
    def _reading(self) -> _Reading:
        """How the chunks are read."""
        collections = [self.array] if self.weights is None else [self.array, self.weights]
        collections = list(dask.optimize(*collections))
        graph: dict[Hashable, GraphNode] = {}
        for collection in collections:
            graph.update(convert_legacy_graph(dict(collection.__dask_graph__())))
        keys = [_without_aliases(graph, flatten(collection.__dask_keys__())) for collection in collections]
        return _Reading(graph, _users(graph), keys[0], keys[1] if len(keys) > 1 else [None] * len(keys[0]))


@dataclass(frozen=True, eq=False)
class _Reading:
    """The optimised graph that reads the chunks, who needs its keys, and the keys of rows and weights by chunk."""

    graph: dict[Hashable, GraphNode]
    users: dict[Hashable, set[Hashable]]
    rows: list[Hashable]
    weights: list[Hashable] | list[None]


def as_rows(array: Any, weights: Any = None) -> Rows:
    """Rows from arrays, NumPy's with NumPy's weights, or Dask's with weights that are chunked like them."""
    if isinstance(array, np.ndarray):
        return Rows(array, weights)
    if array.numblocks[1] > 1:
        array = array.rechunk({1: -1})
    return Rows(array, None if weights is None else _align_weights(weights, array))


def hold_out(rows: Rows, share: float, seed: int, *, starts: Sequence[int] | None = None, drop: bool = False) -> Rows:
    """Rows of which a share is held out of the passes of a fit; ``seed``, ``starts``, ``drop`` as in pass 0."""
    return replace(rows, holdout=Holdout(share, seed, _first_rows(rows, starts), drop)) if share else rows


def _first_rows(rows: Rows, starts: Sequence[int] | None) -> tuple[int, ...] | None:
    """Number of each chunk's first row: as given, or by the chunks' lengths; None if these are not known."""
    if starts is not None:
        return tuple(starts)
    if any(math.isnan(length) for length in rows.lengths):
        return None
    return 0, *itertools.accumulate(int(length) for length in rows.lengths[:-1])


def rows_bytes(rows: Rows, chunk_rows: int) -> int:
    """Bytes of all chunks in memory, where those of unknown length have ``chunk_rows`` rows."""
    n_rows = sum(chunk_rows if math.isnan(length) else int(length) for length in rows.lengths)
    row = rows.n_features * rows.array.dtype.itemsize + (0 if rows.weights is None else rows.weights.dtype.itemsize)
    return int(n_rows * row)


def _align_weights(weights: Any, array: da.Array) -> da.Array:
    unknown = any(np.isnan(size) for size in array.chunks[0])
    if not isinstance(weights, da.Array):
        if unknown:
            raise UserError(
                "sample_weight in memory needs rows whose chunk lengths are known, and X's are not: call "
                "X.compute_chunk_sizes() first, or pass sample_weight as a Dask array with X's partitions."
            )
        return da.from_array(np.asarray(weights), chunks=(array.chunks[0],), name=False)
    if unknown and weights.numblocks[0] != array.numblocks[0]:
        raise UserError(
            f"sample_weight has {weights.numblocks[0]} partitions and X has {array.numblocks[0]}, of unknown lengths: "
            "they must be partitioned alike. Call compute_chunk_sizes() on both."
        )
    if not unknown and np.isnan(weights.shape[0]):
        raise UserError(
            "sample_weight has partitions of unknown lengths, and X's are known: call compute_chunk_sizes() on "
            "sample_weight first."
        )
    return weights if unknown else weights.rechunk((array.chunks[0],))


def map_reduce(rows: Rows, function: ChunkFunction[Result], merge: Merge[Result], shared: Any, name: str) -> Result:
    """Read every chunk once, send it through ``function``, and merge the results in a tree of fixed shape.

    Parameters
    ----------
    rows : Rows
    function : callable
        ``function(rows, weights, shared, number)`` of one chunk.
    merge : callable
        ``merge(results)``; associative, of up to ``MERGE_WIDTH`` results in the chunks' order.
    shared : object
        What the driver sends to all chunks: one key of the graph, which the scheduler can recompute.
    name : str
        Name of the chunks' tasks, as a dashboard shows it.
    """
    if rows.in_memory:
        return _merge_in_turn(map_in_memory(rows, function, shared), merge)
    token = f"{next(_passes):06d}-{uuid4().hex}"  # forked processes may share a scheduler, and count alike
    graph, keys = _chunk_tasks(rows, function, shared, name, token)
    root = _merge_tasks(graph, keys, merge, f"merge-{token}")
    layer = f"pass-{token}"
    result: Result = Delayed(root, HighLevelGraph({layer: graph}, {layer: set()}), layer=layer).compute()
    return result


def map_in_memory(rows: Rows, function: ChunkFunction[Result], shared: Any) -> Iterator[Result]:
    """Send chunks of rows in memory through ``function``, as many at a time as Dask is told to use threads.

    Yields the results in the chunks' order; the chunks do not depend on the number of threads.
    """
    chunks = _chunks_in_memory(rows)

    def compute(number: int) -> Result:
        weights = None if rows.weights is None else rows.weights[chunks[number]]
        return function(rows.array[chunks[number]], weights, shared, number)

    n_threads = min(_n_threads(), len(chunks))
    return (
        map(compute, range(len(chunks)))
        if n_threads == 1
        else _pool(n_threads, os.getpid()).map(compute, range(len(chunks)))
    )


def _chunks_in_memory(rows: Rows) -> list[slice]:
    n_rows, n_features = rows.array.shape
    step = max(-(-n_rows // MOST_CHUNKS), min(CHUNK_BYTES // (8 * n_features), -(-n_rows // rows.n_chunks)), 1)
    return [slice(start, min(start + step, n_rows)) for start in range(0, max(1, n_rows), step)]


def _n_threads() -> int:
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


@cache
def _pool(n_threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that wait for work; a forked process does not have its parent's."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="gmm-dask")


def _merge_in_turn(results: Iterator[Result], merge: Merge[Result]) -> Result:
    """Merge results as they come, so that few of them wait."""
    total = merge([next(results)])
    for result in results:
        total = merge([total, result])
    return total


def _merge_tasks(graph: dict[Hashable, GraphNode], level: list[Hashable], merge: Merge[Any], name: str) -> Hashable:
    """Add the tree of merges over the chunks' keys to the graph; returns the key of its root."""
    for depth in itertools.count():
        groups = [level[i : i + MERGE_WIDTH] for i in range(0, len(level), MERGE_WIDTH)]
        level = [(name, depth, i) for i in range(len(groups))]
        for key, group in zip(level, groups, strict=True):
            graph[key] = Task(key, _merge_listed, merge, *(TaskRef(k) for k in group))
        if len(level) == 1:
            break
    return level[0]


def _merge_listed(merge: Merge[Result], *results: Result) -> Result:
    return merge(results)


def _chunk_tasks(
    rows: Rows, function: ChunkFunction[Result], shared: Any, name: str, token: str
) -> tuple[dict[Hashable, GraphNode], list[Hashable]]:
    reading = rows._reading
    graph = dict(reading.graph)
    shared_key = f"parameters-{token}"
    graph[shared_key] = DataNode(shared_key, shared)
    keys: list[Hashable] = []
    for number, (row_key, weight_key) in enumerate(zip(reading.rows, reading.weights, strict=True)):
        key = (f"{name}-{token}", number)
        weights = None if weight_key is None else TaskRef(weight_key)
        task = Task(key, function, TaskRef(row_key), weights, TaskRef(shared_key), number)
        reads = _reads_of_one_chunk(reading, [k for k in (row_key, weight_key) if k is not None])
        graph[key] = Task.fuse(*(graph.pop(k) for k in reads), task)
        keys.append(key)
    return graph, keys


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


# -- the passes of a fit -----------------------------------------------------------------------------------------


def _statistics_of_chunk(
    rows: Any, weights: Any, shared: tuple[ModelBatch, Holdout | None], number: int
) -> list[Array]:
    batch, holdout = shared
    x, w = _chunk(rows, weights) if holdout is None else holdout.fitted(_chunk(rows, weights), number)
    return chunk_sums(x, w, batch)


def _chunk(rows: Any, weights: Any) -> Weighted:
    return np.asarray(rows), None if weights is None else np.asarray(weights)


def collect_statistics(
    rows: Rows, data_summary: DataSummary, models: Sequence[Model], dtype: np.dtype[Any] | None = None
) -> list[Statistics]:
    """One pass: the sufficient statistics of every model, from one read, in ``dtype`` or the rows' precision."""
    batch = build_batch(models, data_summary.center, data_summary.scatter, dtype=dtype or rows.array.dtype)
    sums = map_reduce(rows, _statistics_of_chunk, add_sums, (batch, rows.holdout), "statistics")
    return unpack_sums(batch, sums)


def _totals_of_chunk(rows: Any, weights: Any, shared: tuple[ModelBatch, Holdout | None], number: int) -> list[Array]:
    batch, holdout = shared
    parts = [_chunk(rows, weights)] if holdout is None else holdout.split(_chunk(rows, weights), number)
    return [array for x, w in parts for array in chunk_sums(x, w, batch, statistics=False)]


def collect_totals(rows: Rows, data_summary: DataSummary, models: Sequence[Model]) -> list[Totals]:
    """The closing pass: the log-likelihood of every model, from one read of the data, in double precision.

    Rows that are held out have a scatter of their own, so that each row's density is computed as a whole then.
    """
    is_split = rows.holdout is not None
    scatter = np.zeros_like(data_summary.scatter) if is_split else data_summary.scatter
    batch = build_batch(models, data_summary.center, scatter, answers=is_split)
    sums = map_reduce(rows, _totals_of_chunk, add_sums, (batch, rows.holdout), "log-likelihood")
    totals = unpack_totals(batch, sums)
    if not is_split:
        return totals
    pairs = zip(totals, unpack_totals(batch, sums[2:]), strict=True)
    return [fitted._replace(held_out=held_out.log_likelihood) for fitted, held_out in pairs]


def summarize_rows(
    rows: Rows,
    seed: int,
    columns: Sequence[str] | None = None,
    *,
    drop: bool = False,
    starts: Sequence[int] | None = None,
) -> DataSummary:
    """Pass 0.

    Parameters
    ----------
    rows : Rows
        Those that are held out are counted only.
    seed : int
        Draws the sample of rows.
    columns : sequence of str
        Names for messages.
    drop : bool
        Whether rows that are not finite are left out, instead of refused.
    starts : sequence of int
        Number of each chunk's first row, where the chunks' lengths are not known.

    Raises
    ------
    UserError
        If there are no rows, none held out where some are to be, values that are NaN or infinite, or weights that are
        negative or add up to zero.
    """
    # with weights, the rows that count may be few: none of them is left out beforehand; nor where rows are dropped
    n_rows = rows.array.shape[0] if rows.weights is None and not drop else math.nan
    draw = Draw.of(n_rows, rows.n_features, seed, _first_rows(rows, starts), rows.holdout)
    return finish_summary(map_reduce(rows, summarize_chunk, merge_parts, draw, "data-summary"), columns, drop)
