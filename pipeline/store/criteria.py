"""Criteria of all candidates: those of a finished search, and those of an unfinished one as it stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import zarr

from gmm_dask.em.loop import State, Status, best_start
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.model_batch import Totals
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.diagnostics import AGREEMENT_NUMBERS, agreement
from gmm_dask.selection.outcomes import Outcome, best_outcome, by_candidate, evaluate, leading
from gmm_dask.selection.results import COLUMNS, EFFORT_COLUMNS, outcome_table
from pipeline.store.arrays import get, get_text, open_root, put
from pipeline.store.places import StorePath

_CANDIDATE = ("n_components", "covariance_type")
_COLUMNS = (*COLUMNS, *EFFORT_COLUMNS)
# columns that every candidate has that may win; rows that were held out may have no density
_FINITE = ("log_likelihood", *(criterion.name for criterion in CRITERIA.values() if not criterion.needs_held_out))


class Effort(NamedTuple):
    """What the fits of all starts took.

    Attributes
    ----------
    fits : int
    iterations : int
        Of all fits; a pass over the data is an iteration of each fit that is running.
    extrapolations : int
        Iterations at extrapolated parameters, those that were given up among them.
    falls : int
        Extrapolations that were given up, because the likelihood fell there.
    sample_iterations : int
        What the fits had done over a sample in memory, before they took passes.
    """

    fits: int
    iterations: int
    extrapolations: int
    falls: int
    sample_iterations: int


# -- of a finished search ------------------------------------------------------------------------------------


def write_criteria(path: StorePath, outcomes: Sequence[Outcome]) -> None:
    """Write the criteria of every start, and of each candidate by its best start.

    Parameters
    ----------
    path : str or Path
        The result store.
    outcomes : sequence of Outcome
        All starts of all candidates.
    """
    counts = sorted({outcome.state.n_components for outcome in outcomes})
    kinds = list(dict.fromkeys(outcome.state.covariance_type for outcome in outcomes))
    starts = sorted({outcome.state.start for outcome in outcomes})
    group = open_root(path, "r+").create_group("criteria", overwrite=True)
    put(group, "n_components", counts, ("n_components",))
    put(group, "covariance_type", kinds, ("covariance_type",))
    put(group, "start", starts, ("start",))
    best = [best_outcome(of_candidate) for of_candidate in by_candidate(outcomes).values()]
    places = [(counts.index(o.state.n_components), kinds.index(o.state.covariance_type)) for o in best]
    _put_table(group, "", best, places, (len(counts), len(kinds)), _CANDIDATE)
    agreed = [agreement(of_candidate) for of_candidate in by_candidate(outcomes).values()]
    which = np.zeros((len(counts), len(kinds), len(starts)), dtype=bool)
    for place, found in zip(places, agreed, strict=True):
        which[place] = np.isin(starts, found.agreeing)
    put(group, "start_agreed", which, (*_CANDIDATE, "start"))
    for name in AGREEMENT_NUMBERS:
        values = np.full((len(counts), len(kinds)), np.nan)
        for place, found in zip(places, agreed, strict=True):
            values[place] = getattr(found, name)
        put(group, name, values, _CANDIDATE)
    places_of_starts = [
        (counts.index(o.state.n_components), kinds.index(o.state.covariance_type), starts.index(o.state.start))
        for o in outcomes
    ]
    shape = len(counts), len(kinds), len(starts)
    _put_table(group, "start_", outcomes, places_of_starts, shape, (*_CANDIDATE, "start"))


def _put_table(
    group: zarr.Group,
    prefix: str,
    outcomes: Sequence[Outcome],
    places: Sequence[tuple[int, ...]],
    shape: tuple[int, ...],
    dimensions: tuple[str, ...],
) -> None:
    for column in _COLUMNS:
        values = np.full(shape, column.missing, dtype=column.dtype)
        for place, outcome in zip(places, outcomes, strict=True):
            values[place] = column.value(outcome)
        put(group, f"{prefix}{column.name}", values, dimensions)


def read_criteria(path: StorePath) -> pd.DataFrame:
    """The candidates' criteria.

    Returns
    -------
    DataFrame
        One row per candidate, with the columns ``n_components``, ``covariance_type``, those of
        :data:`gmm_dask.selection.results.COLUMNS` and ``EFFORT_COLUMNS``, and the fields of
        :class:`gmm_dask.selection.diagnostics.Agreement`; NaN where a candidate could not be fitted, no rows were held
        out, or the starts do not compare.

    Raises
    ------
    UserError
        If no criteria are there yet.
    KeyError, ValueError
        If they are not those of a search.
    """
    root = open_root(path)
    if "criteria" not in root:
        raise UserError(
            f"the result store {path} has no criteria yet; they are written when every candidate has finished."
        )
    group = cast(zarr.Group, root["criteria"])
    counts = get(group, "n_components", np.int64, (None,)).tolist()
    kinds = get_text(group, "covariance_type", (None,))
    if not (set(kinds) <= set(FAMILIES) and all(count > 0 for count in counts)):
        raise ValueError(f"its candidates have the covariance types {', '.join(kinds)} and {counts} components")
    shape, columns = (len(counts), len(kinds)), {column.name: column.dtype for column in _COLUMNS}
    dtypes = columns | dict.fromkeys(AGREEMENT_NUMBERS, np.float64)
    values = {name: get(group, name, dtype, shape).T.ravel().tolist() for name, dtype in dtypes.items()}
    values["agreeing"] = _agreeing(group, shape)
    candidates = [(count, kind) for kind in kinds for count in counts]
    table = pd.DataFrame(candidates, columns=list(_CANDIDATE)).assign(**values)
    table = table[table["status"] != ""].reset_index(drop=True)
    is_trusted = [Status(status).trusted for status in table["status"]]
    if not np.isfinite(table.loc[is_trusted, list(_FINITE)].to_numpy(np.float64)).all():
        raise ValueError(f"{', '.join(_FINITE)} are not finite for a candidate that may win")
    return table


def _agreeing(group: zarr.Group, shape: tuple[int, int]) -> list[tuple[int, ...]]:
    """The starts that agreed with the best one, candidate by candidate in the table's order."""
    starts = get(group, "start", np.int64, (None,))
    agreed = get(group, "start_agreed", np.bool_, (*shape, len(starts)))
    every = agreed.transpose(1, 0, 2).reshape(-1, len(starts))
    return [tuple(starts[each].tolist()) for each in every]


