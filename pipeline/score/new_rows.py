"""A stored model over new rows: the same answers as those of a job, and whether the rows are like those of the fit."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.memory import IMPORTS_BYTES, Shape, thread_bytes
from gmm_dask.passes.map_reduce import Rows, map_reduce
from pipeline import store
from pipeline.config.job import SWITCHES, DataConfig, JobConfig, validated
from pipeline.config.yaml_file import Document
from pipeline.progress import Progress, StageStarted, silent
from pipeline.score.drift import Fit, compare, fit_of, label_shares
from pipeline.score.row_pass import (
    Question,
    answer_source,
    find_writer,
    output_bytes,
    parquet_writer,
    plan_of,
    readable,
)
from pipeline.sources import MissingColumnsError, Source, open_source
from pipeline.sources.fingerprint import header_of
from pipeline.store import ResultStore, RowPlan, RowWriter, StoredModel
from pipeline.store.paths import with_store

Array = NDArray[np.float64]

# what may be set: how the new data are read, and what is written about them
SETTABLE = (
    *("data.chunk_rows", "data.missing", "data.dataset", "data.storage_options", "cluster"),
    *(f"output.{key}" for key in (*SWITCHES, "anomaly_quantile", "key_columns")),
)


@dataclass(frozen=True, eq=False)
class ScoreSummary:
    """How new rows compare with those of the fit.

    Attributes
    ----------
    out : str
        Path of the scores.
    model : str
        Name of the model, such as ``tied-k3``.
    n_rows, unusable : int
        Rows, and how many of them have no answer.
    mean_log_density, fit_mean_log_density : float
        Mean over the rows that have an answer, and over those of the fit, in the user's units.
    shares, fit_shares : tuple of float
        Share of the rows of each component.
    anomalies : int or None
        Rows under the threshold; None if none was asked for.
    quantile : float or None
        Share of anomalies that the threshold leaves: among the rows of the fit, if ``of_fit``, or among these.
    of_fit : bool
        Whether the threshold is that of the fit.
    drift : tuple of str
        Where the rows differ from those of the fit by more than the bounds, in words.
    seconds : float
    reused : bool
        Whether the scores were there already and nothing was computed.
    """

    out: str
    model: str
    n_rows: int
    unusable: int
    mean_log_density: float
    fit_mean_log_density: float
    shares: tuple[float, ...]
    fit_shares: tuple[float, ...]
    anomalies: int | None
    quantile: float | None
    of_fit: bool
    drift: tuple[str, ...]
    seconds: float
    reused: bool


def score(
    path: str | Path,
    data: str,
    out: str | Path,
    *,
    columns: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    earlier: Sequence[str] = (),
    progress: Progress = silent,
) -> ScoreSummary:
    """Answer for new rows with the chosen model of a complete result store.

    Parameters
    ----------
    path : str or Path
        The result store. A link to one is followed once, so that all is read of one store if it is set to another.
    data : str
        The rows, as ``data.source`` of a configuration; their columns are found by the model's names.
    out : str or Path
        Where the answers go: a Zarr group, or a folder of Parquet files if it ends in ``.parquet``.
    columns : sequence of str, optional
        Names that the model's features have in the data, in the model's order.
    overrides : sequence of str
        ``section.key=value`` of ``data``, ``output`` and ``cluster``; the rest is as in the store's configuration.
    fresh : bool
        Replace other scores.
    earlier : sequence of str
        Other paths, the newest first: scores of the same model and rows that were left unfinished at one of them are
        gone on with, and ``out`` is left alone, unless newer ones are complete.
    progress : callable

    Raises
    ------
    UserError
        If the store is not complete, or the data lack a feature or hold values that are missing.
    """
    begin = time.monotonic()
    result = store.open_store(Path(path).resolve())
    model = store.read_model(result.path, str(result.best))
    fit = fit_of(result, model)
    config = score_config(result, model, data, str(out), columns, overrides)
    progress(StageStarted("open", f"{data}, for {result.best} of {result.path}"))
    source = _open(config.data, model)
    question = _question(config, model, fit)
    rows, plan = _planned(config, source, question, progress)
    config = with_store(config, _find_unfinished(config, plan, earlier) or config.output.store)
    with store.lock(config.output.store):
        whole, writer = _prepare(config, source, plan, result, fresh)
        answer_source(config, source, rows, question, writer, progress, lambda found: compare(found, fit))
        summary = writer.summary()
        if not (whole or _as_files(config)):
            store.complete_scores(config.output.store, summary)
    return _summarise(config.output.store, str(result.best), summary, time.monotonic() - begin, whole)


def _question(config: JobConfig, model: StoredModel, fit: Fit) -> Question:
    """What is asked: anomalies by the threshold of the fit, unless another quantile is set than it was made for."""
    names, quantile = config.output.row_outputs, config.output.anomaly_quantile
    if not names:
        raise UserError(
            "nothing is asked about the rows: the configuration has no labels, log densities or responsibilities. "
            "Set output.labels to true (--set output.labels=true)."
        )
    threshold = fit.threshold if quantile is not None and quantile == fit.quantile else None
    return Question(model, config.data.missing == "drop", names, fit.mean, quantile, threshold)


def _find_unfinished(config: JobConfig, plan: RowPlan, earlier: Sequence[str]) -> str | None:
    """Where an earlier call has begun what is planned; None where none has."""
    if not (earlier and _as_files(config)):
        return store.find_unfinished(earlier, plan.token)
    from pipeline.store.parquet_rows import find_unfinished

    return find_unfinished(earlier, plan.token)


def _as_files(config: JobConfig) -> bool:
    return config.output.rows == "parquet"


def _prepare(
    config: JobConfig, source: Source, plan: RowPlan, result: ResultStore, fresh: bool
) -> tuple[bool, RowWriter]:
    """Make room for the scores; returns whether they are there, and what writes the rest of them."""
    out = config.output.store
    if _as_files(config):
        writer = parquet_writer(config, source, plan, out)
        if writer.holds_another() and not fresh:
            raise UserError(
                f"{writer.place} exists and does not hold these scores. {store.ELSEWHERE}, or replace it (gmm-dask "
                "score --fresh)."
            )
        return writer.begin(), writer
    attributes = {
        "model": {"store": result.path, "name": result.best},
        "config": config.model_dump(mode="json", include={"data", "output"}),
        "data": header_of(source),
        "software": result.software,
        "token": plan.token,
    }
    return store.prepare_scores(out, attributes, fresh), find_writer(config, source, plan, out)


# -- the configuration -------------------------------------------------------------------------------------------


def score_config(
    result: ResultStore,
    model: StoredModel,
    data: str,
    out: str,
    columns: Sequence[str] | None,
    overrides: Sequence[str],
) -> JobConfig:
    """The store's configuration, with other data and another place for what is written."""
    _require_settable(overrides)
    if columns is not None and len(columns) != len(model.columns):
        raise UserError(
            f"--columns: expected {len(model.columns)} names, in the order of the model's features "
            f"({', '.join(model.columns)}); got {len(columns)}: {', '.join(columns)}."
        )
    stored = result.config
    rows = "parquet" if is_parquet(out) else "zarr"
    output = {key: value for key, value in stored["output"].items() if key != "key_columns" or rows == "parquet"}
    values = {
        "name": stored["name"],
        "data": {
            "source": data,
            "columns": list(columns or model.columns),
            "missing": stored["data"].get("missing", "error"),
        },
        "search": stored["search"],
        "cluster": stored["cluster"],
        "output": {**output, "store": out.replace("{", "{{").replace("}", "}}"), "rows": rows, "report": False},
    }
    return validated(Document(values).with_overrides(overrides), "of the scores")


