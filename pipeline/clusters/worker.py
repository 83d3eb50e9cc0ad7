"""What is set up in every worker process."""

from __future__ import annotations

from typing import Any

from distributed import WorkerPlugin
from threadpoolctl import threadpool_limits


class OneThread(WorkerPlugin):  # type: ignore[misc]
    """Limit BLAS and OpenMP to one thread each: the worker's threads use the cores, and the bits stay the same."""

    name = "gmm-dask-one-thread"
    idempotent = True

    def setup(self, worker: Any) -> None:
        """Set the limit, once what has threads of its own is loaded; it holds until the worker ends."""
        import gmm_dask.passes.map_reduce  # noqa: F401

        self._limits = threadpool_limits(limits=1)
