"""Row outputs of a search for each group: each row by the winner of its group, in one read of the data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import ChangedRowsError, UserError
from gmm_dask.memory import Shape
from gmm_dask.passes.holdout import usable_rows
from gmm_dask.passes.model_batch import ModelBatch
from gmm_dask.passes.predict import kernel_outputs, overflown_to_noise, prediction_batch
from gmm_dask.passes.row_outputs import LABEL, LOG_DENSITY, NOISE_LABEL, Outputs, empty_outputs, kernel_inputs
from gmm_dask.passes.rows import as_rows
from pipeline.config.job import JobConfig
from pipeline.dask_clusters import computing
from pipeline.progress import Progress, StageStarted, chunks_reported
from pipeline.score.row_pass import computed_outputs, map_chunks, output_bytes, total_of
from pipeline.score.writers import row_writer
from pipeline.sources import Source
from pipeline.sources.fingerprint import header_of
from pipeline.sources.group_keys import NO_GROUP, ChunkKeys, Key, KeyColumn
from pipeline.store import RowPlan, RowSummary, RowWriter, Totals
from pipeline.store.groups.models import FoundGroups, GroupModel
from pipeline.store.groups.values import GroupValues

# name of the tasks of the pass, as a dashboard shows them
_TASK = "group-rows"


@dataclass(frozen=True, eq=False)
class GroupPredictors:
    """The winners of all groups, by the text of their keys, as tasks of the pass need them.

    Attributes
    ----------
    models : dict of str to GroupModel
    values : GroupValues
        Finds the group of a value, with a model or without.
    keys : tuple of str
        Of all groups, by their positions.
    columns : tuple of str
    noise : bool
        Whether models may have noise.
    drop : bool
        Whether rows with missing values get fill values; otherwise they are an error.
    batches : dict of str to ModelBatch
        Of the models that were needed so far in this process.
    """

    models: dict[str, GroupModel]
    values: GroupValues
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    noise: bool
    drop: bool
    batches: dict[str, ModelBatch] = field(default_factory=dict)

    @classmethod
    def of(cls, found: FoundGroups, drop: bool) -> GroupPredictors:
        """Return those of the groups that have a model."""
        pairs = zip(found.keys, found.results, strict=True)
        models = {key: result.model for key, result in pairs if result.model is not None}
        return cls(models, GroupValues.of(found.keys), found.keys, found.columns, found.has_noise, drop)

    @property
    def n_components(self) -> int:
        """The most components that a model has."""
        return max(model.state.n_components for model in self.models.values())

    def name(self, value: Key) -> str:
        """Return the key of the group of a value; the value as text where there is no such group."""
        position = self.values.position(value)
        return str(value) if position is None else self.keys[position]

    def outputs(self, rows: NDArray[np.floating[Any]], keys: ChunkKeys, names: Sequence[str]) -> Outputs:
        """Return row outputs of usable rows (n_rows, n_features); fill values where the group has no model."""
        found = empty_outputs(names, len(rows), self.n_components + self.noise, self.noise)
        order = np.argsort(keys.codes, kind="stable")
        edges = np.searchsorted(keys.codes[order], np.arange(len(keys.keys) + 1))
        for value, start, stop in zip(keys.keys, edges[:-1], edges[1:], strict=True):
            key = self.name(value)
            model = self.models.get(key)
            if model is None or start == stop:
                continue
            mine = order[start:stop]
            x = model.transform.rows(rows[mine])
            if model.transform.steps and not (usable := usable_rows(x)).all():
                if not self.drop:
                    raise self._not_taken(key, model, rows[mine])
                mine, x = mine[usable], x[usable]
            for name, values in self._of_group(key, model, rows[mine], x, names).items():
                if values.ndim == 2:  # zeros beyond the components of the group, the noise last
                    n = model.state.n_components
                    found[name][mine] = 0.0
                    found[name][mine, :n] = values[:, :n]
                    if model.state.candidate.noise:
                        found[name][mine, -1] = values[:, n]
                else:
                    found[name][mine] = values
        return found

    def _not_taken(self, key: str, model: GroupModel, rows: NDArray[np.floating[Any]]) -> UserError:
        outside = model.transform.outside(rows.astype(np.float64), self.columns)
        counts = ", ".join(f"{count:,} in {column!r}, where {expected}" for column, expected, count in outside)
        return UserError(
            f"data.transform: rows of the group {key} have values that cannot be transformed: {counts}. Leave them "
            "without outputs: --set data.missing=drop."
        )

    def _of_group(
        self,
        key: str,
        model: GroupModel,
        rows: NDArray[np.floating[Any]],
        x: NDArray[np.floating[Any]],
        names: Sequence[str],
    ) -> Outputs:
        """Return outputs of rows as they are stored, and as they are in the units of the fit."""
        batch = self.batches.get(key)
        if batch is None:
            batch = self.batches[key] = prediction_batch(*model.state.model)
        computed = kernel_outputs(x, batch, kernel_inputs(names))
        if model.state.candidate.noise:
            overflown_to_noise(computed, model.state.model[1])
        density = computed[LOG_DENSITY.name]
        density += model.transform.log_slopes(rows)
        density[np.isnan(density)] = -np.inf  # rows so far away that their squares overflow
        return {name: computed[name] for name in names}


def write_group_rows(
    config: JobConfig, source: Source, keys: KeyColumn, found: FoundGroups, path: str, progress: Progress
) -> None:
    """Compute and write the row outputs that the configuration requests, each by the winner of the row's group.

    What an earlier run has written is not computed again.
    """
    source = source.counted()
    predictors = GroupPredictors.of(found, config.data.missing == "drop")
    plan = plan_rows(config, source, predictors)
    writer = row_writer(config, source, plan, path)
    write_rows(config, source, keys, predictors, writer, progress)


def plan_rows(config: JobConfig, source: Source, predictors: GroupPredictors) -> RowPlan:
    """Return the plan of what is written, of counted rows; its token is a hash of all that decides the values."""
    names, lengths = config.output.row_outputs, [int(length) for length in source.chunks.lengths]
    settings = [names, predictors.drop, config.data.by, config.output.key_columns]
    token = hashlib.sha256(json.dumps([header_of(source), settings, lengths], sort_keys=True).encode())
    for key, model in predictors.models.items():
        token.update(key.encode())
        parameters = model.state.model[1]
        noise = np.array(parameters.noise or ())
        arrays = parameters.weights, parameters.means, parameters.covariances, noise, *model.transform.arrays()
        for array in arrays:
            token.update(np.ascontiguousarray(array))
    components = tuple(range(predictors.n_components))
    starts = source.file_starts(lengths)
    return RowPlan(tuple(lengths), components, names, token.hexdigest(), 0, starts, noise=predictors.noise)


def write_rows(
    config: JobConfig,
    source: Source,
    keys: KeyColumn,
    predictors: GroupPredictors,
    writer: RowWriter,
    progress: Progress,
    to_stored: Callable[[RowSummary], dict[str, Any]] = RowSummary.to_dict,
) -> None:
    """Write the values of all rows of a source whose chunks have known lengths; ``to_stored`` makes the summary."""
    if writer.begin():
        return
    plan, totals = writer.plan, writer.finished()
    missing = [i for i, of_chunk in enumerate(totals) if of_chunk is None]
    progress(StageStarted("write rows", ", ".join(plan.names)))
    shape = Shape(
        n_features=len(source.columns),
        n_columns=0 if all(model.transform.folds for model in predictors.models.values()) else len(source.columns),
        n_chunks=len(plan.lengths),
        chunk_rows=max(1, *plan.lengths),
        read_bytes=source.read_bytes,
        output_bytes=output_bytes(plan.names, plan.n_densities, len(source.columns)),
        copies_rows=True,
        n_components=plan.n_densities,
    )
    reported = chunks_reported(progress, _TASK, plan.lengths, missing)
    with computing(config, source, shape, written=config.output.store), reported:
        if missing:
            task = _Task(predictors, keys, writer, tuple(missing))
            rows = replace(as_rows(source.array, source.weights), on_read=source.reads.add)
            map_chunks(config, rows, missing, shape, _write_chunk, task, _TASK)
        writer.join()
        summary = RowSummary.of_totals(total_of(writer), plan.components, plan.n_rows, 0.0)
        writer.finish(to_stored(summary))


@dataclass(frozen=True, eq=False)
class _Task:
    """What the driver sends to the chunks; ``numbers`` are theirs among all chunks of the data."""

    predictors: GroupPredictors
    keys: KeyColumn
    writer: RowWriter
    numbers: tuple[int, ...]


def _write_chunk(rows: Any, weights: Any, task: _Task, number: int) -> int:
    """Compute and write the outputs of a chunk; returns how many of its rows have a label."""
    number, array = task.numbers[number], np.asarray(rows)
    plan, keys = task.writer.plan, task.keys(number)
    if not len(array) == len(keys.codes) == plan.lengths[number]:
        raise ChangedRowsError(f"chunk {number} has {len(array):,} rows, and had {plan.lengths[number]:,}")
    usable = usable_rows(array, None if weights is None else np.asarray(weights))
    grouped = keys.codes != NO_GROUP
    if not (task.predictors.drop or usable[grouped].all()):
        raise UserError(
            f"{task.keys.path} has NaN or infinity in {np.count_nonzero(~usable & grouped):,} of the rows "
            f"{plan.starts[number]:,} to {plan.starts[number + 1] - 1:,}. Drop or impute them, or leave them without "
            "outputs: --set data.missing=drop."
        )
    names = computed_outputs(plan.names)
    codes = np.where(usable, keys.codes, NO_GROUP)
    found = task.predictors.outputs(array, ChunkKeys(keys.keys, codes), names)
    totals = _totals(found, len(plan.components), plan.noise)
    task.writer.write(number, {name: found[name] for name in plan.names}, totals)
    return totals.usable


def _totals(found: Outputs, n_components: int, noise: bool) -> Totals:
    labels, density = found[LABEL.name], found[LOG_DENSITY.name]
    has_label = labels != LABEL.missing(noise)
    labels, density = labels[has_label], density[has_label]
    counts = np.bincount(np.where(labels == NOISE_LABEL, n_components, labels), minlength=n_components + noise)
    return Totals(len(density), math.fsum(density), float(density @ density), counts)
