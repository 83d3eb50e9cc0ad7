"""Row outputs of the chosen model, computed and written in one pass over the data, chunk by chunk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import ChangedRowsError, UserError
from gmm_dask.formatting import counted
from gmm_dask.memory import Shape, program_bytes, working_bytes
from gmm_dask.passes.component_sums import Floor, n_sums
from gmm_dask.passes.gaps.condition import condition_chunk
from gmm_dask.passes.holdout import usable_rows
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.model_batch import ModelBatch
from gmm_dask.passes.predict import count_labels, kernel_outputs, overflown_to_noise, prediction_batch
from gmm_dask.passes.quantiles import NO_VALUES, Sketch, find_threshold, sketch_values
from gmm_dask.passes.row_outputs import (
    ANOMALY,
    CLUSTER,
    IMPUTED,
    LABEL,
    LOG_DENSITY,
    RESPONSIBILITY,
    Outputs,
    empty_outputs,
    kernel_inputs,
    row_bytes,
)
from gmm_dask.passes.rows import Rows, as_rows
from gmm_dask.selection.cluster_tree import cluster_labels
from pipeline.config.job import JobConfig
from pipeline.dask_clusters import computing, machine_of, with_read_ahead
from pipeline.progress import Progress, StageStarted, chunks_reported
from pipeline.score.completion import Scored
from pipeline.sources import Source
from pipeline.sources.fingerprint import header_of
from pipeline.sources.rows import open_rows
from pipeline.store import RowPlan, RowSummary, RowWriter, StoredModel, Totals
from pipeline.store.contents.models import numbered

Array = NDArray[np.float64]

# name of the tasks of the pass, as a dashboard shows them
_TASK = "row-outputs"


@dataclass(frozen=True, eq=False)
class RowRequest:
    """The row outputs that are requested of a model.

    Attributes
    ----------
    model : StoredModel
    drop : bool
        Whether rows with missing values get fill values; otherwise they are an error.
    names : tuple of str
        Row outputs that are stored chunk by chunk.
    fit_mean : float
        The mean log density of the rows that the model was fitted to: a shift for the sums of log densities.
    quantile : float or None
        Share of the rows to mark as anomalies.
    threshold : float or None
        The log density under which rows are marked; None takes the ``quantile`` of these rows.
    clusters : tuple of int or None
        The cluster of each component, by their positions, where clusters are among the names.
    floor : Floor or None
        Which rows are outliers, where the components' sums over the others are to be taken.
    gaps : bool
        Whether rows may have missing values, and get outputs by those that they have.
    """

    model: StoredModel
    drop: bool
    names: tuple[str, ...]
    fit_mean: float
    quantile: float | None = None
    threshold: float | None = None
    clusters: tuple[int, ...] | None = None
    floor: Floor | None = None
    gaps: bool = False

    @property
    def marks_anomalies(self) -> bool:
        """Whether anomalies are marked."""
        return self.quantile is not None or self.threshold is not None

    @property
    def written(self) -> list[str]:
        """Names of all that is written of each row."""
        return [*self.names, *([ANOMALY.name] if self.marks_anomalies else [])]

    @property
    def needs_sketch(self) -> bool:
        """Whether the threshold is a quantile of these rows."""
        return self.quantile is not None and self.threshold is None


def computed_outputs(stored: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs that are computed of every row: those that are stored, and those that the summary takes."""
    return tuple(dict.fromkeys((LABEL.name, LOG_DENSITY.name, *stored)))


def output_bytes(names: Sequence[str], n_components: int, n_features: int) -> int:
    """Return the bytes of one row's outputs while they are computed, if these are stored; 0 if none is."""
    return row_bytes(computed_outputs(names), n_components, n_features) if names else 0


def unprepared_rows(source: Source) -> Rows:
    """Return the rows as they are stored, chunk by chunk; a small CSV, whose chunk lengths are unknown, in memory.

    Rows that have keys are counted first where that takes a read: keys are read by the chunks of the source.
    """
    if source.format.key_opener is not None:
        source = source.counted()
    if source.n_rows is None:
        return open_rows(source)
    return replace(as_rows(source.array, source.weights), on_read=source.reads.add)


# -- the plan -----------------------------------------------------------------------------------------------------


def plan_rows(config: JobConfig, request: RowRequest, source: Source, lengths: Sequence[float]) -> RowPlan:
    """Return the plan of what is written; its token is a hash of all that decides the values."""
    settings: list[Any] = [request.names, request.drop, request.quantile, request.threshold, config.output.key_columns]
    settings += [] if request.clusters is None else [request.clusters]
    settings += ["gaps"] if request.gaps else []
    n_more = 0 if request.floor is None else n_sums(prediction_batch(*request.model.model))
    settings += [] if request.floor is None else [*astuple(request.floor), n_more]
    token = hashlib.sha256(json.dumps([header_of(source), settings, list(lengths)], sort_keys=True).encode())
    parameters, model = request.model.model[1], request.model
    for array in (*astuple(parameters), *model.transform.arrays(), np.array(model.numbers)):
        token.update(b"none" if array is None else np.ascontiguousarray(array))
    rows = tuple(map(int, lengths))
    return RowPlan(
        lengths=rows,
        components=model.numbers,
        noise=model.candidate.noise,
        names=request.names,
        token=token.hexdigest(),
        n_more=n_more,
        file_starts=source.file_starts(lengths),
        grid=source.grid,
        features=source.columns,
    )


