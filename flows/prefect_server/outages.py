"""A server that does not answer for a while: ``serve`` and its runs wait for it, and say so in a line.

Prefect gives up to look for runs to cancel after about half a minute without its server, and then prints all it knows
of each request that failed. A run whose process starts meanwhile crashes. There is no public way to let them wait. So
the loop in which Prefect asks the server is replaced here in the two modules that use it, and in ``serve`` the command
that starts a run (:mod:`flows.engine` waits for the server first). Nothing else of Prefect is replaced; its version is
pinned in ``constraints.txt``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shlex
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec

import httpx
import prefect._internal.observers as observers
import prefect.runner._scheduled_run_poller as poller
import prefect.runner.runner as runner
from prefect import get_client
from prefect.context import FlowRunContext
from prefect.runner._starter_engine import EngineCommandStarter

from gmm_dask.errors import FaultError, UserError
from pipeline.config.secrets import shown_text

P = ParamSpec("P")
Report = Callable[[str], object]

SECONDS_BETWEEN_CALLS = 5.0
# of events and log lines that cannot be sent, whole and in great number: that the server is lost is said once
_LOSS_LOGGERS = ("EventsWorker", "prefect._internal.concurrency", "prefect.events.clients")
# of messages about a connection that was lost, which is reported once, and about the end of runs: with all tracebacks,
# they are hundreds of lines
_LOGGERS = (
    "asyncio",
    "prefect.FlowRunCancellingObserver",
    "prefect.FlowRunSuspendingObserver",
    "prefect.engine",
    "prefect.flow_runs",
    "prefect.runner",
    "prefect.runner.cancellation_manager",
    "prefect.runner.flow_run_executor",
    "prefect.runner.state_proposer",
    "prefect.task_runs",
)


def survive_outages(report: Report) -> None:
    """Let what Prefect runs in this process wait for its server, however long it is away.

    Parameters
    ----------
    report : callable
        Receives a line when the server does not answer, and when it does again.
    """
    outage = Outage(report)
    for module in (observers, poller):
        module.critical_service_loop = functools.partial(repeat, outage)  # type: ignore[attr-defined]
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_without_traceback)
    without_losses()


def without_losses() -> None:
    """Log nothing of events and log lines that cannot be sent."""
    for name in _LOSS_LOGGERS:
        logging.getLogger(name).addFilter(_never)


def runs_wait_for_server() -> None:
    """Let each run that ``serve`` starts wait for the server, in its own process, before it begins."""
    command = shlex.join([sys.executable, "-m", "flows.engine"])
    starter = functools.partial(EngineCommandStarter, command=command)
    runner.EngineCommandStarter = starter  # type: ignore[assignment, attr-defined]


def wait_for_server(report: Report, meanwhile: str, seconds: float = SECONDS_BETWEEN_CALLS) -> None:
    """Wait until the server answers.

    Parameters
    ----------
    report : callable
        Receives a line when the server does not answer, and when it does.
    meanwhile : str
        What waits for it.
    seconds : float
        Between two calls.
    """
    outage, this = Outage(report, meanwhile), object()
    while error := _error_of_call():
        outage.failed(this, error)
        time.sleep(seconds)
    outage.answered(this)


def _error_of_call() -> httpx.HTTPError | None:
    """Call the server; returns the error if it does not answer. If it refuses, the run ends with its reason."""
    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)
    except httpx.HTTPError as error:
        return error if _is_outage(error) else None
    return None


def outlives_server(flow_function: Callable[P, Any]) -> Callable[P, Any]:
    """Decorate a flow's function so that a run that ``serve`` or a worker has started waits, too, in silence."""

    @functools.wraps(flow_function)
    def waiting(*arguments: P.args, **options: P.kwargs) -> Any:
        context = FlowRunContext.get()
        if context and context.flow_run and context.flow_run.deployment_id:
            survive_outages(lambda line: None)  # serve reports it
        return flow_function(*arguments, **options)

    return waiting


class Outage:
    """Whether the server answers, as several loops see it: each change is reported once.

    Parameters
    ----------
    report : callable
        Receives a line.
    meanwhile : str
        What happens as long as it does not answer.
    """

    def __init__(self, report: Report, meanwhile: str = "runs go on, and it is asked again") -> None:
        self._report = report
        self._meanwhile = meanwhile
        self._failing: set[object] = set()

    def failed(self, loop: object, error: Exception) -> None:
        """Take note that a loop has had no answer."""
        if not self._failing:
            self._report(f"the Prefect server does not answer ({reason(error)}); {self._meanwhile}")
        self._failing.add(loop)

    def answered(self, loop: object) -> None:
        """Take note that a loop has had an answer."""
        if self._failing and not self._failing - {loop}:
            self._report("the Prefect server answers again")
        self._failing.discard(loop)


async def repeat(
    outage: Outage,
    workload: Callable[..., Awaitable[Any]],
    interval: float,
    *,
    run_once: bool = False,
    **_: Any,
) -> None:
    """Ask the server again and again, as Prefect's loop does, and go on where it does not answer.

    Parameters
    ----------
    outage : Outage
    workload : callable
        Asks it.
    interval : float
        Seconds between two calls.
    run_once : bool
        Whether to return after the first.
    """
    loop = object()
    while True:
        try:
            await workload()
            outage.answered(loop)
        except httpx.HTTPError as error:
            if not _is_outage(error):
                raise
            outage.failed(loop, error)
        if run_once:
            return
        await asyncio.sleep(interval)


def _is_outage(error: httpx.HTTPError) -> bool:
    """Whether a server is away, or fails: one that refuses a request does so again."""
    return not isinstance(error, httpx.HTTPStatusError) or error.response.is_server_error


def reason(error: BaseException) -> str:
    """Return an error's message on one line, with any password hidden."""
    return shown_text(" ".join(str(error).split())) or type(error).__name__


def _never(record: logging.LogRecord) -> bool:
    return False


def _without_traceback(record: logging.LogRecord) -> bool:
    """Put the reason of a lost connection in place of its traceback; returns whether the line is logged.

    Errors that say what to do have no traceback, either: Prefect's line holds their message.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, UserError | FaultError):
        record.exc_info = record.exc_text = None
    if isinstance(error, asyncio.CancelledError):  # of a loop that has ended with its run
        return False
    if isinstance(error, httpx.HTTPError | OSError) or type(error).__module__.startswith("websockets"):
        assert error is not None
        record.msg, record.args = f"{record.getMessage().rstrip('.')}: {reason(error)}", ()
        record.exc_info = record.exc_text = None
    return True
