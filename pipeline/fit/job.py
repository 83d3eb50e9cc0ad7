"""A job: open the data, seed the candidates, fit them, choose one, write the outputs of each row, report.

Each stage is a plain function of the configuration and of what the store holds, so that any orchestrator can call it
as a task, and a job that was stopped resumes from its last checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

from gmm_dask.em import loop
from gmm_dask.em.loop import Status
from gmm_dask.errors import ChangedRowsError, FaultError, LockedError, UserError
from gmm_dask.formatting import counted
from gmm_dask.merging import merge_sampled
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.rows import sampled_rows
from gmm_dask.passes.statistics import collect_statistics
from gmm_dask.selection.grid import in_grid_order
from gmm_dask.selection.outcomes import best_outcome, by_candidate, choose, evaluate_states
from pipeline import store
from pipeline.compilation import kernels_made, kernels_of_job
from pipeline.config.grouping import require_groupable
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.config.templates import is_dated
from pipeline.dask_clusters import computing, connected
from pipeline.fit.cache_choice import choose_cache
from pipeline.fit.checkpointer import CHECKPOINT_SECONDS, Checkpointer
from pipeline.fit.chunking import open_job
from pipeline.fit.extend import plan_extension
from pipeline.fit.fitted_rows import fitted_rows, plan_of, preparation_in, reading, shape_of
from pipeline.fit.identity import continued_names, identify
from pipeline.fit.initialization import FittedRows, em_settings, initial_states, seed
from pipeline.fit.metrics import run_metrics
from pipeline.fit.plan import candidates_of, closing_passes, data_shape, grid_of, plan_fits
from pipeline.fit.resample import resample
from pipeline.metrics import require_folder, write_metrics
from pipeline.progress import (
    Message,
    Progress,
    StageStarted,
    report_notes,
    report_removed,
    silent,
)
from pipeline.report import PAGE, clear_report, has_report, write_report
from pipeline.score.row_pass import (
    RowRequest,
    plan_rows,
    unprepared_rows,
    write_row_outputs,
)
from pipeline.score.writers import clear_rows, read_keys, require_own_rows, row_writer
from pipeline.sources import Source
from pipeline.sources.cache import caching, make_cache
from pipeline.sources.fingerprint import contents_of, header_of, require_same_contents
from pipeline.sources.overlap import require_apart
from pipeline.sources.retries import repeated_reads_reported
from pipeline.sources.rows import (
    fits_in_memory,
    read_data_summary,
    require_same_chunks,
    source_sample,
    with_whole_sample,
)
from pipeline.stages import Stage, unchanged
from pipeline.store import Checkpoint, GroupsResult, Result, StoreStatus, Widening, open_result
from pipeline.store.arrays import writing
from pipeline.store.paths import (
    PassedOver,
    last_complete,
    placed,
    report_folder,
    reported_once,
    require_no_group_around,
    results_of,
    with_store,
    working_path,
)
from pipeline.store.retention import remove_old_stores


@dataclass(frozen=True, eq=False, kw_only=True)
class _Finished(Result):
    """A complete result store, read as the run left it.

    Attributes
    ----------
    run_seconds : float
        Duration of this run, its report included.
    reused : bool
        Whether the store was complete before, so that nothing was computed.
    """

    run_seconds: float
    reused: bool

    @property
    def report(self) -> str:
        """Path of the folder for its report."""
        return report_folder(self.store)

    @property
    def page(self) -> str | None:
        """Path of the report's page, if it is there."""
        return f"{self.report}/{PAGE}" if has_report(self.store) else None


