"""Score new rows with a stored model: the row outputs of a job, and how the rows differ from those of the fit."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.memory import IMPORTS_BYTES, Shape, thread_bytes
from gmm_dask.passes.component_sums import ComponentSums
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import Rows
from pipeline import store
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig
from pipeline.config.secrets import secrets_hidden
from pipeline.progress import Message, Progress, StageStarted, compilation_reported, report_notes, silent
from pipeline.score.drift import Comparison, compare
from pipeline.score.reference import Reference, read_reference
from pipeline.score.row_pass import (
    RowRequest,
    output_bytes,
    plan_rows,
    unprepared_rows,
    write_row_outputs,
)
from pipeline.score.settings import ScoreSettings, score_config
from pipeline.score.writers import parquet_writer, row_writer
from pipeline.sources import MissingColumnsError, Source, open_source
from pipeline.sources.fingerprint import header_of
from pipeline.sources.overlap import require_apart, require_outside
from pipeline.sources.patience import repeated_reads_reported
from pipeline.store import Result, RowPlan, RowSummary, RowWriter, StoredModel, Totals
from pipeline.store.arrays import require_local
from pipeline.store.integrity import reading
from pipeline.store.paths import require_no_group_around, results_of, with_store
from pipeline.store.places import is_url

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ScoreSummary(Comparison):
    """The result of a score run: the comparison of the new rows with those of the fit, and where it is.

    Attributes
    ----------
    out : str
        Path of the scores.
    model : str
        Name of the model, such as ``tied-k3``.
    seconds : float
    reused : bool
        Whether the scores were complete before, so that nothing was computed.
    """

    out: str
    model: str
    seconds: float
    reused: bool


def score(
    path: str | Path,
    data: str,
    out: str | Path,
    *,
    columns: Sequence[str] | None = None,
    settings: ScoreSettings | None = None,
    fresh: bool = False,
    earlier: Sequence[str] = (),
    progress: Progress = silent,
) -> ScoreSummary:
    """Compute the row outputs of new rows with the chosen model of a complete result store.

    Parameters
    ----------
    path : str or Path
        The result store. A link to one is followed once, so that all is read of one store if it is set to another.
    data : str
        The rows, as ``data.source`` of a configuration; their columns are found by the model's names.
    out : str or Path
        Where the outputs go: a Zarr group, or a folder of Parquet files if it ends in ``.parquet``.
    columns : sequence of str, optional
        Names that the model's features have in the data, in the model's order.
    settings : ScoreSettings, optional
        What replaces settings of the stored job.
    fresh : bool
        Replace other scores, when the new ones are complete.
    earlier : sequence of str
        Other paths, the newest first. Unfinished scores of the same model and rows at one of them are resumed instead
        of ``out``, unless newer ones are complete.
    progress : callable

    Raises
    ------
    UserError
        If the store is not complete, the data lack a feature or hold values that are missing, or the scores and the
        data or the store lie within each other.
    """
    begin = time.monotonic()
    if not is_url(out):
        require_local(out, "-o")
    result = store.open_result(store.place_of(path).resolved().path)
    model = result.best_model
    reference = read_reference(result, model)
    config = score_config(result, model, data, str(out), columns, settings or ScoreSettings())
    with secrets_hidden(*config.secret_values):
        place = config.output.store
        require_apart(config.data.source, [place, store.replacement_of(place), f"{place}.unfinished"])
        require_outside(place, [*results_of(path), *results_of(result.store)])
        require_no_group_around(place)
        progress(StageStarted("open", f"{config.data.shown}, for {result.best} of {result.store}"))
        report_notes(config.notes, progress)
        source = _open(config.data, model)
        header = header_of(source)
        request = _request(config, model, reference)
        rows, plan = _plan(config, source, request, progress)
        config = with_store(config, _find_unfinished(config, plan, earlier) or config.output.store)
        place = config.output.store
        with store.lock(place, waiting=lambda text: progress(Message("lease", text))):
            # a folder of files is made beside the one that it replaces in any case
            working = place if _as_files(config) else store.scores_working_path(place, plan.token, fresh)
            complete, writer = _prepare(config, source, plan, result, fresh, working)
            summarize = partial(_compare_unchanged, data=config.data, model=model, header=header, reference=reference)
            if not complete:
                with compilation_reported(progress), repeated_reads_reported(progress):
                    write_row_outputs(config, source, rows, request, writer, progress, summarize)
            stored = writer.summary()
            with reading(working, "rows"):
                found = Comparison.from_dict(stored)
            if not (complete or _as_files(config)):
                store.complete_scores(working, stored, place)
    return ScoreSummary(
        **vars(found),
        out=place,
        model=str(result.best),
        seconds=time.monotonic() - begin,
        reused=complete,
    )


def _request(config: JobConfig, model: StoredModel, reference: Reference) -> RowRequest:
    """Return the request of a configuration; anomalies by the threshold of the fit, if it is of the same quantile."""
    names, quantile = config.output.row_outputs, config.output.anomaly_quantile
    if not names:
        raise UserError(
            "no row output is requested: the configuration has no labels, log densities or responsibilities. Set "
            "output.labels to true (--set output.labels=true)."
        )
    threshold = reference.threshold if quantile is not None and quantile == reference.quantile else None
    return RowRequest(model, config.data.missing == "drop", names, reference.mean, quantile, threshold, reference.floor)


def _find_unfinished(config: JobConfig, plan: RowPlan, earlier: Sequence[str]) -> str | None:
    """Return the path of unfinished scores of the same plan, if there are any."""
    if not (earlier and _as_files(config)):
        return store.find_unfinished(earlier, plan.token)
    from pipeline.store.rows.parquet import find_unfinished

    return find_unfinished(earlier, plan.token)


def _as_files(config: JobConfig) -> bool:
    return config.output.rows == "parquet"


def _prepare(
    config: JobConfig, source: Source, plan: RowPlan, result: Result, fresh: bool, out: str
) -> tuple[bool, RowWriter]:
    """Make or find the scores; returns whether they are complete, and the writer of the rest of them."""
    if _as_files(config):
        writer = parquet_writer(config, source, plan, out)
        if writer.holds_another() and not fresh:
            raise UserError(
                f"{writer.place} exists and does not hold these scores. {store.ELSEWHERE}, or replace it (gmm-dask "
                "score --fresh)."
            )
        return writer.begin(), writer
    attributes = store.ScoreAttributes(
        model={"store": result.store, "name": str(result.best)},
        config=config.model_dump(mode="json", include={"data", "output"}),
        data=header_of(source),
        software=result.software,
        token=plan.token,
    )
    return store.prepare_scores(out, attributes, fresh), row_writer(config, source, plan, out)


# -- the data ------------------------------------------------------------------------------------------------------


def _open(data: DataConfig, model: StoredModel) -> Source:
    """Open the data with the model's features, in the model's order; an error names all that are missing."""
    try:
        return open_source(data)
    except MissingColumnsError as error:
        missing = error.columns
        raise UserError(
            f"{data.shown} lacks {len(missing)} of the model's {len(model.columns)} features: {', '.join(missing)}. "
            "Columns are found by their names, in any order: rename them, or give the names that they have here with "
            f"--columns, in the order {', '.join(model.columns)}."
        ) from error


def _compare_unchanged(
    rows: RowSummary,
    totals: Totals,
    data: DataConfig,
    model: StoredModel,
    header: dict[str, Any],
    reference: Reference,
) -> dict[str, Any]:
    """Compare the rows with those of the fit, if nobody has written to them since their header was read."""
    if header_of(_open(data, model)) != header:
        raise UserError(
            f"data.source: {data.shown} was changed while it was scored. Run the same command again when nobody "
            "writes to it."
        )
    return compare(rows, ComponentSums.from_array(totals.more, model.n_components), reference).to_dict()


# -- rows and memory ---------------------------------------------------------------------------------------------


def _plan(config: JobConfig, source: Source, request: RowRequest, progress: Progress) -> tuple[Rows, RowPlan]:
    """Return the rows and the plan of their outputs; the rows of a large CSV are counted first, which takes a read."""
    _require_memory(config, source, request)
    rows = unprepared_rows(source)
    lengths: Sequence[float] = rows.lengths
    if any(math.isnan(length) for length in lengths):
        progress(StageStarted("count", f"counting the rows of {source.path}"))
        counts: list[int] = map_reduce(rows, _count_chunk, None, "count")
        lengths = tuple(counts)
    return rows, plan_rows(config, request, source, lengths)


def _count_chunk(rows: Any, weights: Any, shared: None, number: int) -> list[int]:
    return [len(rows)]


def _require_memory(config: JobConfig, source: Source, request: RowRequest) -> None:
    """Raise :class:`UserError` if one chunk at a time is more than the memory allows."""
    n_bytes = output_bytes(request.names, request.model.n_components)
    n_chunks = int(source.array.numblocks[0])
    shape = Shape(len(source.columns), n_chunks, source.chunk_rows, source.read_bytes, n_bytes)
    needed, limit = IMPORTS_BYTES + thread_bytes(shape, request.model.n_components), config.cluster.memory_bytes
    if needed > limit:
        raise UserError(
            f"the memory limit is {limit / 2**20:,.0f} MiB, and {needed / 2**20:,.0f} MiB are needed for one thread at "
            f"work on chunks of {shape.chunk_rows:,} rows. Raise it (--set cluster.memory_limit=2GiB), or use smaller "
            "chunks (--set data.chunk_rows=10000)."
        )
