"""The refresh: fit the last winner to the data as they are now, or search again where they have drifted.

Each refresh makes a new store, whose name holds the date. Pass 0 draws a sample of the rows; one half of it refits the
last winner, the other half measures how much the refit gains over the winner as it was. So the decision takes no
further read of the data; it is stored before the first checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.in_memory import fit_states
from gmm_dask.em.loop import Settings, State
from gmm_dask.errors import SingularError, UserError
from gmm_dask.families import Noise, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.noise import beside_noise
from gmm_dask.init.responsibilities import start_parameters
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.gaps.chunks import draw_incomplete
from gmm_dask.passes.model_batch import Model
from gmm_dask.passes.predict import predict_chunk, prediction_batch
from gmm_dask.passes.rows import as_rows
from gmm_dask.selection.grid import noise_choices
from pipeline import store
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.config.schedule import RefreshConfig
from pipeline.config.templates import is_dated, latest
from pipeline.fit.initialization import FittedRows, em_settings, initial_states, seed_states
from pipeline.fit.job import Summary, run
from pipeline.fit.plan import grid_of
from pipeline.progress import Progress, report_notes, report_removed, silent
from pipeline.sources import Source
from pipeline.stages import Stage, unchanged
from pipeline.store import RefreshDecision, Result, StoredModel
from pipeline.store.paths import last_complete, placed, reported_once
from pipeline.store.retention import remove_old_stores
from pipeline.transforms import Chain

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


def tell_nobody(path: str, decision: RefreshDecision) -> None:
    """Send no news of a decision."""


@hiding_secrets
def refresh(
    config: JobConfig,
    *,
    progress: Progress = silent,
    as_task: Callable[[Stage], Stage] = unchanged,
    tell: Callable[[str, RefreshDecision], object] = tell_nobody,
) -> Refreshed:
    """Fit the last winner to the data as they are now, publish the store, and remove old ones.

    Parameters
    ----------
    config : JobConfig
        With a date in ``output.store``.
    progress, as_task
        As of :func:`pipeline.fit.job.run`.
    tell : callable
        Receives the path of the new store and the decision, before it is stored: the next call tells what one that was
        killed could not.

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
    if config.data.by is not None:
        raise UserError(
            "data.by: expected no column, as the flow refresh follows the components of one model. The flow bic-sweep "
            "fits all groups anew."
        )
    previous, new = last_complete(config, reported_once(progress)), placed(config)
    _require_own(new)

    def seed(config: JobConfig, progress: Progress) -> None:
        """Run pass 0, decide, and save the first checkpoint."""

        def make_states(source: Source, found: DataSummary, data_summary: DataSummary, rows: FittedRows) -> list[State]:
            decision, refit = _decide(config, previous, bounds.drift, source, found, rows)
            report_notes([decision.reason], progress)
            tell(config.output.store, decision)
            store.update_attributes(config.output.store, refresh=decision)
            return [refit] if refit else initial_states(config, data_summary, rows, grid_of(config), progress)

        seed_states(config, make_states, progress)

    summary = run(new, progress=progress, as_task=as_task, initialize=seed)
    assert isinstance(summary, Summary)
    newest = last_complete(config)  # another run may have made it meanwhile: the link never goes back
    assert newest is not None
    link = latest(config.output.store)
    store.place_of(link).link_to(store.place_of(newest.store))
    removed = remove_old_stores(config, config.output.keep or bounds.keep)
    report_removed(removed, progress)
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
    config: JobConfig, previous: Result | None, bound: float, source: Source, found: DataSummary, rows: FittedRows
) -> tuple[RefreshDecision, State | None]:
    """Decide whether to search again; if not, also return the state that the refit begins with.

    ``found`` is of the rows as they are stored; ``transform`` was fitted to them.
    """
    if previous is None:
        return RefreshDecision(True, "the first store of its name: all candidates are fitted", bound=bound), None
    search = partial(RefreshDecision, True, previous=previous.store, bound=bound)
    best = str(previous.best)
    model = previous.best_model
    change = _change_of_job(config, previous, source)
    if change:
        return search(f"{change}: all candidates are fitted"), None
    transform, noise = rows.transform, rows.noise.log_volume if model.candidate.noise else None
    refit = _refit(config, model, _half_of_sample(found, 0), transform, found.total_weight, noise)
    if refit is None:
        return search(f"{best} cannot be fitted to these rows: all candidates are"), None
    gain = _gain(model, *_measured(config, model, refit, found, transform), _half_of_sample(found, 1))
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
    since = "" if gained is None else f", and the gains since the last search sum to {gained:.4f}"
    return f"on held-out rows the refitted {best} is {found}{since}"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _change_of_job(config: JobConfig, previous: Result, source: Source) -> str | None:
    """Describe a change of the job for which the last winner cannot be kept, if there is one."""
    model = previous.best_model
    if model.sources != source.columns:
        return f"the columns are {', '.join(source.columns)} now, and were {', '.join(model.sources)}"
    if config.model_dump(mode="json")["data"]["transform"] != previous.config["data"]["transform"]:
        return "data.transform is another than that of the last store"
    search = config.search
    reachable = search.extend or model.n_components in search.n_components
    reachable = reachable and model.candidate.noise in noise_choices(search.noise)[0]
    if model.covariance_type not in search.covariance_types or not reachable:
        return f"{model.candidate.name} is no candidate any more"
    return None


