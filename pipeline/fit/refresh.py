"""The refresh: fit the last winner to the data as they are now, or search again where they have drifted.

Each refresh makes a new store, whose name holds the date. Pass 0 draws a sample of the rows; one half of it refits the
last winner, the other half measures how much the refit gains over the winner as it was. So the decision takes no
further read of the data; it is stored before the first checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.in_memory import fit_states
from gmm_dask.em.loop import State
from gmm_dask.errors import SingularError, UserError
from gmm_dask.families import get_family
from gmm_dask.init.responsibilities import start_parameters
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.predict import predict_chunk, prediction_batch
from gmm_dask.passes.rows import as_rows
from pipeline import store
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.config.schedule import RefreshConfig
from pipeline.config.templates import is_dated, latest
from pipeline.fit.initialization import FittedRows, em_settings, initial_states, seed_states
from pipeline.fit.job import Summary, run
from pipeline.fit.plan import grid_of
from pipeline.progress import Progress, report_notes, silent
from pipeline.sources import Source
from pipeline.sources.fingerprint import contents_of
from pipeline.sources.preparation import Preparation, preparation_of
from pipeline.stages import Stage, unchanged
from pipeline.store import RefreshDecision, Result, StoredModel
from pipeline.store.paths import last_complete, placed, report_folder, stores_of

Array = NDArray[np.float64]
# rows in the units of the data, and their weights
Rows = tuple[Array, Array | None]


@dataclass(frozen=True)
class Refreshed:
    """The result of a refresh.

    Attributes
    ----------
    summary : Summary
        Of the job.
    decision : RefreshDecision
    link : str
        Path of the link to the newest store.
    removed : tuple of str
        Paths of old stores that were removed.
    """

    summary: Summary
    decision: RefreshDecision
    link: str
    removed: tuple[str, ...]


@hiding_secrets
def refresh(
    config: JobConfig, *, progress: Progress = silent, as_task: Callable[[Stage], Stage] = unchanged
) -> Refreshed:
    """Fit the last winner to the data as they are now, publish the store, and remove old ones.

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
    previous, new = last_complete(config), placed(config)
    _require_own(new)

    def seed(config: JobConfig, progress: Progress) -> None:
        """Run pass 0, decide, and save the first checkpoint."""

        def make_states(source: Source, found: DataSummary, data_summary: DataSummary, rows: FittedRows) -> list[State]:
            decision, refit = _decide(config, previous, bounds.drift, source, found)
            report_notes([decision.reason], progress)
            store.update_attributes(config.output.store, refresh=decision)
            return [refit] if refit else initial_states(config, data_summary, rows, grid_of(config), progress)

        seed_states(config, make_states, progress)

    summary = run(new, progress=progress, as_task=as_task, initialize=seed)
    newest = last_complete(config)  # another run may have made it meanwhile: the link never goes back
    assert newest is not None
    link = latest(config.output.store)
    store.place_of(link).link_to(store.place_of(newest.store))
    removed = _remove_old(config, bounds.keep)
    return Refreshed(summary, _stored_decision(summary), link, removed)


def _require_own(config: JobConfig) -> None:
    """Raise :class:`UserError` if the store at the path is another job's: it would be published as this one's."""
    path = config.output.store
    name = store.open_result(path, unfinished=True).config["name"] if store.is_store(path) else config.name
    if name != config.name:
        raise UserError(
            f"output.store: {path} is a store of the job {name}, and {config.name} needs its own. Write {{name}} in "
            "output.store."
        )


# -- the decision ------------------------------------------------------------------------------------------------


def _decide(
    config: JobConfig, previous: Result | None, bound: float, source: Source, found: DataSummary
) -> tuple[RefreshDecision, State | None]:
    """Decide whether to search again; if not, also return the state that the refit begins with."""
    if previous is None:
        return RefreshDecision(True, "the first store of its name: all candidates are fitted", bound=bound), None
    search = partial(RefreshDecision, True, previous=previous.store, bound=bound)
    best = str(previous.best)
    model = previous.best_model
    change = _change_of_job(config, model, source)
    if change:
        return search(f"{change}: all candidates are fitted"), None
    preparation = preparation_of(config.data, contents_of(found))
    refit = _refit(config, model, _half_of_sample(found, 0), preparation)
    if refit is None:
        return search(f"{best} cannot be fitted to these rows: all candidates are"), None
    gain = _gain(model, refit, _half_of_sample(found, 1), preparation)
    # gains are summed up to the next search: slow drift, which stays under the bound each night, is found as well
    last = _stored_decision(previous)
    before = 0.0 if last.searched else last.gained or 0.0
    gained = float(np.maximum(before + gain, 0.0))  # NaN where the gain is
    measured = _describe_gain(best, previous.store, gain, gained if before else None)
    if not gained <= bound:
        reason = f"{measured}, over the bound {bound:g} (refresh.drift): all candidates are fitted again"
        return search(reason, gain=_finite(gain), gained=_finite(gained)), None
    reason = f"{measured}, within the bound {bound:g} (refresh.drift): {best} is kept, and fitted to these rows"
    return RefreshDecision(False, reason, previous.store, gain, bound, gained), refit