@dataclass(frozen=True, eq=False, kw_only=True)
class Summary(_Finished):
    """What a run leaves that makes one search."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupsSummary(GroupsResult, _Finished):
    """What a run leaves that makes a search for each group (``data.by``)."""


def read_summary(path: str, run_seconds: float, reused: bool) -> Summary | GroupsSummary:
    """Read all of a complete store."""
    found = open_result(path)
    kind = Summary if found.by is None else GroupsSummary
    return kind(**vars(found), run_seconds=run_seconds, reused=reused).loaded(just_completed=not reused)


@hiding_secrets
def run(
    config: JobConfig,
    *,
    fresh: bool = False,
    progress: Progress = silent,
    as_task: Callable[[Stage], Stage] = unchanged,
    initialize: Stage = seed,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    lease_seconds: float = store.LEASE_SECONDS,
) -> Summary | GroupsSummary:
    """Run a job to its end, or resume one that was stopped.

    Parameters
    ----------
    config : JobConfig
    fresh : bool
        Start over where a store of this job exists. A complete one is replaced when the new one is complete.
    progress : callable
        Called with each event: stages, passes, chunks.
    as_task : callable
        Wraps each stage before it is called, as an orchestrator needs it.
    initialize : callable
        The stage that saves the first checkpoint.
    checkpoint_seconds : float
        Between two checkpoints of a fit, at least.
    lease_seconds : float
        For which a store on an object store is held if the run does not renew its lease.

    Returns
    -------
    Summary, or GroupsSummary of a search for each group

    Raises
    ------
    UserError
        If the data, the configuration or the store cannot be used, or lie within each other; if no candidate could be
        fitted.
    """
    begin, template = time.monotonic(), config
    require_groupable(config)
    if initialize is seed:  # a refresh has a stage of its own
        report_notes(_notes_on_flow(config), progress)
    passed_over = reported_once(progress)
    config = placed(config, fresh=fresh, passed_over=passed_over)
    path = config.output.store
    require_apart(config.data.source, results_of(path))
    require_no_group_around(path)
    require_folder(config.output.metrics)
    held = store.lock(path, seconds=lease_seconds, waiting=lambda text: progress(Message("lease", text)))
    reported = repeated_reads_reported(progress)
    with held, writing(path, disk_only=True), connected(config.cluster, progress), reported:
        put_replacement_in_place(path)
        working = with_store(config, working_path(config, fresh=fresh))
        if working.output.store != path:
            require_own_rows(path)  # they are replaced in the end
        of_groups = _stages_of_groups() if config.data.by is not None else None
        found = as_task(of_groups.prepare if of_groups else prepare)(working, fresh, progress)
        if found is not StoreStatus.COMPLETE:
            with (
                _without_empty_store(working.output.store),
                _noticing_changes(working),
                _kernels_made(working, progress),
            ):
                if of_groups:
                    of_groups.run_groups(working, begin, checkpoint_seconds, progress, as_task)
                else:
                    earlier = partial(_last_store, template, passed_over, progress)
                    is_new = found is StoreStatus.NEW
                    _run_search(
                        working, initialize if is_new else None, earlier, begin, checkpoint_seconds, progress, as_task
                    )
            put_replacement_in_place(path)
        if config.output.report and not has_report(path):
            as_task(draw)(config, progress)
    summary = read_summary(path, time.monotonic() - begin, reused=found is StoreStatus.COMPLETE)
    if config.output.metrics is not None:
        write_metrics(config.output.metrics, config.name, "run", run_metrics(summary))
    if config.output.keep is not None and is_dated(template.output.store):  # a refresh removes them itself
        report_removed(remove_old_stores(template, config.output.keep), progress)
    return summary


def _notes_on_flow(config: JobConfig) -> list[str]:
    if config.schedule is None or config.schedule.flow == "bic-sweep":
        return []
    return [
        f"schedule.flow: 'gmm-dask serve' runs the flow {config.schedule.flow}; this is a run of bic-sweep, which fits "
        "all candidates"
    ]


def _stages_of_groups() -> ModuleType:
    from pipeline.fit.groups import job  # few jobs need it

    return job


def _run_search(
    config: JobConfig,
    initialize: Stage | None,
    earlier: Callable[[], str | None],
    begin: float,
    checkpoint_seconds: float,
    progress: Progress,
    as_task: Callable[[Stage], Stage],
) -> None:
    """Search over all rows, label them and complete the store; without ``initialize`` an earlier run has begun."""
    with caching(config):
        is_cached = _begin_cache(config, progress)
        if initialize is not None:
            as_task(initialize)(config, progress)
            if is_cached and _files_have_changed(config):  # later passes do not see them
                raise ChangedRowsError("their files have other sizes or times now")
        best = _search(config, earlier, checkpoint_seconds, progress, as_task)
        _report_identity(config.output.store, progress)
        as_task(merge)(config, best)
        as_task(write_rows)(config, best, progress)
        as_task(finish)(config, best, time.monotonic() - begin, progress)


@contextmanager
def _kernels_made(config: JobConfig, progress: Progress) -> Iterator[None]:
    """Compile what the rows take."""
    with kernels_made(config, partial(kernels_of_job, config, open_job(config)), progress):
        yield


def _begin_cache(config: JobConfig, progress: Progress) -> bool:
    """Make the cache of a run that is to have one, and report why; returns whether it has."""
    choice = choose_cache(config, open_job(config))
    if choice.n_bytes:
        make_cache(config)
    if choice.text:
        report_notes([f"{choice.text} (data.cache)"], progress)
    return choice.n_bytes > 0


def _search(
    config: JobConfig,
    earlier: Callable[[], str | None],
    checkpoint_seconds: float,
    progress: Progress,
    as_task: Callable[[Stage], Stage],
) -> str:
    """Fit the waves and choose, until the grid is wide enough; returns the winner's name.

    ``earlier`` finds the job's last complete store.
    """
    done = 0
    while True:
        waves = len(store.load_checkpoint(config.output.store).waves)
        for wave in range(done, waves):
            as_task(fit_wave)(config, wave, checkpoint_seconds, progress)
        best: str = as_task(select)(config, earlier(), progress)
        if not (config.search.extend and as_task(extend)(config, best, progress)):
            break
        done = waves
    if config.search.resamples:
        as_task(resample)(config, best, checkpoint_seconds, progress)
    return best


def _last_store(template: JobConfig, passed_over: PassedOver, progress: Progress) -> str | None:
    """Return the path of the job's last complete store, if there is one that can be read."""
    try:
        found = last_complete(template, passed_over)
    except store.DamagedError as error:  # --fresh replaces it
        report_notes([f"the components are numbered from 0 on: {error}"], progress)
        return None
    return None if found is None else found.store


