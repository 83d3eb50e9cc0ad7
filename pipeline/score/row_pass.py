"""What the chosen model says about each row, written in one pass, chunk by chunk."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from dask.callbacks import Callback
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.memory import Shape
from gmm_dask.passes.map_reduce import Rows, as_rows, map_reduce
from gmm_dask.passes.model_batch import ModelBatch
from gmm_dask.passes.predict import kernel_outputs, prediction_batch
from gmm_dask.passes.quantiles import Sketch, find_threshold, merge_sketches, sketch_values
from gmm_dask.passes.row_outputs import (
    ANOMALY,
    LABEL,
    LOG_DENSITY,
    Outputs,
    empty_outputs,
    kernel_inputs,
    row_bytes,
    with_derived,
)
from pipeline import store
from pipeline.clusters import computing
from pipeline.config.job import JobConfig
from pipeline.progress import ChunksDone, Progress, StageStarted
from pipeline.score.key_columns import read_keys
from pipeline.sources import Source
from pipeline.sources.fingerprint import header_of
from pipeline.sources.preparation import Preparation
from pipeline.sources.rows import hold
from pipeline.store import RowPlan, RowWriter, StoredModel, Totals
from pipeline.store.show import position_of

Array = NDArray[np.float64]

# the pass's tasks, as a dashboard shows them
_TASK = "answers"
# computed for every row: the summary of the rows is made from them
_SUMMARISED = (LABEL.name, LOG_DENSITY.name)


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked about each row.

    Attributes
    ----------
    model : StoredModel
    drop : bool
        Whether rows with values that are missing get no answer; otherwise they are an error.
    names : tuple of str
        Row outputs that are stored chunk by chunk.
    mean : float
        The mean log density of the rows that the model was fitted to.
    quantile : float or None
        Share of the rows to mark as anomalies.
    threshold : float or None
        The density under which rows are marked; None takes the one that ``quantile`` makes of these rows.
    """

    model: StoredModel
    drop: bool
    names: tuple[str, ...]
    mean: float
    quantile: float | None = None
    threshold: float | None = None

    @property
    def preparation(self) -> Preparation:
        """What makes rows ready for the model."""
        return Preparation(self.model.center, self.model.scale, self.drop)

    @property
    def marks(self) -> bool:
        """Whether anomalies are marked."""
        return self.quantile is not None or self.threshold is not None

    @property
    def wants_sketch(self) -> bool:
        """Whether the threshold follows from these rows."""
        return self.quantile is not None and self.threshold is None


def output_bytes(names: Sequence[str], n_components: int) -> int:
    """Bytes of one row's outputs while they are computed, if these are stored; 0 if none is."""
    return row_bytes(dict.fromkeys((*_SUMMARISED, *names)), n_components) if names else 0


def mean_log_density(path: str, name: str) -> float:
    """The mean log density of the rows that a stored model was fitted to, in the user's units."""
    table = store.read_criteria(path)
    total = store.open_store(path, unfinished=True).data["contents"]["total_weight"]
    return float(table["log_likelihood"].iloc[position_of(table, name)]) / float(total)


def readable(source: Source) -> Rows:
    """The rows of a source as they are stored: chunk by chunk; a small CSV, whose chunks are unknown, in memory."""
    return hold(source) if source.n_rows is None else as_rows(source.array, source.weights)


# -- where answers go --------------------------------------------------------------------------------------------


def plan_of(config: JobConfig, question: Question, source: Source, lengths: Sequence[float]) -> RowPlan:
    """What will be written about the rows of a source."""
    asked = question.names, question.drop, question.quantile, question.threshold, config.output.key_columns
    found = hashlib.sha256(json.dumps([header_of(source), asked, list(lengths)], sort_keys=True).encode())
    parameters, model = question.model.model[1], question.model
    for array in (*astuple(parameters), model.center, model.scale):
        found.update(b"none" if array is None else np.ascontiguousarray(array))
    return RowPlan(tuple(map(int, lengths)), len(parameters.weights), question.names, found.hexdigest())


def find_writer(config: JobConfig, source: Source, plan: RowPlan, path: str) -> RowWriter:
    """Arrays of the store, or Parquet files beside it."""
    if config.output.rows == "zarr":
        return store.ZarrRows(path, plan)
    return parquet_writer(config, source, plan, store.rows_folder(path), path)


