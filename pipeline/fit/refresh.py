"""The nightly job: the last winner fitted to the data as they are now, or the whole search where it has drifted.

It always makes a new store, whose name holds the date. Pass 0 brings a sample of the new rows; half of it refits the
last winner, the other half tells how much better that is than the winner as it was. No further read of the data is
needed to decide, and the decision is kept with the first checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em import loop
from gmm_dask.em.loop import Settings, State
from gmm_dask.errors import SingularError, UserError
from gmm_dask.families import get_family
from gmm_dask.init.responsibilities import start_parameters
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.map_reduce import as_rows, collect_statistics, summarize_rows
from gmm_dask.passes.predict import predict_chunk, prediction_batch
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.config.schedule import RefreshConfig
from pipeline.config.templates import is_dated, latest
from pipeline.fit.job import every_start, run, seed_with, settings_of
from pipeline.progress import Progress, StageStarted, silent
from pipeline.report import report_folder
from pipeline.report.summary import Summary
from pipeline.sources import Source
from pipeline.sources.fingerprint import contents_of
from pipeline.sources.preparation import Preparation, preparation_of
from pipeline.stages import Stage, unchanged
from pipeline.store import ResultStore, StoredModel
from pipeline.store.paths import last_complete, placed, stores_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """Whether the search was made again, and why.

    Attributes
    ----------
    searched : bool
    reason : str
    previous : str or None
        Path of the store that the winner came from.
    gain : float or None
        Mean log-likelihood a held-out row, of the refitted winner less that of the winner as it was.
    bound : float
        ``refresh.drift``.
    gained : float or None
        Sum of the gains since the last search, this one's included; a loss lowers it, to 0 and no further.
    """

    searched: bool
    reason: str
    previous: str | None = None
    gain: float | None = None
    bound: float = 0.0
    gained: float | None = None


@dataclass(frozen=True)
class Refreshed:
    """How a refresh ended: the job's summary, the decision, the link to the newest store, and what was removed."""

    summary: Summary
    decision: Decision
    link: str
    removed: tuple[str, ...]


def refresh(
    config: JobConfig, *, progress: Progress = silent, as_task: Callable[[Stage], Stage] = unchanged
) -> Refreshed:
    """Fit the last winner to the data as they are now, publish it, and keep the last stores.

    Parameters
    ----------
    config : JobConfig
        With a date in ``output.store``.
    progress, as_task
        As of :func:`pipeline.fit.job.run`.

    Raises
    ------
    UserError
        As :func:`pipeline.fit.job.run`; or if ``output.store`` has no date, or another job's store lies at its path.
    """
    if not is_dated(config.output.store):
        raise UserError(
            f"output.store: a refresh makes a new store each time, and {config.output.store} has no date in it. "
            "Write one, such as results/{name}-{started:%Y-%m-%d}.zarr."
        )
    bounds = config.refresh or RefreshConfig()
    previous, tonight = last_complete(config), placed(config)
    _require_own(tonight)

    def seed(config: JobConfig, progress: Progress) -> None:
        """Pass 0, and the states that the decision makes."""
        seed_with(config, partial(_starts, config, previous, bounds.drift, progress), progress)

    summary = run(tonight, progress=progress, as_task=as_task, seeding=seed)
    newest = last_complete(config)  # which another run may have made meanwhile: the link never goes back
    assert newest is not None
    link = _publish(latest(config.output.store), newest.path)
    removed = _retire(config, bounds.keep)
    return Refreshed(summary, _decision_of(summary.store), link, removed)


def _require_own(config: JobConfig) -> None:
    """Raise :class:`UserError` if the store at the path of this run is another job's: it would be published as ours."""
    path = config.output.store
    name = store.open_store(path, unfinished=True).config["name"] if store.is_store(path) else config.name
    if name != config.name:
        raise UserError(
            f"output.store: {path} is a store of the job {name}, and {config.name} needs its own. Write {{name}} in "
            "output.store."
        )


# -- the decision ------------------------------------------------------------------------------------------------


def _starts(
    config: JobConfig,
    previous: ResultStore | None,
    bound: float,
    progress: Progress,
    source: Source,
    found: DataSummary,
    data_summary: DataSummary,
) -> list[State]:
    """The refitted winner, or the starts of all candidates; the decision is kept in the store."""
    decision, refit = _decide(config, previous, bound, source, found)
    progress(StageStarted("note", decision.reason))
    store.update_attributes(config.output.store, refresh=asdict(decision))
    return every_start(config, data_summary) if refit is None else [refit]


def _decide(
    config: JobConfig, previous: ResultStore | None, bound: float, source: Source, found: DataSummary
) -> tuple[Decision, State | None]:
    """Whether to search again; if not, the winner's state to go on from."""
    if previous is None:
        return Decision(True, "the first store of its name: all candidates are fitted", bound=bound), None
    again = partial(Decision, True, previous=previous.path, bound=bound)
    model = store.read_model(previous.path, str(previous.best))
    changed = _changed(config, model, source)
    if changed:
        return again(f"{changed}: all candidates are fitted"), None
    preparation = preparation_of(config.data, contents_of(found))
    refit = _refit(config, model, _part(found, 0), preparation)
    if refit is None:
        return again(f"{previous.best} cannot be fitted to these rows: all candidates are"), None
    gain = _gain(model, refit, _part(found, 1), preparation)
    before = _gained(previous.path)
    gained = float(np.maximum(before + gain, 0.0))  # which is NaN where the gain is
    told = _told(str(previous.best), previous.path, gain, before, gained)
    if not gained <= bound:
        reason = f"{told}, over the bound {bound:g}: all candidates are fitted again"
        return again(reason, gain=_finite(gain), gained=_finite(gained)), None
    reason = f"{told}, within the bound {bound:g}: it is kept, and fitted to these rows"
    return Decision(False, reason, previous.path, gain, bound, gained), refit


