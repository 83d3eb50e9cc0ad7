"""Computing a graph on a cluster, with messages for the user when workers or the scheduler are lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from distributed import KilledWorker, wait
from distributed.client import FutureCancelledError, FuturesCancelledError

from pipeline.dask_clusters.checks import ClusterError

# how often the scheduler is asked for its workers during a pass
POLL_SECONDS = 2.0
RESUME = "What the job had finished is in the result store: the same command resumes from the last checkpoint."


class ClusterGet:
    """A Dask scheduler function that computes with a client, and reports lost workers as :class:`ClusterError`.

    Parameters
    ----------
    client : distributed.Client
    timeout : float
        Seconds to wait for a new worker after all were lost.
    require_workers : callable
        Raises :class:`UserError` if a worker that has joined meanwhile cannot do the job.
    """

    def __init__(self, client: Any, timeout: float, require_workers: Callable[[], None]) -> None:
        self._client = client
        self._timeout = timeout
        self._require_workers = require_workers
        self._address = client.scheduler.address

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the name of the default: Dask's settings, this among them, go to each worker that is started."""
        return str, ("threads",)

    def ncores(self) -> dict[str, int]:
        """Return the threads of each worker that there is now; none if the scheduler is lost, as the call will tell."""
        try:
            return dict(self._client.ncores())
        except (OSError, RuntimeError):
            return {}

    def __call__(self, graph: Any, keys: Any, **options: Any) -> Any:
        """Compute the keys, as any of Dask's scheduler functions does."""
        try:
            futures = self._client.get(graph, keys, sync=False, **options)
            self._wait(futures)
            self._require_workers()  # before any result, or error, of an unsuitable worker is used
            return self._client.gather(futures)
        except KilledWorker as error:
            raise ClusterError(
                f"cluster: one task ({error.task}) ended its worker several times, most likely for lack of memory. "
                "Give the workers more, or use smaller chunks: data.chunk_rows. " + RESUME
            ) from error
        except (FutureCancelledError, FuturesCancelledError) as error:
            raise self._lost() from error
        except (OSError, RuntimeError) as error:
            if self._client.status == "running":
                raise
            raise self._lost() from error

    def _wait(self, futures: Any) -> None:
        """Wait for futures as long as there are workers, or new ones may join within the timeout."""
        seen = time.monotonic()
        while True:
            try:
                wait(futures, timeout=POLL_SECONDS)
            except TimeoutError:
                self._require_workers()
                if self._client.ncores():
                    seen = time.monotonic()
                elif time.monotonic() - seen > self._timeout:
                    raise ClusterError(
                        f"cluster: all workers of the scheduler at {self._address} were lost, and no new one joined "
                        f"within {self._timeout:g} s (cluster.timeout). Start workers. {RESUME}"
                    ) from None
            else:
                return

    def _lost(self) -> ClusterError:
        return ClusterError(
            f"cluster: the scheduler at {self._address} was lost during a computation. Start it again. {RESUME}"
        )
