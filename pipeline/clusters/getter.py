"""Computing a graph on a cluster, and saying in words when the cluster goes away meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pipeline.clusters.checks import ClusterError

# the scheduler is asked for its workers so often while a pass takes its time
LOOK_SECONDS = 2.0
RESUME = "What the job had finished is in the result store: the same command goes on from the last checkpoint."


class Getter:
    """Dask's scheduler function for a client: what a graph's keys are, or an error that says what became of it.

    Parameters
    ----------
    client : distributed.Client
    timeout : float
        Seconds to wait for a worker when all were lost.
    require_workers : callable
        Raises :class:`UserError` if a worker that has come meanwhile cannot do the job.
    """

    def __init__(self, client: Any, timeout: float, require_workers: Callable[[], None]) -> None:
        self._client = client
        self._timeout = timeout
        self._require_workers = require_workers
        self._address = client.scheduler.address

    def __call__(self, graph: Any, keys: Any, **options: Any) -> Any:
        """Compute the keys; the results are as those of any of Dask's scheduler functions."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError, FuturesCancelledError

        try:
            futures = self._client.get(graph, keys, sync=False, **options)
            self._wait(futures)
            self._require_workers()  # before anything is taken that one of them has made, an error included
            return self._client.gather(futures)
        except KilledWorker as error:
            raise ClusterError(
                f"cluster: workers ended three times over at one task ({error.task}), most likely for want of memory. "
                "Give them more, or use smaller chunks: data.chunk_rows. " + RESUME
            ) from error
        except (FutureCancelledError, FuturesCancelledError) as error:
            raise self._lost() from error
        except (OSError, RuntimeError) as error:
            if self._client.status == "running":
                raise
            raise self._lost() from error

    def _wait(self, futures: Any) -> None:
        """Wait for futures as long as there are workers, or some may yet come."""
        from distributed import wait

        seen = time.monotonic()
        while True:
            try:
                wait(futures, timeout=LOOK_SECONDS)
            except TimeoutError:
                self._require_workers()
                if self._has_workers():
                    seen = time.monotonic()
                elif time.monotonic() - seen > self._timeout:
                    raise ClusterError(
                        f"cluster: all workers of the scheduler at {self._address} were lost, and none came within "
                        f"{self._timeout:g} s (cluster.timeout). Start workers. {RESUME}"
                    ) from None
            else:
                return

    def _has_workers(self) -> bool:
        return bool(self._client.ncores())

    def _lost(self) -> ClusterError:
        return ClusterError(
            f"cluster: the scheduler at {self._address} went away while it was computing. Start it again. {RESUME}"
        )
