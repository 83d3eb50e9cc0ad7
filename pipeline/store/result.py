"""The one reader of a result store: what is in it, read when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pandas as pd

from gmm_dask.em.loop import Status
from gmm_dask.selection.criteria import best_position
from gmm_dask.selection.diagnostics import remarks, starts_compared
from gmm_dask.selection.results import outcome_table, with_delta
from pipeline.store.arrays import StorePath
from pipeline.store.attributes import RowSummary, StoreAttributes
from pipeline.store.checkpoint import DamagedError, load_checkpoint
from pipeline.store.criteria import Effort, names_of, read_criteria, read_effort, row_of, table_so_far
from pipeline.store.lifecycle import read_attributes, require_store
from pipeline.store.models import Sample, StoredModel, read_model, read_sample
from pipeline.store.zarr_rows import read_summary, row_shapes

# a run at work may replace the checkpoint while it is read
ATTEMPTS = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Result(StoreAttributes):
    """A result store: its attributes, read when it was opened, and its arrays, read when they are asked for.

    Attributes
    ----------
    store : str
        Path of the store.
    """

    store: str

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per candidate: ``n_components, covariance_type, status``, the criteria, ``delta``, and more.

        ``delta`` is how much larger the criterion is than the winner's, NaN for candidates that may not win. While
        the store is unfinished, the criteria come from each candidate's newest lower bound; ICL and what is held out
        are NaN.
        """
        table = self.criteria if self.is_complete else self._table_so_far()
        return with_delta(table, self.criterion)

    @cached_property
    def criteria(self) -> pd.DataFrame:
        """The criteria of the last final pass, by :func:`read_criteria`; :class:`UserError` before it."""
        return read_criteria(self.store)

    def _table_so_far(self) -> pd.DataFrame:
        if self.checkpoint is None:
            return outcome_table([])
        checkpoint = load_checkpoint(self.store, self.checkpoint)
        return table_so_far(checkpoint.states, checkpoint.data_summary)

    def chosen_by(self, criterion: str) -> str | None:
        """Return the name of the candidate that a criterion chooses; None if no candidate has it yet."""
        trusted = [Status(status).trusted for status in self.table["status"]]
        position = best_position(self.table[criterion].tolist(), self.table["n_parameters"].tolist(), trusted)
        return None if position is None else names_of(self.table)[position]

    @property
    def leader(self) -> str | None:
        """Name of the best candidate; of an unfinished store, of the best so far."""
        return self.best or self.chosen_by(self.criterion)

    def row(self, name: str | None = None) -> dict[str, Any]:
        """Return a candidate's row of the table, by default the chosen one's."""
        return row_of(self.table, name or self._require_best())

    def model(self, name: str | None = None) -> StoredModel:
        """Read a model, by default the chosen one; raises :class:`UserError` if the store has none of that name."""
        return read_model(self.store, name or self._require_best())

    def _require_best(self) -> str:
        assert self.best is not None, f"{self.store} is not complete"
        return self.best

    @cached_property
    def best_model(self) -> StoredModel:
        """The chosen model."""
        return self.model()

    @property
    def weights(self) -> tuple[float, ...]:
        """The chosen model's mixing weights, the largest first."""
        return tuple(self.best_model.model[1].weights.tolist())

    def mean_log_density(self, name: str) -> float:
        """Return the mean log density of the fitted rows by a model, in the user's units."""
        return float(row_of(self.criteria, name)["log_likelihood"]) / float(self.data["contents"]["total_weight"])

    @property
    def mean_log_likelihood(self) -> float:
        """The chosen model's log-likelihood per fitted row."""
        return self.mean_log_density(self._require_best())

    @property
    def held_out_log_likelihood(self) -> float:
        """The chosen model's log-likelihood per held-out row; NaN if none were held out."""
        return float(self.row()["held_out_log_likelihood"])

    # -- remarks ---------------------------------------------------------------------------------------------
    @property
    def remarks(self) -> list[str]:
        """What to know before the choice is trusted."""
        stopped = self.widening.stopped if self.widening else None
        return remarks(self.table, self.criterion, self.row(), stopped)

    @property
    def notes(self) -> list[str]:
        """How the winner's starts compare, how the grid was widened, and how many iterations the fits took."""
        return [note for note in (starts_compared(self.row()), self.widening_note, self.effort_note) if note]

    @property
    def widening_note(self) -> str:
        """From which numbers of components to which the grid was widened; empty if it was not."""
        if self.widening is None or not self.widening.times:
            return ""
        times, requested = self.widening.times, self.config["search"]["n_components"]
        counts = self.table["n_components"]
        return (
            f"the grid was widened {'once' if times == 1 else f'{times} times'}, from {min(requested)} to "
            f"{max(requested)} components to {counts.min()} to {counts.max()}"
        )

    @property
    def effort_note(self) -> str:
        """How many iterations the fits took; a pass over the data is an iteration of each fit that is running."""
        effort = self.effort
        note = f"{effort.iterations:,} iterations of {effort.fits:,} fit{'s' * (effort.fits != 1)}, which share passes"
        if self.config["search"]["accelerate"]:
            note += (
                f"; {effort.extrapolations:,} of them at extrapolated parameters, {effort.falls:,} of those given up"
            )
        if effort.sample_iterations:
            note += f"; plus {effort.sample_iterations:,} on an in-memory sample (no passes over the data)"
        return note

    @cached_property
    def effort(self) -> Effort:
        """What the fits of all starts took."""
        return read_effort(self.store)

    # -- rows ------------------------------------------------------------------------------------------------
    @cached_property
    def row_summary(self) -> RowSummary | None:
        """What is known of the rows as a whole; None if their values have not been written, or not all of them."""
        found = read_summary(self.store)
        return None if found is None else RowSummary.from_dict(found)

    @cached_property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array that the store holds about the rows."""
        return row_shapes(self.store)

    @cached_property
    def sample(self) -> Sample | None:
        """Some rows, with the chosen model's labels; None until the store is complete."""
        return read_sample(self.store)

    def loaded(self) -> Self:
        """Read all that is read when it is asked for, so that the store may change afterwards."""
        for kind in type(self).__mro__:
            for name, value in vars(kind).items():
                if isinstance(value, cached_property):
                    getattr(self, name)
        return self


def open_result(path: StorePath, *, unfinished: bool = False) -> Result:
    """Open a result store for reading.

    Parameters
    ----------
    path : str or Path
    unfinished : bool
        Whether a store that is not complete is accepted.

    Raises
    ------
    UserError
        If there is no result store, or one that is not complete.
    """
    require_store(path, unfinished=unfinished)
    return Result(store=str(path), **vars(read_attributes(path)))


def read_candidates(path: StorePath) -> Result:
    """Open a result store, complete or not, and read its table of candidates while a run may be at work on it.

    Raises
    ------
    UserError
        If there is no result store at the path, or an unfinished one whose checkpoint is damaged.
    """
    for attempt in range(1, ATTEMPTS + 1):
        result = open_result(path, unfinished=True)
        try:
            result.table  # noqa: B018 - read while the checkpoint is there
        except (KeyError, FileNotFoundError, DamagedError):
            if attempt == ATTEMPTS:
                raise
        else:
            return result
    raise AssertionError
