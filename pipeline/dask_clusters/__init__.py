"""Where a job computes: threads, local worker processes, a running Dask scheduler, or any class of clusters."""

from pipeline.dask_clusters.client import computing, connected, machine_of, persist_rows

__all__ = ["computing", "connected", "machine_of", "persist_rows"]