# -- the pass ----------------------------------------------------------------------------------------------------


def write_row_outputs(
    config: JobConfig,
    source: Source,
    rows: Rows,
    request: RowRequest,
    writer: RowWriter,
    progress: Progress,
    to_stored: Callable[[RowSummary, Totals], dict[str, Any]] = lambda summary, totals: summary.to_dict(),
) -> None:
    """Compute and write the requested outputs of each row, from one read of the data.

    Parameters
    ----------
    config : JobConfig
        Its ``cluster`` computes.
    source : Source
    rows : Rows
        Of the source.
    request : RowRequest
    writer : RowWriter
        Chunks that it has already are not computed again.
    progress : callable
    to_stored : callable, optional
        Makes what is stored as the summary, also from the totals of all rows.
    """
    if writer.begin():
        return
    plan, totals = writer.plan, writer.finished()
    known = not any(map(math.isnan, rows.lengths))
    if len(rows.lengths) != len(plan.lengths) or (known and tuple(rows.lengths) != plan.lengths):
        raise ChangedRowsError(f"there were {plan.n_rows:,} of them in {len(plan.lengths)} chunks, and now are others")
    # rows in memory are cut into other chunks in each run, and are quickly done
    missing = [i for i, of_chunk in enumerate(totals) if of_chunk is None or rows.in_memory]
    done = sorted(set(range(len(totals))) - set(missing))
    progress(StageStarted("write rows", _detail(request, len(done), len(totals))))
    shape = Shape(
        n_features=len(request.model.columns),
        n_columns=0 if request.model.transform.folds else len(source.columns),
        n_chunks=len(plan.lengths),
        chunk_rows=max(1, *plan.lengths),
        read_bytes=source.read_bytes,
        output_bytes=output_bytes(request.names, plan.n_densities, len(plan.features)),
        n_components=plan.n_densities,
        gaps=request.gaps,
        fills=request.gaps and request.floor is not None,
    )
    sketch = NO_VALUES
    reported = chunks_reported(progress, _TASK, plan.lengths, missing)
    with computing(config, source, shape, written=config.output.store), reported:
        if missing:
            batch = prediction_batch(*request.model.model, gaps=request.gaps)
            task = _Task(request, batch, writer, tuple(missing), source.path, source.columns)
            sketch = map_chunks(config, rows, missing, shape, _write_chunk, task, _TASK)
        writer.join()
        for number in done if request.needs_sketch else ():  # chunks of an earlier run, from their stored densities
            sketch += sketch_values(writer.log_density(number))
        total = total_of(writer)
        writer.finish(to_stored(_summarize(request, writer, total, sketch), total))


def _detail(request: RowRequest, n_done: int, n_chunks: int) -> str:
    outputs = ", ".join(request.written)
    return f"{outputs}, resuming after {n_done} of {counted(n_chunks, 'chunk')}" if n_done else outputs


def map_chunks(
    config: JobConfig,
    rows: Rows,
    numbers: Sequence[int],
    shape: Shape,
    write: Callable[..., Any],
    task: Any,
    name: str,
) -> Any:
    """Run ``write`` on some chunks, by their numbers, as :func:`gmm_dask.passes.map_reduce.map_reduce` does."""
    if len(numbers) < len(rows.lengths):
        chosen = list(numbers)
        weights = None if rows.weights is None else rows.weights.blocks[chosen]
        rows = replace(rows, array=rows.array.blocks[chosen], weights=weights)
    needed = program_bytes() + working_bytes(shape, machine_of(config, shape))
    return map_reduce(with_read_ahead(config, rows, shape, needed), write, task, name)


def total_of(writer: RowWriter) -> Totals:
    """Return the totals of all chunks that are written."""
    return sum((one for one in writer.finished() if one is not None), start=writer.plan.no_totals)


# -- one chunk ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Task:
    """What the driver sends to the chunks; ``numbers`` are theirs among all chunks of the data."""

    request: RowRequest
    batch: ModelBatch
    writer: RowWriter
    numbers: tuple[int, ...]
    path: str
    columns: tuple[str, ...]


