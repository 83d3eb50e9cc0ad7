"""The Prefect flow ``bic-sweep``: the job's plain functions as tasks, and its candidates as an artifact."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from prefect import Flow, flow, get_client, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.progress import Lines
from flows.server import EmbeddedServer
from gmm_dask.errors import UserError
from pipeline.config import JobConfig
from pipeline.progress import Event, Progress, StageStarted, silent

if TYPE_CHECKING:
    from pipeline.run import Summary

Stage = TypeVar("Stage", bound=Callable[..., Any])
LOCAL_RETRIES = 3  # a server of our own is busy for a moment or gone for good: no minutes of waiting
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


def run_flow(config: JobConfig, *, fresh: bool = False, progress: Progress = silent, verbose: bool = False) -> Summary:
    """Run a job as a flow, on the user's Prefect server if one is set and on an embedded one if not.

    Parameters
    ----------
    config : JobConfig
    fresh : bool
        Whether to start anew where a stored result exists.
    progress : callable
        Told of each stage and pass; Prefect's log of the run tells the same.
    verbose : bool
        Whether Prefect and its embedded server log to the terminal.

    Returns
    -------
    Summary
        As of :func:`pipeline.run.run`, whose errors it raises.

    Raises
    ------
    UserError
        If the Prefect server that is set does not answer.
    ServerError
        If the embedded server does not start.
    """
    if not verbose:
        _keep_console_readable()
    progress(StageStarted("prefect", "connecting to its server"))
    with prefect_api(verbose):
        return bic_sweep(progress)(config.model_dump(mode="json"), fresh)


def bic_sweep(progress: Progress = silent) -> Flow[[dict[str, Any], bool], Summary]:
    """The flow, whose parameters are the config as JSON, and whether to start anew.

    Parameters
    ----------
    progress : callable
        Told of each stage and pass. It is no parameter of the flow, as those are shown in Prefect.
    """

    @flow(name="bic-sweep", flow_run_name="{config[name]}", validate_parameters=False, persist_result=False)
    def sweep(config: dict[str, Any], fresh: bool = False) -> Summary:
        """Fit the candidates, choose the best, store it and label the rows."""
        from pipeline.run import run

        watch = _both(progress, Lines(get_run_logger().info))
        summary = run(JobConfig.model_validate(config), fresh=fresh, progress=watch, as_task=as_task)
        _publish(config["name"], summary)
        return summary

    return sweep


def as_task(stage: Stage) -> Stage:
    """A plain function as a Prefect task that is called like it.

    Nothing is hashed, cached or persisted: the result store is what a stage resumes from.
    """
    name = stage.__name__
    lift = task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
    return cast(Stage, lift(stage))


def _both(first: Progress, second: Progress) -> Progress:
    def tell(event: Event) -> None:
        first(event)
        second(event)

    return tell


def _publish(name: str, summary: Summary) -> None:
    """Leave the candidates' table as an artifact; its key gathers the job's history."""
    columns = ["n_components", "covariance_type", "status", summary.criterion, "delta", "n_iter"]
    rows = summary.table.sort_values("delta")[columns].to_numpy(dtype=object)
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    create_table_artifact(
        [dict(zip(columns, row, strict=True)) for row in rows],
        key=f"{key}-candidates",
        description=f"Best by {summary.criterion.upper()}: **{summary.best}**. Stored in `{summary.store}`.",
    )


@contextmanager
def prefect_api(verbose: bool = False) -> Iterator[None]:
    """Within it, Prefect talks to the user's server, or to an embedded one if none is set."""
    if url := PREFECT_API_URL.value():
        _require_answer(url)
        yield
        return
    server = EmbeddedServer(verbose=verbose)
    import pipeline.run  # noqa: F401 (takes seconds, as the server's start does: at the same time)

    found = {PREFECT_API_URL: server.wait_until_ready(), PREFECT_CLIENT_MAX_RETRIES: LOCAL_RETRIES}
    with temporary_settings(found):
        try:
            yield
        except Exception as error:
            server.require_alive(error)
            raise


def _require_answer(url: str) -> None:
    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
    if failure is not None:
        raise UserError(
            f"expected a Prefect server at {url}, as PREFECT_API_URL or the Prefect profile says; it does not "
            f"answer ({failure}). Start it, unset PREFECT_API_URL, or add --no-prefect."
        )


def _keep_console_readable() -> None:
    """Leave the terminal to the job: what Prefect logs of the run reaches its API, and errors are raised.

    Warnings from elsewhere are still shown.
    """
    logging.getLogger("prefect._internal").setLevel(logging.CRITICAL)  # whole events, when one cannot be sent
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING and record.name not in RUN_LOGGERS)
