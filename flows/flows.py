"""The Prefect flows ``bic-sweep``, ``refresh`` and ``score-batch``; their tasks are the stages of a job.

Prefect runs in the process that drives the job, and the stages compute with Dask. What they share lies in the result
store, so that a stage that is retried resumes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from prefect import Flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.tasks import TaskRunNameCallbackWithParameters

from flows.alarms import alarm_of_refresh, alarm_of_scores
from flows.artifacts import ProgressArtifact, publish_job, publish_refresh, publish_scores
from flows.parameters import ConfigParameter, JobFlow, hide_in_server, read_job
from flows.prefect_server.choice import prefect_api, quiet_console
from flows.prefect_server.outages import outlives_server
from flows.progress import LogLines
from flows.serving.skipped_runs import skip_if_late
from flows.terminal import winner_line
from gmm_dask.errors import UserError
from gmm_dask.formatting import counted
from pipeline.config.job import JobConfig
from pipeline.printable import printable
from pipeline.progress import Event, Message, Progress, StageStarted, silent
from pipeline.stages import guarded

if TYPE_CHECKING:
    from pipeline.fit.job import GroupsSummary, Summary
    from pipeline.score.new_rows import ScoreSummary

P = ParamSpec("P")
Stage = TypeVar("Stage", bound=Callable[..., Any])

# no parameter of a flow, as Prefect stores those
_listener: ContextVar[Progress] = ContextVar("listener", default=silent)


def flow_run_name() -> str:
    """Return the name of the job and when the run was due, in the time zone of the schedule.

    If the configuration has a mistake, with which the flow then fails, the name is that of its file.
    """
    config, zone = flow_run.parameters["config"], None
    try:
        job = read_job(config)
    except (UserError, ValueError):
        name = Path(config).stem if isinstance(config, str) else str(config.get("name"))
    else:
        name, zone = job.name, job.schedule.zone if job.schedule else None
    return f"{name} {flow_run.scheduled_start_time.astimezone(zone):%Y-%m-%d %H:%M:%S}"


def _job_flow(name: str) -> Callable[[Callable[P, Any]], Flow[P, Any]]:
    """Return a decorator that makes a function of a configuration a flow."""

    def decorate(function: Callable[P, Any]) -> Flow[P, Any]:
        return JobFlow(
            outlives_server(hide_in_server(skip_if_late(function))),
            name=name,
            flow_run_name=flow_run_name,
            validate_parameters=False,
            persist_result=False,
        )

    return decorate


@_job_flow("bic-sweep")
def bic_sweep(config: ConfigParameter, fresh: bool = False) -> Any:
    """Fit the candidates, choose the best, store it and label the rows.

    Parameters
    ----------
    config : str, dict or JobConfig
        The path of a job's YAML file, or its content. Prefect stores it without what may be secrets.
    fresh : bool
        Replace a stored result instead of resuming it.
    """
    from pipeline.fit.job import run

    job = read_job(config)
    with ProgressArtifact(job.name) as bar:
        summary = run(job, fresh=fresh, progress=listeners(bar), as_task=as_task(job))
        bar.finish(winner_line(summary) if summary.best is None else f"best: {summary.best}")
    publish_job(job.name, summary)
    return completed(log_winner(summary), summary)


@_job_flow("refresh")
def refresh(config: ConfigParameter) -> Any:
    """Fit the last winner to the data as they are now, or search again if the data have drifted.

    Parameters
    ----------
    config : str, dict or JobConfig
        The path of a job's YAML file, or its content. Prefect stores it without what may be secrets.
    """
    from pipeline.fit.refresh import refresh as refit

    job = read_job(config)
    with ProgressArtifact(job.name) as bar:
        tell = partial(alarm_of_refresh, job.name)
        result = refit(job, progress=listeners(bar), as_task=as_task(job), tell=tell)
        bar.finish(f"best: {result.summary.best}")
    publish_job(job.name, result.summary)
    publish_refresh(job.name, result)
    winner, reason = log_winner(result.summary), printable(result.decision.reason)
    get_run_logger().info(f"refresh: {reason}")
    return completed(f"{winner}; {reason}", result)


@_job_flow("score-batch")
def score_batch(config: ConfigParameter) -> Any:
    """Label the rows of ``score.source`` with the model of the newest complete store.

    Parameters
    ----------
    config : str, dict or JobConfig
        The path of a job's YAML file, or its content. Prefect stores it without what may be secrets.
    """
    from pipeline.report import write_score_report
    from pipeline.score.batch import score_batch as score

    job = read_job(config)

    def tell(summary: ScoreSummary) -> None:
        write_score_report(summary)
        alarm_of_scores(job.name, summary)

    with ProgressArtifact(job.name, "scores-progress") as bar:
        summary = score(job, progress=listeners(bar), as_task=as_task(job), tell=tell)
        bar.finish(f"{counted(summary.rows.n_rows, 'row')} by {summary.model}")
    publish_scores(job.name, summary)
    drift = printable("; ".join(summary.drift)) or "none"
    return completed(f"{counted(summary.rows.n_rows, 'row')} by {summary.model}; drift: {drift}", summary)


def run_flow(
    config: JobConfig, *, fresh: bool = False, progress: Progress = silent, verbose: bool = False
) -> Summary | GroupsSummary:
    """Run a job as a flow, on the Prefect server that the user has set, or on an embedded one.

    Parameters
    ----------
    config : JobConfig
    fresh : bool
        Replace a stored result instead of resuming it.
    progress : callable
        Receives each event of the job, as the run's log does.
    verbose : bool
        Let Prefect and its embedded server log to the terminal.

    Returns
    -------
    Summary
        The result of :func:`pipeline.fit.job.run`, whose errors are raised here.

    Raises
    ------
    UserError
        If the Prefect server that the user has set does not answer.
    FaultError
        If the embedded server does not start.
    """
    if not verbose:
        quiet_console()
    progress(StageStarted("prefect", "connecting to its server"))
    listener = _listener.set(progress)
    try:
        with prefect_api(verbose, lambda text: progress(Message("prefect", text, is_warning=True))):
            return cast("Summary | GroupsSummary", bic_sweep(config, fresh))
    finally:
        _listener.reset(listener)


def log_winner(summary: Summary | GroupsSummary) -> str:
    """Write the winner and the remarks to the run's log; returns the line with the winner."""
    winner = printable(winner_line(summary))
    get_run_logger().info(winner)
    for remark in summary.remarks if summary.by is None else ():
        get_run_logger().info(printable(f"remark: {remark}"))
    return winner


