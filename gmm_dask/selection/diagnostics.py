"""How sure a choice is: which starts agreed, whether fewer components do as well, and what the grid left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from gmm_dask.em.loop import State, Status
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.outcomes import Outcome, best_outcome

# mean log-likelihoods a row that are closer than this are the same optimum
SAME_OPTIMUM = 1e-4
# what to do about a winner at an end of the grid
WIDEN = "Widen n_components, or let the search do so (extend: true)."
# differences of a criterion up to this are no reason to take the larger model (as in Kass and Raftery 1995, and in
# Burnham and Anderson 2002 for AIC)
FLAT = 10.0


class Agreement(NamedTuple):
    """How a candidate's starts compare; starts that end at one likelihood are taken for one optimum.

    Attributes
    ----------
    starts : int
        Those that were tried.
    untrusted : int
        Those of them that do not compare: without usable parameters, or not trusted where the best one is.
    agreed : float
        Those that ended at the best one's likelihood, itself among them; NaN where that tells nothing.
    spread : float
        How far the worst of those that compare ended below the best, in log-likelihood a row; NaN likewise.
    agreeing : tuple of int
        Numbers of those that agreed.
    """

    starts: int
    untrusted: int
    agreed: float = math.nan
    spread: float = math.nan
    agreeing: tuple[int, ...] = ()


# those of its fields that are numbers
AGREEMENT_NUMBERS = tuple(name for name in Agreement._fields if name != "agreeing")


def agreement(outcomes: Sequence[Outcome]) -> Agreement:
    """The agreement of one candidate's starts with the best of them.

    Parameters
    ----------
    outcomes : sequence of Outcome
        All starts of the candidate.
    """
    best = best_outcome(outcomes).state
    states = [o.state for o in outcomes if o.state.usable and o.state.status.trusted >= best.status.trusted]
    counts = len(outcomes), len(outcomes) - len(states)
    below = {state.start: best.lower_bound - state.lower_bound for state in states}
    if not (below and all(map(math.isfinite, below.values()))):
        return Agreement(*counts)
    agreeing = tuple(start for start, distance in below.items() if distance < SAME_OPTIMUM)
    return Agreement(*counts, len(agreeing), max(0.0, *below.values()), agreeing)


def compares_starts(table: pd.DataFrame) -> bool:
    """Whether a table of candidates, with :class:`Agreement`'s numbers, knows of any how several starts agreed."""
    return "starts" in table and bool(((table["starts"] > 1) & table["agreed"].notna()).any())


def shortcomings(states: Sequence[State], best: State) -> list[str]:
    """What did not go well in a fit of one candidate, of which the best start is kept."""
    said, lost = [], [state.status for state in states if not state.usable]
    if lost:
        said.append(f"{len(lost)} of {len(states)} starts were dropped: {lost[0].remedy}")
    if not best.status.trusted:
        said.append(f"The best start is {best.status}: {best.status.remedy}")
    if best.lower_bounds and not best.converged:
        said.append(f"The best start did not converge: {Status.MAX_ITER.remedy}")
    return said


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


def remarks(table: pd.DataFrame, criterion: str, winner: Mapping[Any, Any], stopped: str | None = None) -> list[str]:
    """What to know before the choice is trusted, a sentence or two each; empty if nothing speaks against it.

    Parameters
    ----------
    table : DataFrame
        A row a candidate, with ``n_components``, ``covariance_type`` and ``delta``, and, where it is known,
        :class:`Agreement`'s numbers.
    criterion : str
    winner : mapping
        The winner's row.
    stopped : str, optional
        Why a search that widens its grid did not widen it further; None of one that does not.
    """
    found = [_on_the_edge(table, winner, stopped), _fewer_do(table, criterion, winner), _starts_disagree(winner)]
    return [remark for remark in found if remark]


def _on_the_edge(table: pd.DataFrame, winner: Mapping[Any, Any], stopped: str | None) -> str:
    counts, k = table["n_components"], winner["n_components"]
    advice = WIDEN if stopped is None else f"The grid was not widened further: {stopped}."
    if counts.nunique() > 1 and k == counts.max():
        return f"The winner has {k} components, the most that were tried: more may be better. {advice}"
    if counts.nunique() == 1 and k > 1:
        return f"No other number of components than {k} was tried: more may be better, or fewer. {advice}"
    if k == counts.min() and k > 1:
        return f"The winner has {k} components, the fewest that were tried: fewer may be better. {advice}"
    if k == counts[table["delta"].notna()].max() < counts.max():
        return f"No candidate with more than {k} components can be trusted: whether more are better is not known."
    return ""


def _fewer_do(table: pd.DataFrame, criterion: str, winner: Mapping[Any, Any]) -> str:
    fewest = smallest_within(table)
    if fewest["n_components"] >= winner["n_components"]:
        return ""
    count = fewest["n_components"]
    components = f"{count} component{'' if count == 1 else 's'}"
    return (
        f"{components}, {fewest['covariance_type']} covariance, has {CRITERIA[criterion].label} only "
        f"{fewest['delta']:.1f} higher: below {FLAT:.0f} the evidence for more components is not very strong."
    )


def _starts_disagree(winner: Mapping[Any, Any]) -> str:
    starts, untrusted = winner.get("starts", 0), winner.get("untrusted", 0)
    if starts < 2 or winner.get("agreed") != 1:
        return ""
    others = [_untrusted_words(untrusted)] if untrusted else []
    if starts - untrusted > 1:
        others.append(f"the others ended up to {winner['spread']:.2g} a row below")
    return (
        f"Only one of the winner's {starts:.0f} starts reached its likelihood; {', '.join(others)}: there may be a "
        "better one. Take more starts (n_init)."
    )


def _untrusted_words(count: float) -> str:
    return f"{count:.0f} ended degenerate, spurious or without a density"


def starts_compared(winner: Mapping[Any, Any]) -> str:
    """Which of the winner's starts agreed, and how far apart they ended; empty if it had one, or that is not known."""
    starts, untrusted, agreeing = winner.get("starts", 0), winner.get("untrusted", 0), winner.get("agreeing", ())
    if starts < 2 or not agreeing:
        return ""
    numbers = f"number{'s' if len(agreeing) > 1 else ''} {', '.join(map(str, agreeing))}"
    said = [f"{len(agreeing)} of the winner's {starts:.0f} starts ended at its likelihood ({numbers})"]
    said += [_untrusted_words(untrusted)] if untrusted else []
    apart = len(agreeing) < starts - untrusted
    return "; ".join([*said, *([f"the farthest ended {winner['spread']:.2g} a row below it"] if apart else [])])
