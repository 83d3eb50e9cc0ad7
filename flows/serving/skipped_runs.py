"""Scheduled runs that end as ``Skipped``: a newer run has come due, or another run works on the store."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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

from gmm_dask.errors import LockedError

if TYPE_CHECKING:
    from prefect.types import DateTime

P = ParamSpec("P")

_CANCELLED = [StateType.CANCELLED, StateType.CANCELLING]


def skip_missed_runs(deployment: str) -> int:
    """Skip all missed runs of a deployment ``flow/name`` but the newest, before processes are started for them.

    Returns
    -------
    int
        The number of runs that were skipped.
    """
    overdue = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=_now()),
    )
    with get_client(sync_client=True) as client:
        try:
            known = client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            return 0
        runs = client.read_flow_runs(
            flow_run_filter=overdue,
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[known.id])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
        missed = [run for run in runs if run.auto_scheduled]
        for run in missed[1:]:
            client.set_flow_run_state(run.id, _skipped_for(run, missed[0]), force=True)
    return len(missed[1:])


def skip_if_late(flow_function: Callable[P, Any]) -> Callable[P, Any]:
    """Decorate a flow's function so that a scheduled run is skipped if it is late or the job's store is locked."""

    @functools.wraps(flow_function)
    def unless_late(*arguments: P.args, **options: P.kwargs) -> Any:
        run = _scheduled_run()
        if run and (newer := _newer_run(run)):
            return _skipped_for(run, newer)
        try:
            return flow_function(*arguments, **options)
        except LockedError as error:
            if run:
                return _skipped(str(error))
            raise

    return unless_late


def _scheduled_run() -> FlowRun | None:
    """Return the present flow run if a schedule has created it."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run if run is not None and run.deployment_id is not None and run.auto_scheduled else None


def _newer_run(run: FlowRun) -> FlowRun | None:
    """Return the newest run of the same deployment that was due after this one, and before this one was picked up.

    The time of picking up is what counts, not the present: on a busy machine, where a process starts more slowly than
    runs come due, every run would find a newer one and none would work.
    """
    assert run.deployment_id is not None
    assert run.expected_start_time is not None
    with get_client(sync_client=True) as client:
        pending = [state.timestamp for state in client.read_flow_run_states(run.id) if state.is_pending()]
        # both bounds are inclusive, hence the microsecond
        after = run.expected_start_time + timedelta(microseconds=1)
        due = FlowRunFilterExpectedStartTime(after_=after, before_=cast("DateTime", max(pending, default=_now())))
        later = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=_CANCELLED)),
            expected_start_time=due,
        )
        runs = client.read_flow_runs(flow_run_filter=later, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return runs[0] if runs else None


def _skipped(reason: str) -> State[Any]:
    return Completed(name="Skipped", message=reason)


def _skipped_for(run: FlowRun, newer: FlowRun) -> State[Any]:
    return _skipped(
        f"this run was due at {run.expected_start_time:%Y-%m-%d %H:%M:%S} UTC and left the work to the newer run that "
        f"was due at {newer.expected_start_time:%Y-%m-%d %H:%M:%S} UTC."
    )


def _now() -> DateTime:
    return cast("DateTime", datetime.now(UTC))  # the class behind this type depends on the version of Python
