"""The process of ``serve``: it starts runs as they come due, and cancels those at work when it is told to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prefect.runner import Runner

from flows.interrupts import Terminated

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

# a run has half a minute to end before Prefect kills it; if the server is away, none is told to
STOP_SECONDS = 40.0


def serve_until_stopped(deployments: Sequence[RunnerDeployment], limit: int) -> None:
    """Serve deployments until Ctrl-C or SIGTERM, then cancel the runs at work.

    Parameters
    ----------
    deployments : sequence of RunnerDeployment
    limit : int
        Runs at work at the same time.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C; :class:`flows.interrupts.Terminated` after SIGTERM.
    """
    runner = StoppableRunner(pause_on_shutdown=False, limit=limit)
    for deployment in deployments:
        runner.add_deployment(deployment)
    with suppress(asyncio.CancelledError):
        asyncio.run(runner.start())
    raise Terminated if runner.stopped_by == signal.SIGTERM else KeyboardInterrupt


class StoppableRunner(Runner):
    """A runner that waits for its runs to end: after SIGTERM, Prefect's begins to cancel them, and ends at once.

    Attributes
    ----------
    stopped_by : int or None
        The first signal that it has received.
    """

    stopped_by: int | None = None

    async def start(self, *arguments: Any, **options: Any) -> None:
        """Start the runner; Ctrl-C stops it as SIGTERM does."""
        self._serving = asyncio.current_task()
        signal.signal(signal.SIGINT, self.handle_sigterm)
        await super().start(*arguments, **options)

    def handle_sigterm(self, *arguments: Any, **_: Any) -> None:
        """Stop the runner, whose loop runs in this thread; further signals change nothing."""
        if self.stopped_by is None:
            self.stopped_by = arguments[0]
            loop = asyncio.get_running_loop()
            loop.call_soon_threadsafe(self._begin_to_stop)

    def _begin_to_stop(self) -> None:
        self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        if self.started:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    return await self.astop()
        assert self._serving is not None
        self._serving.cancel()  # ends the processes of all runs, at once
