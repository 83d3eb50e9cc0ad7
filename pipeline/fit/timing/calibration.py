"""How long this machine computes on a row of a job, for all of its fits."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.loop import run_pass
from gmm_dask.em.regularization import settings_for
from gmm_dask.errors import UserError
from gmm_dask.init.starts import first_states
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.holdout import usable_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.statistics import collect_statistics
from gmm_dask.selection.grid import generator_copies
from pipeline.config.job import JobConfig
from pipeline.fit.plan import FitPlan
from pipeline.transforms import Chain
from pipeline.transforms.fitting import first_steps, fit_steps

# the least of so many tries is taken
TRIES = 2


def seconds_of_row(config: JobConfig, plan: FitPlan, columns: Sequence[str], rows: NDArray[np.floating[Any]]) -> float:
    """Return what a row takes, of all fits, after one iteration: the first comes from rows drawn at random.

    Raises
    ------
    UserError
        If the fits cannot begin with these rows.
    """
    search = config.search
    rows = rows[usable_rows(rows, gaps=config.data.has_gaps)]

    def as_rows(array: NDArray[np.floating[Any]]) -> Rows:
        return Rows(array, gaps=config.data.has_gaps)

    with dask.config.set(scheduler="synchronous"), one_blas_thread():
        found = summarize_rows(as_rows(rows), search.random_state)
        if config.data.steps:
            rows, found = _transformed(config, columns, as_rows(rows))
        settings = settings_for(found, search.tol, search.max_iter, search.reg_covar, accelerate=False)
        states = first_states(
            plan.candidates,
            found,
            init_params="random_from_data",
            n_init=1,
            random_state=generator_copies(search.random_state),
            reg_covar=settings.reg_covar,
            noise_log_volume=0.0,  # the time does not depend on it
        )
        states = run_pass(states, lambda models: collect_statistics(as_rows(rows), found, models), len(rows), settings)
        models = [state.model for state in states if state.usable]
        if not models:
            raise UserError(
                f"no time can be told from a chunk: none of the fits can begin with its {len(rows):,} usable "
                "rows. Leave out --time, or set data.chunk_rows for larger chunks."
            )
        seconds = math.inf
        for _ in range(TRIES):
            begin = time.perf_counter()
            collect_statistics(as_rows(rows), found, models)
            seconds = min(seconds, time.perf_counter() - begin)
    return seconds / len(rows) * search.n_init * len(states) / len(models)


def _transformed(config: JobConfig, columns: Sequence[str], raw: Rows) -> tuple[NDArray[np.floating[Any]], DataSummary]:
    """Return the rows that can be transformed, in the units of the fit, and their summary."""
    steps, seed = config.data.steps, config.search.random_state
    first = first_steps(steps, columns)
    rows = raw.array[usable_rows(first.rows(raw.array), gaps=raw.gaps)]

    def read(chain: Chain) -> DataSummary:
        return summarize_rows(replace(raw, array=chain.rows(rows)), seed)

    try:
        chain, _ = fit_steps(steps, columns, read(first), read)
    except UserError:  # these rows, the first ones, may have less in them than all rows: a constant column
        chain = first
    found = read(chain)
    return chain.rows(rows), found
