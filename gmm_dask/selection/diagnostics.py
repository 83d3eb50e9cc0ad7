"""Diagnostics of a choice: which starts agreed, whether fewer components do as well, and what the grid left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gmm_dask.em.loop import State, Status
from gmm_dask.families.candidate import Candidate
from gmm_dask.formatting import counted
from gmm_dask.selection.criteria import CRITERIA, KASS_RAFTERY, TIE
from gmm_dask.selection.outcomes import Outcome, best_outcome

if TYPE_CHECKING:
    import pandas as pd

# mean log-likelihoods per row that are closer than this are the same optimum: a tenth of the default tol, at which
# starts stop on their way to it
SAME_OPTIMUM = 1e-4
# about starts that cannot be compared, and the advice about a winner at an end of the grid
UNTRUSTED = "{:.0f} ended degenerate, spurious or without a density"
WIDEN = "Widen n_components, or let the search do so (extend: true)."
# differences of a criterion up to this are no reason to prefer the larger model: the last level but one of both scales
FLAT = KASS_RAFTERY.levels[-2].upper


class Agreement(NamedTuple):
    """How a candidate's starts compare; starts that end at one likelihood are taken for one optimum.

    Attributes
    ----------
    starts : int
        Number of starts.
    untrusted : int
        How many of them cannot be compared: without usable parameters, or not trusted where the best one is.
    agreed : float
        How many ended at the best one's likelihood, the best included; NaN where no likelihood is known.
    spread : float
        Distance of the worst comparable start below the best, in log-likelihood per row; NaN likewise.
    agreeing : tuple of int
        Numbers of the starts that agreed.
    """

    starts: int
    untrusted: int
    agreed: float = math.nan
    spread: float = math.nan
    agreeing: tuple[int, ...] = ()


# its fields that are numbers: columns of the table of candidates, arrays of a result store
AGREEMENT_NUMBERS = tuple(name for name in Agreement._fields if name != "agreeing")


def agreement(outcomes: Sequence[Outcome]) -> Agreement:
    """Compare one candidate's starts with the best of them.

    Parameters
    ----------
    outcomes : sequence of Outcome
        All starts of the candidate.
    """
    if len(outcomes) == 1 and math.isfinite(outcomes[0].state.lower_bound) and outcomes[0].state.usable:
        return Agreement(1, 0, 1, 0.0, (outcomes[0].state.start,))
    best = best_outcome(outcomes).state
    states = [o.state for o in outcomes if o.state.usable and o.state.status.trusted >= best.status.trusted]
    counts = len(outcomes), len(outcomes) - len(states)
    below = {state.start: best.lower_bound - state.lower_bound for state in states}
    if not (below and all(map(math.isfinite, below.values()))):
        return Agreement(*counts)
    agreeing = tuple(start for start, distance in below.items() if distance < SAME_OPTIMUM)
    return Agreement(*counts, len(agreeing), max(0.0, *below.values()), agreeing)


def compares_starts(table: pd.DataFrame) -> bool:
    """Whether any candidate of a table, with :class:`Agreement`'s numbers, has several starts that were compared."""
    return "starts" in table and bool(((table["starts"] > 1) & table["agreed"].notna()).any())


def shortcomings(states: Sequence[State], best: State) -> list[str]:
    """Return warnings about the fit of one candidate, by all its starts and the best one."""
    found, lost = [], [state.status for state in states if not state.usable]
    if lost:
        found.append(f"{len(lost)} of {len(states)} starts were dropped: {lost[0].remedy}")
    if not best.status.trusted:
        found.append(f"The best start is {best.status}: {best.status.remedy}")
    if best.lower_bounds and not best.converged:
        found.append(f"The best start did not converge: {Status.MAX_ITER.remedy}")
    if best.status is Status.INNER_MAX_ITER:
        found.append(f"The best start did not converge: {best.status.remedy}")
    return found


