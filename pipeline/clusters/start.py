"""Starting a cluster, or finding one that is running, as a configuration says."""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from dask.system import CPU_COUNT
from dask.utils import format_bytes

from gmm_dask.errors import UserError
from pipeline.clusters.checks import ClusterError, require_packages, versions_of
from pipeline.config.cluster import ClusterConfig
from pipeline.config.environment import fill_in, hide

# what Dask is told while a client is held
SETTINGS = {
    # the parameters of a large batch are sent once a pass: there is nothing to warn of
    "distributed.admin.large-graph-warning-threshold": "1GiB",
}
# a worker that is busy to its limit must go on, or its chunk is never done; past it, its nanny ends it
UNPAUSED = {"distributed.worker.memory.pause": False}
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@contextmanager
def started(cluster: ClusterConfig, threads: int) -> Iterator[Any]:
    """A client of the cluster, whose workers have what they need; it ends with the context, as does what it started.

    Parameters
    ----------
    cluster : ClusterConfig
        Of any kind but ``threads``.
    threads : int
        Of each worker, where the workers are started here and the configuration leaves it open.

    Raises
    ------
    UserError
        If the class is none, packages are missing on workers or differ from those here.
    ClusterError
        If the scheduler does not answer, or too few workers come.
    """
    import distributed  # noqa: F401 (brings its settings, which must be there before any of them is changed)

    with dask.config.set(SETTINGS), _quiet(), _cluster(cluster, threads) as target, _client(cluster, target) as client:
        _wait_for_workers(cluster, client)
        require_packages(versions_of(client))
        _limit_threads(client)
        yield client


@contextmanager
def _cluster(cluster: ClusterConfig, threads: int) -> Iterator[Any]:
    """What a client connects to: an address, or a cluster that is closed in the end."""
    if cluster.kind == "address":
        yield cluster.address
        return
    with _local(cluster, threads) if cluster.kind == "local" else _of_class(cluster) as found:
        yield found


def _local(cluster: ClusterConfig, threads: int) -> Any:
    from distributed import LocalCluster

    with dask.config.set(UNPAUSED):
        return LocalCluster(
            n_workers=workers_of(cluster),
            threads_per_worker=cluster.threads_per_worker or threads,
            memory_limit=cluster.memory_bytes,
            local_directory=cluster.local_directory,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        )


def workers_of(cluster: ClusterConfig) -> int:
    """Worker processes of a local cluster."""
    return int(cluster.workers or CPU_COUNT)


def _of_class(cluster: ClusterConfig) -> Any:
    found = cluster_class(str(cluster.class_path))
    try:
        made = found(**fill_in(cluster.kwargs, "cluster.kwargs"))
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
        ) from None  # the cause may name secrets, and a traceback is logged with all of its causes
    return made


def cluster_class(path: str) -> Any:
    """The class at an import path; raises :class:`UserError` for anything that is no class of clusters."""
    from distributed import SpecCluster
    from distributed.deploy.cluster import Cluster

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
        what = "there is no such name" if found is None else "it is none"
        raise UserError(
            f"cluster.class_path: expected a subclass of distributed.deploy.cluster.Cluster; {path}: {what}."
        )
    if found is SpecCluster:
        raise UserError(
            f"cluster.class_path: expected a class that says what its workers are; {path} calls whatever "
            "cluster.kwargs name. Use a subclass of it."
        )
    return found


@contextmanager
def _client(cluster: ClusterConfig, target: Any) -> Iterator[Any]:
    from distributed import Client

    security = _security(cluster)
    try:
        client = Client(target, timeout=cluster.timeout, security=security)
    except (OSError, TypeError, ValueError) as error:  # of the address and of certificates, too
        raise ClusterError(
            f"cluster.address: no Dask scheduler answers at {target} within {cluster.timeout:g} s "
            f"({' '.join(str(error).split())}). Start it (dask scheduler), or see whether the address and, with TLS, "
            "the certificates are right."
        ) from None
    try:
        yield client
    finally:
        client.close(timeout=2)


def _security(cluster: ClusterConfig) -> Any:
    """Files of the configuration; None leaves it to Dask's own configuration, and to what the cluster brings."""
    if cluster.tls is None:
        return None
    from distributed import Security

    try:
        for key in ("ca_file", "cert_file", "key_file"):
            open(getattr(cluster.tls, key), "rb").close()
    except OSError as error:
        raise UserError(f"cluster.tls.{key}: cannot read {error.filename}: {error.strerror}.") from None
    return Security(
        require_encryption=True,
        tls_ca_file=cluster.tls.ca_file,
        tls_client_cert=cluster.tls.cert_file,
        tls_client_key=cluster.tls.key_file,
    )


def _wait_for_workers(cluster: ClusterConfig, client: Any) -> None:
    n_workers = workers_of(cluster) if cluster.kind == "local" else cluster.min_workers or 1
    try:
        client.wait_for_workers(n_workers, timeout=cluster.timeout)
    except TimeoutError:
        found = len(client.ncores())
        raise ClusterError(
            f"cluster: expected {n_workers} worker(s) within {cluster.timeout:g} s, and {found} came. Start more "
            f"(dask worker {client.scheduler.address}), or change cluster.min_workers or cluster.timeout."
        ) from None


def _limit_threads(client: Any) -> None:
    """BLAS and OpenMP run one thread each on every worker, also on those that come later."""
    from pipeline.clusters.worker import OneThread

    client.register_plugin(OneThread())


@contextmanager
def _quiet() -> Iterator[None]:
    """What goes wrong with a cluster is said once, by an error, and not by Dask's log before and after it."""
    names = ("distributed.client", "distributed.nanny", "distributed.core", "distributed.scheduler")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # versions are compared, and refused, by this module
            warnings.filterwarnings("ignore", module="distributed", message="Mismatched versions")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def described(cluster: ClusterConfig, client: Any) -> str:
    """What computes, for whoever watches."""
    workers = client.scheduler_info()["workers"].values()
    threads, limit = sum(w["nthreads"] for w in workers), sum(w["memory_limit"] for w in workers)
    plural = "" if len(workers) == 1 else "s"
    where = f" at {cluster.address}" if cluster.kind == "address" else ""
    memory = f", {format_bytes(limit)}" if limit else ""
    return f"{len(workers)} worker{plural} with {threads} threads in all{memory}{where}{_dashboard(client)}"


def _dashboard(client: Any) -> str:
    return f", dashboard {client.dashboard_link}" if importlib.util.find_spec("bokeh") else ""
