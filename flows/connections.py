"""What a job connects to, contacted ahead of it: the Dask scheduler, the Prefect server, the bucket of its results."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

from prefect.settings import PREFECT_API_URL

from flows.prefect_server.choice import direct_to_this_machine, require_server
from gmm_dask.formatting import counted
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.config.templates import is_dated, with_name
from pipeline.store.paths import dated_now
from pipeline.store.places import is_url, place_of


@hiding_secrets
def contact(config: JobConfig) -> list[str]:
    """Contact all that a job needs; returns a line for each that answers.

    A cluster that the job itself would start is not started.

    Raises
    ------
    UserError, FaultError
        If one does not answer, or refuses.
    """
    return [*_scheduler(config), *_server(config), *_bucket(config)]


def _scheduler(config: JobConfig) -> Iterator[str]:
    if config.cluster.kind != "address":
        return
    from pipeline.dask_clusters.start import started

    with started(config.cluster, threads=1) as client:
        n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        yield f"scheduler: {client.scheduler.address} answers, with the same packages on {counted(n_workers, 'worker')}"


def _server(config: JobConfig) -> Iterator[str]:
    """Contact the server that is set; a job with a schedule must have one."""
    if config.schedule is None and not PREFECT_API_URL.value():
        return
    with direct_to_this_machine():
        yield f"server: {require_server()} answers"


def _bucket(config: JobConfig) -> Iterator[str]:
    """Write an object beside the store and beside the scores, and remove it."""
    paths = [config.output.store, *([with_name(config.score.out, config.name)] if config.score else [])]
    for path in filter(is_url, paths):
        beside = f"{dated_now(config, path) if is_dated(path) else path}.{uuid4().hex}"
        place_of(beside).write("check", b"gmm-dask validate --connect")
        place_of(beside).remove_at_once()
        yield f"bucket: {'/'.join(path.split('/')[:3])} can be written"
