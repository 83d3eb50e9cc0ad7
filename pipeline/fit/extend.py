"""Widening the grid of a job: which candidates come next, in which waves, or why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gmm_dask.em.loop import State, Status
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.memory import plan_waves
from gmm_dask.selection.grid import extend_grid
from pipeline import store
from pipeline.clusters import machine_of
from pipeline.config.job import JobConfig
from pipeline.fit.estimate import shape_found
from pipeline.sources import Source
from pipeline.store import Checkpoint
from pipeline.store.show import row_of


@dataclass(frozen=True)
class WiderGrid:
    """What a job's grid goes on with.

    Attributes
    ----------
    candidates : list of (covariance_type, n_components)
        Empty if the grid stays as it is.
    waves : tuple of int
        How their fits are cut, as :func:`gmm_dask.memory.plan_waves` does.
    reason : str
        Why the grid is widened; if it is not, why not although the winner lies at an end of it, or nothing.
    """

    candidates: list[Candidate]
    waves: tuple[int, ...]
    reason: str


def candidates_of(states: Sequence[State]) -> list[Candidate]:
    """The candidates that states are of, in order."""
    return list(dict.fromkeys(state.candidate for state in states))


def wider_grid(config: JobConfig, source: Source, checkpoint: Checkpoint, best: str) -> WiderGrid:
    """What the grid of a job goes on with, now that the criteria of all its candidates are in the store.

    Parameters
    ----------
    config : JobConfig
    source : Source
    checkpoint : Checkpoint
        In which no state is running.
    best : str
        Name of the winner's model.
    """
    known, path = candidates_of(checkpoint.states), config.output.store
    refresh = store.read_attribute(path, "refresh")
    if refresh and not refresh["searched"]:
        return WiderGrid([], (), "a refresh kept the last winner and did not search")
    table = store.read_criteria(path)
    row = row_of(table, best)
    winner = Candidate.of(row)
    found = extend_grid(known, winner, Status(row["status"]).trusted, checkpoint.data_summary.n_rows)
    if not found.candidates:
        return WiderGrid([], (), found.stopped)
    return _that_fits(config, source, checkpoint, found.candidates, best)


def _that_fits(
    config: JobConfig, source: Source, checkpoint: Checkpoint, candidates: list[Candidate], best: str
) -> WiderGrid:
    """So many of the candidates as the memory has room for, those of the fewest components first."""
    known = candidates_of(checkpoint.states)
    shape = shape_found(source, config, checkpoint.data_summary, [*known, *candidates])
    most = max(k for _, k in candidates)
    try:
        waves = plan_waves(shape, machine_of(config, shape), candidates, config.search.n_init, known)
    except UserError as error:
        fewer = [candidate for candidate in candidates if candidate[1] < most]
        if fewer:
            return _that_fits(config, source, checkpoint, fewer, best)
        return WiderGrid([], (), f"for {most} components {str(error).rstrip('.')}")
    return WiderGrid(candidates, waves, _why(best, known, candidates))


def _why(best: str, known: list[Candidate], candidates: list[Candidate]) -> str:
    counts, more = ({k for _, k in part} for part in (known, candidates))
    listed = ", ".join(map(str, sorted(more)))
    return (
        f"the winner {best} lies at the end of {min(counts)} to {max(counts)} components: {listed} "
        f"{'is' if len(more) == 1 else 'are'} tried, too; reading the data once more for the starts"
    )
