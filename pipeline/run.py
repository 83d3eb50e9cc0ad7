"""The job: open the data, seed the candidates, fit them, choose one, label the rows, draw.

Each stage is a plain function of the configuration and what the store holds, so that any orchestrator can call it
as a task, and a job that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import pandas as pd

from gmm_dask import em
from gmm_dask.answers import answer_rows
from gmm_dask.criteria import best_outcome, by_candidate, choose
from gmm_dask.em import Settings, State, Status
from gmm_dask.profile import Profile
from gmm_dask.scan import Rows, as_rows, collect_statistics, one_blas_thread, profile_rows
from gmm_dask.search import check_candidates, evaluate_states, generator_copies
from gmm_dask.seeding import start_states
from pipeline import pictures, store
from pipeline.config import JobConfig
from pipeline.progress import PassDone, Progress, StageStarted, silent
from pipeline.sources import Source, open_source
from pipeline.store import StoreStatus

Stage = Callable[..., Any]

# data of up to this many bytes are read once a stage and held in memory
HELD_BYTES = 16 << 20
# a checkpoint is written after a pass, but not more often than this
CHECKPOINT_SECONDS = 10.0
# rows in the picture of the clusters
DRAWN_ROWS = 2000


@dataclass(frozen=True, eq=False)
class Summary:
    """What a job ends with.

    Attributes
    ----------
    store, report : str
        Paths of the result store and of the folder with its pictures.
    table : DataFrame
        A row a candidate, as :attr:`gmm_dask.GaussianMixtureSearch.results_` has it.
    best : str
        Name of the winner's model, such as ``tied-k3``.
    criterion : str
    weights : tuple of float
        The winner's mixing weights, the largest first.
    mean_log_likelihood : float
        The winner's log-likelihood a row.
    rows : dict
        Shape of each array that the store holds about the rows.
    passes : int
        Reads of the data.
    seconds : float
        That this run took.
    reused : bool
        Whether the store was complete already and nothing was computed.
    """

    store: str
    report: str
    table: pd.DataFrame
    best: str
    criterion: str
    weights: tuple[float, ...]
    mean_log_likelihood: float
    rows: dict[str, tuple[int, ...]]
    passes: int
    seconds: float
    reused: bool


def unchanged(stage: Stage) -> Stage:
    """Call a stage as it is (the default of :func:`run`)."""
    return stage


def run(
    config: JobConfig,
    *,
    fresh: bool = False,
    progress: Progress = silent,
    as_task: Callable[[Stage], Stage] = unchanged,
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

    Returns
    -------
    Summary

    Raises
    ------
    UserError
        If the data, the configuration or the store cannot be used, or no candidate could be fitted.
    """
    begin = time.monotonic()
    path = config.output.store
    with store.lock(path):
        found = as_task(prepare)(config, fresh)
        if found is not StoreStatus.COMPLETE:
            if found is StoreStatus.NEW:
                as_task(seed)(config, progress)
            as_task(fit)(config, progress)
            best = as_task(select)(config, progress)
            as_task(write_rows)(config, best, progress)
            as_task(draw)(config, best, progress)
            as_task(finish)(config, best)
    return summarise(config, time.monotonic() - begin, reused=found is StoreStatus.COMPLETE)


# -- the stages --------------------------------------------------------------------------------------------------


def prepare(config: JobConfig, fresh: bool) -> StoreStatus:
    """Read the data's header, and make the store or find what an earlier run left of it."""
    source = open_source(config.data)
    data = {
        "path": source.path,
        "kind": source.kind,
        "columns": list(source.columns),
        "n_rows": source.n_rows,
        "bytes_per_pass": source.bytes_per_pass,
    }
    return store.prepare_store(config.output.store, config.model_dump(mode="json"), data, fresh)


