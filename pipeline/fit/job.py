"""The job: open the data, seed the candidates, fit them, choose one, label the rows, report.

Each stage is a plain function of the configuration and what the store holds, so that any orchestrator can call it
as a task, and a job that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from gmm_dask.em import loop
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.em.regularization import settings_for
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.auto import first_states
from gmm_dask.memory import Shape, plan_waves, projected_bytes
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.map_reduce import Rows, collect_statistics
from gmm_dask.selection.grid import check_candidates, generator_copies, in_grid_order
from gmm_dask.selection.outcomes import best_outcome, by_candidate, choose, evaluate_states
from pipeline import store
from pipeline.clusters import computing, held, keep, keeps_rows, machine_of
from pipeline.config.job import JobConfig
from pipeline.fit.checkpointer import Keeper
from pipeline.fit.chunking import open_job, sizes_of
from pipeline.fit.estimate import shape_found, shape_of
from pipeline.fit.extend import candidates_of, wider_grid
from pipeline.fit.sample import keep_sample
from pipeline.progress import Progress, StageStarted, silent
from pipeline.report import clear_report, has_report, write_report
from pipeline.report.summary import Summary, summarise
from pipeline.score.key_columns import clear_rows, read_keys
from pipeline.score.row_pass import (
    Question,
    answer_source,
    find_writer,
    mean_log_density,
    plan_of,
    readable,
)
from pipeline.sources import Source
from pipeline.sources.fingerprint import contents_of, header_of, require_same_contents
from pipeline.sources.preparation import (
    Preparation,
    column_notes,
    missing_of,
    preparation_of,
    require_varying,
    scaled_summary,
)
from pipeline.sources.rows import hold_prepared, is_held, read_data_summary, require_same_chunks
from pipeline.stages import Stage, unchanged
from pipeline.store import Checkpoint, StoreStatus
from pipeline.store.errors import writing
from pipeline.store.paths import placed

# rows in the picture of the clusters
DRAWN_ROWS = 2000


def run(
    config: JobConfig,
    *,
    fresh: bool = False,
    progress: Progress = silent,
    as_task: Callable[[Stage], Stage] = unchanged,
    seeding: Stage | None = None,
) -> Summary:
    """Run a job to its end, or go on where it was stopped.

    Parameters
    ----------
    config : JobConfig
    fresh : bool
        Start anew where a store of this job exists.
    progress : callable
        Told of each stage and pass.
    as_task : callable
        What an orchestrator makes of a stage before it is called.
    seeding : callable, optional
        A stage in the place of :func:`seed`.

    Returns
    -------
    Summary

    Raises
    ------
    UserError
        If the data, the configuration or the store cannot be used, or no candidate could be fitted.
    """
    begin = time.monotonic()
    config = placed(config, fresh=fresh)
    path = config.output.store
    with store.lock(path), writing(path), held(config.cluster, progress):
        found = as_task(prepare)(config, fresh, progress)
        if found is not StoreStatus.COMPLETE:
            if found is StoreStatus.NEW:
                as_task(seeding or seed)(config, progress)
            best = _search(config, progress, as_task)
            as_task(write_rows)(config, best, progress)
            as_task(finish)(config, best, time.monotonic() - begin, progress)
        if config.output.report and not has_report(path):
            as_task(draw)(config, progress)
    return summarise(config, time.monotonic() - begin, reused=found is StoreStatus.COMPLETE)


def _search(config: JobConfig, progress: Progress, as_task: Callable[[Stage], Stage]) -> str:
    """Fit the waves and choose, until the grid is wide enough; returns the winner's name."""
    done = 0
    while True:
        waves = len(store.load_waves(config.output.store))
        for wave in range(done, waves):
            as_task(fit_wave)(config, wave, progress)
        best: str = as_task(select)(config, progress)
        if not (config.search.extend and as_task(extend)(config, best, progress)):
            return best
        done = waves


# -- the stages --------------------------------------------------------------------------------------------------


