"""Pass 0 over the data and the first states of a job's fits: its first checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gmm_dask.em.loop import Settings, State
from gmm_dask.em.regularization import settings_for
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.formatting import counted
from gmm_dask.init.starts import first_states
from gmm_dask.passes.bounding_box import Box, noise_box
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.rows import Rows
from gmm_dask.selection.grid import generator_copies, noise_choices
from gmm_dask.variational.inference import inference_of
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.config.search import SearchConfig
from pipeline.dask_clusters import computing
from pipeline.fit.chunking import chunk_sizes, open_job
from pipeline.fit.plan import data_shape, grid_of, plan_fits
from pipeline.progress import Progress, StageAdvanced, StageStarted, report_notes
from pipeline.sources import Source
from pipeline.sources.fingerprint import contents_of, header_of
from pipeline.sources.preparation import Preparation, column_notes, missing_of
from pipeline.sources.rows import first_read, fit_transform, open_prepared_rows
from pipeline.store import Checkpoint
from pipeline.transforms import Chain
from pipeline.transforms.fitting import more_reads

# of the sample of pass 0, so many rows are stored, for pictures and to compare new rows with: fewer of many columns,
# as they are a part of each checkpoint
STORED_ROWS, STORED_BYTES = 1 << 14, 4 << 20

# from the source, what pass 0 found in the data's units, the same in the units of the fit, and all rows in these
MakeStates = Callable[[Source, DataSummary, DataSummary, "FittedRows"], list[State]]


class FittedRows:
    """All rows in the units of the fit, opened anew for each pass before the fits; these are counted.

    Parameters
    ----------
    config : JobConfig
    source : Source
    preparation : Preparation
    data_summary : DataSummary
        In the units of the fit.
    noise : Box, optional
        What noise is uniform in, if that is known.
    """

    def __init__(
        self,
        config: JobConfig,
        source: Source,
        preparation: Preparation,
        data_summary: DataSummary,
        noise: Box | None = None,
    ) -> None:
        self._open = partial(open_prepared_rows, config, source, preparation, data_summary)
        self.transform = preparation.transform
        self._find_noise = partial(box_of_noise, config.search, data_summary, preparation.transform, source.columns)
        self._noise = noise
        self.passes = 0

    @property
    def noise(self) -> Box:
        """What noise is uniform in, in the units of the fit; it may take a pass when it is first asked for."""
        if self._noise is None:
            self._noise = self._find_noise(self)
        return self._noise

    def __call__(self) -> Rows:
        """Return the rows, for one pass."""
        self.passes += 1
        return self._open()


def box_of_noise(
    search: SearchConfig,
    data_summary: DataSummary,
    transform: Chain,
    columns: Sequence[str],
    rows: Callable[[], Rows],
) -> Box:
    """Return what the noise of a search is uniform in, in the units of the fit; ``rows`` are opened for a pass."""
    log_volume = noise_choices(search.noise)[1]
    if log_volume is not None and transform.folds:  # in the user's units
        log_volume -= data_summary.log_scale
    try:
        return noise_box(rows, data_summary, log_volume, transform.labels(columns))
    except UserError as error:
        raise UserError(f"search.{error}") from None


def seed(config: JobConfig, progress: Progress) -> None:
    """Run pass 0, and save the initial states of all candidates as the first checkpoint."""
    seed_states(
        config,
        lambda source, found, data_summary, rows: initial_states(config, data_summary, rows, grid_of(config), progress),
        progress,
    )


def seed_states(config: JobConfig, make_states: MakeStates, progress: Progress) -> None:
    """Run pass 0, and save the states that follow from it as the first checkpoint.

    Raises
    ------
    UserError
        If the data cannot be used, or no fit can begin; nothing is saved then.
    """
    progress(StageStarted("seed", "reading the data once, then computing the starts"))
    source = open_job(config)
    header = header_of(source)  # before the first row is read: a file that changes meanwhile has another time
    path = config.output.store
    with computing(config, source, data_shape(config, source)):
        first = first_read(config, source)
        found = first.summary
        notes = [*column_notes(found, source.columns), *first.notes(config, source.columns)]
        report_notes(notes, progress)
        contents = contents_of(found)
        transform, data_summary = fit_transform(config, source, first)
        if not transform.folds:
            report_notes([transform.described(source.columns)], progress)
        preparation = Preparation(transform, drop=config.data.drops, gaps=config.data.has_gaps)
        waves = plan_fits(config, source, grid_of(config), data_summary).waves
        rows = FittedRows(config, source, preparation, data_summary)
        states = make_states(source, found, data_summary, rows)
    if not any(state.usable for state in states):
        raise UserError(f"no fit can begin with {counted(data_summary.n_rows, 'row')}: {states[0].status.remedy}")
    if any(state.candidate.noise for state in states):
        store.write_noise_box(path, rows.noise, transform.labels(source.columns), transform)
    if sum(waves) != len(states):  # a refresh fits the last winner alone
        waves = (1,) * len(states)
    store.update_attributes(
        path,
        data={
            **header,
            "chunks": chunk_sizes(config, source),
            "contents": contents,
            "missing": missing_of(found, source.columns),
            "notes": [*source.notes, *notes],
        },
    )
    store.write_transform(path, transform)
    stored_rows = max(1, min(STORED_ROWS, STORED_BYTES // (8 * len(source.columns))))
    step = -(-len(data_summary.sample) // stored_rows)
    weights = data_summary.sample_weights
    data_summary = replace(
        data_summary,
        sample=data_summary.sample[::step],
        sample_weights=None if weights is None else weights[::step],
        known_resolution=data_summary.resolution,
        source_sample=None if data_summary.source_sample is None else data_summary.source_sample[::step],
    )
    passes = 1 + more_reads(config.data.steps) + rows.passes
    store.save_checkpoint(path, Checkpoint(states, data_summary, passes, waves), bytes_read=source.take_bytes_read())


def initial_states(
    config: JobConfig,
    data_summary: DataSummary,
    rows: FittedRows,
    candidates: Sequence[Candidate],
    progress: Progress,
) -> list[State]:
    """Return the initial states of all starts of some candidates, from what pass 0 found and from all rows."""
    search, settings = config.search, em_settings(config, data_summary)
    return starts_of(
        search,
        settings,
        candidates,
        data_summary,
        report=lambda text: progress(StageAdvanced("starts", text)),
        rows=rows,
        noise_log_volume=rows.noise.log_volume if any(one.noise for one in candidates) else None,
    )


def starts_of(
    search: SearchConfig, settings: Settings, candidates: Sequence[Candidate], data_summary: DataSummary, **more: Any
) -> list[State]:
    """Return the first states of candidates by the settings of a search; ``more`` is for ``first_states``."""
    return first_states(
        candidates,
        data_summary,
        init_params=search.init_params,
        n_init=search.n_init,
        random_state=generator_copies(search.random_state),
        reg_covar=settings.reg_covar,
        inference=settings.inference,
        effort=search.start_effort,
        **more,
    )


def em_settings(config: JobConfig, data_summary: DataSummary) -> Settings:
    """Return the settings of the fits: when they stop, what is added to covariances, how they are estimated."""
    return settings_of(config.search, data_summary)


def settings_of(search: SearchConfig, data_summary: DataSummary) -> Settings:
    """Return the settings of the fits of a search; see :func:`em_settings`."""
    settings = settings_for(data_summary, search.tol, search.max_iter, search.reg_covar, search.accelerate)
    prior = None if search.prior == "none" else search.prior
    return replace(settings, inference=inference_of(search.inference, data_summary, prior))
