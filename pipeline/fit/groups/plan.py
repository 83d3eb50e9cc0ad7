"""The plan of a run over groups: threads, memory, and where the rows are kept that are taken apart by group."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dask.utils import format_bytes

from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.starts import require_rows
from gmm_dask.memory import (
    CHECKPOINT_COPIES,
    Machine,
    Shape,
    busy_threads,
    covariance_values,
    plan_waves,
    program_bytes,
    projected_bytes,
    working_bytes,
)
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.rows import CHUNK_BYTES
from pipeline.config.job import JobConfig
from pipeline.dask_clusters import machine_of
from pipeline.fit.plan import data_shape, grid_of
from pipeline.sources import Source
from pipeline.sources.cache import SHARE, cache_bytes, cache_folder
from pipeline.sources.partition import PIECE_BYTES, Partition
from pipeline.store.groups.models import NUMBERS

# of the memory beside what computes, what rows may take that stay in memory
ROWS_SHARE = 0.5
# rows of groups that are searched side by side in one wave: handed to the tasks, and taken out of the rows of chunks
WAVE_BYTES = 32 << 20
# groups of more rows are searched by passes over them
IN_MEMORY_BYTES = 16 << 20
# what a chunk takes while its rows are sorted by group: those read, sorted, and the positions of each
SORT_COPIES = 2
# of each group, rows that are stored for pictures: as many as these bytes hold of all, within limits
SAMPLE_BYTES, LEAST_SAMPLED, MOST_SAMPLED = 8 << 20, 20, 200
# of a result, beside its numbers: objects of Python
_OBJECT_BYTES = 6 << 10


@dataclass(frozen=True)
class GroupsPlan:
    """How a run over groups computes.

    Attributes
    ----------
    shape : Shape
        Of the read of the data.
    machine : Machine
        Of the process that takes the rows apart, and searches large groups.
    candidates : tuple of Candidate
    n_init : int
    folder : Path or None
        Where the rows go that are taken apart; None if they stay in memory.
    rows_bytes : int
        What they take there.
    refits, reads_ahead : None, bool
        None and False: there are no resamples, and no tasks that read ahead.
    """

    shape: Shape
    machine: Machine
    candidates: tuple[Candidate, ...]
    n_init: int
    folder: Path | None
    rows_bytes: int
    refits: None = None
    reads_ahead: bool = False

    @property
    def small_rows(self) -> int:
        """Groups of at most so many rows are searched side by side."""
        return max(1, CHUNK_BYTES // (8 * max(self.shape.n_features, self.shape.n_columns)))

    @property
    def waves(self) -> tuple[int, ...]:
        """One wave: all fits of a small group are made together."""
        return (len(self.candidates) * self.n_init,)

    @property
    def memory_bytes(self) -> int:
        """As :attr:`needed_bytes`."""
        return self.needed_bytes

    @property
    def computing_bytes(self) -> int:
        """What the threads work on, the imports included."""
        return _computing_bytes(self.shape, self.machine, self.candidates, self.n_init)

    @property
    def needed_bytes(self) -> int:
        """Projected peak of the process, without the results of the groups, whose number the read tells."""
        return self.computing_bytes + WAVE_BYTES + (self.rows_bytes if self.folder is None else 0)

    def sample_rows(self, n_groups: int) -> int:
        """Rows of each group that are stored."""
        width = max(self.shape.n_features, self.shape.n_columns) + 2
        each = SAMPLE_BYTES // (8 * width * max(1, n_groups))
        return min(MOST_SAMPLED, max(LEAST_SAMPLED, each))

    def results_bytes(self, n_groups: int, max_iter: int) -> int:
        """What the results of all groups take, with the checkpoint that is made of them."""
        d, k = self.shape.n_features, max(self.candidates, key=lambda one: one.n_components).n_components
        model = 2 * max(covariance_values(self.shape, one) for one in self.candidates) + (k + 4) * (d + 1) + max_iter
        if columns := self.shape.n_columns:  # a transform, such as the axes of principal components
            model, d = model + (d + 4) * columns, max(d, columns)
        numbers = len(self.candidates) * (len(NUMBERS) + self.n_init) + model + self.sample_rows(n_groups) * (d + 2)
        return n_groups * (_OBJECT_BYTES + (1 + CHECKPOINT_COPIES) * 8 * numbers)

    def require_results(self, partition: Partition, max_iter: int) -> None:
        """Raise :class:`UserError` if there are more groups than the memory has room for results of."""
        n_groups, n_pieces = len(partition.keys), partition.n_pieces
        needed = self.needed_bytes + self.results_bytes(n_groups, max_iter) + n_pieces * PIECE_BYTES
        if needed > self.machine.memory_limit:
            raise UserError(
                f"cluster.memory_limit is {_mib(self.machine.memory_limit)} MiB, and the results of {n_groups:,} "
                f"groups take it to {_mib(needed)} MiB. Raise it, search fewer candidates, or fewer groups at a time "
                "with data.filter."
            )

    def waves_over(self, chunk_rows: Sequence[int]) -> tuple[int, ...]:
        """Cut the fits of a group, whose chunks have so many rows, into waves that fit the memory."""
        shape = replace(self.shape, n_chunks=len(chunk_rows), chunk_rows=max(chunk_rows), read_bytes=0, output_bytes=0)
        limit = self.machine.memory_limit - (self.rows_bytes if self.folder is None else 0)
        return plan_waves(shape, replace(self.machine, memory_limit=limit), self.candidates, self.n_init)

    def waves_of(self, data_summary: DataSummary) -> tuple[int, ...]:
        """As :meth:`waves_over`, from what is known of the rows."""
        return self.waves_over(data_summary.chunk_rows)


def plan_groups(config: JobConfig, source: Source) -> GroupsPlan:
    """Plan a run over groups, from the headers of its data.

    Raises
    ------
    UserError
        If the memory is too small for one chunk, or one group; if neither the memory nor the disk has room for the
        rows.
    """
    candidates, shape = tuple(grid_of(config)), data_shape(config, source)
    machine = replace(machine_of(config, shape), runs=False, memory_limit=config.cluster.memory_bytes)
    n_init, limit = config.search.n_init, machine.memory_limit
    while machine.threads > 1 and _computing_bytes(shape, machine, candidates, n_init) > 0.75 * limit:
        machine = replace(machine, threads=machine.threads - 1)
    needed = _computing_bytes(shape, machine, candidates, n_init) + WAVE_BYTES
    if needed > limit:
        raise UserError(
            f"cluster.memory_limit is {_mib(limit)} MiB, and {_mib(needed)} MiB are needed for one thread that "
            f"searches {len(candidates)} candidates in a group, {_mib(program_bytes())} of them for the program. "
            "Raise it, search fewer components, or use smaller chunks: data.chunk_rows."
        )
    rows_bytes = cache_bytes(source)
    fits = config.data.cache in ("auto", "none") and rows_bytes <= ROWS_SHARE * (limit - needed)
    folder = None if fits else _folder_for(config, rows_bytes)
    if source.n_rows is not None:
        require_rows(source.n_rows, min(config.search.n_components))
    return GroupsPlan(shape, machine, candidates, n_init, folder, rows_bytes)


def _folder_for(config: JobConfig, rows_bytes: int) -> Path:
    folder = cache_folder(config)
    remedy = "Raise cluster.memory_limit, or set data.cache to a folder on a disk with room for them."
    if config.data.cache == "none":
        raise UserError(
            f"data.cache: expected auto or a folder, as the rows by group take {format_bytes(rows_bytes)}, more than "
            f"the memory has room for. {remedy}"
        )
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if rows_bytes > SHARE * free:
        raise UserError(
            f"data.cache: the rows by group take {format_bytes(rows_bytes)}, more than {SHARE:.0%} of the "
            f"{format_bytes(free)} that are free at {folder.parent}. {remedy}"
        )
    return folder


def _computing_bytes(shape: Shape, machine: Machine, candidates: Sequence[Candidate], n_init: int) -> int:
    """The imports, and the most of: threads that sort chunks by group, threads with a group each, one with a large."""
    rows = max(1, CHUNK_BYTES // (8 * shape.n_features))
    sorting = working_bytes(shape, machine)
    sorting += busy_threads(shape, machine) * SORT_COPIES * (shape.chunk_bytes + 8 * shape.chunk_rows)
    group = replace(shape, n_chunks=1, chunk_rows=rows, read_bytes=0, output_bytes=0)
    searching = machine.threads * _search_bytes(group, 1, candidates, n_init)
    large = replace(group, n_chunks=IN_MEMORY_BYTES // CHUNK_BYTES)
    return program_bytes() + max(sorting, searching, _search_bytes(large, machine.threads, candidates, n_init))


def _search_bytes(shape: Shape, threads: int, candidates: Sequence[Candidate], n_init: int) -> int:
    waves = [len(candidates) * n_init]
    return projected_bytes(shape, Machine(threads, 0), candidates, n_init, waves) - program_bytes()


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / 2**20:,.0f}"
