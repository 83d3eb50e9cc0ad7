"""Where a job computes: threads, worker processes on this machine, a Dask scheduler, any class of clusters."""

from pipeline.clusters.client import computing, held, keep, keeps_rows, machine_of

__all__ = ["computing", "held", "keep", "keeps_rows", "machine_of"]
