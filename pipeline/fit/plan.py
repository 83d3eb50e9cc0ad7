"""The plan of a job, made before anything is computed: the shape of its data, its waves of fits, their memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmm_dask.em.loop import State
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.starts import STARTS, require_rows
from gmm_dask.memory import (
    Machine,
    Resamples,
    Shape,
    busy_threads,
    compiler_notes,
    plan_waves,
    projected_bytes,
    reads_ahead,
)
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.selection.grid import check_candidates, noise_choices
from pipeline.config.grouping import require_groupable
from pipeline.config.job import JobConfig, hiding_secrets, require_schedulable
from pipeline.config.templates import is_dated
from pipeline.dask_clusters import machine_of, require_importable
from pipeline.fit.chunking import open_job
from pipeline.score.row_pass import output_bytes
from pipeline.score.writers import read_keys
from pipeline.sources import Source
from pipeline.sources.cache import choose_by_kind
from pipeline.sources.overlap import require_apart
from pipeline.sources.rows import fits_in_memory
from pipeline.store.paths import dated_now, results_of
from pipeline.transforms.fitting import check_steps, is_scaling, more_reads

if TYPE_CHECKING:
    from pipeline.fit.groups.plan import GroupsPlan

# of a cache that the header of the data does not decide on
UNDECIDED = "the run decides when it begins, by what a chunk takes to decode and to compute; --time tells it now"


@dataclass(frozen=True)
class RefitPlan:
    """How the fits to resamples share passes.

    Attributes
    ----------
    resamples : Resamples
    fits : tuple of Candidate
        The candidate of each fit, in their order.
    waves : tuple of int
        Number of fits that share a pass, wave by wave.
    """

    resamples: Resamples
    fits: tuple[Candidate, ...]
    waves: tuple[int, ...]

    def needed_bytes(self, shape: Shape, machine: Machine) -> int:
        """What the process, or each worker process of a cluster, needs at the peak, imports included."""
        return self.resamples.projected_bytes(shape, machine, self.fits, self.waves)


def plan_refits(
    config: JobConfig,
    shape: Shape,
    machine: Machine,
    candidates: Sequence[Candidate],
    fits: Sequence[Candidate] | None = None,
    waves: tuple[int, ...] | None = None,
) -> RefitPlan | None:
    """Plan the fits to resamples; None without resamples.

    Parameters
    ----------
    config : JobConfig
    shape : Shape
    machine : Machine
    candidates : sequence of Candidate
        All of the run.
    fits : sequence of Candidate, optional
        The candidate of each fit; by default each candidate is fitted to each resample.
    waves : tuple of int, optional
        Of a checkpoint, whose waves stay as they are.

    Raises
    ------
    UserError
        If the memory limit is too small; not for waves that are given.
    """
    search = config.search
    if not search.resamples:
        return None
    resamples = Resamples(tuple(candidates), search.n_init, search.resamples)
    fits = [*candidates] * search.resamples if fits is None else fits
    return RefitPlan(resamples, tuple(fits), waves or resamples.plan_waves(shape, machine, fits))


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
    refits : RefitPlan or None
        Of the fits to resamples; None without resamples.
    """

    shape: Shape
    machine: Machine
    candidates: tuple[Candidate, ...]
    n_init: int
    waves: tuple[int, ...]
    refits: RefitPlan | None = None

    @property
    def needed_bytes(self) -> int:
        """What the process, or each worker process of a cluster, needs at the peak, imports included."""
        needed = projected_bytes(self.shape, self.machine, self.candidates, self.n_init, self.waves)
        return max(needed, self.refits.needed_bytes(self.shape, self.machine) if self.refits else 0)

    @property
    def share_in_wave(self) -> float:
        """Share of the fits that the largest wave has."""
        return max(self.waves) / sum(self.waves)

    @property
    def reads_ahead(self) -> bool:
        """Whether a task reads the next chunk while it computes one: on a cluster, where there is room."""
        return reads_ahead(self.shape, self.machine, self.needed_bytes)

    @property
    def memory_bytes(self) -> int:
        """Projected peak of the process, with the chunks that are read ahead."""
        ahead = busy_threads(self.shape, self.machine) * self.shape.chunk_bytes
        return self.needed_bytes + (ahead if self.reads_ahead else 0)


