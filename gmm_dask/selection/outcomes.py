"""The outcome of each start of each candidate, and the choice among candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD, Inference
from gmm_dask.em.loop import State, Status, best_start
from gmm_dask.em.spurious import NO_VERDICT, Verdict, check_components
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.model_batch import Totals
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.statistics import collect_totals
from gmm_dask.selection.criteria import CRITERIA, best_position, criteria_of

# with a smaller share of distinct rows than this, BIC is compared with each row counted once, too
MANY_COPIES = 0.8
_NO_CRITERIA = dict.fromkeys(CRITERIA, math.nan)


@dataclass(frozen=True, eq=False)
class Outcome:
    """One start of one candidate after the final pass; NaN where it has no usable parameters.

    Attributes
    ----------
    state : State
    n_parameters : int
    criteria : mapping of str to float
        The value of each of :data:`~gmm_dask.selection.criteria.CRITERIA`, by name; NaN where it needs held-out rows
        and there are none, or where the mixture is estimated in another way.
    log_likelihood : float
        Total over the fitted rows, of the final parameters.
    held_out_log_likelihood : float
        Mean per row over the rows that were held out; NaN where none were.
    held_out_error : float
        Standard error of the difference of ``criteria["held_out"]`` to the smallest of all candidates.
    verdict : Verdict
        On the slim component that gains least.
    """

    state: State
    n_parameters: int
    criteria: Mapping[str, float]
    log_likelihood: float = math.nan
    held_out_log_likelihood: float = math.nan
    held_out_error: float = math.nan
    verdict: Verdict = NO_VERDICT


def evaluate(
    state: State,
    n_features: int,
    totals: Totals | None,
    total_weight: float,
    held_out_weight: float = math.nan,
    verdict: Verdict = NO_VERDICT,
) -> Outcome:
    """Return the outcome of a state from the final pass's totals, which are None if the state is not usable."""
    of_likelihood = totals is None or math.isnan(totals.log_evidence)
    n_parameters = state.candidate.n_parameters(n_features)
    if totals is None:
        return Outcome(state, n_parameters, _NO_CRITERIA)
    return Outcome(
        state=state,
        n_parameters=n_parameters,
        criteria=_NO_CRITERIA
        | {name: CRITERIA[name].formula(totals, n_parameters, total_weight) for name in criteria_of(of_likelihood)},
        log_likelihood=totals.log_likelihood,
        held_out_log_likelihood=totals.held_out / held_out_weight,
        verdict=verdict,
    )


def evaluate_states(
    rows: Rows, data_summary: DataSummary, states: Sequence[State], inference: Inference = MAXIMUM_LIKELIHOOD
) -> list[Outcome]:
    """Compute the criteria of the final parameters of all states: the final pass, one read of the data.

    The log-likelihoods are those of the rows before they were transformed. ``inference`` is that of the fits.
    """
    weight, log_scale, held_out = data_summary.total_weight, data_summary.log_scale, data_summary.held_out
    held_out_weight = held_out.total_weight if held_out else math.nan
    usable = [i for i, state in enumerate(states) if state.usable]
    if not usable:
        return [evaluate(state, rows.n_features, None, weight) for state in states]
    found: dict[int, Outcome] = {}
    # the same pass also evaluates mixtures without their doubtful components, which shows whether these are spurious
    collect = partial(collect_totals, rows, data_summary)
    distinct_share = data_summary.resolution.distinct_share
    results = check_components([states[i] for i in usable], collect, weight, distinct_share, inference.of_likelihood)
    for i, state, total, verdict in zip(usable, *results, strict=True):
        # a transform multiplies densities by the determinant of its derivative, the scales' product: undone here
        unscaled = total._replace(
            log_likelihood=total.log_likelihood - weight * log_scale,
            held_out=total.held_out - (held_out_weight * held_out.log_scale if held_out else math.nan),
            log_evidence=log_evidence(state, data_summary, inference),
        )
        found[i] = evaluate(state, rows.n_features, unscaled, weight, held_out_weight, verdict)
    outcomes = [
        found[i] if i in found else evaluate(state, rows.n_features, None, weight) for i, state in enumerate(states)
    ]
    if inference.of_likelihood:
        outcomes = without_gains_of_copies(outcomes, weight, distinct_share)
    return (
        outcomes if data_summary.held_out is None else with_errors(outcomes, dict(zip(usable, results[1], strict=True)))
    )


