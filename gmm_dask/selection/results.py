"""The table of candidates: the columns that a search's results, a result store and an unfinished run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from gmm_dask.em.loop import Status
from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.criteria import CRITERIA, best_position, differences
from gmm_dask.selection.diagnostics import AGREEMENT_NUMBERS, agreement
from gmm_dask.selection.outcomes import Outcome, best_outcome, by_candidate
from gmm_dask.selection.stability import STABILITY_NUMBERS, Stability

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """A column of the table of candidates.

    Attributes
    ----------
    name : str
    dtype : type or dtype
        In a result store.
    missing : Any
        In a result store, for a combination of covariance type and number of components that is no candidate.
    value : callable
        Returns the value from an :class:`Outcome`.
    """

    name: str
    dtype: Any
    missing: Any
    value: Callable[[Outcome], Any]


def _criterion_column(name: str) -> Column:
    return Column(name, np.float64, np.nan, lambda outcome: outcome.criteria[name])


# what tells candidates apart, in the order of the table's columns
AXES = ("n_components", "covariance_type", "noise")
# of each candidate's best start, and in a store of every start
COLUMNS = (
    Column("status", np.dtypes.StringDType(), "", attrgetter("state.status.value")),
    *map(_criterion_column, CRITERIA),
    Column("log_likelihood", np.float64, np.nan, attrgetter("log_likelihood")),
    Column("held_out_log_likelihood", np.float64, np.nan, attrgetter("held_out_log_likelihood")),
    Column("held_out_error", np.float64, np.nan, attrgetter("held_out_error")),
    Column("n_parameters", np.int64, 0, attrgetter("n_parameters")),
    Column("n_iter", np.int64, 0, attrgetter("state.n_iter")),
    Column("slim_component", np.int64, -1, attrgetter("verdict.component")),
    Column("slim_gain", np.float64, np.nan, attrgetter("verdict.gain")),
    Column("slim_price", np.float64, np.nan, attrgetter("verdict.price")),
)
# what the fits took besides, which only a store knows
EFFORT_COLUMNS = tuple(
    Column(name, np.int64, 0, attrgetter(f"state.{name}")) for name in ("extrapolations", "falls", "sample_iter")
)


def outcome_table(best: Sequence[Outcome]) -> pd.DataFrame:
    """Make a table with one row per candidate and the columns n_components, covariance_type, noise and :data:`COLUMNS`.

    Parameters
    ----------
    best : sequence of Outcome
        One for each candidate.
    """
    import pandas as pd

    candidates = [outcome.state.candidate for outcome in best]
    values: dict[str, list[Any]] = {name: [getattr(one, name) for one in candidates] for name in AXES}
    values |= {column.name: [column.value(outcome) for outcome in best] for column in COLUMNS}
    return pd.DataFrame(values, dtype=None if best else float)


def with_delta(table: pd.DataFrame, criterion: str) -> pd.DataFrame:
    """Add ``delta``: the criterion minus the smallest; NaN for candidates that may not win."""
    return table.assign(delta=differences(table[criterion].tolist(), table["status"].tolist()))


def chosen_position(table: pd.DataFrame, criterion: str) -> int | None:
    """Return the position of the candidate of a table that a criterion chooses; None if no candidate has it."""
    trusted = [Status(status).trusted for status in table["status"]]
    error = CRITERIA[criterion].error
    errors = None if error is None else table[error].tolist()
    return best_position(table[criterion].tolist(), table["n_parameters"].tolist(), trusted, errors)


def results_table(
    outcomes: Sequence[Outcome], criterion: str, stability: Mapping[Candidate, Stability] | None = None
) -> pd.DataFrame:
    """Make the table that :attr:`gmm_dask.GaussianMixtureSearch.results_` describes.

    Parameters
    ----------
    outcomes : sequence of Outcome
        All starts of all candidates.
    criterion : str
    stability : mapping of Candidate to Stability, optional
        What the fits to resamples say about each candidate.
    """
    grouped = by_candidate(outcomes)
    candidates = list(grouped.values())
    best = [best_outcome(starts) for starts in candidates]
    table = with_delta(outcome_table(best), criterion).assign(start=[outcome.state.start for outcome in best])
    table.insert(list(table).index(next(iter(CRITERIA))) + 1, "delta", table.pop("delta"))
    agreed = [agreement(starts) for starts in candidates]
    table = table.assign(
        **{name: [getattr(each, name) for each in agreed] for name in (*AGREEMENT_NUMBERS, "agreeing")}
    )
    found = [(stability or {}).get(candidate, Stability()) for candidate in grouped]
    return table.assign(**{name: [getattr(each, name) for each in found] for name in STABILITY_NUMBERS})
