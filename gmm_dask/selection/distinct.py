"""Candidates that are one model in several forms, such as full and tied with one component: one entry of a ranking.

Which are is decided by the mathematics, not by equal numbers: fits of one model may end at different optima.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gmm_dask.em.status import Status
from gmm_dask.families.candidate import Candidate
from gmm_dask.formatting import capital, joined
from gmm_dask.selection.criteria import best_position

if TYPE_CHECKING:
    import pandas as pd

EVERY = "all covariance types"


def candidates_of(table: pd.DataFrame) -> list[Candidate]:
    """The candidates of a table, in order."""
    return [Candidate.of(row) for row in table.to_dict("records")]


def distinct(table: pd.DataFrame, criterion: str, n_features: int) -> pd.DataFrame:
    """Return the best fit of each model of a table of candidates, in order.

    Parameters
    ----------
    table : DataFrame
        One row per candidate.
    criterion : str
        Which fit of a model is the best.
    n_features : int

    Returns
    -------
    DataFrame
        A part of the table, with the column ``also``: a list of the names of the model's other forms.
    """
    import pandas as pd

    groups: dict[Candidate, list[int]] = {}
    candidates = candidates_of(table)
    for i, candidate in enumerate(candidates):
        groups.setdefault(candidate.form(n_features), []).append(i)
    best = {_best(table.iloc[positions], criterion, positions): positions for positions in groups.values()}
    found = table.iloc[list(best)]
    also = [[candidates[i].name for i in positions if i != kept] for kept, positions in best.items()]
    return found.assign(also=pd.Series(also, index=found.index, dtype=object))


def _best(rows: pd.DataFrame, criterion: str, positions: list[int]) -> int:
    trusted = [Status(status).trusted for status in rows["status"]]
    found = best_position(rows[criterion].tolist(), [0] * len(rows), trusted)
    return positions[found or 0]


def same_models(table: pd.DataFrame, n_features: int) -> str:
    """Say which covariance types of a table are the same model; empty if none are.

    ``With one feature, full, diag and spherical are the same model.``
    """
    types, counts = list(dict.fromkeys(table["covariance_type"])), set(table["n_components"])
    # two components stand for any number of them
    cases = {"with one feature": 2 if n_features == 1 and counts != {1} else 0, "with one component": int(1 in counts)}
    said = []
    for case, n_components in cases.items():
        groups = alike([Candidate(name, n_components) for name in types], n_features) if n_components else []
        several = [joined([one.covariance_type for one in group]) for group in groups if len(group) > 1]
        if several:
            first, *more = several if len(groups) > 1 else [EVERY]
            said.append(", and so are ".join([f"{case}, {first} are the same model", *more]))
    return capital(f"{'; '.join(said)}.") if said else ""


def kinds_of(table: pd.DataFrame) -> list[Candidate]:
    """What a table has candidates of, each as one with two components, which stand for any number, in order."""
    return list(dict.fromkeys(candidate._replace(n_components=2) for candidate in candidates_of(table)))


def alike(candidates: Iterable[Candidate], n_features: int) -> list[list[Candidate]]:
    """Group candidates by the models that they are, in order."""
    groups: dict[Candidate, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.form(n_features), []).append(candidate)
    return list(groups.values())