def _report_identity(path: str, progress: Progress) -> None:
    """Report which components continue those of an earlier store, if there is one."""
    identity = store.open_result(path, unfinished=True).identity
    if identity and identity.note:
        progress(Message("components", identity.note))


@contextmanager
def _without_empty_store(path: str) -> Iterator[None]:
    """Remove the store of a run that is refused before it has saved anything: there is nothing to resume."""
    try:
        yield
    except LockedError:  # the store is another run's now
        raise
    except UserError:
        store.remove_empty(path)
        raise


@contextmanager
def _noticing_changes(config: JobConfig) -> Iterator[None]:
    """Where a stage fails because somebody wrote to the data meanwhile, say so, whatever error that led to."""
    try:
        yield
    except FaultError:
        raise
    except Exception as error:
        if not (isinstance(error, ChangedRowsError) or _files_have_changed(config)):
            raise
        found = error.difference if isinstance(error, ChangedRowsError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"data.source: {config.data.shown} was changed while it was read: {found.rstrip('.')}. Run the job again "
            "when nobody writes to the data; with --fresh if they stay as they are now."
        ) from error


def _files_have_changed(config: JobConfig) -> bool:
    known = store.open_result(config.output.store, unfinished=True).data
    try:
        return bool(header_of(open_job(config))["files"] != known["files"])
    except UserError:  # they could be opened before
        return True


