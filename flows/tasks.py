"""The job's plain functions as Prefect tasks and flows: their names, how often they are tried, what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, cast

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.tasks import TaskRunNameCallbackWithParameters

from flows.progress import Lines
from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig, load_config
from pipeline.progress import Event, Progress, silent
from pipeline.stages import limited

Stage = TypeVar("Stage", bound=Callable[..., Any])
# a job as a flow is told it: the path of its YAML file, or what is in it
GivenConfig = str | dict[str, Any]

_watcher: ContextVar[Progress] = ContextVar("watcher", default=silent)


def job_of(config: GivenConfig) -> JobConfig:
    """The configuration of a job; :class:`UserError` if it cannot be read."""
    return load_config(config) if isinstance(config, str) else JobConfig.model_validate(config)


def name_of(config: GivenConfig) -> str:
    """What a run of a job is called: the job's name, or that of its file."""
    if not isinstance(config, str):
        return str(config["name"])
    try:
        return load_config(config).name
    except UserError:
        return Path(config).stem


def flow_run_name() -> str:
    """The name of the present flow run: the job's."""
    return name_of(flow_run.parameters["config"])


@contextmanager
def watched_by(progress: Progress) -> Iterator[None]:
    """Within it, a flow tells ``progress`` of each stage and pass; that is no parameter, as Prefect shows those."""
    token = _watcher.set(progress)
    try:
        yield
    finally:
        _watcher.reset(token)


def watcher(*others: Progress) -> Progress:
    """Who is told by the present flow: whoever called it, the run's log in Prefect, and others."""
    every: tuple[Progress, ...] = (_watcher.get(), Lines(get_run_logger().info), *others)

    def tell(event: Event) -> None:
        for one in every:
            one(event)

    return tell


def as_task(config: JobConfig) -> Callable[[Stage], Stage]:
    """What makes a stage of a job a Prefect task that is called like it.

    Nothing is hashed, cached or persisted: the result store is what a stage resumes from.
    """
    tries = config.tasks

    def lift(stage: Stage) -> Stage:
        lifted = task(
            name=stage.__name__,
            task_run_name=cast("TaskRunNameCallbackWithParameters", _task_run_name(config.name, stage.__name__)),
            retries=tries.retries,
            retry_delay_seconds=tries.retry_delay_seconds,
            retry_condition_fn=_may_succeed,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        return cast(Stage, lifted(limited(stage, tries.timeout_seconds)))

    return lift


def _task_run_name(job: str, stage: str) -> Callable[[Mapping[str, Any]], str]:
    """Which job and wave: ``old-faithful: fit_wave 1``."""

    def name(parameters: Mapping[str, Any]) -> str:
        wave = f" {parameters['wave'] + 1}" if "wave" in parameters else ""
        return f"{job}: {stage}{wave}"

    return name


def _may_succeed(task: Any, task_run: Any, state: Any) -> bool:
    """Whether another try makes sense: a mistake of the user's stays one."""
    return not isinstance(state.data, UserError)