def parquet_writer(config: JobConfig, source: Source, plan: RowPlan, folder: str, path: str | None = None) -> RowWriter:
    """Parquet files in a folder; ``path`` is that of the result store that they belong to, if they do."""
    from pipeline.store.parquet_rows import ParquetRows

    return ParquetRows(folder, plan, read_keys(config, source), path)


# -- the pass ----------------------------------------------------------------------------------------------------


def answer_source(
    config: JobConfig,
    source: Source,
    rows: Rows,
    question: Question,
    writer: RowWriter,
    progress: Progress,
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> None:
    """Answer a question about each row of a source, and write the answers, from one read of the data.

    Parameters
    ----------
    config : JobConfig
        Says what memory there is.
    source : Source
    rows : Rows
        Of the source.
    question : Question
    writer : RowWriter
        What it has already is not computed again.
    progress : callable
    complete : callable, optional
        Makes the summary that is written from the one of the rows.
    """
    if writer.begin():
        return
    totals = writer.finished()
    missing = [i for i, of_chunk in enumerate(totals) if of_chunk is None or rows.in_memory]
    progress(StageStarted("write rows", _detail(question, len(totals) - len(missing), len(totals))))
    sketch = None
    with _computing(config, source, question, writer.plan), _telling(progress, writer.plan, missing):
        if missing:
            batch = prediction_batch(*question.model.model)
            task = _Task(question, batch, writer, tuple(missing), source.path, source.columns)
            sketch = map_reduce(_part(rows, missing), _answer_chunk, _merge, task, _TASK)
        writer.join()
        known = set(range(len(totals))) - set(missing)
        writer.finish(complete(_summary(question, writer, _with_known(question, writer, sketch, known))))


def _detail(question: Question, n_done: int, n_chunks: int) -> str:
    outputs = ", ".join([*question.names, *([ANOMALY.name] if question.marks else [])])
    return f"{outputs}, going on after {n_done} of {n_chunks} chunks" if n_done else outputs


def _part(rows: Rows, numbers: Sequence[int]) -> Rows:
    """Some chunks of the rows."""
    if len(numbers) == len(rows.lengths):
        return rows
    chosen = list(numbers)
    return Rows(rows.array.blocks[chosen], None if rows.weights is None else rows.weights.blocks[chosen])


@contextmanager
def _computing(config: JobConfig, source: Source, question: Question, plan: RowPlan) -> Iterator[None]:
    """Compute where the configuration says, the answers taking their share of the memory."""
    n_bytes = output_bytes(question.names, plan.n_components)
    shape = Shape(len(source.columns), len(plan.lengths), max(1, *plan.lengths), n_bytes)
    with computing(config, source, shape, written=config.output.store):
        yield


@contextmanager
def _telling(progress: Progress, plan: RowPlan, missing: Sequence[int]) -> Iterator[None]:
    """Tell of each chunk that is done, where tasks run in threads of this process."""
    begin, done, n_rows = time.monotonic(), len(plan.lengths) - len(missing), 0

    def after_task(key: Any, *_: Any) -> None:
        nonlocal done, n_rows
        if isinstance(key, tuple) and str(key[0]).startswith(f"{_TASK}-"):
            done, n_rows = done + 1, n_rows + plan.lengths[missing[key[1]]]
            progress(ChunksDone(done, len(plan.lengths), n_rows, time.monotonic() - begin))

    with Callback(posttask=after_task):
        yield


# -- one chunk ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Task:
    """What the driver sends to the chunks; ``numbers`` are theirs among all chunks of the data."""

    question: Question
    batch: ModelBatch
    writer: RowWriter
    numbers: tuple[int, ...]
    path: str
    columns: tuple[str, ...]


def _answer_chunk(rows: Any, weights: Any, task: _Task, number: int) -> Sketch | None:
    """Answer for a chunk, write it, and return the sketch of its densities, if that is wanted."""
    question, number = task.question, task.numbers[number]
    array = np.asarray(rows)
    if len(array) != task.writer.plan.lengths[number]:
        raise UserError(
            f"data.source: {task.path} was changed while it was read: chunk {number} has {len(array):,} rows, and had "
            f"{task.writer.plan.lengths[number]:,}. Run the command again when nobody writes to the data."
        )
    usable = question.preparation.usable(array, None if weights is None else np.asarray(weights))
    if not (question.drop or usable.all()):
        raise _unusable(array, int(task.writer.plan.starts[number]), task)
    found = _outputs(array, usable, question, task.batch)
    density = found[LOG_DENSITY.name]
    task.writer.write(number, {name: found[name] for name in question.names}, _totals(found, usable, question))
    return sketch_values(density) if question.wants_sketch else None


def _outputs(
    array: NDArray[np.floating[Any]], usable: NDArray[np.bool_], question: Question, batch: ModelBatch
) -> Outputs:
    """What is stored and summarised about each row, in the user's units; fill values for rows that are not usable."""
    names = tuple(dict.fromkeys((*_SUMMARISED, *question.names)))
    n_components = len(batch.models[0][1].weights)
    complete = usable.all()
    if not usable.any():
        return empty_outputs(names, len(array), n_components)
    rows = array if complete else array[usable]
    computed = kernel_outputs(question.preparation.rows(rows), batch, kernel_inputs(names))
    density = computed[LOG_DENSITY.name]
    density -= question.preparation.log_scale
    density[np.isnan(density)] = -np.inf  # rows so far away that their squares overflow
    found = with_derived(computed, names)
    if complete:
        return found
    whole = empty_outputs(names, len(array), n_components)
    for name, values in whole.items():
        values[usable] = found[name]
    return whole


def _totals(found: Outputs, usable: NDArray[np.bool_], question: Question) -> Totals:
    distance = found[LOG_DENSITY.name][usable] - question.mean
    labels = np.bincount(found[LABEL.name][usable], minlength=question.model.n_components)
    return Totals(len(distance), float(distance.sum()), float(distance @ distance), labels)


def _unusable(array: NDArray[np.floating[Any]], first_row: int, task: _Task) -> UserError:
    """What is wrong with a chunk in which rows are not usable."""
    finite = np.isfinite(array)
    columns = np.flatnonzero(~finite.all(axis=0)).tolist()
    counts = ", ".join(f"{np.count_nonzero(~finite[:, i])} in {task.columns[i]!r}" for i in columns)
    bad = np.flatnonzero(~finite.all(axis=1))
    where = f"{counts}; the first in row {first_row + bad[0]:,} (counted from 0)" if len(bad) else "in the weights"
    return UserError(
        f"{task.path} has NaN or infinity in {len(bad):,} of the rows {first_row:,} to {first_row + len(array) - 1:,}: "
        f"{where}. Drop or impute them, or let them be left without an answer: --set data.missing=drop."
    )


def _merge(parts: Sequence[Sketch | None]) -> Sketch | None:
    found = [part for part in parts if part is not None]
    return merge_sketches(found) if found else None


# -- when all chunks are written ---------------------------------------------------------------------------------


def _with_known(question: Question, writer: RowWriter, sketch: Sketch | None, known: set[int]) -> Sketch | None:
    """The sketch with chunks that an earlier run has written, from their densities as they are stored."""
    if not question.wants_sketch:
        return None
    for number in sorted(known):
        sketch = _merge([sketch, sketch_values(writer.log_density(number))])
    return sketch


def _summary(question: Question, writer: RowWriter, sketch: Sketch | None) -> dict[str, Any]:
    """Sums over all rows, in the chunks' order, and the marks of anomalies."""
    every = np.array([totals.to_array() for totals in writer.finished() if totals is not None])
    totals = Totals.from_array(every.sum(axis=0))
    summary: dict[str, Any] = {
        "usable": totals.usable,
        "unusable": writer.plan.n_rows - totals.usable,
        "label_counts": totals.labels.tolist(),
        **_moments(totals, question.mean),
    }
    return summary | _mark(question, writer, sketch) if question.marks else summary


def _moments(totals: Totals, mean: float) -> dict[str, Any]:
    """Mean and standard deviation of the log densities; None where they are not finite."""
    if not totals.usable:
        return {"mean_log_density": None, "deviation_of_log_density": None}
    shift = totals.deviation / totals.usable
    spread = math.sqrt(max(0.0, totals.squares / totals.usable - shift * shift)) if math.isfinite(shift) else math.inf
    values = {"mean_log_density": mean + shift, "deviation_of_log_density": spread}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _mark(question: Question, writer: RowWriter, sketch: Sketch | None) -> dict[str, Any]:
    """Mark the anomalies by the stored densities."""
    known = {} if question.quantile is None else {"anomaly_quantile": question.quantile}
    if question.threshold is not None:
        return {**known, "anomalies": writer.mark(question.threshold), "anomaly_threshold": question.threshold}
    assert sketch is not None
    assert question.quantile is not None
    found = find_threshold(sketch, question.quantile)
    error = found.rank_error(question.quantile)
    marked = writer.mark(found.value)
    return {**known, "anomalies": marked, "anomaly_threshold": found.value, "anomaly_rank_error": error}