def seed(config: JobConfig, progress: Progress) -> None:
    """Pass 0, and the starts of all candidates; they are the first checkpoint."""
    progress(StageStarted("seed"))
    source, rows = _open_rows(config)
    search = config.search
    with one_blas_thread():
        profile = profile_rows(rows, search.random_state, source.columns)
        states = start_states(
            check_candidates(search.n_components, search.covariance_types),
            profile.sample,
            profile.sample_weights,
            init_params=search.init_params,
            n_init=search.n_init,
            random_state=generator_copies(search.random_state),
            reg_covar=search.reg_covar,
        )
    step = -(-len(profile.sample) // DRAWN_ROWS)
    store.save_states(config.output.store, states, replace(profile, sample=profile.sample[::step]), passes=1)


def fit(config: JobConfig, progress: Progress) -> None:
    """EM from the last checkpoint until no candidate is running."""
    states, profile, passes = store.load_states(config.output.store)
    progress(StageStarted("fit", f"{len(states)} fits, from pass {passes}"))
    _, rows = _open_rows(config)
    search = config.search
    saved = time.monotonic()

    def after_pass(states: list[State]) -> None:
        nonlocal passes, saved
        passes += 1
        progress(_pass_done(states, passes, profile.n_rows))
        if time.monotonic() - saved >= CHECKPOINT_SECONDS:
            store.save_states(config.output.store, states, profile, passes)
            saved = time.monotonic()

    settings = Settings(search.tol, search.max_iter, search.reg_covar)
    with one_blas_thread():
        collect = partial(collect_statistics, rows, profile)
        states = em.run(states, collect, profile.total_weight, settings, after_pass)
    store.save_states(config.output.store, states, profile, passes)


def select(config: JobConfig, progress: Progress) -> str:
    """The closing pass: criteria of all candidates, and the choice; returns the winner's name."""
    progress(StageStarted("select"))
    states, profile, _ = store.load_states(config.output.store)
    source, rows = _open_rows(config)
    with one_blas_thread():
        outcomes = evaluate_states(rows, profile, states)
    best_starts = [best_outcome(starts).state for starts in by_candidate(outcomes).values()]
    store.write_criteria(config.output.store, outcomes)
    store.write_models(config.output.store, [state for state in best_starts if state.usable], source.columns)
    return store.model_name(choose(outcomes, config.search.criterion).state)


def write_rows(config: JobConfig, best: str, progress: Progress) -> None:
    """One pass that writes what the configuration asks about each row."""
    output = config.output
    wanted = wanted_answers(config)
    if not wanted:
        return
    progress(StageStarted("write rows", ", ".join(wanted)))
    _, profile, _ = store.load_states(output.store)
    state = store.read_model(output.store, best)
    _, rows = _open_rows(config)
    family, parameters = state.model
    with one_blas_thread():
        answers = answer_rows(_known_chunks(rows, profile), family, parameters, wanted)
        store.write_rows(output.store, answers)


def draw(config: JobConfig, best: str, progress: Progress) -> None:
    """The pictures, beside the store."""
    progress(StageStarted("draw"))
    path, criterion = config.output.store, config.search.criterion
    folder = Path(report_folder(path))
    title = f"{config.name}: {criterion.upper()} by number of components"
    figure = pictures.draw_criterion(candidates_table(path, criterion), criterion, title)
    pictures.save_picture(figure, folder / f"{criterion}.png")
    state = store.read_model(path, best)
    _, profile, _ = store.load_states(path)
    if profile.sample.shape[1] < 2:
        return
    family, parameters = state.model
    labels = answer_rows(Rows(profile.sample), family, parameters, ["label"])["label"]
    columns = store.read_columns(path, best)
    figure = pictures.draw_clusters(profile.sample, labels, columns, family.name, parameters)
    pictures.save_picture(figure, folder / "clusters.png")


def finish(config: JobConfig, best: str) -> None:
    """Mark the store complete, as the last thing."""
    source = open_source(config.data)
    _, profile, passes = store.load_states(config.output.store)
    after_fit = 2 if wanted_answers(config) else 1  # the closing pass, and the answers
    passes += after_fit
    # data that are held are read once by each stage: seed, fit, and those after them
    reads = 2 + after_fit if _is_held(source) else passes
    store.complete(
        config.output.store,
        best=best,
        passes=passes,
        bytes_read=reads * source.bytes_per_pass,
        n_rows=profile.n_rows,
        total_weight=profile.total_weight,
    )


def summarise(config: JobConfig, seconds: float, reused: bool) -> Summary:
    """What a complete store holds."""
    path, criterion = config.output.store, config.search.criterion
    found = store.open_store(path)
    assert found.best is not None
    assert found.total_weight is not None
    table = candidates_table(path, criterion)
    state = store.read_model(path, found.best)
    assert state.parameters is not None
    log_likelihood = float(table.sort_values("delta")["log_likelihood"].iloc[0])
    return Summary(
        store=path,
        report=report_folder(path),
        table=table,
        best=found.best,
        criterion=criterion,
        weights=tuple(state.parameters.weights.tolist()),
        mean_log_likelihood=log_likelihood / found.total_weight,
        rows=store.row_shapes(path),
        passes=found.passes,
        seconds=seconds,
        reused=reused,
    )


# -- parts of the stages -----------------------------------------------------------------------------------------


def wanted_answers(config: JobConfig) -> list[str]:
    """Names of the answers about each row that the configuration asks for."""
    output = config.output
    asked = {"label": output.labels, "log_density": output.log_density, "responsibility": output.responsibilities}
    return [name for name, is_asked in asked.items() if is_asked]


def report_folder(path: str) -> str:
    """Where a store's pictures lie: beside it."""
    return f"{path.rstrip('/')}-report"


def candidates_table(path: str, criterion: str) -> pd.DataFrame:
    """The stored criteria of all candidates, with each one's distance to the winner as ``delta``."""
    table = store.read_criteria(path)
    table.insert(3, "delta", table[criterion] - table[criterion].min())
    return table


def _open_rows(config: JobConfig) -> tuple[Source, Rows]:
    source = open_source(config.data)
    if not _is_held(source):
        return source, as_rows(source.array, source.weights)
    collections = [source.array] if source.weights is None else [source.array, source.weights]
    return source, as_rows(*dask.compute(*collections))


def _is_held(source: Source) -> bool:
    """Whether the data are so small that a stage reads them once."""
    if source.n_rows is None:
        return source.bytes_per_pass <= HELD_BYTES
    return source.n_rows * len(source.columns) * 8 <= HELD_BYTES


def _known_chunks(rows: Rows, profile: Profile) -> Rows:
    """Rows as a Dask array whose chunks have the lengths that the profile found."""
    array = rows.array
    if rows.in_memory:
        return Rows(da.from_array(array, chunks=array.shape, name=False))
    chunks = profile.chunk_rows, (rows.n_features,)
    return Rows(da.Array(array.dask, array.name, chunks=chunks, dtype=array.dtype))


def _pass_done(states: Sequence[State], number: int, n_rows: int) -> PassDone:
    count = Counter(state.status for state in states)
    return PassDone(
        number=number,
        rows=n_rows,
        running=count[Status.RUNNING],
        converged=count[Status.CONVERGED],
        max_iter=count[Status.MAX_ITER],
        singular=count[Status.SINGULAR],
    )
