"""Configurations as Prefect deployments: ``gmm-dask serve`` runs each on its schedule, in processes of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prefect import Flow, serve
from prefect.schedules import Cron, Interval, RRule, Schedule
from prefect.types.entrypoint import EntrypointType

from flows.api import require_server
from flows.missed import leave_to_newest
from flows.refresh import refresh
from flows.score import score_batch
from flows.sweep import bic_sweep
from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig, load_config
from pipeline.config.schedule import FlowName, ScheduleConfig

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

FLOWS: dict[FlowName, Flow[..., Any]] = {"bic-sweep": bic_sweep, "refresh": refresh, "score-batch": score_batch}


def serve_configs(paths: Sequence[Path], tell: Callable[[str], object]) -> None:
    """Serve configurations until the process is stopped.

    Each is read anew by each of its runs. Runs that were missed while nobody served are caught up with by the newest.

    Parameters
    ----------
    paths : sequence of Path
        YAML files.
    tell : callable
        Takes a line for each deployment.

    Raises
    ------
    UserError
        If a configuration has a mistake or no schedule, two have one flow and name, or no Prefect server is there.
    """
    configs = [(path, load_config(path)) for path in paths]
    deployments = [deployment(path, config) for path, config in configs]
    _require_distinct_names([f"{made.flow_name}/{made.name}" for made in deployments])
    url = require_server()
    for (path, config), made in zip(configs, deployments, strict=True):
        assert config.schedule is not None
        full_name = f"{made.flow_name}/{made.name}"
        missed = leave_to_newest(full_name)
        left = f"; {missed} missed, left to the newest" if missed else ""
        tell(f"{full_name}: {path}, {in_words(config.schedule)}{left}")
    tell(f"serving at {url}; Ctrl-C stops it")
    # a process for each job, and one that finds a store at work and ends: a dozen at once would take the memory
    serve(*deployments, pause_on_shutdown=False, print_starting_message=False, limit=len(deployments) + 1)


def deployment(path: Path, config: JobConfig) -> RunnerDeployment:
    """A configuration as a deployment of its flow."""
    if config.schedule is None:
        raise UserError(
            f"the configuration {path} has no schedule, so that there is nothing to serve. Add one, such as\n"
            '  schedule: {cron: "0 2 * * *", timezone: Asia/Tokyo}'
        )
    made = FLOWS[config.schedule.flow].to_deployment(
        config.name,
        schedule=_schedule(path, config.schedule),
        parameters={"config": str(path.resolve())},
        description=f"{config.name}, from {path.resolve()}",
        tags=["gmm-dask"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast("RunnerDeployment", made)  # a coroutine in asynchronous callers only


def in_words(schedule: ScheduleConfig) -> str:
    """When a schedule runs: ``cron 0 2 * * * (Asia/Tokyo)``."""
    rules = {"cron": schedule.cron, "every": schedule.interval, "rrule": schedule.rrule}
    (rule,) = [f"{name} {value}" for name, value in rules.items() if value is not None]
    return f"{rule} ({schedule.timezone})"


def _schedule(path: Path, schedule: ScheduleConfig) -> Schedule:
    try:
        if schedule.cron is not None:
            return Cron(schedule.cron, timezone=schedule.timezone)
        if schedule.rrule is not None:
            return RRule(schedule.rrule, timezone=schedule.timezone)
        assert schedule.seconds is not None
        midnight = datetime(2026, 1, 1, tzinfo=schedule.zone)  # the same moments each time that it is served
        return Interval(timedelta(seconds=schedule.seconds), anchor_date=midnight, timezone=schedule.timezone)
    except ValueError as error:
        raise UserError(f"the configuration {path}: schedule: Prefect does not take it: {error}") from None


def _require_distinct_names(names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"two configurations are {repeated[0]!r}, the flow and the name that a deployment is known by. Change one "
            "of the names."
        )
