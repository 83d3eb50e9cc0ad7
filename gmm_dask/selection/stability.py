"""How sure a choice is: what the fits to resamples of the rows make of each candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.loop import State
from gmm_dask.em.resamples import Refit
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.contingency import count_pairs
from gmm_dask.passes.data_summary import DataSummary, Moments
from gmm_dask.passes.model_batch import Totals
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.resampling import Resampling, collect_resampled_totals
from gmm_dask.passes.row_outputs import LABEL
from gmm_dask.passes.rows import Rows
from gmm_dask.selection.outcomes import Outcome, evaluate, leading, with_errors

Array = NDArray[np.float64]

# labels are compared for at most so many rows of the sample, as many as a job's checkpoints keep
COMPARED_ROWS = 1 << 14


class Stability(NamedTuple):
    """What the fits to resamples say about a candidate; NaN where there are none.

    Attributes
    ----------
    refits : int
        Number of resamples whose fit is usable.
    stability : float
        Mean adjusted Rand index between the labels of the fit to all rows and those of each such fit: 1 if all label
        the same, about 0 if they agree by chance only. One component is always stable.
    wins : float
        Share of the resamples in which the candidate wins.
    delta_error : float
        Standard error of the criterion's difference to that of the winner.
    """

    refits: int = 0
    stability: float = math.nan
    wins: float = math.nan
    delta_error: float = math.nan


# its fields are columns of the table of candidates, and arrays of a result store
STABILITY_NUMBERS = Stability._fields


@dataclass(frozen=True, eq=False)
class StandardErrors:
    """Standard errors of a mixture's parameters, the standard deviations over its fits to resamples.

    Attributes
    ----------
    weights : ndarray of shape (n_components,)
    means : ndarray of shape (n_components, n_features)
        NaN with fewer than two usable fits.
    """

    weights: Array
    means: Array


@dataclass(frozen=True, eq=False)
class ResampledSearch:
    """What the fits to resamples say about all candidates, by candidate; empty without resamples."""

    stability: Mapping[Candidate, Stability] = field(default_factory=dict)
    errors: Mapping[Candidate, StandardErrors] = field(default_factory=dict)


def evaluate_refits(
    refits: Sequence[Refit],
    resamples: Sequence[Moments],
    resampling: Resampling,
    rows: Rows,
    data_summary: DataSummary,
    best: Sequence[State],
    winner: Candidate,
    criterion: str,
) -> ResampledSearch:
    """Compare the fits to resamples with those to all rows: the final pass, one read of the data.

    Parameters
    ----------
    refits : sequence of Refit
        Those that have ended.
    resamples : sequence of Moments
    resampling : Resampling
    rows : Rows
    data_summary : DataSummary
        Of the rows; its sample is labelled.
    best : sequence of State
        The best fit of each candidate. One that is not trusted does not win in resamples either.
    winner : Candidate
        The one that the differences are taken to.
    criterion : str
    """
    usable: dict[int, dict[Candidate, State]] = {}
    for refit in refits:
        if refit.state.usable:
            usable.setdefault(refit.resample, {})[refit.state.candidate] = refit.state
    models = {number: [state.model for state in states.values()] for number, states in usable.items()}
    totals = collect_resampled_totals(rows, data_summary, resampling, resamples, models)
    sample = Rows(data_summary.sample[:: -(-len(data_summary.sample) // COMPARED_ROWS)])
    candidates = [state.candidate for state in best]
    criteria = np.full((len(resamples), len(best)), np.nan)
    wins = np.zeros(len(best))
    for number, states in usable.items():
        outcomes = _outcomes(best, states, totals[number], resamples[number].weight, rows.n_features)
        criteria[number] = [outcome.criteria[criterion] for outcome in outcomes]
        if (position := leading(outcomes, criterion)) is not None:
            wins[position] += 1.0
    errors = _deviations(criteria - criteria[:, [candidates.index(winner)]])
    stability, parameters = {}, {}
    for i, state in enumerate(best):
        fits = [states[candidates[i]] for states in usable.values() if candidates[i] in states]
        agreement = _mean_rand_index(state, fits, sample)
        share = float(wins[i]) / len(resamples)
        stability[candidates[i]] = Stability(len(fits), agreement, share, float(errors[i]))
        if state.usable:
            parameters[candidates[i]] = _standard_errors(state, fits)
    return ResampledSearch(stability, parameters)


def _outcomes(
    best: Sequence[State], states: Mapping[Candidate, State], totals: Sequence[Totals], weight: float, n_features: int
) -> list[Outcome]:
    """The outcomes of all candidates in one resample."""
    of_candidates = dict(zip(states, totals, strict=True))
    outcomes, known = [], {}
    for i, fit in enumerate(best):
        state = states.get(fit.candidate, fit) if fit.status.trusted else fit
        found = of_candidates.get(fit.candidate)
        if found is not None:
            known[i] = found
        outcomes.append(evaluate(state, n_features, found, weight))
    return with_errors(outcomes, known) if totals and totals[0].held_out_errors else outcomes


def _standard_errors(state: State, fits: Sequence[State]) -> StandardErrors:
    assert state.parameters is not None
    n_components, n_features = state.parameters.means.shape
    found = [fit.parameters for fit in fits if fit.parameters is not None]
    return StandardErrors(
        _deviations(np.array([p.weights for p in found]).reshape(-1, n_components)),
        _deviations(np.array([p.means for p in found]).reshape(-1, n_components, n_features)),
    )


def _deviations(values: Array) -> Array:
    """Standard deviations (...) of values (n_resamples, ...), without those that are NaN."""
    known = np.isfinite(values)
    n = np.count_nonzero(known, axis=0)
    mean = np.sum(values, axis=0, where=known) / np.maximum(n, 1)
    squares = np.sum((values - mean) ** 2, axis=0, where=known)
    return np.asarray(np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan))


def _mean_rand_index(state: State, fits: Sequence[State], sample: Rows) -> float:
    if not fits:
        return math.nan
    labels = _labels(state, sample)
    shape = (state.n_components + state.candidate.noise,) * 2
    return float(np.mean([adjusted_rand_index(count_pairs(labels, _labels(fit, sample), shape)) for fit in fits]))


def _labels(state: State, sample: Rows) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = predict_rows(sample, *state.model, [LABEL.name])[LABEL.name]
    return labels


def adjusted_rand_index(table: NDArray[np.int64]) -> float:
    """Compute how much two labellings agree, from the numbers of rows (n_labels, n_other_labels) with each two labels.

    Of all pairs of rows, those count that both labellings put together, or both apart; 1 if all do, 0 if as many as by
    chance (Hubert and Arabie 1985, "Comparing partitions").
    """
    counts = table.astype(np.float64)
    pairs, of_rows, of_columns = (
        float(np.sum(n * (n - 1.0))) / 2.0 for n in (counts, counts.sum(axis=1), counts.sum(axis=0))
    )
    n_rows = counts.sum()
    expected = of_rows * of_columns / max(1.0, n_rows * (n_rows - 1.0) / 2.0)
    most = (of_rows + of_columns) / 2.0
    return 1.0 if most == expected else float((pairs - expected) / (most - expected))