def is_parquet(out: str) -> bool:
    """Whether a path of scores is one of a folder of Parquet files."""
    return out.rstrip("/").endswith(".parquet")


def _require_settable(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in SETTABLE):
            raise UserError(
                f"--set {key}: a stored model is as it is, and its features are found by name (--columns, where they "
                f"have other names). What can be set is {', '.join(SETTABLE)}."
            )


def _open(data: DataConfig, model: StoredModel) -> Source:
    """The data, with the model's features in the model's order; every one that is lacking is named."""
    try:
        return open_source(data)
    except MissingColumnsError as error:
        missing = error.columns
        raise UserError(
            f"{data.source} lacks {len(missing)} of the model's {len(model.columns)} features: {', '.join(missing)}. "
            "Columns are found by their names, in any order: rename them, or give the names that they have here with "
            f"--columns, in the order {', '.join(model.columns)}."
        ) from error


# -- rows and memory ---------------------------------------------------------------------------------------------


def _planned(config: JobConfig, source: Source, question: Question, progress: Progress) -> tuple[Rows, RowPlan]:
    """The rows, and what is written about them; the rows of a large CSV are counted first, which takes a read."""
    _require_memory(config, source, question)
    rows = readable(source)
    lengths: Sequence[float] = rows.lengths
    if any(math.isnan(length) for length in lengths):
        progress(StageStarted("count", f"the rows of {source.path}"))
        counts: list[int] = map_reduce(rows, _count_chunk, _concatenate, None, "count")
        lengths = tuple(counts)
    return rows, plan_of(config, question, source, lengths)


def _count_chunk(rows: Any, weights: Any, shared: None, number: int) -> list[int]:
    return [len(rows)]


def _concatenate(parts: Sequence[list[int]]) -> list[int]:
    return [count for part in parts for count in part]


def _require_memory(config: JobConfig, source: Source, question: Question) -> None:
    """Raise :class:`UserError` if one chunk at a time is more than the memory allows."""
    n_bytes = output_bytes(question.names, question.model.n_components)
    shape = Shape(len(source.columns), int(source.array.numblocks[0]), source.chunk_rows, n_bytes)
    needed, limit = IMPORTS_BYTES + thread_bytes(shape), config.cluster.memory_bytes
    if needed > limit:
        raise UserError(
            f"the memory limit is {limit / 2**20:,.0f} MiB, and {needed / 2**20:,.0f} MiB are needed for one thread at "
            f"work on chunks of {shape.chunk_rows:,} rows. Raise it (--set cluster.memory_limit=2GiB), or use smaller "
            "chunks (--set data.chunk_rows=10000)."
        )


# -- the end -------------------------------------------------------------------------------------------------------


def _summarise(out: str, model: str, summary: dict[str, Any], seconds: float, reused: bool) -> ScoreSummary:
    mean, usable = summary["mean_log_density"], summary["usable"]
    return ScoreSummary(
        out=out,
        model=model,
        n_rows=summary["n_rows"],
        unusable=summary["unusable"],
        mean_log_density=mean if mean is not None else (-math.inf if usable else math.nan),
        fit_mean_log_density=summary["fit"]["mean_log_density"],
        shares=tuple(label_shares(summary["label_counts"]).tolist()),
        fit_shares=tuple(summary["fit"]["label_shares"]),
        anomalies=summary.get("anomalies"),
        quantile=summary.get("anomaly_quantile"),
        of_fit="anomaly_rank_error" not in summary,
        drift=tuple(summary["drift"]),
        seconds=seconds,
        reused=reused,
    )
