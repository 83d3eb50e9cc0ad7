"""The stage that shows how sure a choice is: the best fits are fitted again to resamples of the rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from gmm_dask.em import resamples
from gmm_dask.em.loop import State, Status
from gmm_dask.em.resamples import first_refits
from gmm_dask.passes.resampling import Resampling, summarize_resamples
from gmm_dask.passes.rows import Rows
from gmm_dask.selection.stability import evaluate_refits
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.fit.checkpointer import RefitCheckpointer
from pipeline.fit.chunking import open_job
from pipeline.fit.fitted_rows import fitted_rows, plan_of, reading, shape_of
from pipeline.fit.initialization import em_settings
from pipeline.fit.plan import candidates_of, closing_passes, plan_refits
from pipeline.progress import Progress, StageStarted
from pipeline.sources import Source
from pipeline.store import Checkpoint


def resample(config: JobConfig, best: str, checkpoint_seconds: float, progress: Progress) -> None:
    """Fit each stored model again to each resample, and write what the fits say; or resume that.

    Parameters
    ----------
    config : JobConfig
    best : str
        Name of the winner.
    checkpoint_seconds : float
        Between two checkpoints, at least.
    progress : callable
    """
    search, path = config.search, config.output.store
    progress(StageStarted("resample", f"fitting the candidates again to {search.resamples} resamples"))
    checkpoint, source = store.load_checkpoint(path), open_job(config)
    result = store.open_result(path, unfinished=True)
    fits = result.fitted_models
    with reading(config, source, shape_of(config, source, checkpoint)):
        rows = fitted_rows(config, source, checkpoint)
        resampling = Resampling.of(rows, search.random_state)
        if not checkpoint.resamples:
            checkpoint = _begun(config, source, checkpoint, rows, resampling, fits)
            store.save_checkpoint(path, checkpoint)
        edges = [0, *itertools.accumulate(checkpoint.refit_waves)]
        for part in itertools.starmap(slice, itertools.pairwise(edges)):
            checkpoint = _fit_wave(config, source, checkpoint, rows, resampling, part, checkpoint_seconds, progress)
        winner = result.model(best).candidate
        found = evaluate_refits(
            checkpoint.refits,
            checkpoint.resamples,
            resampling,
            rows,
            checkpoint.data_summary,
            fits,
            winner,
            search.criterion,
        )
    scaling = fits[0].transform.scaling
    store.write_resamples(path, result.criteria, found, None if scaling is None else scaling.scale)


def _begun(
    config: JobConfig,
    source: Source,
    checkpoint: Checkpoint,
    rows: Rows,
    resampling: Resampling,
    fits: Sequence[State],
) -> Checkpoint:
    """Return the checkpoint with the resamples' moments, from one pass, and the fits to them, which begin."""
    data_summary, plan = checkpoint.data_summary, plan_of(config, source, checkpoint)
    found = summarize_resamples(rows, data_summary, resampling, config.search.resamples)
    refits = first_refits(fits, found, em_settings(config, data_summary))
    of_candidates = [refit.state.candidate for refit in refits]
    planned = plan_refits(config, plan.shape, plan.machine, candidates_of(checkpoint.states), of_candidates)
    waves = planned.waves if planned else ()
    return replace(checkpoint, resamples=tuple(found), refits=refits, refit_waves=waves, passes=checkpoint.passes + 1)


def _fit_wave(
    config: JobConfig,
    source: Source,
    checkpoint: Checkpoint,
    rows: Rows,
    resampling: Resampling,
    part: slice,
    checkpoint_seconds: float,
    progress: Progress,
) -> Checkpoint:
    """Run the fits of one wave until none of them is running; returns the checkpoint, which is saved."""
    data_summary = checkpoint.data_summary
    if all(refit.state.status is not Status.RUNNING for refit in checkpoint.refits[part]):
        return checkpoint
    settings = em_settings(config, data_summary)
    checkpointer = RefitCheckpointer(
        config=config,
        source=source,
        checkpoint=checkpoint,
        part=part,
        settings=settings,
        progress=progress,
        seconds=checkpoint_seconds,
        closing_passes=closing_passes(config) - 1,
    )
    wave = checkpoint.refits[part]
    wave = resamples.run(
        wave, checkpoint.resamples, resampling, rows, data_summary, settings, checkpointer.after_refits
    )
    return checkpointer.save([refit.state for refit in wave])
