"""Fits to resamples of the rows: EM from the parameters of a fit to all rows, so that components keep their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gmm_dask.em import in_memory, loop
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.passes.data_summary import DataSummary, Moments
from gmm_dask.passes.resampling import (
    Resampling,
    collect_resampled_statistics,
    summary_of,
)
from gmm_dask.passes.rows import Rows


@dataclass(frozen=True, eq=False)
class Refit:
    """A fit to a resample.

    Attributes
    ----------
    resample : int
        Number of the resample, from 0.
    state : State
        Its ``start`` is that of the fit to all rows.
    """

    resample: int
    state: State


def first_refits(fits: Iterable[State], resamples: Sequence[Moments], settings: Settings) -> list[Refit]:
    """Begin a fit to each resample from each of some fits to all rows, resample by resample.

    Parameters
    ----------
    fits : iterable of State
        Those without usable parameters are passed over.
    resamples : sequence of Moments
        Of a resample without weight no fit begins.
    settings : Settings
    """
    usable = [State(fit.candidate, fit.start, fit.parameters) for fit in fits if fit.usable]
    begun = Status.RUNNING if settings.max_iter else Status.MAX_ITER
    return [
        Refit(number, replace(state, status=begun if resample.weight else Status.FAILED))
        for number, resample in enumerate(resamples)
        for state in usable
    ]


def run(
    refits: Sequence[Refit],
    resamples: Sequence[Moments],
    resampling: Resampling,
    rows: Rows,
    data_summary: DataSummary,
    settings: Settings,
    on_pass: Callable[[list[Refit]], None] | None = None,
) -> list[Refit]:
    """Run fits to resamples until none is running, compiled where the rows allow it.

    Parameters
    ----------
    refits : sequence of Refit
    resamples : sequence of Moments
        Of all resamples, from :func:`gmm_dask.passes.resampling.summarize_resamples`.
    resampling : Resampling
    rows : Rows
        From anywhere.
    data_summary : DataSummary
        Of the rows.
    settings : Settings
    on_pass : callable, optional
        Called with the fits after each pass; those that run compiled as a whole cannot call it.

    Raises
    ------
    ChangedRowsError
        If the rows are not those of the data summary.
    """
    if on_pass is None and in_memory.is_compiled(rows, settings):
        return _run_compiled(refits, resampling, rows, data_summary, resamples, settings)
    while running := _running(refits):
        models = {number: [refits[i].state.model for i in own] for number, own in running.items()}
        found = collect_resampled_statistics(rows, data_summary, resampling, resamples, models)
        states = {
            number: loop.steps([refits[i].state for i in own], found[number], resamples[number].weight, settings)
            for number, own in running.items()
        }
        refits = _with_states(refits, running, states)
        if on_pass is not None:
            on_pass(refits)
    return list(refits)


def _run_compiled(
    refits: Sequence[Refit],
    resampling: Resampling,
    rows: Rows,
    data_summary: DataSummary,
    resamples: Sequence[Moments],
    settings: Settings,
) -> list[Refit]:
    running, states = _running(refits), {}
    for number, own in running.items():
        taken = Rows(*resampling.take((rows.array, rows.weights), number, 0))
        summary = summary_of(data_summary, resamples[number])
        states[number] = in_memory.run([refits[i].state for i in own], taken, summary, settings, dtype=rows.array.dtype)
    return _with_states(refits, running, states)


def _running(refits: Sequence[Refit]) -> dict[int, list[int]]:
    """Positions of the fits that are running, by the number of their resample."""
    found: dict[int, list[int]] = {}
    for i, refit in enumerate(refits):
        if refit.state.status is Status.RUNNING:
            found.setdefault(refit.resample, []).append(i)
    return found


def _with_states(
    refits: Sequence[Refit], positions: Mapping[int, Sequence[int]], states: Mapping[int, Sequence[State]]
) -> list[Refit]:
    """Replace the states at some positions, both by the number of the resample."""
    after = list(refits)
    for number, own in positions.items():
        for i, state in zip(own, states[number], strict=True):
            after[i] = replace(after[i], state=state)
    return after