def put_replacement_in_place(path: str) -> None:
    """Let a complete replacement be the store, with its rows and without the report of the one before."""
    new = store.replacement_of(path)
    if store.is_store(new):
        try:
            found = store.open_result(new, unfinished=True)
        except store.DamagedError:  # it is no replacement
            return
        if not found.is_complete:
            return
        require_own_rows(path)
        store.update_attributes(new, config={**found.config, "output": {**found.config["output"], "store": path}})
        clear_report(path)
    elif store.place_of(new).exists():
        return
    store.put_in_place(path)


# -- before the fits ---------------------------------------------------------------------------------------------


def prepare(config: JobConfig, fresh: bool, progress: Progress) -> StoreStatus:
    """Read the data's header, and make the store or find what an earlier run left of it.

    What cannot fit the memory limit is refused here, before a row is read.
    """
    source = open_job(config, fresh=fresh, first=True)
    read_keys(config, source)
    header = header_of(source)
    path = config.output.store
    report_notes((*config.notes, *source.notes), progress)
    if fresh or store.find_store(path) is StoreStatus.NEW:
        plan_fits(config, source, grid_of(config))
    found = store.prepare_store(path, config.model_dump(mode="json"), header, fresh)
    if found is StoreStatus.NEW:
        clear_report(path)
        clear_rows(path)
    if found is StoreStatus.UNFINISHED:
        _check_checkpoint(config, source, progress)
    if found is not StoreStatus.NEW:
        _require_unchanged(config, source, header, progress)
    elif store.open_result(path, unfinished=True).attempts > 1:
        progress(Message("resume", f"{path} is unfinished and has no checkpoint: starting over"))
    return found


def _check_checkpoint(config: JobConfig, source: Source, progress: Progress) -> None:
    """Report where an unfinished run stands, and require that the rest of it can run.

    Raises
    ------
    UserError
        If the data are in other chunks now, or the waves of the run do not fit the memory limit.
    """
    path = config.output.store
    checkpoint = store.load_checkpoint(path)
    # the workers of a cluster say what memory they have
    with computing(config, source, shape_of(config, source, checkpoint)):
        require_same_chunks(path, source, checkpoint.data_summary)
        plan = plan_of(config, source, checkpoint)
    limit, needed = plan.machine.memory_limit, plan.needed_bytes
    if needed > limit:
        raise UserError(
            f"cluster.memory_limit is {limit / 2**20:,.0f} MiB, and the unfinished run of {path} was planned with "
            f"more: to resume it takes {needed / 2**20:,.0f} MiB. Raise cluster.memory_limit, or start over with "
            "--fresh."
        )
    finished = sum(state.status is not Status.RUNNING for state in checkpoint.states)
    detail = f"{path} after pass {checkpoint.passes}, {finished} of {counted(len(checkpoint.states), 'fit')} done"
    progress(Message("resume", detail))


def _require_unchanged(config: JobConfig, source: Source, header: dict[str, Any], progress: Progress) -> None:
    """If the data's files are not those that the store knows, compare their contents by another pass 0."""
    path = config.output.store
    known = store.open_result(path, unfinished=True).data
    if known["files"] == header["files"]:
        return
    progress(Message("compare", "the data files were changed after the run began: reading them to compare"))
    with reading(config, source, data_shape(config, source)):
        data_summary = read_data_summary(config, source)
    require_same_contents(path, source.columns, known["contents"], contents_of(data_summary))
    store.update_attributes(path, data={**known, "files": header["files"]})


# -- the fits, and the choice ------------------------------------------------------------------------------------


