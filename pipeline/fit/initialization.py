"""Pass 0 over the data and the first states of a job's fits: its first checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from gmm_dask.em.loop import Settings, State
from gmm_dask.em.regularization import settings_for
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.starts import first_states
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.rows import Rows
from gmm_dask.selection.grid import generator_copies
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.dask_clusters import computing
from pipeline.fit.chunking import chunk_sizes, open_job
from pipeline.fit.plan import data_shape, grid_of, plan_fits
from pipeline.progress import Progress, StageAdvanced, StageStarted, report_notes
from pipeline.sources import Source
from pipeline.sources.fingerprint import contents_of, header_of
from pipeline.sources.preparation import (
    Preparation,
    column_notes,
    missing_of,
    preparation_of,
    require_varying,
    scaled_summary,
)
from pipeline.sources.rows import open_prepared_rows, read_data_summary
from pipeline.store import Checkpoint

# of the sample of pass 0, so many rows are stored, for pictures and to compare new rows with: fewer of many columns,
# as they are a part of each checkpoint
STORED_ROWS, STORED_BYTES = 1 << 14, 4 << 20

# from the source, what pass 0 found in the data's units, the same in the units of the fit, and all rows in these
MakeStates = Callable[[Source, DataSummary, DataSummary, "FittedRows"], list[State]]


class FittedRows:
    """All rows in the units of the fit, opened anew for each pass of a search for starts, which are counted."""

    def __init__(self, config: JobConfig, source: Source, preparation: Preparation, data_summary: DataSummary) -> None:
        self._open = partial(open_prepared_rows, config, source, preparation, data_summary)
        self.passes = 0

    def __call__(self) -> Rows:
        """Return the rows, for one pass."""
        self.passes += 1
        return self._open()


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
        found = read_data_summary(config, source)
        notes = column_notes(found, source.columns)
        report_notes(notes, progress)
        if config.data.scale == "standard":
            require_varying(found, source.columns)
        contents = contents_of(found)
        preparation = preparation_of(config.data, contents)
        data_summary = scaled_summary(found, preparation)
        waves = plan_fits(config, source, grid_of(config), data_summary).waves
        rows = FittedRows(config, source, preparation, data_summary)
        states = make_states(source, found, data_summary, rows)
    if not any(state.usable for state in states):
        raise UserError(
            f"none of the {len(states)} fits can begin with n_samples = {data_summary.n_rows}: "
            f"{states[0].status.remedy}"
        )
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
    stored_rows = max(1, min(STORED_ROWS, STORED_BYTES // (8 * len(source.columns))))
    step = -(-len(data_summary.sample) // stored_rows)
    data_summary = replace(
        data_summary,
        sample=data_summary.sample[::step],
        sample_weights=None,
        known_resolution=data_summary.resolution,
    )
    store.save_checkpoint(
        path, Checkpoint(states, data_summary, 1 + rows.passes, waves), bytes_read=source.take_bytes_read()
    )


def initial_states(
    config: JobConfig,
    data_summary: DataSummary,
    rows: FittedRows,
    candidates: Sequence[Candidate],
    progress: Progress,
) -> list[State]:
    """Return the initial states of all starts of some candidates, from what pass 0 found and from all rows."""
    search = config.search
    return first_states(
        candidates,
        data_summary,
        init_params=search.init_params,
        n_init=search.n_init,
        random_state=generator_copies(search.random_state),
        reg_covar=em_settings(config, data_summary).reg_covar,
        effort=search.start_effort,
        report=lambda text: progress(StageAdvanced("starts", text)),
        rows=rows,
    )


def em_settings(config: JobConfig, data_summary: DataSummary) -> Settings:
    """Return the settings of EM: when it stops, and what it adds to covariances."""
    search = config.search
    return settings_for(data_summary, search.tol, search.max_iter, search.reg_covar, search.accelerate)
