"""Criteria of all candidates: those of a finished search, and those of an unfinished one as it stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import zarr

from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD, Inference
from gmm_dask.em.loop import State, Status, best_start
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.model_batch import Totals
from gmm_dask.selection.criteria import CRITERIA, criteria_of
from gmm_dask.selection.diagnostics import AGREEMENT_NUMBERS, agreement
from gmm_dask.selection.outcomes import Outcome, best_outcome, by_candidate, evaluate, leading, log_evidence
from gmm_dask.selection.results import AXES, COLUMNS, EFFORT_COLUMNS, outcome_table
from pipeline.store.arrays import get, new_group, open_root, put
from pipeline.store.contents.candidate_axes import CandidateAxes
from pipeline.store.places import StorePath, place_of

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (*COLUMNS, *EFFORT_COLUMNS)
# what stores of earlier versions lack
_NEW = frozenset({"elbo"})
# columns that every candidate has that may win, by maximum likelihood or as a variational mixture; rows that were held
# out may have no density
_FINITE = [
    ["log_likelihood", *(name for name in criteria_of(of_likelihood) if not CRITERIA[name].needs_held_out)]
    for of_likelihood in (True, False)
]


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
    grouped = by_candidate(outcomes)
    axes = CandidateAxes.of(grouped)
    starts = sorted({outcome.state.start for outcome in outcomes})
    place_of(path).remove("criteria")
    with new_group(path, "criteria") as group:
        axes.write(group)
        put(group, "start", starts, ("start",))
        best, places = [best_outcome(of_candidate) for of_candidate in grouped.values()], list(map(axes.place, grouped))
        _put_table(group, "", best, places, axes.shape, axes.dimensions)
        agreed = [agreement(of_candidate) for of_candidate in grouped.values()]
        which = np.zeros((*axes.shape, len(starts)), dtype=bool)
        for place, found in zip(places, agreed, strict=True):
            which[place] = np.isin(starts, found.agreeing)
        put(group, "start_agreed", which, (*axes.dimensions, "start"))
        for name in AGREEMENT_NUMBERS:
            values = np.full(axes.shape, np.nan)
            for place, found in zip(places, agreed, strict=True):
                values[place] = getattr(found, name)
            put(group, name, values, axes.dimensions)
        places_of_starts = [(*axes.place(o.state.candidate), starts.index(o.state.start)) for o in outcomes]
        shape, dimensions = (*axes.shape, len(starts)), (*axes.dimensions, "start")
        _put_table(group, "start_", outcomes, places_of_starts, shape, dimensions)


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
        One row per candidate, with the columns of :data:`gmm_dask.selection.results.AXES`, ``COLUMNS`` and
        ``EFFORT_COLUMNS``, and the fields of :class:`gmm_dask.selection.diagnostics.Agreement`; NaN where a candidate
        could not be fitted, no rows were held out, or the starts do not compare.

    Raises
    ------
    UserError
        If no criteria are there yet.
    KeyError, ValueError
        If they are not those of a search.
    """
    import pandas as pd

    root = open_root(path)
    if "criteria" not in root:
        raise UserError(
            f"the result store {path} has no criteria yet; they are written when every candidate has finished."
        )
    group = cast(zarr.Group, root["criteria"])
    axes, columns = CandidateAxes.read(group), {column.name: column.dtype for column in _COLUMNS}
    dtypes = columns | dict.fromkeys(AGREEMENT_NUMBERS, np.float64)
    candidates = axes.candidates()
    places = tuple(np.array([axes.place(one) for one in candidates], dtype=np.int64).reshape(-1, len(axes.shape)).T)
    absent = {name: np.full(axes.shape, np.nan) for name in _NEW - set(group)}
    values = {
        name: (absent[name] if name in absent else get(group, name, dtype, axes.shape))[places].tolist()
        for name, dtype in dtypes.items()
    }
    values["agreeing"] = _agreeing(group, axes.shape, places)
    known: dict[str, Any] = {name: [getattr(one, name) for one in candidates] for name in AXES}
    table = pd.DataFrame(known).assign(**values)
    table = table[table["status"] != ""].reset_index(drop=True)
    is_trusted = [Status(status).trusted for status in table["status"]]
    if not any(np.isfinite(table.loc[is_trusted, names].to_numpy(np.float64)).all() for names in _FINITE):
        raise ValueError(f"{', '.join(_FINITE[0])} are not finite for a candidate that may win")
    return table