def fit_wave(config: JobConfig, wave: int, checkpoint_seconds: float, progress: Progress) -> None:
    """Run EM on the states of one wave, from the last checkpoint until none of them is running."""
    path = config.output.store
    checkpoint = store.load_checkpoint(path)
    first, n_fits = sum(checkpoint.waves[:wave]), checkpoint.waves[wave]
    part = slice(first, first + n_fits)
    states = checkpoint.states[part]
    if all(state.status is not Status.RUNNING for state in states):
        return
    count = "" if len(checkpoint.waves) == 1 else f", wave {wave + 1} of {len(checkpoint.waves)}"
    progress(StageStarted("fit", f"{counted(n_fits, 'fit')}{count}, after pass {checkpoint.passes}"))
    source, data_summary = open_job(config), checkpoint.data_summary
    settings, refits = em_settings(config, data_summary), plan_of(config, source, checkpoint).refits
    checkpointer = Checkpointer(
        config=config,
        source=source,
        checkpoint=checkpoint,
        part=part,
        settings=settings,
        progress=progress,
        seconds=checkpoint_seconds,
        closing_passes=closing_passes(config) + bool(refits),  # one sums resamples up
        later_waves=refits.waves if refits else (),
    )
    with computing(config, source, shape_of(config, source, checkpoint)):
        collect = partial(collect_statistics, fitted_rows(config, source, checkpoint), data_summary)
        states = loop.run(states, collect, data_summary.total_weight, settings, checkpointer.after_pass)
    checkpointer.save(states)


def select(config: JobConfig, earlier: str | None, progress: Progress) -> str:
    """Compute the criteria of all candidates in one pass, and choose; returns the winner's name.

    Its components have the numbers that they have in the ``earlier`` store of the job, if there is one.
    """
    progress(StageStarted("select", "reading the data once for the criteria of all candidates"))
    path = config.output.store
    checkpoint = store.load_checkpoint(path)
    source, preparation = open_job(config), preparation_in(config)
    with reading(config, source, shape_of(config, source, checkpoint)):
        rows = fitted_rows(config, source, checkpoint)
        inference = em_settings(config, checkpoint.data_summary).inference
        outcomes = in_grid_order(evaluate_states(rows, checkpoint.data_summary, checkpoint.states, inference))
    best_starts = [best_outcome(starts).state for starts in by_candidate(outcomes).values()]
    store.write_criteria(path, outcomes)
    fitted = [state for state in best_starts if state.usable]
    try:
        best = choose(outcomes, config.search.criterion).state
    except UserError as error:
        raise UserError(f"{error} Then run it with --fresh: the store has these fits.") from None
    result = store.open_result(path, unfinished=True)
    identity, numbers = identify(result, best, earlier, preparation, checkpoint.data_summary)
    name = best.candidate.name
    store.write_models(
        path,
        fitted,
        source.columns,
        preparation.transform,
        {name: numbers},
        inference,
        log_scale=checkpoint.data_summary.log_scale,
    )
    store.update_attributes(path, identity=identity)
    store.update_attributes(path, names=continued_names(store.open_result(path, unfinished=True)))
    return name


def extend(config: JobConfig, best: str, progress: Progress) -> bool:
    """Extend the grid if the winner is at an end of it; returns whether it was extended.

    Pass 0 is run once more, for its sample of rows; the initial states of the new candidates are the next checkpoint.
    """
    path = config.output.store
    checkpoint, source = store.load_checkpoint(path), open_job(config)
    result = store.open_result(path, unfinished=True)
    if len(candidates_of(checkpoint.states)) > len(result.criteria):  # a run was stopped after the checkpoint
        return True
    extension = plan_extension(config, source, checkpoint, best)
    if not extension.candidates:
        store.update_attributes(path, widening=Widening(checkpoint.widened, extension.reason))
        return False
    progress(Message("extend", extension.reason))
    with reading(config, source, data_shape(config, source, candidates=extension.candidates)):
        found = read_data_summary(config, source)
        require_same_contents(path, source.columns, result.data["contents"], contents_of(found))
        preparation = preparation_in(config)
        data_summary = with_whole_sample(checkpoint.data_summary, found, preparation.transform)
        rows = FittedRows(config, source, preparation, data_summary, result.noise_box)
        states = initial_states(config, data_summary, rows, extension.candidates, progress)
    after = replace(
        checkpoint,
        states=[*checkpoint.states, *states],
        passes=checkpoint.passes + 2 + rows.passes,  # that for the criteria, this pass 0, and those of the starts
        waves=(*checkpoint.waves, *extension.waves),
        widened=checkpoint.widened + 1,
    )
    store.save_checkpoint(path, after)
    return True


