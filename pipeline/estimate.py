"""What a job would cost: rows, bytes a pass and memory, known before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

import dask
from dask.system import CPU_COUNT

from gmm_dask.memory import Machine, Shape, plan_waves, projected_bytes
from gmm_dask.search import check_candidates
from pipeline.config import JobConfig
from pipeline.sources import Source, open_source

CSV_BYTES = 4  # a number in a CSV file has at least about so many, its comma included


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a job reads and needs.

    Attributes
    ----------
    source : Source
        The opened data.
    store : str
        Path of the result store.
    n_candidates : int
        Pairs of a number of components and a covariance type.
    n_fits : int
        Candidates times ``n_init``.
    waves : tuple of int
        Number of fits that share a pass, wave by wave; one wave if the memory is enough for all.
    machine : Machine
    memory_bytes : int
        Projected peak of the process, its imports included.
    """

    source: Source
    store: str
    n_candidates: int
    n_fits: int
    waves: tuple[int, ...]
    machine: Machine
    memory_bytes: int


def estimate_job(config: JobConfig) -> Estimate:
    """Read the header of the data, and project what the job costs.

    Raises
    ------
    UserError
        As :func:`pipeline.sources.open_source`, and if ``cluster.memory_limit`` is too little for one fit.
    """
    source = open_source(config.data)
    search, machine, shape = config.search, machine_of(config), shape_of(source)
    candidates = check_candidates(search.n_components, search.covariance_types)
    waves = plan_waves(shape, machine, candidates, search.n_init)
    return Estimate(
        source=source,
        store=config.output.store,
        n_candidates=len(candidates),
        n_fits=len(candidates) * search.n_init,
        waves=waves,
        machine=machine,
        memory_bytes=projected_bytes(shape, machine, candidates, search.n_init, waves),
    )


def machine_of(config: JobConfig) -> Machine:
    """The threads that Dask starts, and the memory that the process may use."""
    return Machine(dask.config.get("num_workers", None) or CPU_COUNT, config.cluster.memory_bytes)


def shape_of(source: Source) -> Shape:
    """Columns and chunks of a source; of a CSV, the most rows that a chunk's text may hold."""
    n_features, n_chunks = len(source.columns), int(source.array.numblocks[0])
    if source.n_rows is None:
        chunk_rows = source.bytes_per_pass // (n_chunks * n_features * CSV_BYTES) + 1
    else:
        chunk_rows = int(max(source.array.chunks[0]))
    return Shape(n_features, n_chunks, chunk_rows)
