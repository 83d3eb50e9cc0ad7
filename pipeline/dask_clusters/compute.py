"""Computing a graph on a cluster, with messages for the user when workers or the scheduler are lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distributed import KilledWorker, wait
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.comm import CommClosedError

from gmm_dask.errors import FaultError, UserError
from pipeline.dask_clusters.checks import ClusterError

# what a client raises before it knows that the scheduler is lost
LOST = (CommClosedError, FutureCancelledError, FuturesCancelledError)

# how often the scheduler is asked for its workers during a pass
POLL_SECONDS = 2.0
RESUME = "What the job had finished is in the result store: the same command resumes from the last checkpoint."


@contextmanager
def lost_scheduler_reported(client: Any, address: str) -> Iterator[None]:
    """Raise :class:`ClusterError` for what a client raises once its scheduler is lost, which differs with time."""
    try:
        yield
    except (UserError, FaultError):
        raise
    except Exception as error:
        if client.status == "running" and not isinstance(error, LOST):
            raise
        raise ClusterError(f"cluster: the scheduler at {address} was lost. Start it again. {RESUME}") from error


class ClusterGet:
    """A Dask scheduler function that computes with a client, and reports lost workers as :class:`ClusterError`.

    A lost scheduler is reported by the :func:`lost_scheduler_reported` that it is called in.

    Parameters
    ----------
    client : distributed.Client
    address : str
        Of the scheduler, for messages.
    timeout : float
        Seconds to wait for a new worker after all were lost.
    require_workers : callable
        Raises :class:`UserError` if a worker that has joined meanwhile cannot do the job.
    """

    def __init__(self, client: Any, address: str, timeout: float, require_workers: Callable[[], None]) -> None:
        self._client = client
        self._address = address
        self._timeout = timeout
        self._require_workers = require_workers

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the name of the default: Dask's settings, this among them, go to each worker that is started."""
        return str, ("threads",)

    def ncores(self) -> dict[str, int]:
        """Return the threads of each worker that there is now."""
        return dict(self._client.ncores())

    def __call__(self, graph: Any, keys: Any, **options: Any) -> Any:
        """Compute the keys, as any of Dask's scheduler functions does."""
        try:
            workers = set(self._client.ncores())
            futures = self._client.get(graph, keys, sync=False, **options)
            self._wait(futures, workers)
            self._require_workers()  # before any result, or error, of an unsuitable worker is used
            return self._client.gather(futures)
        except KilledWorker as error:
            raise ClusterError(
                f"cluster: one task ({error.task}) ended its worker several times, most likely for lack of memory. "
                "Give the workers more, or use smaller chunks: data.chunk_rows. " + RESUME
            ) from error

    def _wait(self, futures: Any, known: set[str]) -> None:
        """Wait for futures as long as there are workers, or new ones may join within the timeout.

        ``known`` are the workers before the futures were asked for.
        """
        seen = time.monotonic()
        while True:
            try:
                wait(futures, timeout=POLL_SECONDS)
            except TimeoutError:
                self._require_workers()
                workers = set(self._client.ncores())
                if not known <= workers:
                    self._wake_scheduler()
                known |= workers
                if workers:
                    seen = time.monotonic()
                elif time.monotonic() - seen > self._timeout:
                    raise ClusterError(
                        f"cluster: all workers of the scheduler at {self._address} were lost, and no new one joined "
                        f"within {self._timeout:g} s (cluster.timeout). Start workers. {RESUME}"
                    ) from None
            else:
                return

    def _wake_scheduler(self) -> None:
        """Let the scheduler look for tasks that it could start.

        When a worker is lost, it may leave tasks queued although another worker is free (distributed 2026.8: the tasks
        that a lost worker's data held back give up their places, and nothing follows), until a task ends or a client
        gives up a key.
        """
        self._client.submit(int, key=f"wake-scheduler-{uuid.uuid4().hex}").release()
