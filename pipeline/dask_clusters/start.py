"""Starting a cluster, or connecting to a running one. It imports Dask's ``distributed``: import it when needed."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
import distributed
from dask.utils import format_bytes
from distributed.deploy.cluster import Cluster
from threadpoolctl import threadpool_limits

from gmm_dask.errors import UserError
from pipeline.config.cluster import ClusterConfig
from pipeline.config.environment import fill_in
from pipeline.config.secrets import hide, require_known
from pipeline.dask_clusters.checks import ClusterError, require_packages, versions_of

SETTINGS = {
    # the parameters of a large batch of models travel in the graph, once per pass: Dask would warn of a large graph
    "distributed.admin.large-graph-warning-threshold": "1GiB",
    # a worker takes the next run of chunks when it is done with one: with a run in hand it might be the last by far
    "distributed.scheduler.worker-saturation": 1.0,
}
# a worker that is paused at its memory limit never finishes its chunk; past the limit, its nanny restarts it
UNPAUSED = {"distributed.worker.memory.pause": False}
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@contextmanager
def started(cluster: ClusterConfig, threads: int) -> Iterator[Any]:
    """Yield a client of the cluster, once its workers have the packages; at the end, close it and what it started.

    Parameters
    ----------
    cluster : ClusterConfig
        Of any kind but ``threads``.
    threads : int
        Of each local worker, where the configuration does not set it.

    Raises
    ------
    UserError
        If the class is not a cluster's, or packages are missing on workers or differ from those here.
    ClusterError
        If the scheduler does not answer, or too few workers come.
    """
    with dask.config.set(SETTINGS), _quiet(), _cluster(cluster, threads) as target, _client(cluster, target) as client:
        _wait_for_workers(cluster, client)
        require_packages(versions_of(client))
        client.register_plugin(OneThread())
        yield client


@contextmanager
def _cluster(cluster: ClusterConfig, threads: int) -> Iterator[Any]:
    """Yield what a client connects to: an address, or a cluster that is closed at the end."""
    if cluster.kind == "address":
        yield cluster.address
        return
    with _local(cluster, threads) if cluster.kind == "local" else _of_class(cluster) as found:
        yield found


def _local(cluster: ClusterConfig, threads: int) -> Any:
    # a scheduler runs what it is sent as the job's owner: certificates that live as long as the cluster, and in memory,
    # keep the machine's other users out
    security = distributed.Security.temporary()
    with dask.config.set(UNPAUSED):
        return distributed.LocalCluster(
            n_workers=cluster.n_local_workers,
            threads_per_worker=cluster.threads_per_worker or threads,
            memory_limit=cluster.memory_bytes,
            local_directory=cluster.local_directory,
            host="127.0.0.1",
            security=security,
            dashboard_address="127.0.0.1:0",
        )


def _of_class(cluster: ClusterConfig) -> Any:
    found = cluster_class(str(cluster.class_path))
    require_known(cluster.kwargs, "cluster.kwargs")
    try:
        made = found(**fill_in(cluster.kwargs, "cluster.kwargs"), **_certificates(found, cluster.kwargs))
        if cluster.workers is not None:
            made.scale(cluster.workers)
        if cluster.adaptive is not None:
            made.adapt(minimum=cluster.adaptive.minimum, maximum=cluster.adaptive.maximum)
    except UserError:
        raise
    except Exception as error:
        words = hide(f"{type(error).__name__}: {error}", cluster.kwargs).rstrip(".")
        raise UserError(
            f"cluster.class_path: {cluster.class_path} could not start a cluster: {words}. See cluster.kwargs."
        ) from None  # without the cause, whose text may show secrets: a logged traceback includes all causes
    return made


def _certificates(found: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return certificates for a class of clusters that gives them to its workers, unless the arguments say otherwise.

    These classes start processes on this machine, or batch jobs, whose certificates dask_jobqueue writes to a folder.
    """
    takes_them = {"security", "protocol"} <= inspect.signature(found).parameters.keys()
    to_workers = issubclass(found, distributed.LocalCluster) or hasattr(found, "job_cls")
    decided = kwargs.keys() & {"security", "protocol"} or kwargs.get("processes") is False
    return {"security": distributed.Security.temporary()} if takes_them and to_workers and not decided else {}