def prepare(config: JobConfig, fresh: bool, progress: Progress) -> StoreStatus:
    """Read the data's header, and make the store or find what an earlier run left of it.

    What cannot fit the memory limit is refused here, before a row is read.
    """
    source = open_job(config, fresh=fresh)
    read_keys(config, source)
    header = header_of(source)
    path = config.output.store
    _tell(source.notes, progress)
    if fresh or store.find_store(path) is StoreStatus.NEW:
        _plan(config, shape_of(source, config))
    found = store.prepare_store(path, config.model_dump(mode="json"), header, fresh)
    if found is StoreStatus.NEW:
        clear_report(path)
        clear_rows(path)
    if found is StoreStatus.UNFINISHED:
        with _computing(config, source):
            _go_on(config, source, progress)
    if found is not StoreStatus.NEW:
        _require_unchanged(config, source, header, progress)
    elif store.open_store(path, unfinished=True).attempts > 1:
        progress(StageStarted("resume", f"{path} is unfinished, with nothing saved: starting anew"))
    return found


def _go_on(config: JobConfig, source: Source, progress: Progress) -> None:
    """Tell where an unfinished run stands; its chunks and waves must do for the rest of it."""
    path = config.output.store
    checkpoint = store.load_checkpoint(path)
    require_same_chunks(path, source, checkpoint.data_summary)
    _require_memory(config, source, checkpoint)
    finished = sum(state.status is not Status.RUNNING for state in checkpoint.states)
    detail = f"after pass {checkpoint.passes}, {finished} of {len(checkpoint.states)} fits done"
    progress(StageStarted("resume", f"{path} is unfinished: {detail}"))


def _require_memory(config: JobConfig, source: Source, checkpoint: Checkpoint) -> None:
    """Raise :class:`UserError` if the waves of an unfinished run do not fit the memory limit."""
    candidates = candidates_of(checkpoint.states)
    shape = shape_found(source, config, checkpoint.data_summary, candidates)
    machine = machine_of(config, shape)
    needed = projected_bytes(shape, machine, candidates, config.search.n_init, checkpoint.waves)
    if needed > machine.memory_limit:
        raise UserError(
            f"cluster.memory_limit is {machine.memory_limit / 2**20:,.0f} MiB, and the unfinished run of "
            f"{config.output.store} was planned with more: going on needs {needed / 2**20:,.0f} MiB. Raise "
            "cluster.memory_limit, or start anew with --fresh."
        )


def _require_unchanged(config: JobConfig, source: Source, header: dict[str, Any], progress: Progress) -> None:
    """If the data's files have another time than the store knows, compare what is in them."""
    path = config.output.store
    known = store.open_store(path, unfinished=True).data
    if known["modified"] == header["modified"]:
        return
    progress(StageStarted("compare", "the data's files have another time than when the run began"))
    with _computing(config, source):
        data_summary = read_data_summary(config, source)
    require_same_contents(path, source.columns, known["contents"], contents_of(data_summary))
    store.record_data(path, {**known, "modified": header["modified"]})


def seed(config: JobConfig, progress: Progress) -> None:
    """Pass 0, and the starts of all candidates; they are the first checkpoint."""
    seed_with(config, lambda source, found, data_summary: every_start(config, data_summary), progress)


def every_start(config: JobConfig, data_summary: DataSummary, candidates: Sequence[Candidate] = ()) -> list[State]:
    """The starts of some candidates, or of all that the configuration asks for."""
    search = config.search
    return first_states(
        candidates or _candidates(config),
        data_summary,
        init_params=search.init_params,
        n_init=search.n_init,
        random_state=generator_copies(search.random_state),
        reg_covar=settings_of(config, data_summary).reg_covar,
    )


