"""How long a pass of a job takes, measured on a chunk."""

from __future__ import annotations

import time
from dataclasses import dataclass

import dask

from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.fit.cache_choice import choose_cache
from pipeline.fit.plan import Estimate, FitPlan, closing_passes
from pipeline.fit.timing.calibration import seconds_of_row
from pipeline.sources.rows import fits_in_memory

# of the chunk, so many rows are computed on
TIMED_ROWS = 1 << 16


@dataclass(frozen=True)
class PassTime:
    """Seconds that a pass takes.

    Attributes
    ----------
    read_seconds, compute_seconds : float
        Of one thread for all chunks; those to compute of all fits of the largest wave.
    n_threads : int
        Threads that share the chunks.
    in_memory : bool
        Whether the rows are so few that only the first pass of a stage reads them.
    n_passes : tuple of int
        The fewest and the most passes of the job, if the grid does not grow.
    cache : str
        Whether the rows are kept for later passes, where, and why; empty if there is nothing to tell.
    """

    read_seconds: float
    compute_seconds: float
    n_threads: int
    in_memory: bool
    n_passes: tuple[int, int]
    cache: str

    @property
    def range(self) -> tuple[float, float]:
        """The least, if all threads read side by side, and the most, if the reads come one after the other."""
        read = 0.0 if self.in_memory else self.read_seconds
        computing = self.compute_seconds / self.n_threads
        return read / self.n_threads + computing, read + computing


@hiding_secrets
def time_pass(config: JobConfig, estimate: Estimate) -> PassTime:
    """Read a chunk of a job's data, and compute on it for all fits, in one thread of this process.

    Raises
    ------
    UserError
        If the chunk cannot be read, or has no rows that the fits can begin with.
    """
    source, plan = estimate.source, estimate.plan
    if not isinstance(plan, FitPlan):
        raise UserError(
            "--time measures a pass over all rows, and data.by makes a search for each group: leave it out."
        )
    n_chunks = int(source.array.numblocks[0])
    for number in range(min(2, n_chunks)):  # the first read takes what is imported and connected, too
        begin = time.perf_counter()
        (rows,) = dask.compute(source.array.blocks[number], scheduler="synchronous")
        read_seconds = time.perf_counter() - begin
    n_rows = len(rows) * n_chunks if source.n_rows is None else source.n_rows
    # pass 0 is the first; one sums resamples up
    others = 1 + estimate.transform_reads + closing_passes(config) + bool(plan.refits)
    n_waves = len(plan.waves) + (len(plan.refits.waves) if plan.refits else 0)
    return PassTime(
        read_seconds=read_seconds * n_chunks,
        compute_seconds=seconds_of_row(config, plan, source.columns, rows[:TIMED_ROWS]) * n_rows * plan.share_in_wave,
        n_threads=_n_threads(config, plan),
        in_memory=fits_in_memory(source),
        n_passes=(n_waves + others, n_waves * config.search.max_iter + others),
        cache=choose_cache(config, source).text,
    )


def _n_threads(config: JobConfig, plan: FitPlan) -> int:
    """Return the threads of all processes; one where the workers of a cluster are not known."""
    n_processes = config.cluster.n_local_workers if config.cluster.kind == "local" else 1
    return max(1, min(n_processes * plan.machine.threads, plan.shape.n_chunks))
