"""Configurations as Prefect deployments: ``gmm-dask serve`` runs each on its schedule, every run in a new process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prefect import Flow
from prefect.schedules import Cron, Interval, RRule, Schedule
from prefect.types.entrypoint import EntrypointType

from flows.flows import bic_sweep, refresh, score_batch
from flows.markdown import as_code
from flows.prefect_server.choice import direct_to_this_machine, require_server
from flows.prefect_server.outages import runs_wait_for_server, survive_outages
from flows.serving.runner import serve_until_stopped
from flows.serving.skipped_runs import skip_missed_runs
from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig, load_config, require_schedulable
from pipeline.config.schedule import ScheduleConfig

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

FLOWS: dict[str, Flow[..., Any]] = {flow.name: flow for flow in (bic_sweep, refresh, score_batch)}


@direct_to_this_machine()
def serve_configs(paths: Sequence[Path], report: Callable[[str], object]) -> None:
    """Serve configurations until Ctrl-C or SIGTERM.

    Every run reads its configuration again. Of the runs that were missed while nothing served them, only the newest is
    executed.

    Parameters
    ----------
    paths : sequence of Path
        YAML files.
    report : callable
        Receives a line of text for each deployment.

    Raises
    ------
    UserError
        If a configuration has a mistake, no schedule or one that has ended, if two have the same flow and name, or if
        there is no Prefect server.
    KeyboardInterrupt
        After Ctrl-C; :class:`flows.interrupts.Terminated` after SIGTERM. Runs at work have been cancelled.
    """
    configs = [(path, load_config(path)) for path in paths]
    deployments = [deployment(path, config) for path, config in configs]
    names = [f"{served.flow_name}/{served.name}" for served in deployments]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"two configurations have the flow and name {repeated[0]!r}, which identify a deployment. Change one of "
            "the names."
        )
    url = require_server()
    for (path, config), name in zip(configs, names, strict=True):
        assert config.schedule is not None
        missed = skip_missed_runs(name)
        skipped = f"; {missed} missed runs skipped" if missed else ""
        report(f"{name}: {path}, {describe_schedule(config.schedule)}{skipped}")
    report(f"serving at {url}; Ctrl-C stops it")
    survive_outages(report)
    runs_wait_for_server()
    # one process for each deployment, and one that finds its store locked and ends: a dozen at once, after a pause of
    # the machine, would take too much memory
    serve_until_stopped(deployments, limit=len(deployments) + 1)


def deployment(path: Path, config: JobConfig) -> RunnerDeployment:
    """Return a configuration as a deployment of its flow."""
    if config.schedule is None:
        raise UserError(
            f"the configuration {path} has no schedule, which serve needs. Add one, such as\n"
            '  schedule: {cron: "0 2 * * *", timezone: Asia/Tokyo}'
        )
    require_schedulable(config)
    made = FLOWS[config.schedule.flow].to_deployment(
        config.name,
        schedule=_prefect_schedule(path, config.schedule),
        parameters={"config": str(path.resolve())},
        description=f"{config.name}, from {as_code(str(path.resolve()))}",
        tags=["gmm-dask"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast("RunnerDeployment", made)  # a coroutine in asynchronous callers only


def describe_schedule(schedule: ScheduleConfig) -> str:
    """Return the rule and the time zone of a schedule: ``cron 0 2 * * * (Asia/Tokyo)``."""
    rules = {"cron": schedule.cron, "every": schedule.interval, "rrule": schedule.rrule}
    (rule,) = [f"{name} {value}" for name, value in rules.items() if value is not None]
    return f"{rule} ({schedule.timezone})"


def _prefect_schedule(path: Path, schedule: ScheduleConfig) -> Schedule:
    try:
        if schedule.cron is not None:
            return Cron(schedule.cron, timezone=schedule.timezone)
        if schedule.rrule is not None:
            return RRule(schedule.rrule, timezone=schedule.timezone)
        assert schedule.seconds is not None
        # a fixed origin: runs come due at the same times of the day whenever serve was started
        midnight = datetime(2026, 1, 1, tzinfo=schedule.zone)
        return Interval(timedelta(seconds=schedule.seconds), anchor_date=midnight, timezone=schedule.timezone)
    except ValueError as error:
        raise UserError(f"the configuration {path}: schedule: Prefect refuses it: {error}") from None
