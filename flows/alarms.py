"""Alarms of drift: a warning in the run's log, and a Prefect event that automations can act upon.

An alarm is sent before what it is about is marked complete, and the server has received it when the run goes on: a run
that is killed meanwhile is resumed, and sends it again. A monitoring system reads the same numbers from the document of
``gmm-dask score --json``, which the event carries.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prefect import get_client, get_run_logger
from prefect.events import Event, Resource
from prefect.events.clients import get_events_client
from prefect.events.related import related_resources_from_run_context

from flows.documents import ScoreDocument
from flows.prefect_server.outages import wait_for_server
from pipeline.printable import printable

if TYPE_CHECKING:
    from pipeline.score.new_rows import ScoreSummary
    from pipeline.store import RefreshDecision

DRIFT = "gmm-dask.drift"


def alarm_of_scores(name: str, summary: ScoreSummary) -> None:
    """Warn if new rows have drifted from those of the fit.

    Parameters
    ----------
    name : str
        Of the job.
    summary : ScoreSummary
    """
    if summary.drift:
        _alarm(name, list(summary.drift), ScoreDocument.of(summary).model_dump(mode="json"))


def alarm_of_refresh(name: str, path: str, decision: RefreshDecision) -> None:
    """Warn if a refresh searches again because the data have drifted from the last winner.

    Parameters
    ----------
    name : str
        Of the job.
    path : str
        Of the store that the refresh makes.
    decision : RefreshDecision
    """
    if decision.drifted:
        numbers = {"previous": decision.previous, "gain": decision.gain, "gained": decision.gained}
        payload = {"store": path, "bound": decision.bound, "drift": [decision.reason], **numbers}
        _alarm(name, [decision.reason], payload)


def _alarm(name: str, sentences: list[str], payload: dict[str, Any]) -> None:
    log = get_run_logger()
    for sentence in sentences:
        log.warning(printable(f"drift: {sentence}"))
    resource = Resource({"prefect.resource.id": f"gmm-dask.job.{name}", "prefect.resource.name": name})
    wait_for_server(log.warning, "the alarm is sent when it does")
    asyncio.run(_send(Event(event=DRIFT, resource=resource, payload=payload)))


async def _send(event: Event) -> None:
    """Send an event with the run as a related resource, and wait until the server has it."""
    async with get_client() as client:
        event.related += await related_resources_from_run_context(client)
    async with get_events_client(checkpoint_every=1) as events:
        await events.emit(event)