def merge(config: JobConfig, best: str) -> None:
    """Merge the chosen model's components into clusters, by the checkpoint's sample of rows."""
    path = config.output.store
    model = store.open_result(path, unfinished=True).model(best)
    found = store.load_checkpoint(path).data_summary
    tree = merge_sampled(found.sample, found.sample_weights, model.model)
    store.write_cluster_tree(path, tree, model.numbers)


# -- after the fits ----------------------------------------------------------------------------------------------


def write_rows(config: JobConfig, best: str, progress: Progress) -> None:
    """Write the row outputs that the configuration requests in one pass, or the rest of one that was stopped."""
    path = config.output.store
    if not config.output.row_outputs:
        return
    source = open_job(config)
    rows = unprepared_rows(source)
    lengths = rows.lengths
    if any(map(math.isnan, lengths)):
        lengths = store.load_checkpoint(path).data_summary.read_rows
    result = store.open_result(path, unfinished=True)
    request = RowRequest(
        model=result.model(best),
        drop=config.data.drops,
        gaps=config.data.has_gaps,
        names=config.output.row_outputs,
        fit_mean=result.mean_log_density(best),
        clusters=result.clusters_of(best) if config.output.clusters == "merged" else None,
        quantile=config.output.anomaly_quantile,
    )
    writer = row_writer(config, source, plan_rows(config, request, source, lengths), path)
    write_row_outputs(config, source, rows, request, writer, progress)
    store.add_bytes_read(path, source.take_bytes_read())


def finish(config: JobConfig, best: str, seconds: float, progress: Progress) -> None:
    """Mark the store complete, as the last thing, if the data are still those that pass 0 read."""
    source, path = open_job(config), config.output.store
    _require_unchanged(config, source, header_of(source), progress)
    checkpoint = store.load_checkpoint(path)
    data_summary = checkpoint.data_summary
    _store_sample(path, best, source, checkpoint)
    store.complete(
        path,
        best=best,
        names=continued_names(store.open_result(path, unfinished=True)),  # some were given during the run
        passes=checkpoint.passes + closing_passes(config),
        n_rows=data_summary.n_rows,
        total_weight=data_summary.total_weight,
        seconds=seconds,
    )


def _store_sample(path: str, best: str, source: Source, checkpoint: Checkpoint) -> None:
    """Write the checkpoint's sample of rows, with the chosen model's labels, before the checkpoint is removed."""
    data_summary, model = checkpoint.data_summary, store.open_result(path, unfinished=True).model(best)
    found = predict_rows(sampled_rows(data_summary.sample), *model.model, ["label", "responsibility"])
    # the chunks of the data as they are stored: rows in memory are cut into others
    chunk_rows = source.chunk_rows if fits_in_memory(source) else max(data_summary.chunk_rows)
    sample = store.Sample(
        rows=source_sample(data_summary, model.transform),
        label=found["label"],
        uncertainty=1.0 - found["responsibility"].max(axis=1),
        n_chunks=int(source.array.numblocks[0]),
        chunk_rows=chunk_rows,
    )
    store.write_sample(path, sample, model.numbers)


def draw(config: JobConfig, progress: Progress) -> None:
    """Write the report, beside the complete store."""
    progress(StageStarted("draw", "the report"))
    write_report(config.output.store)