def _gained(path: str) -> float:
    """What refreshes have gained since the last search, up to a store; slow drift stays under the bound each night."""
    decision = _decision_of(path)
    return 0.0 if decision.searched else decision.gained or 0.0


def _told(best: str, path: str, gain: float, before: float, gained: float) -> str:
    """How much better the refit is, and all refits since the last search."""
    than = f"{'worse' if gain < 0.0 else 'better'} by {abs(gain):.4f} a row than that of {path}"
    since = f", and by {gained:.4f} in all since the last search" if before else ""
    return f"on held-out rows the refitted {best} is {than}{since}"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _changed(config: JobConfig, model: StoredModel, source: Source) -> str | None:
    """What makes the last winner another question's answer."""
    if model.columns != source.columns:
        return f"the columns are {', '.join(source.columns)} now, and were {', '.join(model.columns)}"
    search = config.search
    reachable = search.extend or model.n_components in search.n_components
    if model.covariance_type not in search.covariance_types or not reachable:
        return f"{model.candidate.name} is no candidate any more"
    return None


def _part(found: DataSummary, first: int) -> tuple[Array, Array | None]:
    """Every second row of the sample, and their weights."""
    weights = found.sample_weights
    return found.sample[first::2], None if weights is None else weights[first::2]


def _refit(
    config: JobConfig, model: StoredModel, part: tuple[Array, Array | None], preparation: Preparation
) -> State | None:
    """The winner fitted to some rows, from the responsibilities that it gives them; None if that is not possible."""
    raw, weights = part
    if len(raw) <= model.n_components:
        return None
    resp = _answers(model.model, _units(Preparation(model.center, model.scale), raw), "responsibility")
    x = _units(preparation, raw)
    rows = as_rows(x, weights)
    data_summary = summarize_rows(rows, config.search.random_state, model.columns)
    settings: Settings = settings_of(config, data_summary)
    family = get_family(model.covariance_type)
    try:
        parameters = start_parameters(family, x, weights, resp, settings.reg_covar)
    except SingularError:
        return None
    start = State(model.candidate, 0, parameters)
    (state,) = loop.run([start], partial(collect_statistics, rows, data_summary), data_summary.total_weight, settings)
    if not (state.usable and state.status.trusted):
        return None
    return replace(start, parameters=state.parameters)


def _gain(model: StoredModel, refit: State, part: tuple[Array, Array | None], preparation: Preparation) -> float:
    """Mean log density a row of the refit, less that of the stored model, in the user's units."""
    raw, weights = part
    before = Preparation(model.center, model.scale)
    old = _answers(model.model, _units(before, raw), "log_density") - before.log_scale
    new = _answers(refit.model, _units(preparation, raw), "log_density") - preparation.log_scale
    with np.errstate(invalid="ignore"):
        return float(np.average(new - old, weights=weights))


def _units(preparation: Preparation, raw: Array) -> Array:
    """Rows in the units of a fit."""
    return np.asarray(preparation.rows(raw), dtype=np.float64)


def _answers(model: Any, rows: Array, name: str) -> Array:
    answers: Array = predict_chunk(rows, prediction_batch(*model), (name,))[name]
    return answers


def _decision_of(path: str) -> Decision:
    """The decision that a store was made by; it may have been made by an earlier run, or by no refresh."""
    found = store.read_attribute(path, "refresh")
    return Decision(**found) if found else Decision(True, "the store was made by a search")


# -- publishing --------------------------------------------------------------------------------------------------


def _publish(link: str, path: str) -> str:
    """Point the link at a complete store, in one step: a reader finds the one before or this one."""
    place = Path(link)
    if place.exists() and not place.is_symlink():
        raise UserError(f"{link} is to be the link to the newest store, and something else is there. Move it away.")
    if place.is_symlink() and place.resolve() == Path(path).resolve():
        return link
    place.parent.mkdir(parents=True, exist_ok=True)  # where the date is the name of a folder
    new = place.with_name(f".{place.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(path, place.parent))
    os.replace(new, place)
    return link


def _retire(config: JobConfig, keep: int) -> tuple[str, ...]:
    """Remove all stores that are older than the last ``keep`` complete ones, unless a run is at work on them."""
    found = list(stores_of(config))
    complete = [one.path for one in found if one.is_complete]
    if len(complete) <= keep:
        return ()
    oldest = [one.path for one in found].index(complete[keep - 1])
    return tuple(one.path for one in found[oldest + 1 :] if _remove(one.path))


def _remove(path: str) -> bool:
    try:
        with store.lock(path):
            gone = Path(path).with_name(f".{Path(path).name}.removed")
            shutil.rmtree(gone, ignore_errors=True)
            os.replace(path, gone)  # at once: nobody opens a store that is half removed
            for folder in (gone, report_folder(path), Path(store.rows_folder(path))):
                shutil.rmtree(folder, ignore_errors=True)
    except store.LockedError:
        return False
    Path(f"{Path(path).resolve()}.lock").unlink(missing_ok=True)
    return True
