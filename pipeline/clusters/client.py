"""What a job computes with: threads of this process, or a client of a cluster that is held for the whole job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import dask
from dask.system import CPU_COUNT

from gmm_dask.memory import Machine, Shape, affordable_threads, spare_bytes
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.rows import Rows, rows_bytes
from pipeline.clusters.checks import ClusterError, require_packages, require_visible, versions_of
from pipeline.clusters.getter import Getter
from pipeline.clusters.start import described, started, workers_of
from pipeline.config.cluster import ClusterConfig
from pipeline.config.job import JobConfig
from pipeline.progress import Progress, StageStarted, silent
from pipeline.sources import Source


@dataclass
class _Held:
    """The cluster of a job: started when it is needed first, ended with the job.

    ``paths`` are what its workers must see, with the keys that name them, ``checked`` the workers that were found to do
    and to have the packages, ``kept`` the rows that they keep, by their name.
    """

    cluster: ClusterConfig
    progress: Progress
    stack: ExitStack
    client: Any = None
    paths: dict[str, str] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    kept: dict[str, Rows] = field(default_factory=dict)

    def require_workers(self) -> None:
        """Raise :class:`UserError` if a worker that has come since the last call cannot do the job."""
        if set(self.client.ncores()) <= self.checked:
            return
        versions = versions_of(self.client)
        require_packages(versions)
        for path, key in self.paths.items():
            require_visible(self.client, path, key)
        self.checked.update(versions["workers"])

    def drop(self) -> None:
        """Let go of a cluster that has failed: another try of a stage starts or finds one anew."""
        self.kept.clear()
        self.paths.clear()
        self.checked.clear()
        self.client = None
        self.stack.close()


# of this process, so that a stage that is called from any thread finds it
_current: _Held | None = None


@contextmanager
def held(cluster: ClusterConfig, progress: Progress = silent) -> Iterator[None]:
    """Within it, all stages of a job compute with one client, which is made when the first needs it.

    A stage that is called outside of it makes a client for itself.
    """
    global _current
    if cluster.kind == "threads" or (_current is not None and _current.cluster == cluster):
        yield
        return
    before = _current
    with ExitStack() as stack:
        _current = _Held(cluster, progress, stack)
        try:
            yield
        finally:
            _current.kept.clear()
            _current = before


@contextmanager
def computing(config: JobConfig, source: Source, shape: Shape, written: str | None = None) -> Iterator[None]:
    """Within it, Dask computes where the configuration says, with BLAS in one thread each.

    Parameters
    ----------
    config : JobConfig
    source : Source
        What is read: the workers must see it.
    shape : Shape
        Of what is read: as many threads are used as the memory allows.
    written : str, optional
        A path in which the workers write.

    Raises
    ------
    UserError
        If the cluster cannot do it: packages, paths; also of workers that come later.
    ClusterError
        If it cannot be reached, or is lost: the next call finds or starts one anew.
    """
    if config.cluster.kind == "threads":
        with one_blas_thread(), dask.config.set(num_workers=machine_of(config, shape).threads):
            yield
        return
    with one_blas_thread(), held(config.cluster):
        current = _connected(config, shape)
        _require_paths(current, source, written)
        from distributed import span

        getter = Getter(current.client, config.cluster.timeout, current.require_workers)
        try:
            # a scheduler keeps a record of every span: one for a stage, not one for each pass
            with span("gmm-dask"), dask.config.set(scheduler=getter):
                yield
        except ClusterError:  # once Dask's settings are as they were, as a client that closes changes them, too
            current.drop()
            raise


def _connected(config: JobConfig, shape: Shape) -> _Held:
    assert _current is not None
    if _current.client is None:
        _current.progress(StageStarted("cluster", f"waiting for {config.cluster.kind}"))
        threads = machine_of(config, shape).threads
        _current.client = _current.stack.enter_context(started(config.cluster, threads))
        _current.progress(StageStarted("cluster", described(config.cluster, _current.client)))
    return _current


def _require_paths(current: _Held, source: Source, written: str | None) -> None:
    """What the workers must see, seen once."""
    paths = {written: "output.store"} if written else {}
    if source.location.is_local:
        paths[source.location.path] = "data.source"
    for path, key in paths.items():
        if path not in current.paths:
            require_visible(current.client, path, key)
            current.paths[path] = key


# -- memory ------------------------------------------------------------------------------------------------------


def machine_of(config: JobConfig, shape: Shape) -> Machine:
    """The memory that a process may use, and the threads in it: of the workers, once a cluster is connected."""
    cluster, limit = config.cluster, config.cluster.memory_bytes
    if cluster.kind == "threads":
        cores = dask.config.get("num_workers", None) or CPU_COUNT
        return Machine(affordable_threads(shape, limit, cores), limit)
    if _current is not None and _current.client is not None and _current.cluster == cluster:
        workers = list(_current.client.scheduler_info()["workers"].values())
        limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]
        return Machine(max((worker["nthreads"] for worker in workers), default=1), min([limit, *limits]))
    if cluster.kind == "local":
        most = max(1, CPU_COUNT // workers_of(cluster))
        return Machine(cluster.threads_per_worker or affordable_threads(shape, limit, most), limit)
    return Machine(1, limit)  # as long as nobody has asked the workers


# -- rows that are kept ------------------------------------------------------------------------------------------


def keep(config: JobConfig, rows: Rows, shape: Shape, needed: int) -> Rows:
    """The rows as the workers keep them, if they are to: they are read once then, and not in each pass.

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
    if current is None or current.client is None or rows.in_memory or config.cluster.persist == "never":
        return rows
    name = rows.array.name
    if name not in current.kept:
        if config.cluster.persist == "auto" and not _is_room(config, rows, shape, needed, current):
            return rows
        current.progress(StageStarted("keep", "the workers keep the chunks in memory"))
        current.kept[name] = _persisted(rows, current.client)
    else:
        _read_again(current.kept[name], current.client, config.cluster.timeout)
    return current.kept[name]


def _is_room(config: JobConfig, rows: Rows, shape: Shape, needed: int, current: _Held) -> bool:
    """Whether the workers that are there have the memory; those that come and go keep nothing."""
    if config.cluster.adaptive is not None:
        return False
    n_workers = len(current.client.ncores())
    return rows_bytes(rows, shape.chunk_rows) <= n_workers * spare_bytes(machine_of(config, shape), needed)


def _persisted(rows: Rows, client: Any) -> Rows:
    if rows.weights is None:
        return replace(rows, array=client.persist(rows.array))
    array, weights = client.persist([rows.array, rows.weights])
    return replace(rows, array=array, weights=weights)


def _read_again(kept: Rows, client: Any, timeout: float) -> None:
    """Chunks that a worker could not read for a try of a stage are read again for the next."""
    from distributed import futures_of, wait

    futures = futures_of([kept.array, kept.weights])
    if not any(future.status == "error" for future in futures):
        return
    with suppress(TimeoutError):  # without workers there is no end of it, and the pass will say so
        wait(futures, timeout=timeout)
    client.retry([future for future in futures if future.status == "error"])


def keeps_rows() -> bool:
    """Whether the workers of the job that is running keep its rows."""
    return _current is not None and bool(_current.kept)
