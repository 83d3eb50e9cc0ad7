"""Scheduled runs that do not work: those that a newer one is due after, and those whose store is at work."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import Completed

if TYPE_CHECKING:
    from prefect.types import DateTime

SKIPPED = "Skipped"
_GIVEN_UP = {StateType.CANCELLED, StateType.CANCELLING}


def scheduled_run() -> FlowRun | None:
    """The present flow run, if a schedule has made it."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run if run is not None and run.deployment_id is not None and run.auto_scheduled else None


def newer_run(run: FlowRun) -> FlowRun | None:
    """The newest run of the same deployment, if it is due by now and later than this one was."""
    assert run.deployment_id is not None
    assert run.expected_start_time is not None
    until = cast("DateTime", datetime.now(UTC))  # which is this class or another one, by the version of Python
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
        expected_start_time=FlowRunFilterExpectedStartTime(after_=run.expected_start_time, before_=until),
    )
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=10)
    for other in found:
        later = other.expected_start_time is not None and other.expected_start_time > run.expected_start_time
        if other.id != run.id and later and other.state_type not in _GIVEN_UP:
            return other
    return None


def skipped(reason: str) -> State[Any]:
    """The end of a run that leaves the work to another."""
    return Completed(name=SKIPPED, message=reason)


def superseded() -> State[Any] | None:
    """The end of the present run, if it is scheduled and a newer one is due."""
    run = scheduled_run()
    newer = newer_run(run) if run else None
    if run is None or newer is None:
        return None
    return skipped(
        f"this run was due at {run.expected_start_time:%Y-%m-%d %H:%M:%S} UTC; the run {newer.name!r}, due at "
        f"{newer.expected_start_time:%Y-%m-%d %H:%M:%S} UTC, does the work."
    )