def plan_fits(
    config: JobConfig,
    source: Source,
    candidates: Sequence[Candidate],
    data_summary: DataSummary | None = None,
    *,
    done: Sequence[Candidate] = (),
    waves: tuple[int, ...] | None = None,
    refits: tuple[Sequence[Candidate], tuple[int, ...]] | None = None,
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
    refits : tuple of sequence of Candidate and tuple of int, optional
        Of a checkpoint, the candidates of the fits to resamples, and their waves.

    Raises
    ------
    UserError
        If the memory limit is too small for one chunk or one fit; not for waves that are given.
    """
    shape = data_shape(config, source, data_summary, [*done, *candidates])
    machine, n_init = machine_of(config, shape), config.search.n_init
    if waves is None:
        waves = plan_waves(shape, machine, candidates, n_init, done)
    planned = plan_refits(config, shape, machine, [*done, *candidates], *(refits or ()))
    return FitPlan(shape, machine, tuple(candidates), n_init, waves, planned)


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
    features = len(source.columns) if data_summary is None else len(data_summary.center)
    if data_summary is None and config.data.steps:
        features = check_steps(config.data.steps, source.columns)
    return Shape(
        n_features=features,
        n_columns=0 if is_scaling(config.data.steps) else len(source.columns),
        n_chunks=n_chunks,
        chunk_rows=max(chunk_rows),
        read_bytes=source.read_bytes,
        output_bytes=output_bytes(config.output.row_outputs, most + config.search.has_noise, len(source.columns)),
        copies_rows=config.search.held_out > 0.0 or config.search.resamples > 0,
        search_effort=config.search.start_effort if STARTS[config.search.init_params].is_search else 0.0,
        n_components=most + config.search.has_noise,
        gaps=config.data.has_gaps,
    )


def grid_of(config: JobConfig) -> list[Candidate]:
    """The candidates that the configuration asks for."""
    search = config.search
    return check_candidates(search.n_components, search.covariance_types, noise_choices(search.noise)[0])


def closing_passes(config: JobConfig) -> int:
    """Return the number of passes after the fits: for criteria, in resamples too, and for rows if any is an output."""
    return 1 + (config.search.resamples > 0) + bool(config.output.row_outputs)


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
        Whether the rows are kept for later passes, where, and why; empty if there is nothing to tell.
    in_memory : bool
        Whether the rows are so few that each stage reads them once, and passes over them in memory.
    extends : bool
        Whether the search may add candidates.
    plan : FitPlan, or GroupsPlan of a search for each group
    by : str or None
        Name of the column of groups, of a search for each.
    n_groups : int or None
        Groups, where the names of folders tell them.
    transform : tuple of str
        The steps that change the columns before the fit.
    transform_reads : int
        Reads of the data that fitting these takes, after the first pass.
    """

    source: Source
    notes: tuple[str, ...]
    store: str
    cache: str
    in_memory: bool
    extends: bool
    plan: FitPlan | GroupsPlan
    by: str | None = None
    n_groups: int | None = None
    transform: tuple[str, ...] = ()
    transform_reads: int = 0


@hiding_secrets
def estimate_job(config: JobConfig) -> Estimate:
    """Read the header of the data, and project what the job costs.

    Raises
    ------
    UserError
        As :func:`pipeline.sources.open_source`, and if ``cluster.memory_limit`` is too little for one fit, the data and
        the result lie within each other, the schedule has ended or its runs would share a result, or the class of the
        cluster cannot be imported.
    """
    require_schedulable(config)
    require_groupable(config)
    require_importable(config.cluster)
    template = config.output.store
    require_apart(config.data.source, results_of(dated_now(config, template) if is_dated(template) else template))
    source = open_job(config, first=True)
    if source.n_rows is not None and config.data.by is None:
        require_rows(source.n_rows, max(config.search.n_components))
    read_keys(config, source)
    if config.data.by is not None:
        return _estimate_groups(config, source)
    plan = plan_fits(config, source, grid_of(config))
    choice = choose_by_kind(config, source)
    return Estimate(
        source=source,
        notes=(*config.notes, *source.notes, *compiler_notes()),
        store=config.output.store,
        cache=UNDECIDED if choice is None else choice.text,
        in_memory=fits_in_memory(source),
        extends=config.search.extend,
        plan=plan,
        transform=tuple(step.shown for step in config.data.steps),
        transform_reads=more_reads(config.data.steps),
    )


def _estimate_groups(config: JobConfig, source: Source) -> Estimate:
    """Project what a search for each group costs."""
    from pipeline.fit.groups.plan import plan_groups
    from pipeline.sources.group_keys import groups_in_header, open_group_keys, require_groups

    require_groups(open_group_keys(config.data, source), source)
    plan = plan_groups(config, source)
    return Estimate(
        source=source,
        notes=(*config.notes, *source.notes),
        store=config.output.store,
        cache="" if plan.folder is None else f"{plan.folder} keeps the rows by group until the groups are searched",
        in_memory=False,
        extends=False,
        plan=plan,
        by=config.data.by,
        n_groups=groups_in_header(config.data, source),
        transform=tuple(step.shown for step in config.data.steps),
    )