def names_of(table: pd.DataFrame) -> list[str]:
    """Return the candidates' names, such as ``tied-k3``, in the order of the table."""
    return [Candidate.of(row).name for row in table.to_dict("records")]


def row_of(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return a candidate's row by its name."""
    return {str(column): value for column, value in table.iloc[names_of(table).index(name)].items()}


def read_effort(path: StorePath) -> Effort:
    """What the fits of a complete store took."""
    group = cast(zarr.Group, open_root(path)["criteria"])
    status = get(group, "start_status", np.dtypes.StringDType(), (None, None, None))
    names = [f"start_{name}" for name in ("n_iter", "extrapolations", "falls", "sample_iter")]
    counts = [int(get(group, name, np.int64, status.shape).sum()) for name in names]
    return Effort(int(np.count_nonzero(status != "")), *counts)


# -- of an unfinished search ---------------------------------------------------------------------------------


def leading_candidate(
    states: Sequence[State], data_summary: DataSummary, criterion: str
) -> tuple[str | None, float | None]:
    """Name and criterion of the candidate that leads an unfinished run; None where it is not known."""
    outcomes = [_outcome_so_far(starts, data_summary) for starts in _by_candidate(states)]
    best = leading(outcomes, criterion)
    return (None, None) if best is None else (outcomes[best].state.candidate.name, outcomes[best].criteria[criterion])


def table_so_far(states: Sequence[State], data_summary: DataSummary) -> pd.DataFrame:
    """The candidates of an unfinished run, with criteria from each one's newest lower bound."""
    return outcome_table([_running_outcome(starts, data_summary) for starts in _by_candidate(states)])


def _by_candidate(states: Sequence[State]) -> list[list[State]]:
    candidates: dict[Candidate, list[State]] = {}
    for state in states:
        candidates.setdefault(state.candidate, []).append(state)
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
