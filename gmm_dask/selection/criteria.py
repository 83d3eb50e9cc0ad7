"""Information criteria, and the choice among candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gmm_dask.em.loop import State, Status, best_start
from gmm_dask.errors import UserError
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.model_batch import Totals

HELD_OUT = "held_out"
CRITERIA = ("bic", "aic", "icl", HELD_OUT)
# how they are called in tables and pictures
LABELS = {"bic": "BIC", "aic": "AIC", "icl": "ICL", HELD_OUT: "held-out deviance"}
# criteria closer than this, relatively, are equal: more than rounding, less than any evidence
TIE = 1e-9
# upper ends of the differences of BIC, and how strong they are as evidence against the larger one (Kass and Raftery
# 1995, "Bayes factors", section 3.2, for twice the logarithm of the Bayes factor)
EVIDENCE = ((2.0, "bare mention"), (6.0, "positive"), (10.0, "strong"), (math.inf, "very strong"))


@dataclass(frozen=True, eq=False)
class Outcome:
    """One start of one candidate after the closing pass; NaN where it has no usable parameters.

    Attributes
    ----------
    state : State
    log_likelihood : float
        Total over the rows, of the final parameters.
    bic, aic, icl : float
        The smaller the better. ``icl = bic - 2 sum_i w_i log max_k r_ik`` (mclust's definition, negated).
    n_parameters : int
    held_out : float
        -2 times the total log-likelihood of the rows that were held out, on the scale of the other criteria; NaN where
        none were.
    held_out_log_likelihood : float
        Their mean log-likelihood a row.
    """

    state: State
    log_likelihood: float
    bic: float
    aic: float
    icl: float
    n_parameters: int
    held_out: float = math.nan
    held_out_log_likelihood: float = math.nan


def evaluate(
    state: State, n_features: int, totals: Totals | None, total_weight: float, held_out_weight: float = math.nan
) -> Outcome:
    """Criteria of a state from the closing pass's totals; ``totals`` is None if the state is not usable."""
    n_parameters = get_family(state.covariance_type).n_parameters(state.n_components, n_features)
    if totals is None:
        return Outcome(state, math.nan, math.nan, math.nan, math.nan, n_parameters)
    deviance = -2.0 * totals.log_likelihood
    bic = deviance + n_parameters * math.log(total_weight)
    aic = deviance + 2.0 * n_parameters
    icl = bic - 2.0 * totals.log_top
    held_out = -2.0 * totals.held_out, totals.held_out / held_out_weight
    return Outcome(state, totals.log_likelihood, bic, aic, icl, n_parameters, *held_out)


def by_candidate(outcomes: Sequence[Outcome]) -> dict[Candidate, list[Outcome]]:
    """Outcomes of each candidate's starts, by covariance type and number of components, in order."""
    grouped: dict[Candidate, list[Outcome]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.state.candidate, []).append(outcome)
    return grouped


def best_outcome(starts: Sequence[Outcome]) -> Outcome:
    """The outcome of a candidate's best start, a trusted one if there is; the first start's if none is usable."""
    best = best_start([outcome.state for outcome in starts], trusted=True)
    return next((outcome for outcome in starts if outcome.state is best), starts[0])


def choose(outcomes: Sequence[Outcome], criterion: str) -> Outcome:
    """The candidate with the smallest criterion, each by its best start.

    Spurious and degenerate ones are passed over, as long as there are others.

    Raises
    ------
    UserError
        If no candidate has usable parameters.
    """
    best = [best_outcome(starts) for starts in by_candidate(outcomes).values()]
    values = [float(getattr(outcome, criterion)) for outcome in best]
    trusted = [outcome.state.status.trusted for outcome in best]
    position = best_position(values, [outcome.n_parameters for outcome in best], trusted)
    if position is None:
        raise UserError(f"none of the {len(best)} candidates could be fitted: {best[0].state.status.remedy}")
    return best[position]


def best_position(values: Sequence[float], n_parameters: Sequence[int], trusted: Sequence[bool]) -> int | None:
    """Position of the smallest criterion of those that may win (:func:`eligible`); None if there are none.

    Candidates may be one model in two forms (full and tied with one component), whose criteria differ by rounding
    alone. Among equals the one with the fewest parameters is taken, then the first.
    """
    known = eligible(values, trusted)
    if not known:
        return None
    least = min(values[i] for i in known)
    equal = [i for i in known if values[i] - least <= TIE * max(1.0, abs(least))]
    return min(equal, key=lambda i: n_parameters[i])


def eligible(values: Sequence[float], trusted: Sequence[bool]) -> list[int]:
    """Positions of the candidates that may win: those with a criterion whose status is trusted, or all if none is."""
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    return [i for i in known if trusted[i]] or known


def differences(values: Sequence[float], statuses: Sequence[str]) -> list[float]:
    """How much larger each candidate's criterion is than the winner's; NaN of those that may not win."""
    may_win = eligible(values, [Status(status).trusted for status in statuses])
    least = min((values[i] for i in may_win), default=math.nan)
    return [value - least if i in may_win else math.nan for i, value in enumerate(values)]


def evidence(difference: float) -> str:
    """How strong a difference of two BICs is as evidence for the smaller one, by convention (Kass and Raftery 1995)."""
    return next(words for upper, words in EVIDENCE if difference <= upper)