def _half_of_sample(found: DataSummary, first: int) -> Rows:
    """Return every second row of the sample, and their weights."""
    weights = found.sample_weights
    return found.sample[first::2], None if weights is None else weights[first::2]


def _refit(
    config: JobConfig,
    model: StoredModel,
    half: Rows,
    transform: Chain,
    total_weight: float,
    noise: float | None,
) -> State | None:
    """Fit the winner to some rows, from the responsibilities that it gives them; None if that is not possible.

    ``total_weight`` is that of all rows, for which these stand; ``noise`` the logarithm of the volume that the noise of
    the winner, if it has some, is uniform in among these.
    """
    raw, weights = half
    if len(raw) <= model.n_components:
        return None
    # responsibilities are free of units: they carry the model over to rows that are transformed in another way
    resp = _predict(model.model, model.transform.rows(raw), "responsibility")
    x = transform.rows(raw)
    rows = replace(as_rows(x), gaps=config.data.has_gaps)
    if config.search.has_prior:  # which counts as so many rows among all, not among the half of a sample
        weights = np.ones(len(x)) if weights is None else weights
        weights = weights * (total_weight / weights.sum())
    rows = replace(rows, weights=weights)
    data_summary = summarize_rows(rows, config.search.random_state, transform.labels(model.sources))
    rows = data_summary.known(rows)
    if rows.gaps:  # the first sums need all values: those that are missing are drawn, as the earlier model has them
        drawn = draw_incomplete(model.transform.rows(raw), *model.model, np.random.RandomState(0))
        x = np.where(np.isfinite(x), x, transform.rows(model.transform.undo(drawn)))
        if not np.isfinite(x).all():  # the inverse of one step is out of the domain of another
            return None
    settings = em_settings(config, data_summary)
    try:
        start = _start(model.candidate, x, weights, resp, settings, noise)
    except SingularError:
        return None
    (state,) = fit_states([start], rows, data_summary, settings)
    if not (state.usable and state.status.trusted):
        return None
    return replace(start, parameters=state.parameters)


def _start(
    candidate: Candidate, x: Array, weights: Array | None, resp: Array, settings: Settings, noise: float | None
) -> State:
    """Return the start that responsibilities give; raises :class:`SingularError` if a covariance is."""
    family, mine = get_family(candidate.covariance_type), resp[:, : candidate.n_components]
    taken = (
        slice(None) if noise is None else mine.any(axis=1)
    )  # rows that the noise has alone are no part of a covariance
    given = None if weights is None else weights[taken]
    parameters = start_parameters(family, x[taken], given, mine[taken], settings.reg_covar, settings.inference)
    start = State(candidate._replace(noise=False), 0, parameters)
    if noise is None:
        return start
    whole = replace(start, parameters=replace(parameters, weights=parameters.weights / parameters.weights.sum()))
    return beside_noise(whole, Noise(float(np.average(resp[:, -1], weights=weights)), noise))


def _measured(
    config: JobConfig, model: StoredModel, refit: State, found: DataSummary, transform: Chain
) -> tuple[State, Chain]:
    """Return the refit whose gain is measured, and its transform.

    Where dimensions are dropped, densities of rows in other units do not compare: it is fitted in those of the model.
    """
    if model.transform.keeps_density and transform.keeps_density:
        return refit, transform
    known = model.model[1].noise
    noise = None if known is None else known.log_volume
    there = _refit(config, model, _half_of_sample(found, 0), model.transform, found.total_weight, noise)
    return (refit, transform) if there is None else (there, model.transform)


def _gain(model: StoredModel, refit: State, transform: Chain, half: Rows) -> float:
    """Return the mean log density per row of the refit, less that of the stored model, in the user's units."""
    raw, weights = half
    old = _predict(model.model, model.transform.rows(raw), "log_density") + model.transform.log_slopes(raw)
    new = _predict(refit.model, transform.rows(raw), "log_density") + transform.log_slopes(raw)
    with np.errstate(invalid="ignore"):
        return float(np.average(new - old, weights=weights))


def _predict(model: Model, rows: Array, name: str) -> Array:
    output: Array = predict_chunk(rows, prediction_batch(*model, gaps=not np.isfinite(rows).all()), (name,))[name]
    return output


def _stored_decision(result: Result) -> RefreshDecision:
    """Return the decision that a store was made by: of this run, of an earlier one, or of a search without refresh."""
    return result.refresh or RefreshDecision(True, "the store was made by a search")
