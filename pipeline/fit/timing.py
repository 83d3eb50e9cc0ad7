"""How long a pass of a job takes, measured on a chunk."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.loop import run_pass
from gmm_dask.em.regularization import settings_for
from gmm_dask.errors import UserError
from gmm_dask.init.starts import first_states
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.holdout import usable_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.statistics import collect_statistics
from gmm_dask.selection.grid import generator_copies
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.fit.plan import Estimate, FitPlan, closing_passes
from pipeline.sources.preparation import Preparation
from pipeline.sources.rows import fits_in_memory

# of the chunk, so many rows are computed on
TIMED_ROWS = 1 << 16
# the least of so many tries is taken
TRIES = 2


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
    """

    read_seconds: float
    compute_seconds: float
    n_threads: int
    in_memory: bool
    n_passes: tuple[int, int]

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
    n_chunks = int(source.array.numblocks[0])
    for number in range(min(2, n_chunks)):  # the first read takes what is imported and connected, too
        begin = time.perf_counter()
        (rows,) = dask.compute(source.array.blocks[number], scheduler="synchronous")
        read_seconds = time.perf_counter() - begin
    n_rows = len(rows) * n_chunks if source.n_rows is None else source.n_rows
    in_wave = max(plan.waves) / sum(plan.waves)
    others = 1 + closing_passes(config)  # pass 0 is the first
    return PassTime(
        read_seconds=read_seconds * n_chunks,
        compute_seconds=_seconds_of_row(config, plan, rows) * n_rows * in_wave,
        n_threads=_n_threads(config, plan),
        in_memory=fits_in_memory(source),
        n_passes=(len(plan.waves) + others, len(plan.waves) * config.search.max_iter + others),
    )


def _seconds_of_row(config: JobConfig, plan: FitPlan, rows: NDArray[np.floating[Any]]) -> float:
    """Return what a row takes, of all fits, after one iteration: the first comes from rows drawn at random."""
    search = config.search
    rows = rows[usable_rows(rows)][:TIMED_ROWS]
    with dask.config.set(scheduler="synchronous"), one_blas_thread():
        found = summarize_rows(Rows(rows), search.random_state)
        if config.data.scale == "standard":
            deviation = np.sqrt(np.diag(found.scatter) / found.total_weight)
            rows = Preparation(found.center, np.where(deviation > 0.0, deviation, 1.0)).rows(rows)
            found = summarize_rows(Rows(rows), search.random_state)
        settings = settings_for(found, search.tol, search.max_iter, search.reg_covar, accelerate=False)
        states = first_states(
            plan.candidates,
            found,
            init_params="random_from_data",
            n_init=1,
            random_state=generator_copies(search.random_state),
            reg_covar=settings.reg_covar,
        )
        states = run_pass(states, lambda models: collect_statistics(Rows(rows), found, models), len(rows), settings)
        models = [state.model for state in states if state.usable]
        if not models:
            raise UserError(
                f"no time can be told from a chunk: none of the fits can begin with its {len(rows):,} usable "
                "rows. Leave out --time, or set data.chunk_rows for larger chunks."
            )
        seconds = math.inf
        for _ in range(TRIES):
            begin = time.perf_counter()
            collect_statistics(Rows(rows), found, models)
            seconds = min(seconds, time.perf_counter() - begin)
    return seconds / len(rows) * search.n_init * len(states) / len(models)


def _n_threads(config: JobConfig, plan: FitPlan) -> int:
    """Return the threads of all processes; one where the workers of a cluster are not known."""
    n_processes = config.cluster.n_local_workers if config.cluster.kind == "local" else 1
    return max(1, min(n_processes * plan.machine.threads, plan.shape.n_chunks))
