"""How sure a choice is: which starts agreed, whether fewer components do as well, and what the grid left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from gmm_dask.criteria import LABELS, Outcome, best_outcome

# mean log-likelihoods a row that are closer than this are the same optimum
SAME_OPTIMUM = 1e-4
# differences of a criterion up to this are no reason to take the larger model (as in Kass and Raftery 1995, and in
# Burnham and Anderson 2002 for AIC)
FLAT = 10.0


class Agreement(NamedTuple):
    """How a candidate's starts compare.

    Attributes
    ----------
    starts : int
        Those that ended with usable parameters.
    agreed : int
        Those of them that ended at the best one's likelihood, itself among them.
    spread : float
        How far the worst ended below the best, in log-likelihood a row; NaN if there are none.
    """

    starts: int
    agreed: int
    spread: float


def agreement(outcomes: Sequence[Outcome]) -> Agreement:
    """The agreement of one candidate's starts with the best of them; spurious ones count where the best is one."""
    best = best_outcome(outcomes).state
    bounds = [o.state.lower_bound for o in outcomes if o.state.usable and o.state.status.trusted >= best.status.trusted]
    if not bounds:
        return Agreement(0, 0, math.nan)
    below = [best.lower_bound - bound if math.isfinite(bound) else 0.0 for bound in bounds]
    return Agreement(len(bounds), sum(distance < SAME_OPTIMUM for distance in below), max(0.0, *below))


def smallest_within(table: pd.DataFrame, within: float = FLAT) -> dict[str, Any]:
    """The candidate with the fewest components whose criterion is within so much of the winner's.

    Parameters
    ----------
    table : DataFrame
        A row a candidate, with ``n_components`` and ``delta``; NaN where a candidate may not win.
    within : float

    Returns
    -------
    dict
        Its row; of equally many components, that of the smaller ``delta``.
    """
    close = table[table["delta"] <= within].sort_values(["n_components", "delta"], kind="stable")
    found: dict[str, Any] = {str(name): value for name, value in close.iloc[0].items()}
    return found


def remarks(table: pd.DataFrame, criterion: str, winner: Mapping[Any, Any]) -> list[str]:
    """What to know before the choice is trusted, a sentence or two each; empty if nothing speaks against it.

    Parameters
    ----------
    table : DataFrame
        A row a candidate, with ``n_components``, ``covariance_type`` and ``delta``, and, where it is known,
        :class:`Agreement`'s numbers.
    criterion : str
    winner : mapping
        The winner's row.
    """
    found = [_on_the_edge(table, winner), _fewer_do(table, criterion, winner), _starts_disagree(winner)]
    return [remark for remark in found if remark]


def _on_the_edge(table: pd.DataFrame, winner: Mapping[Any, Any]) -> str:
    counts, k = table["n_components"], winner["n_components"]
    if counts.nunique() > 1 and k == counts.max():
        return f"The winner has {k} components, the most that were tried: more may be better. Widen n_components."
    if k == counts.min() and k > 1:
        return f"The winner has {k} components, the fewest that were tried: fewer may be better. Widen n_components."
    return ""


def _fewer_do(table: pd.DataFrame, criterion: str, winner: Mapping[Any, Any]) -> str:
    fewest = smallest_within(table)
    if fewest["n_components"] >= winner["n_components"]:
        return ""
    count = fewest["n_components"]
    components = f"{count} component{'' if count == 1 else 's'}"
    return (
        f"{components}, {fewest['covariance_type']} covariance, has {LABELS[criterion]} only {fewest['delta']:.1f} "
        f"higher: below {FLAT:.0f} the evidence for more components is not very strong."
    )


def _starts_disagree(winner: Mapping[Any, Any]) -> str:
    starts, agreed = winner.get("starts", 0), winner.get("agreed", 0)
    if starts < 2 or agreed > 1:
        return ""
    return (
        f"Only one of the winner's {starts} starts reached its likelihood; the others ended up to "
        f"{winner['spread']:.2g} a row below: there may be a better one. Take more starts (n_init)."
    )
