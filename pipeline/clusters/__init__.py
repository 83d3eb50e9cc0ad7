"""Where a job computes: threads, local worker processes, a running Dask scheduler, or any class of clusters."""

from pipeline.clusters.client import computing, connected, machine_of, persist_rows, rows_are_persisted

__all__ = ["computing", "connected", "machine_of", "persist_rows", "rows_are_persisted"]
