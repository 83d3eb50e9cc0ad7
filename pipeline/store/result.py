"""The one reader of a result store: what is in it, read when it is asked for, and refused by name if not whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pandas as pd

from gmm_dask.selection.diagnostics import chosen_within_error, remarks, starts_compared
from gmm_dask.selection.results import chosen_position, outcome_table, with_delta
from pipeline.store.attributes import RowSummary, StoreAttributes, check_attributes
from pipeline.store.checkpoint import load_checkpoint
from pipeline.store.criteria import Effort, names_of, read_criteria, read_effort, row_of, table_so_far
from pipeline.store.integrity import DamagedError, Manifest, read_manifest, reading, require_extent
from pipeline.store.lifecycle import require_store
from pipeline.store.models import Sample, StoredModel, read_model, read_sample
from pipeline.store.places import StorePath, place_of
from pipeline.store.places.base import METADATA
from pipeline.store.rows.zarr import read_summary, row_shapes, rows_folder

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

        ``delta`` is how much larger the criterion is than the smallest, NaN for candidates that may not win. While
        the store is unfinished, the criteria come from each candidate's newest lower bound; ICL and what is held out
        are NaN.
        """
        table = self.criteria if self.is_complete else self._table_so_far()
        return with_delta(table, self.criterion)

    @cached_property
    def criteria(self) -> pd.DataFrame:
        """The criteria of the last final pass, by :func:`read_criteria`; :class:`UserError` before it."""
        with self._reading("criteria"):
            return read_criteria(self.store)

    def _table_so_far(self) -> pd.DataFrame:
        if self.checkpoint is None:
            return outcome_table([])
        checkpoint = load_checkpoint(self.store, self.checkpoint)
        return table_so_far(checkpoint.states, checkpoint.data_summary)

    def chosen_by(self, criterion: str) -> str | None:
        """Return the name of the candidate that a criterion chooses; None if no candidate has it yet."""
        position = chosen_position(self.table, criterion)
        return None if position is None else names_of(self.table)[position]

    @property
    def leader(self) -> str | None:
        """Name of the best candidate; of an unfinished store, of the best so far."""
        return self.best or self.chosen_by(self.criterion)

    def row(self, name: str | None = None) -> dict[str, Any]:
        """Return a candidate's row of the table, by default the chosen one's."""
        with reading(self.store, "criteria"):
            return row_of(self.table, name or self._require_best())

    def model(self, name: str | None = None) -> StoredModel:
        """Read a model, by default the chosen one; raises :class:`UserError` if the store has none of that name."""
        name = name or self._require_best()
        with self._reading(f"models/{name}"):
            model = read_model(self.store, name)
            if model.columns != tuple(self.data["columns"]):
                raise ValueError(f"its features are {', '.join(model.columns)}, and not the columns of the data")
            return model

    def _require_best(self) -> str:
        assert self.best is not None, f"{self.store} is not complete"
        return self.best

    @contextmanager
    def _reading(self, part: str) -> Iterator[None]:
        """Refuse a part of the store that is not as it was written, or not what it should be, by its name."""
        if self._manifest:
            self._manifest.require(self.store, part, self._known_files)
        with reading(self.store, part):
            yield

    @cached_property
    def _manifest(self) -> Manifest | None:
        """What belongs to the store; None until it is complete."""
        return read_manifest(self.store, str(self.manifest)) if self.is_complete else None

    @cached_property
    def _known_files(self) -> set[str]:
        """Files that were compared with the manifest, and are not read again for that."""
        return set()

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
        """Which candidate is as good, how the winner's starts compare, how the grid was widened, what the fits took."""
        winner = self.row()
        within = chosen_within_error(self.table, self.criterion, winner)
        return [note for note in (within, starts_compared(winner), self.widening_note, self.effort_note) if note]

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
        with self._reading("criteria"):
            return read_effort(self.store)

    # -- rows ------------------------------------------------------------------------------------------------
    @cached_property
    def row_summary(self) -> RowSummary | None:
        """What is known of the rows as a whole; None if their values have not been written, or not all of them."""
        with self._reading("rows"):
            values = read_summary(self.store)
            found = None if values is None else RowSummary.from_dict(values)
            if found and self.best and len(found.label_counts) != self.best_model.n_components:
                raise ValueError(f"label_counts are of {len(found.label_counts)} components")
            return found

    @cached_property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array that the store holds about the rows."""
        with self._reading("rows"):
            return row_shapes(self.store)

    @cached_property
    def sample(self) -> Sample | None:
        """Some rows, with the chosen model's labels; None until the store is complete."""
        if not self.is_complete:
            return None
        n_features, n_components = len(self.best_model.columns), self.best_model.n_components
        with self._reading("sample"):
            return read_sample(self.store, n_features, n_components)

    # -- all of it -------------------------------------------------------------------------------------------
    def require_whole(self) -> None:
        """Raise :class:`DamagedError` if a complete store has lost anything; it is not read but for small arrays."""
        if self._manifest:
            self._manifest.require(self.store, "", self._known_files)
            self._manifest.require_rows(self.store)

    def require_parquet(self) -> None:
        """Raise :class:`DamagedError` if files of row outputs beside the store are lost."""
        rows = self.row_summary
        if rows and rows.parquet:
            require_extent(self.store, place_of(rows_folder(self.store)), "", rows.parquet)

    def loaded(self, *, just_completed: bool = False) -> Self:
        """Read all that is read when it is asked for, so that the store may change afterwards.

        ``just_completed`` tells that this process has made the manifest a moment ago, from the files as they are.
        """
        if just_completed and self._manifest:
            self._known_files.update(self._manifest.sha256)
        self.require_whole()
        self.require_parquet()
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
        If there is no result store, one that is not complete, or (:class:`DamagedError`) one that is not whole.
    """
    attributes = require_store(path, unfinished=unfinished)
    result = Result(store=place_of(path).followed().path, **vars(attributes))
    with reading(path, METADATA):
        check_attributes(result)
    return result


def read_candidates(path: StorePath) -> Result:
    """Open a result store, complete or not, and read its table of candidates while a run may be at work on it.

    A complete one must be whole.

    Raises
    ------
    UserError
        If there is no result store at the path, or it is damaged.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            result = open_result(path, unfinished=True)
            result.require_whole()
            result.table  # noqa: B018 - read while the checkpoint is there
        except DamagedError:
            if attempt == ATTEMPTS:
                raise
        else:
            return result
    raise AssertionError
