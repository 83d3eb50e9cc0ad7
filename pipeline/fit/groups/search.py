"""The search of one group: what a job does with all its rows, over those of the group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.in_memory import fit_states
from gmm_dask.em.inference import Inference
from gmm_dask.em.loop import Settings, State
from gmm_dask.errors import FaultError, UserError
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.rows import Rows, as_rows, hold_out
from gmm_dask.selection.diagnostics import agreement
from gmm_dask.selection.grid import in_grid_order
from gmm_dask.selection.outcomes import Outcome, best_outcome, by_candidate, choose, evaluate_states
from gmm_dask.selection.results import COLUMNS, EFFORT_COLUMNS
from gmm_dask.variational.inference import Variational
from pipeline.config.data import DataConfig
from pipeline.config.search import SearchConfig
from pipeline.fit.initialization import box_of_noise, settings_of, starts_of
from pipeline.sources.base import Chunks, Selection, lazy_rows
from pipeline.sources.group_keys import Key
from pipeline.sources.preparation import Preparation
from pipeline.sources.rows import FirstRead, read_first, read_transformed, source_sample
from pipeline.store.contents.models import by_weight
from pipeline.store.groups.models import FACTS, GroupModel, GroupResult, GroupSample, nothing_found
from pipeline.transforms import Chain
from pipeline.transforms.fitting import fit_steps

# opens the rows of a group as they are fitted
OpenPrepared = Callable[[Preparation], Rows]
# cuts the fits of a group into waves, from what is known of its rows
Waves = Callable[[DataSummary], Sequence[int]]


@dataclass(frozen=True, eq=False)
class GroupSearch:
    """What the searches of all groups share; tasks of the graph hold it.

    Attributes
    ----------
    search : SearchConfig
    data : DataConfig
        How rows are prepared.
    keys : tuple of int or str
        Of the groups, by their positions, for messages.
    columns : tuple of str
    candidates : tuple of Candidate
    sample_rows : int
        Rows of each group that are stored.
    """

    search: SearchConfig
    data: DataConfig
    keys: tuple[Key, ...]
    columns: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    sample_rows: int

    def in_memory(self, group: int, array: NDArray[np.floating[Any]], weights: Any) -> GroupResult:
        """Search a group whose rows (n_rows, n_features) are in memory."""

        def prepared(preparation: Preparation) -> Rows:
            return Rows(*preparation.chunk(array, weights))

        return self._result(group, Rows(array, weights), prepared)

    def several(self, groups: Sequence[tuple[Any, ...]]) -> list[GroupResult]:
        """Search groups one after another, each given with its rows and weights as :meth:`in_memory` takes them."""
        return [self.in_memory(*one) for one in groups]

    def by_passes(self, group: int, chunks: Chunks, selection: Selection, waves: Waves) -> GroupResult:
        """Search a group by passes over its chunks, in waves of fits that fit the memory."""
        raw = as_rows(*lazy_rows(chunks, selection))

        def prepared(preparation: Preparation) -> Rows:
            return as_rows(*lazy_rows(chunks, selection, preparation))

        return self._result(group, raw, prepared, waves)

    def _result(self, group: int, raw: Rows, prepared: OpenPrepared, waves: Waves | None = None) -> GroupResult:
        """Return what was found; where no fit is possible the reason is."""
        known: dict[str, Any] = {}
        try:
            rows, first = self._first_read(group, raw)
            found = first.summary
            left_out = found.unusable.n_rows if found.unusable else 0
            held_out = found.held_out.n_rows if found.held_out else 0
            known = {"n_rows": found.n_rows, "n_left_out": left_out, "n_held_out": held_out}
            known["total_weight"] = found.total_weight
            transform, data_summary = self._transform(rows, first)
            return self._searched(group, found, transform, data_summary, prepared, waves, known)
        except FaultError:
            raise
        except UserError as error:
            return nothing_found(group, str(error), **(known or _all_rows(raw)))

    def _first_read(self, group: int, raw: Rows) -> tuple[Rows, FirstRead]:
        """Return the rows with those that are held out, and what pass 0 over them finds."""
        seed, drop = self.search.random_state, self.data.missing == "drop"
        rows = hold_out(raw, self.search.held_out, seed, drop=drop)
        path = f"the group {self.keys[group]}"
        return rows, read_first(rows, self.data.steps, self.columns, seed, drop=drop, path=path)

    def _transform(self, rows: Rows, found: FirstRead) -> tuple[Chain, DataSummary]:
        """Fit the transform to the rows of the group."""
        read = partial(read_transformed, rows, found)
        return fit_steps(self.data.steps, self.columns, found.transformed, read)

    def _searched(
        self,
        group: int,
        found: DataSummary,
        transform: Chain,
        data_summary: DataSummary,
        prepared: OpenPrepared,
        waves: Waves | None,
        known: dict[str, Any],
    ) -> GroupResult:
        search, facts = self.search, facts_of(found)
        preparation = Preparation(transform, drop=self.data.missing == "drop")
        settings = settings_of(search, data_summary)
        drop, share = preparation.drop, search.held_out
        # a held-out row is known by its number among all rows: the passes drop rows, and not the read
        rows = prepared(replace(preparation, drop=False) if share else preparation)
        rows = hold_out(rows, share, search.random_state, drop=drop)
        box = None
        if any(candidate.noise for candidate in self.candidates):
            box = box_of_noise(search, data_summary, transform, self.columns, lambda: rows)
        states = self._fitted(rows, data_summary, settings, waves, None if box is None else box.log_volume)
        outcomes = in_grid_order(evaluate_states(rows, data_summary, states, settings.inference))
        best = [best_outcome(starts) for starts in by_candidate(outcomes).values()]
        statuses, numbers, agreeing = _table(outcomes, best, search.n_init)
        table = {"statuses": statuses, "numbers": numbers, "agreeing": agreeing}
        known |= {"facts": facts, "copies": found.resolution.copies, "effort": _effort(outcomes), **table}
        winner = choose(outcomes, search.criterion).state
        model = _model(winner, transform, data_summary.log_scale, settings.inference)
        if winner.candidate.noise:
            model = replace(model, noise_box=box)
        return GroupResult(
            group,
            best=[outcome.state.candidate for outcome in best].index(winner.candidate),
            model=model,
            sample=self._sample(data_summary, model),
            **known,
        )

    def _fitted(
        self,
        rows: Rows,
        data_summary: DataSummary,
        settings: Settings,
        waves: Waves | None,
        noise_log_volume: float | None,
    ) -> list[State]:
        more = {"rows": lambda: rows, "noise_log_volume": noise_log_volume}
        states = starts_of(self.search, settings, self.candidates, data_summary, **more)
        fitted: list[State] = []
        for n_fits in [len(states)] if waves is None else waves(data_summary):
            part = states[len(fitted) : len(fitted) + n_fits]
            fitted += fit_states(part, rows, data_summary, settings)
        return fitted

    def _sample(self, data_summary: DataSummary, model: GroupModel) -> GroupSample:
        """Return some of the sample's rows, evenly spread, with the winner's labels."""
        step = -(-len(data_summary.sample) // self.sample_rows)
        rows = np.ascontiguousarray(data_summary.sample[::step])
        stored = source_sample(data_summary, model.transform)[::step]
        found = predict_rows(Rows(rows), *model.state.model, ["label", "responsibility"])
        uncertainty = 1.0 - found["responsibility"].max(axis=1)
        return GroupSample(stored, found["label"].astype(np.int64), uncertainty)


def _all_rows(raw: Rows) -> dict[str, Any]:
    """Return how many rows there are, and their weight."""
    n_rows, weights = int(sum(raw.lengths)), raw.weights
    total = n_rows if weights is None else np.where(np.isfinite(weights), weights, 0.0).sum()
    return {"n_rows": n_rows, "total_weight": float(total)}


def facts_of(found: DataSummary) -> NDArray[np.float64]:
    """Return :data:`pipeline.store.groups.models.FACTS` of the rows, (n_facts, n_features)."""
    known = {"means": found.center, "deviations": np.sqrt(np.diagonal(found.scatter) / found.total_weight)}
    known |= {"minima": found.minimum, "maxima": found.maximum, **found.resolution.to_dict()}
    return np.stack([np.asarray(known[name], dtype=np.float64) for name in FACTS])


def _table(
    outcomes: Sequence[Outcome], best: Sequence[Outcome], n_starts: int
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Return the status, the numbers, and the starts that agree, of each candidate."""
    agreed = [agreement(starts) for starts in by_candidate(outcomes).values()]
    numbers = [
        [float(column.value(outcome)) for column in (*COLUMNS, *EFFORT_COLUMNS) if column.name != "status"]
        + [float(value) for value in one[:-1]]
        for outcome, one in zip(best, agreed, strict=True)
    ]
    agreeing = np.array([[float(i in one.agreeing) for i in range(n_starts)] for one in agreed])
    return tuple(str(outcome.state.status) for outcome in best), np.array(numbers), agreeing


def _effort(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    states = [outcome.state for outcome in outcomes]
    counts = [(1, state.n_iter, state.extrapolations, state.falls, state.sample_iter) for state in states]
    effort: NDArray[np.float64] = np.sum(counts, axis=0, dtype=np.float64)
    return effort


def _model(state: State, transform: Chain, log_scale: float, inference: Inference) -> GroupModel:
    parameters, priors = by_weight(state), None
    if isinstance(inference, Variational):
        priors = inference.priors(get_family(state.covariance_type), state.n_components)
        log_scale *= priors.counted_rows(state.parameters) if transform.folds else 1.0  # type: ignore[arg-type]
    bounds = tuple(bound - log_scale for bound in state.lower_bounds)
    after = replace(state, parameters=parameters, lower_bounds=bounds, history=None)
    return GroupModel(after, cast(Any, transform.steps), priors)
