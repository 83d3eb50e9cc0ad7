"""Scheduled runs that do not work: those that a newer one is due after, and those whose store is at work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ParamSpec, cast

from prefect import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

if TYPE_CHECKING:
    from prefect.types import DateTime

P = ParamSpec("P")

SKIPPED = "Skipped"
_GIVEN_UP = {StateType.CANCELLED, StateType.CANCELLING}


def leave_to_newest(deployment: str) -> int:
    """End all runs that a deployment ``flow/name`` has missed but the newest, before processes are started for them.

    Returns
    -------
    int
        How many have ended.
    """
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=_now()),
    )
    with get_client(sync_client=True) as client:
        try:
            known = client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            return 0
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[known.id]))
        late = client.read_flow_runs(
            flow_run_filter=wanted, deployment_filter=mine, sort=FlowRunSort.EXPECTED_START_TIME_DESC
        )
        scheduled = [run for run in late if run.auto_scheduled]
        for run in scheduled[1:]:
            client.set_flow_run_state(run.id, skipped(_left_to(run, scheduled[0])), force=True)
    return len(scheduled[1:])


def scheduled_run() -> FlowRun | None:
    """The present flow run, if a schedule has made it."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run if run is not None and run.deployment_id is not None and run.auto_scheduled else None


def newer_run(run: FlowRun) -> FlowRun | None:
    """The newest run of the same deployment, if it was due later than this one, and when this one was picked up.

    Not by now: on a busy machine, where a process starts more slowly than runs fall due, all would leave the work to
    the next one.
    """
    assert run.deployment_id is not None
    assert run.expected_start_time is not None
    with get_client(sync_client=True) as client:
        picked_up = [state.timestamp for state in client.read_flow_run_states(run.id) if state.is_pending()]
        due = FlowRunFilterExpectedStartTime(
            after_=run.expected_start_time, before_=cast("DateTime", max(picked_up, default=_now()))
        )
        wanted = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]), expected_start_time=due
        )
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
    return skipped(_left_to(run, newer))


def ends_if_late(work: Callable[P, Any]) -> Callable[P, Any]:
    """Make a flow's function say so and end where a scheduled run is late, or its store is at work already."""

    @functools.wraps(work)
    def unless_late(*arguments: P.args, **options: P.kwargs) -> Any:
        from pipeline.store import LockedError

        if state := superseded():
            return state
        try:
            return work(*arguments, **options)
        except LockedError as error:
            if scheduled_run():
                return skipped(str(error))
            raise

    return unless_late


def _left_to(run: FlowRun, newer: FlowRun) -> str:
    return (
        f"this run was due at {run.expected_start_time:%Y-%m-%d %H:%M:%S} UTC; the run {newer.name!r}, due at "
        f"{newer.expected_start_time:%Y-%m-%d %H:%M:%S} UTC, does the work."
    )


def _now() -> DateTime:
    return cast("DateTime", datetime.now(UTC))  # which is this class or another one, by the version of Python
