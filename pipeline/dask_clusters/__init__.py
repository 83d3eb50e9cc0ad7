"""Where a job computes: threads, local worker processes, a running Dask scheduler, or any class of clusters."""

from pipeline.dask_clusters.client import (
    computing,
    connected,
    machine_of,
    require_importable,
    rows_on_workers,
    with_read_ahead,
)

__all__ = ["computing", "connected", "machine_of", "require_importable", "rows_on_workers", "with_read_ahead"]
