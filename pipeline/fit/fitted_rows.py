"""What the stages of a job share: the rows as they are fitted, and where they are computed on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gmm_dask.memory import Shape
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.unchanged import check_rows
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.dask_clusters import computing, rows_on_workers
from pipeline.fit.plan import FitPlan, candidates_of, data_shape, plan_fits
from pipeline.sources import Source
from pipeline.sources.preparation import Preparation
from pipeline.sources.rows import open_prepared_rows
from pipeline.store import Checkpoint


@contextmanager
def reading(config: JobConfig, source: Source, shape: Shape) -> Iterator[None]:
    """Compute where the configuration says, and add what is read to the store's count."""
    with computing(config, source, shape):
        yield
    store.add_bytes_read(config.output.store, source.take_bytes_read())


def shape_of(config: JobConfig, source: Source, checkpoint: Checkpoint) -> Shape:
    """Return the shape of the data with all candidates of a run: an extended grid has larger ones."""
    return data_shape(config, source, candidates=candidates_of(checkpoint.states))


def preparation_in(config: JobConfig) -> Preparation:
    """Return how rows are prepared for the fits, as pass 0 found it."""
    transform = store.open_result(config.output.store, unfinished=True).transform
    return Preparation(transform, drop=config.data.drops, gaps=config.data.has_gaps)


def plan_of(config: JobConfig, source: Source, checkpoint: Checkpoint) -> FitPlan:
    """Return the plan of all fits of a run, in the waves of its checkpoint."""
    candidates = candidates_of(checkpoint.states)
    refits = [refit.state.candidate for refit in checkpoint.refits], checkpoint.refit_waves
    return plan_fits(
        config,
        source,
        candidates,
        checkpoint.data_summary,
        waves=checkpoint.waves,
        refits=refits if checkpoint.refits else None,
    )


def fitted_rows(config: JobConfig, source: Source, checkpoint: Checkpoint) -> Rows:
    """Return the rows as they are fitted; the workers of a cluster keep them, or read ahead, if there is room."""
    rows = open_prepared_rows(config, source, preparation_in(config), checkpoint.data_summary)
    if rows.in_memory:  # of others, each pass checks what it reads
        check_rows(rows, checkpoint.data_summary)
    plan = plan_of(config, source, checkpoint)
    return rows_on_workers(config, rows, plan.shape, plan.needed_bytes)