def smallest_within(table: pd.DataFrame, within: float = FLAT) -> dict[str, Any]:
    """Return the row of the candidate with the fewest components whose criterion is close to the winner's.

    Parameters
    ----------
    table : DataFrame
        One row per candidate, with ``n_components`` and ``delta``; NaN where a candidate may not win.
    within : float
        The largest ``delta`` that counts as close. Among equally many components the smaller ``delta`` is taken.
    """
    close = table[table["delta"] <= within].sort_values(["n_components", "delta"], kind="stable")
    found: dict[str, Any] = {str(name): value for name, value in close.iloc[0].items()}
    return found


def remarks(table: pd.DataFrame, criterion: str, winner: Mapping[Any, Any], stopped: str | None = None) -> list[str]:
    """Return the reasons to doubt a choice, in a sentence or two each; empty if there are none.

    Parameters
    ----------
    table : DataFrame
        One row per candidate, with ``n_components``, ``covariance_type`` and ``delta``, and, where it is known,
        :class:`Agreement`'s numbers.
    criterion : str
    winner : mapping
        The winner's row.
    stopped : str, optional
        Why a search that extends its grid did not extend it further; None for one that does not.
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
        than = counted(k, "component")
        return f"No candidate with more than {than} can be trusted: whether more are better is not known."
    return ""


def _fewer_do(table: pd.DataFrame, criterion: str, winner: Mapping[Any, Any]) -> str:
    if CRITERIA[criterion].error is not None:
        return ""  # the choice itself prefers the smaller model
    fewest = smallest_within(table)
    if fewest["n_components"] >= winner["n_components"]:
        return ""
    return (
        f"{Candidate.of(fewest).words}, has {CRITERIA[criterion].label} only {fewest['delta']:.1f} higher: below "
        f"{FLAT:.0f} the evidence for more components is not very strong."
    )


def _starts_disagree(winner: Mapping[Any, Any]) -> str:
    starts, untrusted = winner.get("starts", 0), winner.get("untrusted", 0)
    if starts < 2 or winner.get("agreed") != 1:
        return ""
    others = [UNTRUSTED.format(untrusted)] if untrusted else []
    if starts - untrusted > 1:
        others.append(f"the others ended up to {winner['spread']:.2g} per row below")
    return (
        f"Only one of the winner's {starts:.0f} starts reached its likelihood; {', '.join(others)}: there may be a "
        "better one. Take more starts (n_init)."
    )


def starts_compared(row: Mapping[Any, Any], whose: str = "the winner's") -> str:
    """Say which of a candidate's starts agreed, and how far apart they ended; empty for one start, or if unknown."""
    starts, untrusted, agreeing = row.get("starts", 0), row.get("untrusted", 0), row.get("agreeing", ())
    if starts < 2 or not agreeing:
        return ""
    numbers = f"number{'s' if len(agreeing) > 1 else ''} {', '.join(map(str, agreeing))}"
    parts = [f"{len(agreeing)} of {whose} {starts:.0f} starts ended at its likelihood ({numbers})"]
    if untrusted:
        parts.append(UNTRUSTED.format(untrusted))
    if len(agreeing) < starts - untrusted:
        parts.append(f"the farthest ended {row['spread']:.2g} per row below it")
    return "; ".join(parts)


def chosen_within_error(table: pd.DataFrame, criterion: str, winner: Mapping[Any, Any]) -> str:
    """Say which candidate has the smallest criterion if the winner is as good with fewer parameters; empty if not."""
    error = CRITERIA[criterion].error
    if error is None or not winner["delta"] > TIE * max(1.0, abs(winner[criterion])):
        return ""
    smallest = table.sort_values("delta", kind="stable").iloc[0]
    return (
        f"{Candidate.of(smallest).name} has a {CRITERIA[criterion].label} {winner['delta']:.1f} below the winner's, "
        f"within one standard error ({winner[error]:.1f}): the winner has the fewest parameters of such candidates"
    )
