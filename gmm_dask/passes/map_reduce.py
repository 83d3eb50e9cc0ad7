"""A pass over the data: each chunk goes through a function, and the results are added up in a tree of fixed shape.

A pass knows no statistics: the function of a chunk returns anything that knows ``+``. Dask arrays go through one graph
a pass (:mod:`gmm_dask.passes.execution.graph`). NumPy rows go through the same function in a pool of threads, without
a graph, which would cost more than a small fit does.
"""

from __future__ import annotations

import functools
import operator
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import dask
from dask.base import get_scheduler
from dask.system import CPU_COUNT
from threadpoolctl import ThreadpoolController

from gmm_dask.passes.execution.graph import pass_graph
from gmm_dask.passes.rows import Rows, chunks_in_memory

Result = TypeVar("Result")
Item = TypeVar("Item")
# (rows, weights or None, what the driver sends, number of the chunk) -> result
ChunkFunction = Callable[[Any, Any, Any, int], Result]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS and OpenMP to one thread each: Dask's threads use the cores, and the bits stay the same.

    It is entered around a whole fit, never inside tasks, where the limit would leak between threads.
    """
    with _thread_pools(frozenset(WITH_THREADS & sys.modules.keys())).limit(limits=1):
        yield


# modules that load libraries with threads of their own, where they are imported
WITH_THREADS = {"numpy", "scipy.linalg", "sklearn.cluster"}


@functools.cache
def _thread_pools(imported: frozenset[str]) -> ThreadpoolController:
    """The libraries with threads of their own; finding them takes as long as a small fit."""
    return ThreadpoolController()


def map_reduce(rows: Rows, function: ChunkFunction[Result], shared: Any, name: str) -> Result:
    """Read every chunk once, send it through ``function``, and add the results up in a tree of fixed shape.

    Parameters
    ----------
    rows : Rows
    function : callable
        ``function(rows, weights, shared, number)`` of one chunk. Results of consecutive chunks are added with ``+``,
        in their order, which must be associative but for rounding.
    shared : object
        What the driver sends to all chunks: one key of the graph, which the scheduler can recompute.
    name : str
        Name of the chunks' tasks, as a dashboard shows it.
    """
    if rows.in_memory:
        return functools.reduce(operator.add, map_in_memory(rows, function, shared))
    if rows.on_read is not None:
        rows.on_read(len(rows.lengths))
    result: Result = pass_graph(rows, function, shared, name, _cluster_threads()).compute()
    return result


def _cluster_threads() -> int | None:
    """How many threads a cluster has now that Dask computes with; None where none does."""
    scheduler = get_scheduler()
    ncores = getattr(getattr(scheduler, "__self__", scheduler), "ncores", None)
    return None if ncores is None else sum(ncores().values())


def map_in_memory(rows: Rows, function: ChunkFunction[Result], shared: Any) -> Iterator[Result]:
    """Send chunks of rows in memory through ``function``, as many at a time as Dask is told to use threads.

    Yields the results in the chunks' order; the chunks do not depend on the number of threads.
    """
    chunks = chunks_in_memory(rows)

    def compute(number: int) -> Result:
        weights = None if rows.weights is None else rows.weights[chunks[number]]
        return function(rows.array[chunks[number]], weights, shared, number)

    return map_on_threads(compute, range(len(chunks)))


def map_on_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Call ``function`` with each item, as many at a time as Dask is told to use threads; results in their order."""
    n_threads = min(_n_threads(), len(items))
    mapped = map if n_threads <= 1 else _pool(n_threads, os.getpid()).map
    return iter(mapped(function, items))


def _n_threads() -> int:
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


@functools.cache
def _pool(n_threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that wait for work; a forked process does not have its parent's."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="gmm-dask")