def completed(message: str, result: Any) -> State[Any]:
    """Return the state of a run that is done; the caller of the flow gets the result."""
    return Completed(message=message, data=result)


def listeners(bar: ProgressArtifact) -> Progress:
    """Return the progress listener of the present flow: the caller's, the run's log, and the bar on the run's page."""
    receivers: tuple[Progress, ...] = (_listener.get(), LogLines(get_run_logger().info, get_run_logger().warning), bar)

    def send(event: Event) -> None:
        for receive in receivers:
            receive(event)

    return send


def as_task(config: JobConfig) -> Callable[[Stage], Stage]:
    """Return a decorator that makes a stage of the job a Prefect task, called like the stage.

    Nothing is hashed, cached or persisted by Prefect: a stage resumes from the result store.
    """
    options = config.tasks

    def decorate(stage: Stage) -> Stage:
        decorated = task(
            name=stage.__name__,
            task_run_name=cast("TaskRunNameCallbackWithParameters", _task_run_name(config.name, stage.__name__)),
            retries=options.retries,
            retry_delay_seconds=options.retry_delay_seconds,
            retry_condition_fn=_is_worth_a_retry,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        return cast(Stage, decorated(guarded(stage, config)))

    return decorate


def _task_run_name(job: str, stage: str) -> Callable[[Mapping[str, Any]], str]:
    """Return a function that names a task run by its job, stage and wave: ``old-faithful: fit_wave 1``."""

    def name(parameters: Mapping[str, Any]) -> str:
        wave = f" {parameters['wave'] + 1}" if "wave" in parameters else ""
        return f"{job}: {stage}{wave}"

    return name


def _is_worth_a_retry(task: Any, task_run: Any, state: Any) -> bool:
    """Return False for a user's mistake, which no retry mends."""
    return not isinstance(state.data, UserError)