def _describe_gain(best: str, path: str, gain: float, gained: float | None) -> str:
    """Describe the gain of the refit, and the sum of all gains since the last search if there were others."""
    if gain < 0.0:
        found = f"no better than that of {path} (worse by {-gain:.4f} per row)"
    else:
        found = f"better by {gain:.4f} per row than that of {path}"
    since = "" if gained is None else f", and by {gained:.4f} in all since the last search"
    return f"on held-out rows the refitted {best} is {found}{since}"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _change_of_job(config: JobConfig, model: StoredModel, source: Source) -> str | None:
    """Describe a change of the job for which the last winner cannot be kept, if there is one."""
    if model.columns != source.columns:
        return f"the columns are {', '.join(source.columns)} now, and were {', '.join(model.columns)}"
    search = config.search
    reachable = search.extend or model.n_components in search.n_components
    if model.covariance_type not in search.covariance_types or not reachable:
        return f"{model.candidate.name} is no candidate any more"
    return None


def _half_of_sample(found: DataSummary, first: int) -> Rows:
    """Return every second row of the sample, and their weights."""
    weights = found.sample_weights
    return found.sample[first::2], None if weights is None else weights[first::2]


def _refit(config: JobConfig, model: StoredModel, half: Rows, preparation: Preparation) -> State | None:
    """Fit the winner to some rows, from the responsibilities that it gives them; None if that is not possible."""
    raw, weights = half
    if len(raw) <= model.n_components:
        return None
    # responsibilities are free of units: they carry the model over to rows that are scaled in another way
    resp = _predict(model.model, _units(Preparation(model.center, model.scale), raw), "responsibility")
    x = _units(preparation, raw)
    rows = as_rows(x, weights)
    data_summary = summarize_rows(rows, config.search.random_state, model.columns)
    settings = em_settings(config, data_summary)
    try:
        parameters = start_parameters(get_family(model.covariance_type), x, weights, resp, settings.reg_covar)
    except SingularError:
        return None
    start = State(model.candidate, 0, parameters)
    (state,) = fit_states([start], rows, data_summary, settings)
    if not (state.usable and state.status.trusted):
        return None
    return replace(start, parameters=state.parameters)


def _gain(model: StoredModel, refit: State, half: Rows, preparation: Preparation) -> float:
    """Return the mean log density per row of the refit, less that of the stored model, in the user's units."""
    raw, weights = half
    before = Preparation(model.center, model.scale)
    old = _predict(model.model, _units(before, raw), "log_density") - before.log_scale
    new = _predict(refit.model, _units(preparation, raw), "log_density") - preparation.log_scale
    with np.errstate(invalid="ignore"):
        return float(np.average(new - old, weights=weights))


def _units(preparation: Preparation, raw: Array) -> Array:
    """Return rows in the units of a fit."""
    return np.asarray(preparation.rows(raw), dtype=np.float64)


def _predict(model: Any, rows: Array, name: str) -> Array:
    output: Array = predict_chunk(rows, prediction_batch(*model), (name,))[name]
    return output


def _stored_decision(result: Result) -> RefreshDecision:
    """Return the decision that a store was made by: of this run, of an earlier one, or of a search without refresh."""
    return result.refresh or RefreshDecision(True, "the store was made by a search")


# -- publishing --------------------------------------------------------------------------------------------------


def _remove_old(config: JobConfig, keep: int) -> tuple[str, ...]:
    """Remove all stores older than the last ``keep`` complete ones, unless a run is at work on them."""
    found = list(stores_of(config))
    complete = [one.store for one in found if one.is_complete]
    if len(complete) <= keep:
        return ()
    oldest = [one.store for one in found].index(complete[keep - 1])
    return tuple(one.store for one in found[oldest + 1 :] if remove_store(one.store))


def remove_store(path: str) -> bool:
    """Remove a store with all that lies beside it, unless a run is at work on it; returns whether it was removed."""
    try:
        with store.lock(path):
            store.discard_replacement(path)
            for folder in (path, report_folder(path), store.rows_folder(path)):
                store.place_of(folder).remove_at_once()
    except store.LockedError:
        return False
    store.place_of(path).remove_lock()
    return True