def _agreeing(group: zarr.Group, shape: tuple[int, ...], places: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """The starts that agreed with the best one, candidate by candidate at these places."""
    starts = get(group, "start", np.int64, (None,))
    agreed = get(group, "start_agreed", np.bool_, (*shape, len(starts)))
    return [tuple(starts[each].tolist()) for each in agreed[places]]


def names_of(table: pd.DataFrame) -> list[str]:
    """Return the candidates' names, such as ``tied-k3``, in the order of the table."""
    return [Candidate.of(row).name for row in table.to_dict("records")]


def row_of(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return a candidate's row by its name."""
    return {str(column): value for column, value in table.iloc[names_of(table).index(name)].items()}


def read_effort(path: StorePath) -> Effort:
    """What the fits of a complete store took."""
    group = cast(zarr.Group, open_root(path)["criteria"])
    shape = (*CandidateAxes.read(group).shape, None)
    status = get(group, "start_status", np.dtypes.StringDType(), shape)
    names = [f"start_{name}" for name in ("n_iter", "extrapolations", "falls", "sample_iter")]
    counts = [int(get(group, name, np.int64, status.shape).sum()) for name in names]
    return Effort(int(np.count_nonzero(status != "")), *counts)


# -- of an unfinished search ---------------------------------------------------------------------------------


def leading_candidate(
    states: Sequence[State],
    data_summary: DataSummary,
    criterion: str,
    inference: Inference = MAXIMUM_LIKELIHOOD,
) -> tuple[str | None, float | None]:
    """Name and criterion of the candidate that leads an unfinished run; None where it is not known."""
    outcomes = [_outcome_so_far(starts, data_summary, inference) for starts in _by_candidate(states)]
    best = leading(outcomes, criterion)
    return (None, None) if best is None else (outcomes[best].state.candidate.name, outcomes[best].criteria[criterion])


def table_so_far(
    states: Sequence[State], data_summary: DataSummary, inference: Inference = MAXIMUM_LIKELIHOOD
) -> pd.DataFrame:
    """The candidates of an unfinished run, with criteria from each one's newest lower bound."""
    return outcome_table([_running_outcome(starts, data_summary, inference) for starts in _by_candidate(states)])


def _by_candidate(states: Sequence[State]) -> list[list[State]]:
    candidates: dict[Candidate, list[State]] = {}
    for state in states:
        candidates.setdefault(state.candidate, []).append(state)
    return list(candidates.values())


def _outcome_so_far(starts: Sequence[State], data_summary: DataSummary, inference: Inference) -> Outcome:
    """Criteria of a candidate's best start so far, from its newest lower bound."""
    state = best_start(starts, trusted=True) or starts[0]
    known = state.usable and math.isfinite(state.lower_bound)
    totals = _totals_so_far(state, data_summary, inference) if known else None
    return evaluate(state, len(data_summary.center), totals, data_summary.total_weight)


def _totals_so_far(state: State, data_summary: DataSummary, inference: Inference) -> Totals:
    if inference.of_likelihood:
        return Totals((state.lower_bound - data_summary.log_scale) * data_summary.total_weight, math.nan)
    return Totals(math.nan, math.nan, log_evidence=log_evidence(state, data_summary, inference))


def _running_outcome(starts: Sequence[State], data_summary: DataSummary, inference: Inference) -> Outcome:
    """A candidate by its best start so far; it is running as long as any start is."""
    outcome = _outcome_so_far(starts, data_summary, inference)
    if any(start.status is Status.RUNNING for start in starts):
        return replace(outcome, state=replace(outcome.state, status=Status.RUNNING))
    return outcome
