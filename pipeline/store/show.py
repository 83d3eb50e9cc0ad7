"""What a result store says: the candidates of a complete one, and those of an unfinished one as they stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from gmm_dask.em.loop import State, Status, best_start
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.model_batch import Totals
from gmm_dask.selection.criteria import best_position
from gmm_dask.selection.diagnostics import remarks, starts_compared
from gmm_dask.selection.outcomes import Outcome, evaluate, leading
from gmm_dask.selection.results import outcome_table, with_delta
from pipeline.store import (
    DamagedError,
    ResultStore,
    load_checkpoint,
    open_store,
    read_criteria,
    read_effort,
)

ATTEMPTS = 5  # a run at work may replace the checkpoint while it is read


@dataclass(frozen=True)
class StoredResult:
    """The candidates of a result store.

    Attributes
    ----------
    store : str
        Its path.
    table : DataFrame
        One row per candidate, with ``delta`` and the columns of :func:`pipeline.store.read_criteria`. While the store
        is unfinished these are the first few, the criteria come from each candidate's newest lower bound, and ICL and
        what is held out are NaN.
    criterion : str
        One of :data:`gmm_dask.selection.criteria.CRITERIA`.
    best : str or None
        Name of the leading candidate; None if there is none yet.
    passes : int
        Reads of the data so far.
    complete : bool
    remarks : list of str
        What to know before the choice is trusted; of a complete store.
    notes : list of str
        How the winner's starts compare, and what the fits took; of a complete store.
    """

    store: str
    table: pd.DataFrame
    criterion: str
    best: str | None
    passes: int
    complete: bool
    remarks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_result(path: str | Path) -> StoredResult:
    """Read the candidates of a result store, whether it is complete or not.

    Raises
    ------
    UserError
        If there is no result store at the path, or an unfinished one whose checkpoint is damaged.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _read(open_store(path, unfinished=True))
        except (KeyError, FileNotFoundError, DamagedError):
            continue
    return _read(open_store(path, unfinished=True))


def _read(store: ResultStore) -> StoredResult:
    criterion = store.config["search"]["criterion"]
    table = with_delta(read_criteria(store.path) if store.is_complete else _table_so_far(store), criterion)
    best = store.best or _leading(table, criterion)
    found = StoredResult(store.path, table, criterion, best, store.passes, store.is_complete)
    if not (store.is_complete and best):
        return found
    return replace(found, remarks=stored_remarks(store, table, best), notes=stored_notes(store, table, best))


def stored_remarks(store: ResultStore, table: pd.DataFrame, best: str) -> list[str]:
    """What to know before the choice of a complete store is trusted."""
    search = store.config["search"]
    stopped = (store.widening or {}).get("stopped") if search.get("extend") else None
    return remarks(table, search["criterion"], row_of(table, best), stopped)


def stored_notes(store: ResultStore, table: pd.DataFrame, best: str) -> list[str]:
    """How the winner's starts compare, how the grid was widened, and what the fits of a complete store took."""
    notes = [starts_compared(row_of(table, best)), widened(store, table), effort_words(store)]
    return [note for note in notes if note]


def widened(store: ResultStore, table: pd.DataFrame) -> str:
    """From which numbers of components to which the grid was widened; empty if it was not."""
    times = (store.widening or {}).get("times", 0)
    if not times:
        return ""
    asked, counts = store.config["search"]["n_components"], table["n_components"]
    words = "once" if times == 1 else f"{times} times"
    return (
        f"the grid was widened {words}, from {min(asked)} to {max(asked)} components to {counts.min()} to "
        f"{counts.max()}"
    )


def effort_words(store: ResultStore) -> str:
    """What the fits took; a pass over the data is an iteration of each fit that is running."""
    effort = read_effort(store.path)
    said = f"{effort.iterations:,} iterations of {effort.fits:,} fit{'s' * (effort.fits != 1)}, which share passes"
    if store.config["search"].get("accelerate"):
        said += f"; {effort.extrapolations:,} of them at extrapolated parameters, of which {effort.falls:,} given up"
    if effort.sample_iterations:
        said += f"; plus {effort.sample_iterations:,} on an in-memory sample (no passes over the data)"
    return said


def position_of(table: pd.DataFrame, name: str) -> int:
    """Position of a candidate's row by the name of its model, such as ``tied-k3``."""
    names = [Candidate.of(row).name for row in table.to_dict("records")]
    return names.index(name)


def row_of(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """A candidate's row by the name of its model."""
    return {str(column): value for column, value in table.iloc[position_of(table, name)].items()}


def leading_candidate(
    states: Sequence[State], data_summary: DataSummary, criterion: str
) -> tuple[str | None, float | None]:
    """Name and criterion of the candidate that leads an unfinished run; None where it is not known."""
    outcomes = [_outcome_so_far(starts, data_summary) for starts in _by_candidate(states)]
    best = leading(outcomes, criterion)
    return (None, None) if best is None else (outcomes[best].state.candidate.name, outcomes[best].criteria[criterion])


def _leading(table: pd.DataFrame, criterion: str) -> str | None:
    trusted = [Status(status).trusted for status in table["status"]]
    best = best_position(table[criterion].tolist(), table["n_parameters"].tolist(), trusted)
    if best is None:
        return None
    row = table.iloc[best]
    return Candidate.of(row).name


def _table_so_far(store: ResultStore) -> pd.DataFrame:
    if store.checkpoint is None:
        return outcome_table([])
    checkpoint = load_checkpoint(store.path)
    return table_so_far(checkpoint.states, checkpoint.data_summary)


def table_so_far(states: Sequence[State], data_summary: DataSummary) -> pd.DataFrame:
    """The candidates of an unfinished run, with criteria from each one's newest lower bound."""
    return outcome_table([_running_outcome(starts, data_summary) for starts in _by_candidate(states)])


def _by_candidate(states: Sequence[State]) -> list[list[State]]:
    candidates: dict[tuple[str, int], list[State]] = {}
    for state in states:
        candidates.setdefault((state.covariance_type, state.n_components), []).append(state)
    return list(candidates.values())


def _outcome_so_far(starts: Sequence[State], data_summary: DataSummary) -> Outcome:
    """Criteria of a candidate's best start so far, from its newest lower bound."""
    state = best_start(starts, trusted=True) or starts[0]
    known = state.usable and math.isfinite(state.lower_bound)
    totals = (
        Totals((state.lower_bound - data_summary.log_scale) * data_summary.total_weight, math.nan) if known else None
    )
    return evaluate(state, len(data_summary.center), totals, data_summary.total_weight)


def _running_outcome(starts: Sequence[State], data_summary: DataSummary) -> Outcome:
    """A candidate by its best start so far; it is running as long as any start is."""
    outcome = _outcome_so_far(starts, data_summary)
    if any(start.status is Status.RUNNING for start in starts):
        return replace(outcome, state=replace(outcome.state, status=Status.RUNNING))
    return outcome
