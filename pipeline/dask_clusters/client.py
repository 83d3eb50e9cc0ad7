"""The client that a job computes with: one for all its stages, or threads of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import dask
import dask.threaded
from dask.system import CPU_COUNT

from gmm_dask.memory import Machine, Shape, affordable_threads, reads_ahead, release_freed, spare_bytes
from gmm_dask.passes.execution.graph import keep_in_runs
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.rows import Rows, rows_bytes
from pipeline.config.cluster import ClusterConfig
from pipeline.config.job import JobConfig
from pipeline.dask_clusters.checks import (
    ClusterError,
    require_packages,
    require_reachable,
    require_visible,
    versions_of,
)
from pipeline.progress import Progress, StageStarted, silent
from pipeline.sources import Source
from pipeline.sources.retries import TOPIC, failed_on_worker
from pipeline.store.places import is_url


@dataclass
class _Connection:
    """The cluster of a job: started when a stage first needs it, closed with the job.

    Attributes
    ----------
    client : distributed.Client or None
        None until a stage needs it.
    address : str
        Of its scheduler.
    paths : dict
        What the workers must see, with the key of the configuration that names it.
    checked : set
        Addresses of the workers that passed the checks.
    persisted : dict of Rows
        Rows in the workers' memory, by name.
    """

    cluster: ClusterConfig
    progress: Progress
    stack: ExitStack
    client: Any = None
    address: str = ""
    paths: dict[str, str] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    persisted: dict[str, Rows] = field(default_factory=dict)

    def require_workers(self) -> None:
        """Raise :class:`UserError` if a worker that has joined since the last call cannot do the job."""
        if set(self.client.ncores()) <= self.checked:
            return
        versions = versions_of(self.client)
        require_packages(versions)
        for path, key in self.paths.items():
            require_visible(self.client, path, key)
        self.checked.update(versions["workers"])

    def drop(self) -> None:
        """Close the client of a cluster that has failed: a retry of the stage connects again."""
        self.persisted.clear()
        self.paths.clear()
        self.checked.clear()
        self.client = None
        self.stack.close()


# global, so that stages find it from any thread
_current: _Connection | None = None


@contextmanager
def connected(cluster: ClusterConfig, progress: Progress = silent) -> Iterator[None]:
    """Compute all stages of a job within it with one client, which connects when the first stage needs it.

    A stage that is called outside of it connects a client of its own.
    """
    global _current
    if cluster.kind == "threads":
        # where no scheduler is set, Dask imports distributed to look for a client, which takes half a second
        with dask.config.set(scheduler=dask.config.get("scheduler", None) or dask.threaded.get):
            yield
        return
    if _current is not None and _current.cluster == cluster:
        yield
        return
    before = _current
    with ExitStack() as stack:
        _current = _Connection(cluster, progress, stack)
        try:
            yield
        finally:
            _current.persisted.clear()
            _current = before


@contextmanager
def computing(config: JobConfig, source: Source, shape: Shape, written: str | None = None) -> Iterator[None]:
    """Make Dask compute where the configuration says, with BLAS in one thread each.

    Parameters
    ----------
    config : JobConfig
    source : Source
        The data, which the workers must see.
    shape : Shape
        Of the data, by which the number of threads is limited to what fits in memory.
    written : str, optional
        A path in which the workers write.

    Raises
    ------
    UserError
        If workers lack packages or do not see the paths, also those that join later.
    ClusterError
        If the cluster cannot be reached, or is lost; the next call connects again.
    """
    if config.cluster.kind == "threads":
        threads = machine_of(config, shape).threads
        with one_blas_thread(), connected(config.cluster), dask.config.set(num_workers=threads):
            yield
        release_freed()
        return
    with one_blas_thread(), connected(config.cluster):
        current = _connect(config, shape)
        from distributed import span

        from pipeline.dask_clusters.compute import ClusterGet, lost_scheduler_reported

        get = ClusterGet(current.client, current.address, config.cluster.timeout, current.require_workers)
        try:
            with lost_scheduler_reported(current.client, current.address):
                _require_paths(current, source, written)
                # the scheduler remembers every span: one per stage, not one per pass
                with current.client.as_current(), span("gmm-dask"), dask.config.set(scheduler=get):
                    yield
        except ClusterError:
            current.drop()
            raise


def _connect(config: JobConfig, shape: Shape) -> _Connection:
    from pipeline.dask_clusters.start import describe, started

    assert _current is not None
    if _current.client is None:
        _current.progress(StageStarted("cluster", f"waiting for {config.cluster.kind}"))
        threads = machine_of(config, shape).threads
        _current.client = _current.stack.enter_context(started(config.cluster, threads))
        _current.address = _current.client.scheduler.address
        _current.client.subscribe_topic(TOPIC, failed_on_worker)
        _current.progress(StageStarted("cluster", describe(config.cluster, _current.client)))
    return _current


def _require_paths(current: _Connection, source: Source, written: str | None) -> None:
    """Check each path that the workers must see, once."""
    paths = {written: "output.store"} if written else {}
    if source.location.is_local:
        paths[source.location.path] = "data.source"
    for path, key in paths.items():
        if path not in current.paths:
            (require_reachable if is_url(path) else require_visible)(current.client, path, key)
            current.paths[path] = key


# -- memory ------------------------------------------------------------------------------------------------------


def machine_of(config: JobConfig, shape: Shape) -> Machine:
    """Return the memory limit and the threads of one process: of a worker, once a cluster is connected."""
    cluster, limit = config.cluster, config.cluster.memory_bytes
    if cluster.kind == "threads":
        cores = dask.config.get("num_workers", None) or CPU_COUNT
        return Machine(affordable_threads(shape, limit, cores), limit)
    if _current is not None and _current.client is not None and _current.cluster == cluster:
        workers = list(_current.client.scheduler_info()["workers"].values())
        limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]
        return Machine(max((worker["nthreads"] for worker in workers), default=1), min([limit, *limits]), runs=True)
    if cluster.kind == "local":
        most = max(1, CPU_COUNT // cluster.n_local_workers)
        return Machine(cluster.threads_per_worker or affordable_threads(shape, limit, most), limit, runs=True)
    return Machine(1, limit, runs=True)  # until the workers can be asked


def require_importable(cluster: ClusterConfig) -> None:
    """Raise :class:`UserError` if the class of a cluster cannot be imported."""
    if cluster.kind == "class":
        from pipeline.dask_clusters.start import cluster_class  # imports distributed

        cluster_class(str(cluster.class_path))


# -- rows of the workers ---------------------------------------------------------------------------------------


def rows_on_workers(config: JobConfig, rows: Rows, shape: Shape, needed: int) -> Rows:
    """The rows as the workers of a cluster have them.

    If ``cluster.persist`` says so, they are kept in the workers' memory: they are read once, not in each pass.
    Otherwise they may be read ahead (:func:`with_read_ahead`).

    Parameters
    ----------
    config : JobConfig
    rows : Rows
    shape : Shape
        Of the rows.
    needed : int
        Bytes that a pass needs of a worker.
    """
    current = _current
    if current is None or current.client is None or rows.in_memory:
        return rows
    name = rows.array.name
    if name not in current.persisted:
        is_room = _is_room(config, rows, shape, needed, current)
        if config.cluster.persist == "never" or (config.cluster.persist == "auto" and not is_room):
            return with_read_ahead(config, rows, shape, needed)
        current.progress(StageStarted("persist", "the workers keep the chunks in memory"))
        # workers spill a run as one: without room, each chunk is one
        n_threads = sum(current.client.ncores().values()) if is_room else None
        current.persisted[name] = keep_in_runs(rows, current.client.persist, n_threads)
        if rows.on_read is not None:
            rows.on_read(len(rows.lengths))
    else:
        _read_again(current.persisted[name], current.client, config.cluster.timeout)
    return current.persisted[name]


def with_read_ahead(config: JobConfig, rows: Rows, shape: Shape, needed: int) -> Rows:
    """Rows of which a worker reads the next chunk while it computes one, if it has room for two.

    Parameters are those of :func:`rows_on_workers`. Rows in memory, and those that no worker reads, stay as they are.
    """
    is_ahead = not rows.in_memory and reads_ahead(shape, machine_of(config, shape), needed)
    return replace(rows, reads_ahead=True) if is_ahead else rows


def _is_room(config: JobConfig, rows: Rows, shape: Shape, needed: int, current: _Connection) -> bool:
    """Whether the present workers have the memory; with adaptive scaling, workers come and go."""
    if config.cluster.adaptive is not None:
        return False
    n_workers = len(current.client.ncores())
    return rows_bytes(rows, shape.chunk_rows) <= n_workers * spare_bytes(machine_of(config, shape), needed)


def _read_again(persisted: Rows, client: Any, timeout: float) -> None:
    """Read the chunks again that failed in an earlier try of a stage."""
    from distributed import futures_of, wait

    futures = futures_of([persisted.array, persisted.weights])
    if not any(future.status == "error" for future in futures):
        return
    with suppress(TimeoutError):  # without workers this never ends, and the pass reports it
        wait(futures, timeout=timeout)
    client.retry([future for future in futures if future.status == "error"])