def cluster_class(path: str) -> Any:
    """Import a class of clusters by its path; raises :class:`UserError` for anything else."""
    if not _CLASS_PATH.fullmatch(path):
        raise UserError(f"cluster.class_path: expected a path such as dask_jobqueue.SLURMCluster; got {path!r}.")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UserError(
            f"cluster.class_path: cannot import {module} ({error}). Install the package that brings it, into the "
            "environment that gmm-dask is in."
        ) from None
    if not (isinstance(found, type) and issubclass(found, Cluster)):
        what = "there is no such name" if found is None else "it is not one"
        raise UserError(
            f"cluster.class_path: expected a subclass of distributed.deploy.cluster.Cluster; {path}: {what}."
        )
    if found is distributed.SpecCluster:
        raise UserError(
            f"cluster.class_path: expected a class that defines its workers; {path} calls whatever cluster.kwargs "
            "name. Use a subclass of it."
        )
    return found


@contextmanager
def _client(cluster: ClusterConfig, target: Any) -> Iterator[Any]:
    security = _security(cluster)
    try:
        # no default client: that would change Dask's settings now, and again when the connection is lost
        client = distributed.Client(target, timeout=cluster.timeout, security=security, set_as_default=False)
    except (OSError, TypeError, ValueError) as error:  # invalid addresses and certificates raise all of these
        raise ClusterError(
            f"cluster.address: no Dask scheduler answers at {target} within {cluster.timeout:g} s "
            f"({' '.join(str(error).split())}). Start it (dask scheduler), or correct the address or, with TLS, the "
            "certificates."
        ) from None
    try:
        yield client
    finally:
        client.close(timeout=2)


def _security(cluster: ClusterConfig) -> Any:
    """Return the configured certificates; None leaves TLS to Dask's own configuration and to the cluster."""
    if cluster.tls is None:
        return None
    try:
        for key in ("ca_file", "cert_file", "key_file"):
            open(getattr(cluster.tls, key), "rb").close()
    except OSError as error:
        raise UserError(f"cluster.tls.{key}: cannot read {error.filename}: {error.strerror}.") from None
    return distributed.Security(
        require_encryption=True,
        tls_ca_file=cluster.tls.ca_file,
        tls_client_cert=cluster.tls.cert_file,
        tls_client_key=cluster.tls.key_file,
    )


def _wait_for_workers(cluster: ClusterConfig, client: Any) -> None:
    n_workers = cluster.n_local_workers if cluster.kind == "local" else cluster.min_workers or 1
    try:
        client.wait_for_workers(n_workers, timeout=cluster.timeout)
    except TimeoutError:
        found = len(client.ncores())
        raise ClusterError(
            f"cluster: expected {n_workers} worker(s) within {cluster.timeout:g} s; got {found}. Start more "
            f"(dask worker {client.scheduler.address}), or change cluster.min_workers or cluster.timeout."
        ) from None


class OneThread(distributed.WorkerPlugin):  # type: ignore[misc]
    """Limits BLAS and OpenMP to one thread each on every worker, also on those that join later.

    The worker's own threads use the cores, and the bits do not depend on how many BLAS would start. Kernels that its
    machine has no code of are compiled in processes of their own, whose memory is not the worker's.
    """

    name = "gmm-dask-one-thread"
    idempotent = True

    def setup(self, worker: Any) -> None:
        """Set the limit until the worker ends, after the libraries that have thread pools were loaded."""
        import gmm_dask.passes.map_reduce  # noqa: F401
        from gmm_dask.kernels.compilation.processes import compile_in_processes

        compile_in_processes()
        self._limits = threadpool_limits(limits=1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's log of cluster failures, each of which is raised as an error."""
    names = ("distributed.client", "distributed.nanny", "distributed.core", "distributed.scheduler")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # require_packages compares the versions
            warnings.filterwarnings("ignore", module="distributed", message="Mismatched versions")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def describe(cluster: ClusterConfig, client: Any) -> str:
    """Return a description of the workers, for the log."""
    workers = client.scheduler_info()["workers"].values()
    threads, limit = sum(w["nthreads"] for w in workers), sum(w["memory_limit"] for w in workers)
    plural = "" if len(workers) == 1 else "s"
    where = f" at {cluster.address}" if cluster.kind == "address" else ""
    memory = f", {format_bytes(limit)}" if limit else ""
    dashboard = f", dashboard {client.dashboard_link}" if importlib.util.find_spec("bokeh") else ""
    return f"{len(workers)} worker{plural} with {threads} threads in all{memory}{where}{dashboard}"