def seed_with(
    config: JobConfig, starts: Callable[[Source, DataSummary, DataSummary], list[State]], progress: Progress
) -> None:
    """Pass 0, and the starts that follow from the source, what pass 0 found, and that in the units of the fit."""
    progress(StageStarted("seed", "reading the data once, then the starts"))
    source = open_job(config)
    header = header_of(source)  # as it is before the first row is read
    path = config.output.store
    with _computing(config, source):
        found = read_data_summary(config, source)
        notes = column_notes(found, source.columns)
        _tell(notes, progress)
        if config.data.scale == "standard":
            require_varying(found, source.columns)
        contents = contents_of(found)
        data_summary = scaled_summary(found, preparation_of(config.data, contents))
        waves = _plan(config, shape_found(source, config, data_summary))
        states = starts(source, found, data_summary)
        if not any(state.usable for state in states):  # before anything is saved that another config would meet
            raise UserError(
                f"none of the {len(states)} fits can begin with n_samples = {data_summary.n_rows}: "
                f"{states[0].status.remedy}"
            )
        waves = waves if sum(waves) == len(states) else (1,) * len(states)
    store.record_data(
        path,
        {
            **header,
            "chunks": sizes_of(config, source),
            "contents": contents,
            "missing": missing_of(found, source.columns),
            "notes": [*source.notes, *notes],
        },
    )
    step = -(-len(data_summary.sample) // DRAWN_ROWS)
    data_summary = replace(data_summary, sample=data_summary.sample[::step])
    store.save_checkpoint(path, Checkpoint(states, data_summary, 1, waves))


def fit_wave(config: JobConfig, wave: int, progress: Progress) -> None:
    """EM of one wave's states, from the last checkpoint until none of them is running."""
    path = config.output.store
    checkpoint = store.load_checkpoint(path)
    first = sum(checkpoint.waves[:wave])
    part = slice(first, first + checkpoint.waves[wave])
    if all(state.status is not Status.RUNNING for state in checkpoint.states[part]):
        return
    fits = checkpoint.waves[wave]
    count = "" if len(checkpoint.waves) == 1 else f", wave {wave + 1} of {len(checkpoint.waves)}"
    progress(StageStarted("fit", f"{fits} fit{'s' * (fits != 1)}{count}, from pass {checkpoint.passes}"))
    source = open_job(config)
    settings = settings_of(config, checkpoint.data_summary)
    keeper = Keeper(path, checkpoint, part, settings, config.search.criterion, progress)
    with _computing(config, source):
        collect = partial(collect_statistics, _fitted_rows(config, source, checkpoint), checkpoint.data_summary)
        states = checkpoint.states[part]
        states = loop.run(states, collect, checkpoint.data_summary.total_weight, settings, keeper.after_pass)
    keeper.save(states)


def select(config: JobConfig, progress: Progress) -> str:
    """The closing pass: criteria of all candidates, and the choice; returns the winner's name."""
    progress(StageStarted("select", "the closing pass"))
    checkpoint = store.load_checkpoint(config.output.store)
    source, preparation = open_job(config), _preparation(config)
    with _computing(config, source):
        rows = _fitted_rows(config, source, checkpoint)
        outcomes = in_grid_order(evaluate_states(rows, checkpoint.data_summary, checkpoint.states))
    best_starts = [best_outcome(starts).state for starts in by_candidate(outcomes).values()]
    store.write_criteria(config.output.store, outcomes)
    fitted = [state for state in best_starts if state.usable]
    store.write_models(config.output.store, fitted, source.columns, preparation.center, preparation.scale)
    return choose(outcomes, config.search.criterion).state.candidate.name


def extend(config: JobConfig, best: str, progress: Progress) -> bool:
    """Widen the grid if the winner lies at an end of it; whether it was.

    It takes pass 0 once more, for its sample of rows; the starts of the new candidates are the next checkpoint.
    """
    path = config.output.store
    checkpoint, source = store.load_checkpoint(path), open_job(config)
    if len(candidates_of(checkpoint.states)) > len(store.read_criteria(path)):  # an earlier try came so far
        return True
    grid = wider_grid(config, source, checkpoint, best)
    if not grid.candidates:
        store.update_attributes(path, widening={"times": checkpoint.widened, "stopped": grid.reason})
        return False
    progress(StageStarted("extend", grid.reason))
    with _computing(config, source):
        found = read_data_summary(config, source)
        known = store.open_store(path, unfinished=True).data["contents"]
        require_same_contents(path, source.columns, known, contents_of(found))
        states = every_start(config, scaled_summary(found, _preparation(config)), grid.candidates)
    after = replace(
        checkpoint,
        states=[*checkpoint.states, *states],
        passes=checkpoint.passes + 2,  # the closing pass, and this one
        waves=(*checkpoint.waves, *grid.waves),
        widened=checkpoint.widened + 1,
    )
    store.save_checkpoint(path, after)
    return True


def write_rows(config: JobConfig, best: str, progress: Progress) -> None:
    """One pass that writes what the configuration asks about each row, or the rest of one that was stopped."""
    path = config.output.store
    if not config.output.row_outputs:
        return
    source = open_job(config)
    rows = readable(source)
    lengths = rows.lengths if source.n_rows is not None else store.load_checkpoint(path).data_summary.read_rows
    question = Question(
        model=store.read_model(path, best),
        drop=config.data.missing == "drop",
        names=config.output.row_outputs,
        mean=mean_log_density(path, best),
        quantile=config.output.anomaly_quantile,
    )
    writer = find_writer(config, source, plan_of(config, question, source, lengths), path)
    answer_source(config, source, rows, question, writer, progress)


def finish(config: JobConfig, best: str, seconds: float, progress: Progress) -> None:
    """Mark the store complete, as the last thing, if the data are still those that pass 0 read."""
    source = open_job(config)
    _require_unchanged(config, source, header_of(source), progress)
    checkpoint = store.load_checkpoint(config.output.store)
    data_summary = checkpoint.data_summary
    keep_sample(config.output.store, best)
    after_fit = 2 if config.output.row_outputs else 1  # the closing pass, and the answers
    store.complete(
        config.output.store,
        best=best,
        passes=checkpoint.passes + after_fit,
        bytes_read=_reads(source, checkpoint, after_fit) * source.bytes_per_pass,
        n_rows=data_summary.n_rows,
        total_weight=data_summary.total_weight,
        seconds=seconds,
    )


def _reads(source: Source, checkpoint: Checkpoint, after_fit: int) -> int:
    """How often the data were read, for ``after_fit`` passes after the last fit."""
    seeding = 1 + checkpoint.widened
    if is_held(source):  # once by each stage: seed, the waves, the choice between two grids, and those after them
        return seeding + checkpoint.widened + len(checkpoint.waves) + after_fit
    counting = seeding * source.is_counted
    if keeps_rows():  # by pass 0, for the workers that keep them, and for the answers
        return seeding + counting + after_fit
    return checkpoint.passes + counting + after_fit


def draw(config: JobConfig, progress: Progress) -> None:
    """The report, beside the complete store."""
    progress(StageStarted("draw"))
    write_report(config.output.store)


# -- parts of the stages -----------------------------------------------------------------------------------------


def _tell(notes: Sequence[str], progress: Progress) -> None:
    """Tell what a user should know about the data."""
    for note in notes:
        progress(StageStarted("note", note))


def _preparation(config: JobConfig) -> Preparation:
    """How rows are prepared, by what pass 0 found."""
    data = store.open_store(config.output.store, unfinished=True).data
    return preparation_of(config.data, data["contents"])


def settings_of(config: JobConfig, data_summary: DataSummary) -> Settings:
    """When EM stops, and what it adds to covariances."""
    search = config.search
    return settings_for(data_summary, search.tol, search.max_iter, search.reg_covar, search.accelerate)


@contextmanager
def _computing(config: JobConfig, source: Source) -> Iterator[None]:
    """Compute where the configuration says."""
    with computing(config, source, shape_of(source, config)):
        yield


def _fitted_rows(config: JobConfig, source: Source, checkpoint: Checkpoint) -> Rows:
    """The rows as they are fitted, kept by the workers of a cluster if there is room."""
    rows = hold_prepared(config, source, _preparation(config), checkpoint.data_summary)
    candidates = candidates_of(checkpoint.states)
    shape = shape_found(source, config, checkpoint.data_summary, candidates)
    needed = projected_bytes(shape, machine_of(config, shape), candidates, config.search.n_init, checkpoint.waves)
    return keep(config, rows, shape, needed)


def _plan(config: JobConfig, shape: Shape) -> tuple[int, ...]:
    """The waves that the fits are cut into."""
    return plan_waves(shape, machine_of(config, shape), _candidates(config), config.search.n_init)


def _candidates(config: JobConfig) -> list[Candidate]:
    """The pairs of a covariance type and a number of components."""
    return check_candidates(config.search.n_components, config.search.covariance_types)
