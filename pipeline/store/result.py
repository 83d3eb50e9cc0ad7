"""The one reader of a result store: what is in it, read when it is asked for, and refused by name if not whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gmm_dask.em.status import Status
from gmm_dask.errors import UserError
from gmm_dask.formatting import counted, listed
from gmm_dask.passes.bounding_box import Box
from gmm_dask.selection.cluster_tree import ClusterTree
from gmm_dask.selection.diagnostics import chosen_within_error, remarks, starts_compared
from gmm_dask.selection.grid import noise_choices
from gmm_dask.selection.results import chosen_position, outcome_table, with_delta
from gmm_dask.selection.stability import StandardErrors
from gmm_dask.variational.inference import inference_of
from pipeline.store.attributes import RowSummary, StoreAttributes, check_attributes
from pipeline.store.checkpoint import load_checkpoint
from pipeline.store.contents.clusters import read_cluster_tree
from pipeline.store.contents.criteria import Effort, names_of, read_criteria, read_effort, row_of, table_so_far
from pipeline.store.contents.models import Sample, StoredModel, read_model, read_sample
from pipeline.store.contents.noise import GROUP, read_noise_box
from pipeline.store.contents.resamples import read_errors, read_stability
from pipeline.store.contents.transforms import read_transform
from pipeline.store.integrity import DamagedError, Manifest, read_manifest, reading, require_extent
from pipeline.store.lifecycle import require_store
from pipeline.store.places import StorePath, place_of
from pipeline.store.places.base import METADATA
from pipeline.store.rows.zarr import read_summary, require_row_arrays, row_shapes, rows_folder
from pipeline.transforms import Chain

if TYPE_CHECKING:
    import pandas as pd

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
        """A row per candidate: ``n_components, covariance_type, noise, status``, the criteria, ``delta``, and more.

        ``delta`` is how much larger the criterion is than the smallest, NaN for candidates that may not win. With
        resamples, the fields of :class:`gmm_dask.selection.stability.Stability` are there once they are known. While
        the store is unfinished, the criteria come from each candidate's newest lower bound; ICL and what is held out
        are NaN.
        """
        if not self.is_complete:
            return with_delta(self._table_so_far(), self.criterion)
        table = with_delta(self.criteria, self.criterion)
        if not self.n_resamples:
            return table
        with self._reading("resamples"):
            return table.assign(**read_stability(self.store, table))

    @property
    def n_resamples(self) -> int:
        """Number of resamples that the candidates were fitted to again."""
        return int(self.config["search"]["resamples"])

    @cached_property
    def criteria(self) -> pd.DataFrame:
        """The criteria of the last final pass, by :func:`read_criteria`; :class:`UserError` before it."""
        with self._reading("criteria"):
            return read_criteria(self.store)

    def _table_so_far(self) -> pd.DataFrame:
        if self.checkpoint is None:
            return outcome_table([])
        checkpoint = load_checkpoint(self.store, self.checkpoint)
        data_summary = checkpoint.data_summary
        inference = inference_of(self.config["search"]["inference"], data_summary)
        return table_so_far(checkpoint.states, data_summary, inference)

    def chosen_by(self, criterion: str) -> str | None:
        """Return the name of the candidate that a criterion chooses; None if no candidate has it yet."""
        position = chosen_position(self.table, criterion)
        return None if position is None else names_of(self.table)[position]

    @property
    def leader(self) -> str | None:
        """Name of the best candidate; of an unfinished store, of the best so far."""
        return self.best or self.chosen_by(self.criterion)

    @property
    def has_failed(self) -> bool:
        """Whether all fits of an unfinished store have ended, none with parameters: no run can complete it."""
        return not self.is_complete and self.checkpoint is not None and not self.models

    def row(self, name: str | None = None) -> dict[str, Any]:
        """Return a candidate's row of the table, by default the chosen one's."""
        with reading(self.store, "criteria"):
            return row_of(self.table, name or self._require_best())

    @property
    def models(self) -> list[str]:
        """Names of the models that the store holds: the candidates that could be fitted, in the order of the table."""
        usable = [Status(status).usable for status in self.table["status"]]
        return list(itertools.compress(names_of(self.table), usable))

    @property
    def fitted_models(self) -> list[StoredModel]:
        """All models that the store holds, in the order of the table; of an unfinished one, too, after the choice."""
        usable = [Status(status).usable for status in self.criteria["status"]]
        return [self.model(name) for name in itertools.compress(names_of(self.criteria), usable)]

    @cached_property
    def errors(self) -> StandardErrors | None:
        """Standard errors of the chosen model, in the user's units; None without resamples."""
        if not (self.is_complete and self.n_resamples):
            return None
        model = self.best_model
        with self._reading("resamples"):
            return read_errors(self.store, str(self.best), model.n_components, len(model.columns))

    def model(self, name: str | None = None) -> StoredModel:
        """Read a model, by default the chosen one; raises :class:`UserError` if the store has none of that name."""
        if name is not None and self.is_complete:
            self._require_model(name)
        name = name or self._require_best()
        transform = self._stored_transform
        with self._reading(f"models/{name}"):
            model = read_model(self.store, name, self.data["columns"], transform)
            return replace(model, component_names=self.names) if name == self.best else model

    @cached_property
    def _stored_transform(self) -> Chain | None:
        """The fitted ``data.transform``; None where there is none, and in stores of earlier versions."""
        with self._reading("transform"):
            found = read_transform(self.store, self.data["columns"])
            data = self.config["data"]
            # complete stores of earlier versions have the scaling with each model
            if found is None and (data["transform"] or (data["scale"] != "none" and not self.is_complete)):
                raise ValueError("it is not there")
            return found

    @property
    def transform(self) -> Chain:
        """How rows come to the units of the fit."""
        return self._stored_transform or Chain()

    def _require_model(self, name: str) -> None:
        if name in self.models:
            return
        of_candidate = self.row(name)["status"] if name in names_of(self.table) else ""
        cause = f" This candidate could not be fitted: {Status(of_candidate).cause}." if of_candidate else ""
        raise UserError(
            f"the result store {self.store} has no model {name!r}.{cause} Its models: {', '.join(self.models)}."
        )

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
    def noise_box(self) -> Box | None:
        """What the noise of candidates is uniform in, in the units of the fit; None where none has noise."""
        if not any(noise_choices(self.config["search"]["noise"])[0]):
            return None
        if self.is_complete and not self.criteria["noise"].any():  # a refresh kept a winner without noise
            return None
        with self._reading(GROUP):
            return read_noise_box(self.store, len(self.transform.labels(self.data["columns"])))

    @cached_property
    def best_model(self) -> StoredModel:
        """The chosen model."""
        return self.model()

    @property
    def weights(self) -> tuple[float, ...]:
        """The chosen model's mixing weights, in the order of the components' numbers."""
        return tuple(self.best_model.model[1].weights.tolist())

    @property
    def noise_weight(self) -> float | None:
        """Weight of the chosen model's noise; None without."""
        noise = self.best_model.model[1].noise
        return None if noise is None else noise.weight

    @cached_property
    def cluster_tree(self) -> ClusterTree | None:
        """How the chosen model's components, in the order of the store, are merged into clusters.

        None in a complete store of an earlier version, which merged none.
        """
        return self._cluster_tree_of(self._require_best())

    def _cluster_tree_of(self, best: str) -> ClusterTree | None:
        if self._manifest and not self._manifest.holds("clusters"):
            return None
        numbers = self.model(best).numbers
        with self._reading("clusters"):
            return read_cluster_tree(self.store, numbers)

    def clusters_of(self, name: str) -> tuple[int, ...] | None:
        """Return the cluster of each component of the chosen model, by their positions; also of an unfinished store.

        None of another model, and where :attr:`cluster_tree` is None.
        """
        tree = self._cluster_tree_of(name) if name == self.best or not self.is_complete else None
        return None if tree is None else tuple(tree.clusters().tolist())

    @property
    def clusters(self) -> tuple[int, ...]:
        """The cluster of each component of the chosen model, by their numbers; empty if they are not known."""
        numbers = self.best_model.numbers
        return () if self.cluster_tree is None else tuple(numbers[k] for k in self.cluster_tree.clusters())

    @property
    def cluster_titles(self) -> list[tuple[str, ...]]:
        """The components of each cluster, by their numbers and names: that of the largest weight first."""
        if self.cluster_tree is None:
            return []
        model, clusters = self.best_model, self.cluster_tree.clusters()
        order = np.argsort(-model.model[1].weights, kind="stable")
        return [tuple(model.titles[k] for k in order if clusters[k] == one) for one in dict.fromkeys(clusters[order])]

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
    def keeps_winner(self) -> bool:
        """Whether a refresh kept the last winner and did not search."""
        return self.refresh is not None and not self.refresh.searched

    @property
    def remarks(self) -> list[str]:
        """What to know before the choice is trusted; nothing if a refresh kept the choice of an earlier search."""
        if self.keeps_winner:
            return []
        stopped = self.widening.stopped if self.widening else None
        return remarks(self.table, self.criterion, self.row(), stopped)

    @property
    def notes(self) -> list[str]:
        """What to know of the choice: close candidates, starts, clusters, the widened grid, the fits' effort."""
        winner = self.row()
        within = chosen_within_error(self.table, self.criterion, winner)
        notes = (
            self.transform_note,
            within,
            starts_compared(winner),
            self.resamples_note,
            self.clusters_note,
            self.widening_note,
            self.effort_note,
        )
        return [note for note in notes if note]

    @property
    def transform_note(self) -> str:
        """What the fit is of, where columns were not scaled only, and what principal components keep of them."""
        return "" if self.transform.folds else self.transform.described(self.data["columns"])

    @property
    def clusters_note(self) -> str:
        """Which components overlap so much that they are one cluster; empty if none do."""
        merged = [" + ".join(titles) for titles in self.cluster_titles if len(titles) > 1]
        if self.cluster_tree is None or not merged:
            return ""
        return f"components that overlap make {counted(self.cluster_tree.n_clusters, 'cluster')}: {listed(merged)}"

    @property
    def resamples_note(self) -> str:
        """How the winner stands in the resamples; empty without them."""
        if not self.errors:
            return ""
        row, errors = self.row(), listed([f"{error:.2g}" for error in self.errors.weights.tolist()])
        return (
            f"the winner wins in {row['wins']:.0%} of {self.n_resamples:,} resamples; its labels there agree with "
            f"those here by {row['stability']:.2f} (mean adjusted Rand index); standard errors of its weights: {errors}"
        )

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
        note = f"{effort.iterations:,} iterations of {counted(effort.fits, 'fit')}, which share passes"
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
            found = self._stored_row_summary()
            if found is None:
                return None
            if self.best and found.labels != self.best_model.numbers:
                raise ValueError(f"label_counts are of the components {', '.join(map(str, found.labels))}")
            require_row_arrays(self.store, found.n_rows)
            return found

    def _stored_row_summary(self) -> RowSummary | None:
        values = read_summary(self.store)
        return None if values is None else RowSummary.from_dict(values)

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
        model = self.best_model
        with self._reading("sample"):
            return read_sample(self.store, len(model.sources), model.numbers, model.candidate.noise)

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
        for name in self._read_later:
            getattr(self, name)
        return self

    @property
    def _read_later(self) -> tuple[str, ...]:
        """Names of what is read when it is asked for."""
        every = {name: value for kind in type(self).__mro__ for name, value in vars(kind).items()}
        return tuple(name for name, value in every.items() if isinstance(value, cached_property))


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
    kind = Result
    if attributes.by is not None:
        from pipeline.store.groups.result import GroupsResult

        kind = GroupsResult
    result = kind(store=place_of(path).followed().path, **vars(attributes))
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
            if result.by is None:
                result.table  # noqa: B018 - read while the checkpoint is there
        except DamagedError:
            if attempt == ATTEMPTS:
                raise
        else:
            return result
    raise AssertionError
