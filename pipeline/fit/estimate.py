"""What a job would cost: rows, bytes a pass and memory, known before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gmm_dask.families.candidate import Candidate
from gmm_dask.init.auto import AUTO
from gmm_dask.init.responsibilities import require_rows
from gmm_dask.memory import Machine, Shape, plan_waves, projected_bytes
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.selection.grid import check_candidates
from pipeline.clusters import machine_of
from pipeline.config.job import JobConfig
from pipeline.fit.chunking import open_job
from pipeline.score.key_columns import read_keys
from pipeline.score.row_pass import output_bytes
from pipeline.sources import Source


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
    extends : bool
        Whether there may be more of both, as the grid may be widened.
    waves : tuple of int
        Number of fits that share a pass, wave by wave; one wave if the memory is enough for all.
    machine : Machine
    memory_bytes : int
        Projected peak of the process, or of each worker process of a cluster, its imports included.
    """

    source: Source
    store: str
    n_candidates: int
    n_fits: int
    extends: bool
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
    source = open_job(config)
    search, shape = config.search, shape_of(source, config)
    machine = machine_of(config, shape)
    if source.n_rows is not None:
        require_rows(source.n_rows, max(search.n_components))
    read_keys(config, source)
    candidates = check_candidates(search.n_components, search.covariance_types)
    waves = plan_waves(shape, machine, candidates, search.n_init)
    return Estimate(
        source=source,
        store=config.output.store,
        n_candidates=len(candidates),
        n_fits=len(candidates) * search.n_init,
        extends=search.extend,
        waves=waves,
        machine=machine,
        memory_bytes=projected_bytes(shape, machine, candidates, search.n_init, waves),
    )


def shape_of(source: Source, config: JobConfig, candidates: Sequence[Candidate] = ()) -> Shape:
    """Columns, chunks and answers of a job whose grid has grown to these candidates, or is that of its config."""
    most = max([*config.search.n_components, *(k for _, k in candidates)])
    return Shape(
        n_features=len(source.columns),
        n_chunks=int(source.array.numblocks[0]),
        chunk_rows=source.chunk_rows,
        output_bytes=output_bytes(config.output.row_outputs, most),
        held_out=config.search.held_out > 0.0,
        competing=config.search.init_params == AUTO,
    )


def shape_found(
    source: Source, config: JobConfig, data_summary: DataSummary, candidates: Sequence[Candidate] = ()
) -> Shape:
    """As :func:`shape_of`, with the chunks that pass 0 found."""
    n_chunks, chunk_rows = len(data_summary.chunk_rows), max(data_summary.chunk_rows)
    return replace(shape_of(source, config, candidates), n_chunks=n_chunks, chunk_rows=chunk_rows)
