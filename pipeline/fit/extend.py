"""Extending the grid of a job: the next candidates and their waves, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gmm_dask.em.loop import Status
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.grid import extend_grid
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.fit.plan import candidates_of, plan_fits
from pipeline.sources import Source
from pipeline.store import Checkpoint


@dataclass(frozen=True)
class PlannedExtension:
    """The candidates that a grid is extended by.

    Attributes
    ----------
    candidates : tuple of Candidate
        Empty if the grid stays as it is.
    waves : tuple of int
        Of their fits.
    reason : str
        Why the grid is extended; if it is not, why not although the winner lies at an end of it, or nothing.
    """

    candidates: tuple[Candidate, ...]
    waves: tuple[int, ...]
    reason: str


def plan_extension(config: JobConfig, source: Source, checkpoint: Checkpoint, best: str) -> PlannedExtension:
    """Decide how the grid of a job is extended, now that the criteria of all its candidates are in the store.

    Parameters
    ----------
    config : JobConfig
    source : Source
    checkpoint : Checkpoint
        In which no state is running.
    best : str
        Name of the winner's model.
    """
    result = store.open_result(config.output.store, unfinished=True)
    if result.keeps_winner:
        return PlannedExtension((), (), "a refresh kept the last winner and did not search")
    row = store.row_of(result.criteria, best)
    known, winner = candidates_of(checkpoint.states), Candidate.of(row)
    found = extend_grid(known, winner, Status(row["status"]).trusted, checkpoint.data_summary.n_rows)
    candidates, stopped = found.candidates, found.stopped
    while candidates:
        try:
            plan = plan_fits(config, source, candidates, checkpoint.data_summary, done=known)
        except UserError as error:  # too much memory: without those of the most components there may be room
            most = max(candidate.n_components for candidate in candidates)
            candidates = [candidate for candidate in candidates if candidate.n_components < most]
            stopped = f"for {most} components {str(error).rstrip('.')}"
        else:
            return PlannedExtension(plan.candidates, plan.waves, _reason(best, known, candidates))
    return PlannedExtension((), (), stopped)


def _reason(best: str, known: Sequence[Candidate], candidates: Sequence[Candidate]) -> str:
    counts, more = ({candidate.n_components for candidate in part} for part in (known, candidates))
    return (
        f"the winner {best} is at the end of the grid, {min(counts)} to {max(counts)} components: adding "
        f"{', '.join(map(str, sorted(more)))}; reading the data once for the starts"
    )
