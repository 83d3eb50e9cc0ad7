"""The plan of a job, made before anything is computed: the shape of its data, its waves of fits, their memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dask.utils import format_bytes

from gmm_dask.em.loop import State
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.starts import STARTS, require_rows
from gmm_dask.memory import Machine, Shape, plan_waves, projected_bytes
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.selection.grid import check_candidates
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.config.templates import is_dated
from pipeline.dask_clusters import machine_of
from pipeline.fit.chunking import open_job
from pipeline.score.row_pass import output_bytes
from pipeline.score.writers import read_keys
from pipeline.sources import Source
from pipeline.sources.cache import cache_bytes, cache_folder
from pipeline.sources.overlap import require_apart
from pipeline.store.paths import dated_now, results_of


@dataclass(frozen=True)
class FitPlan:
    """How the fits of some candidates share passes over the data, and the memory that this takes.

    Attributes
    ----------
    shape : Shape
        Of the data.
    machine : Machine
    candidates : tuple of Candidate
    n_init : int
        Fits of each candidate.
    waves : tuple of int
        Number of fits that share a pass, wave by wave; one wave if the memory is enough for all.
    """

    shape: Shape
    machine: Machine
    candidates: tuple[Candidate, ...]
    n_init: int
    waves: tuple[int, ...]

    @property
    def memory_bytes(self) -> int:
        """Projected peak of the process, or of each worker process of a cluster, imports included."""
        return projected_bytes(self.shape, self.machine, self.candidates, self.n_init, self.waves)


def plan_fits(
    config: JobConfig,
    source: Source,
    candidates: Sequence[Candidate],
    data_summary: DataSummary | None = None,
    *,
    done: Sequence[Candidate] = (),
    waves: tuple[int, ...] | None = None,
) -> FitPlan:
    """Plan the fits of some candidates.

    Parameters
    ----------
    config : JobConfig
    source : Source
    candidates : sequence of Candidate
    data_summary : DataSummary, optional
        What pass 0 found, with the chunks that it has read; before pass 0 the header of the data tells them.
    done : sequence of Candidate
        Candidates whose fits have ended: their states stay in memory meanwhile.
    waves : tuple of int, optional
        Of a checkpoint, whose waves stay as they are.

    Raises
    ------
    UserError
        If the memory limit is too small for one chunk or one fit; not for waves that are given.
    """
    shape = data_shape(config, source, data_summary, [*done, *candidates])
    machine, n_init = machine_of(config, shape), config.search.n_init
    if waves is None:
        waves = plan_waves(shape, machine, candidates, n_init, done)
    return FitPlan(shape, machine, tuple(candidates), n_init, waves)


def data_shape(
    config: JobConfig, source: Source, data_summary: DataSummary | None = None, candidates: Sequence[Candidate] = ()
) -> Shape:
    """Columns, chunks and row outputs of a job, for the projection of its memory.

    The chunks are those that pass 0 has read, or, before it, those in the header of the data. ``candidates`` are those
    of a grid that was extended; by default those of the configuration.
    """
    chunk_rows = [source.chunk_rows] if data_summary is None else data_summary.chunk_rows
    n_chunks = int(source.array.numblocks[0]) if data_summary is None else len(chunk_rows)
    most = max([*config.search.n_components, *(candidate.n_components for candidate in candidates)])
    return Shape(
        n_features=len(source.columns),
        n_chunks=n_chunks,
        chunk_rows=max(chunk_rows),
        read_bytes=source.read_bytes,
        output_bytes=output_bytes(config.output.row_outputs, most),
        held_out=config.search.held_out > 0.0,
        search_effort=config.search.start_effort if STARTS[config.search.init_params].is_search else 0.0,
    )


def grid_of(config: JobConfig) -> list[Candidate]:
    """The candidates that the configuration asks for."""
    return check_candidates(config.search.n_components, config.search.covariance_types)


def closing_passes(config: JobConfig) -> int:
    """Return the number of passes after the fits: for the criteria, and for the rows if any output is of rows."""
    return 2 if config.output.row_outputs else 1


def candidates_of(states: Sequence[State]) -> list[Candidate]:
    """The candidates of some states, each once, in order."""
    return list(dict.fromkeys(state.candidate for state in states))


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a job reads and needs.

    Attributes
    ----------
    source : Source
        The opened data.
    notes : tuple of str
        What to know about the configuration and the data.
    store : str
        Path of the result store.
    cache : str
        Where the rows are kept for later passes, and the bytes that they may take; empty if they are not.
    extends : bool
        Whether the search may add candidates.
    plan : FitPlan
    """

    source: Source
    notes: tuple[str, ...]
    store: str
    cache: str
    extends: bool
    plan: FitPlan


@hiding_secrets
def estimate_job(config: JobConfig) -> Estimate:
    """Read the header of the data, and project what the job costs.

    Raises
    ------
    UserError
        As :func:`pipeline.sources.open_source`, and if ``cluster.memory_limit`` is too little for one fit, the data and
        the result lie within each other, or the schedule has ended.
    """
    if config.schedule is not None:
        config.schedule.require_time_to_come()
    template = config.output.store
    require_apart(config.data.source, results_of(dated_now(config, template) if is_dated(template) else template))
    source = open_job(config)
    if source.n_rows is not None:
        require_rows(source.n_rows, max(config.search.n_components))
    read_keys(config, source)
    plan = plan_fits(config, source, grid_of(config))
    n_bytes = cache_bytes(config, source)
    cache = f"{cache_folder(config)}, up to {format_bytes(n_bytes)}" if n_bytes else ""
    return Estimate(source, (*config.notes, *source.notes), config.output.store, cache, config.search.extend, plan)