def log_evidence(state: State, data_summary: DataSummary, inference: Inference) -> float:
    """Return the bound on the log evidence of the rows before they were scaled; NaN where there is none."""
    family, parameters = state.model
    weight = data_summary.total_weight
    found = inference.log_evidence(family, parameters, state.lower_bound * weight, weight)
    return found - weight * data_summary.log_scale


def with_errors(outcomes: Sequence[Outcome], totals: Mapping[int, Totals]) -> list[Outcome]:
    """Return the outcomes with the standard errors of their differences to the best on held-out rows.

    ``totals`` are those of the usable states, by their positions and in their order.
    """
    best = [best_outcome(starts) for starts in by_candidate(outcomes).values()]
    position = _smallest(best, "held_out")
    if position is None:
        return list(outcomes)
    smallest = list(totals).index(next(i for i, one in enumerate(outcomes) if one is best[position]))
    errors = {i: 2.0 * of_state.held_out_errors[smallest] for i, of_state in totals.items()}
    return [replace(one, held_out_error=errors.get(i, math.nan)) for i, one in enumerate(outcomes)]


def without_gains_of_copies(outcomes: Sequence[Outcome], total_weight: float, distinct_share: float) -> list[Outcome]:
    """Return the outcomes, those spurious that win over fewer components only because rows are there many times.

    Of rows that are there m times each, the log-likelihood is m times that of the distinct rows, and so is what
    superfluous components gain by chance: more than BIC's penalty, which grows with log m, is made for. A mixture is
    spurious if one of fewer components has the smaller BIC with each row counted once.
    """
    if distinct_share >= MANY_COPIES:
        return list(outcomes)
    log_n = math.log(max(1.0, total_weight * distinct_share))
    once = [o.n_parameters * log_n - 2.0 * distinct_share * o.log_likelihood for o in outcomes]
    trusted = [(o.state.n_components, bic) for o, bic in zip(outcomes, once, strict=True) if o.state.status.trusted]
    return [
        replace(o, state=replace(o.state, status=Status.SPURIOUS))
        if o.state.status.trusted and any(k < o.state.n_components and other < bic for k, other in trusted)
        else o
        for o, bic in zip(outcomes, once, strict=True)
    ]


def by_candidate(outcomes: Sequence[Outcome]) -> dict[Candidate, list[Outcome]]:
    """Group the outcomes of each candidate's starts, in order."""
    grouped: dict[Candidate, list[Outcome]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.state.candidate, []).append(outcome)
    return grouped


def best_outcome(starts: Sequence[Outcome]) -> Outcome:
    """Return the outcome of a candidate's best start, a trusted one if there is; the first's if none is usable."""
    if len(starts) == 1:
        return starts[0]
    best = best_start([outcome.state for outcome in starts], trusted=True)
    return next((outcome for outcome in starts if outcome.state is best), starts[0])


def choose(outcomes: Sequence[Outcome], criterion: str) -> Outcome:
    """Return the candidate that the criterion chooses, each by its best start.

    Spurious and degenerate ones are passed over, as long as there are others.

    Raises
    ------
    UserError
        If no candidate has usable parameters.
    """
    best = [best_outcome(starts) for starts in by_candidate(outcomes).values()]
    position = leading(best, criterion)
    if position is None:
        raise UserError(f"no candidate could be fitted: {best[0].state.status.remedy}")
    return best[position]


def leading(best: Sequence[Outcome], criterion: str) -> int | None:
    """Return the position of the candidate that the criterion chooses; None where no candidate has one."""
    error = CRITERIA[criterion].error
    return _smallest(best, criterion, None if error is None else [getattr(outcome, error) for outcome in best])


def _smallest(best: Sequence[Outcome], criterion: str, errors: Sequence[float] | None = None) -> int | None:
    values = [outcome.criteria[criterion] for outcome in best]
    trusted = [outcome.state.status.trusted for outcome in best]
    return best_position(values, [outcome.n_parameters for outcome in best], trusted, errors)