def _write_chunk(rows: Any, weights: Any, task: _Task, number: int) -> Sketch:
    """Compute and write the outputs of a chunk; returns the sketch of its log densities, empty if none is needed."""
    request, number = task.request, task.numbers[number]
    array = np.asarray(rows)
    if len(array) != task.writer.plan.lengths[number]:
        raise UserError(
            f"data.source: {task.path} was changed while it was read: chunk {number} has {len(array):,} rows, and had "
            f"{task.writer.plan.lengths[number]:,}. Run the command again when nobody writes to the data."
        )
    x = request.model.transform.rows(array)
    usable = usable_rows(x, None if weights is None else np.asarray(weights), gaps=request.gaps)
    if not (request.drop or usable.all()):
        raise _unusable(array, int(task.writer.plan.starts[number]), task)
    found, more = _outputs(array, x, usable, int(task.writer.plan.starts[number]), request, task.batch)
    density = found[LOG_DENSITY.name]
    totals = _totals(found, usable, more, request)
    for name in found.keys() & {LABEL.name, CLUSTER.name}:
        found[name] = numbered(found[name], request.model.numbers)
    task.writer.write(number, {name: found[name] for name in request.names}, totals)
    return sketch_values(density) if request.needs_sketch else NO_VALUES


def _outputs(
    array: NDArray[np.floating[Any]],
    x: NDArray[np.floating[Any]],
    usable: NDArray[np.bool_],
    first_row: int,
    request: RowRequest,
    batch: ModelBatch,
) -> tuple[Outputs, Array]:
    """Return what is stored and summarised of each row, in the user's units, and the components' sums, if requested.

    ``x`` are the rows in the units of the fit, the first of which has the number ``first_row``. Unusable rows have fill
    values.
    """
    names = computed_outputs(request.names)
    _, parameters = batch.models[0]
    complete = usable.all()
    if not complete:
        array, x = array[usable], x[usable]
    computed = kernel_outputs(x, batch, kernel_inputs(names))
    density = computed[LOG_DENSITY.name]
    lost = np.isnan(density)  # rows so far away that their squares overflow
    if parameters.noise is not None:
        overflown_to_noise(computed, parameters)
    density += request.model.transform.log_slopes(array)
    known = np.where(lost | np.isnan(density), -np.inf, density)
    sums = np.zeros(0)
    if request.floor is not None:
        scored = Scored(array, x, known, computed[LABEL.name], first_row + np.flatnonzero(usable))
        sums = scored.sums(request.model, request.floor, batch).to_array()
    if parameters.noise is None:
        density[:] = known
    if CLUSTER.name in names:
        assert request.clusters is not None
        computed[CLUSTER.name] = cluster_labels(computed[RESPONSIBILITY.name], np.array(request.clusters))
    if IMPUTED.name in names:
        expected = condition_chunk(x, batch, computed[RESPONSIBILITY.name]).mean
        computed[IMPUTED.name] = request.model.transform.filled(array, x, expected)
    if complete:
        return computed, sums
    whole = empty_outputs(names, len(usable), parameters.n_densities, parameters.noise is not None, x.shape[1])
    for name, values in whole.items():
        values[usable] = computed[name]
    return whole, sums


def _totals(found: Outputs, usable: NDArray[np.bool_], more: Array, request: RowRequest) -> Totals:
    distance = found[LOG_DENSITY.name][usable] - request.fit_mean
    labels = count_labels(found[LABEL.name][usable], request.model.model[1])
    return Totals(len(distance), float(distance.sum()), float(distance @ distance), labels, more)


def _unusable(array: NDArray[np.floating[Any]], first_row: int, task: _Task) -> UserError:
    """Return the error for a chunk with unusable rows: how many, in which columns, and the first of them."""
    rows = f"rows {first_row:,} to {first_row + len(array) - 1:,}"
    finite = np.isfinite(array)
    if outside := task.request.model.transform.outside(array[finite.all(axis=1)], task.request.model.sources):
        counts = ", ".join(f"{count:,} in {column!r}, where {expected}" for column, expected, count in outside)
        return UserError(
            f"data.transform: {task.path} has values in the {rows} that cannot be transformed: {counts}. Leave their "
            "rows without outputs: --set data.missing=drop."
        )
    columns = np.flatnonzero(~finite.all(axis=0)).tolist()
    counts = ", ".join(f"{np.count_nonzero(~finite[:, i])} in {task.columns[i]!r}" for i in columns)
    bad = np.flatnonzero(~finite.all(axis=1))
    where = f"{counts}; the first in row {first_row + bad[0]:,} (counted from 0)" if len(bad) else "in the weights"
    return UserError(
        f"{task.path} has NaN or infinity in {len(bad):,} of the {rows}: {where}. Drop or impute them, or leave them "
        "without outputs: --set data.missing=drop; or label them by the values that they have: "
        "--set data.missing=likelihood."
    )


# -- when all chunks are written ---------------------------------------------------------------------------------


def _summarize(request: RowRequest, writer: RowWriter, total: Totals, sketch: Sketch) -> RowSummary:
    """Summarise all rows, and mark the anomalies by the stored densities."""
    summary = RowSummary.of_totals(total, writer.plan.components, writer.plan.n_rows, request.fit_mean)
    if not request.marks_anomalies:
        return summary
    threshold, error = request.threshold, None
    if threshold is None:
        assert request.quantile is not None
        found = find_threshold(sketch, request.quantile)
        threshold, error = found.value, found.rank_error(request.quantile)
    return replace(
        summary,
        anomalies=writer.mark(threshold),
        anomaly_threshold=threshold,
        anomaly_quantile=request.quantile,
        anomaly_rank_error=error,
    )
