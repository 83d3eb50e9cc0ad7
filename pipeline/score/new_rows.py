"""Score new rows with a stored model: the row outputs of a job, and how the rows differ from those of the fit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gmm_dask.errors import UserError
from gmm_dask.passes.component_sums import ComponentSums
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import Rows
from pipeline import store
from pipeline.compilation import kernels_made, kernels_of_scores
from pipeline.config.job import JobConfig
from pipeline.config.secrets import secrets_hidden
from pipeline.metrics import write_metrics
from pipeline.progress import Message, Progress, StageStarted, silent
from pipeline.score.drift import Comparison, compare
from pipeline.score.inputs import ScoreInputs, open_inputs, require_unwritten
from pipeline.score.metrics import score_metrics
from pipeline.score.row_pass import plan_rows, unprepared_rows, write_row_outputs
from pipeline.score.settings import ScoreSettings
from pipeline.score.writers import parquet_writer, row_writer
from pipeline.sources import Source
from pipeline.sources.fingerprint import header_of
from pipeline.sources.retries import repeated_reads_reported
from pipeline.store import Result, RowPlan, RowSummary, RowWriter, Totals
from pipeline.store.integrity import reading
from pipeline.store.paths import PAGE, report_folder, with_store


def tell_nobody(summary: ScoreSummary) -> None:
    """Send no news of scores."""


@dataclass(frozen=True, kw_only=True)
class ScoreSummary(Comparison):
    """The result of a score run: the comparison of the new rows with those of the fit, and where it is.

    Attributes
    ----------
    out : str
        Path of the scores.
    model : str
        Name of the model, such as ``tied-k3``.
    store : str
        Path of the result store that has the model.
    columns : tuple of str
        Names of the model's features.
    data : str
        Where the rows were read, without secrets.
    reported : bool
        Whether the scores are to have a report.
    seconds : float
    reused : bool
        Whether the scores were complete before, so that nothing was computed.
    """

    out: str
    model: str
    store: str
    columns: tuple[str, ...]
    data: str
    reported: bool
    seconds: float
    reused: bool

    @property
    def page(self) -> str | None:
        """Path of the report's page, if it is there."""
        folder = report_folder(self.out)
        return f"{folder}/{PAGE}" if self.reported and store.place_of(folder).has(PAGE) else None


def score(
    path: str | Path,
    data: str,
    out: str | Path,
    *,
    model: str | None = None,
    columns: Sequence[str] | None = None,
    settings: ScoreSettings | None = None,
    fresh: bool = False,
    earlier: Sequence[str] = (),
    progress: Progress = silent,
    tell: Callable[[ScoreSummary], object] = tell_nobody,
) -> ScoreSummary:
    """Compute the row outputs of new rows with a model of a complete result store.

    The rows are compared with those that the model was fitted to. Of the chosen model, the store knows the labels and
    densities of all of these; of another one, and of a store without row outputs, the stored sample of rows stands for
    them.

    Parameters
    ----------
    path : str or Path
        The result store. A link to one is followed once, so that all is read of one store if it is set to another.
    data : str
        The rows, as ``data.source`` of a configuration; their columns are found by the model's names.
    out : str or Path
        Where the outputs go: a Zarr group, or a folder of Parquet files if it ends in ``.parquet``.
    model : str, optional
        Name of a model, such as ``tied-k3``; by default the chosen one.
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
    tell : callable
        Receives the summary before the scores are marked complete, so that the next call tells what one that was killed
        could not, and also if they were complete before.

    Raises
    ------
    UserError
        If the store is not complete or has no such model, the data lack a feature or hold values that are missing, or
        the scores and the data or the store lie within each other.
    """
    begin = time.monotonic()
    inputs = open_inputs(path, data, out, model=model, columns=columns, settings=settings, progress=progress)
    config, source, result, fitted = inputs.config, inputs.source, inputs.result, inputs.model
    name, header = fitted.candidate.name, header_of(source)
    with secrets_hidden(*config.secret_values), repeated_reads_reported(progress):
        rows, plan = _plan(inputs, progress)
        config = with_store(config, _find_unfinished(config, plan, earlier) or config.output.store)
        place = config.output.store
        with store.lock(place, waiting=lambda text: progress(Message("lease", text))):
            # a folder of files is made beside the one that it replaces in any case
            working = place if _as_files(config) else store.scores_working_path(place, plan.token, fresh)
            complete, writer = prepare_writer(config, source, plan, result, name, fresh, working)

            def summary_of(found: Comparison) -> ScoreSummary:
                return ScoreSummary(
                    **vars(found),
                    out=place,
                    model=name,
                    store=result.store,
                    columns=fitted.columns,
                    data=config.data.shown,
                    reported=config.output.report,
                    seconds=time.monotonic() - begin,
                    reused=complete,
                )

            def announce(summary: ScoreSummary) -> None:
                if config.output.metrics is not None:
                    write_metrics(config.output.metrics, config.name, "score", score_metrics(summary))
                tell(summary)

            def conclude(rows: RowSummary, totals: Totals) -> dict[str, Any]:
                found = _compare_unchanged(rows, totals, inputs, header)
                announce(summary_of(found))
                return {"job": config.name, **found.to_dict()}

            if not complete:
                with kernels_made(config, partial(kernels_of_scores, config, source), progress):
                    write_row_outputs(config, source, rows, inputs.request, writer, progress, conclude)
            stored = writer.summary()
            with reading(working, "rows"):
                summary = summary_of(Comparison.from_dict(stored))
            if complete:
                announce(summary)
            elif not _as_files(config):
                store.complete_scores(working, stored, place)
    return summary


def _find_unfinished(config: JobConfig, plan: RowPlan, earlier: Sequence[str]) -> str | None:
    """Return the path of unfinished scores of the same plan, if there are any."""
    if not (earlier and _as_files(config)):
        return store.find_unfinished(earlier, plan.token)
    from pipeline.store.rows.parquet import find_unfinished

    return find_unfinished(earlier, plan.token)


def _as_files(config: JobConfig) -> bool:
    return config.output.rows == "parquet"


def prepare_writer(
    config: JobConfig, source: Source, plan: RowPlan, result: Result, name: str, fresh: bool, out: str
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
        model={"store": result.store, "name": name},
        config=config.model_dump(mode="json", include={"data", "output"}),
        data=header_of(source),
        software=result.software,
        token=plan.token,
    )
    return store.prepare_scores(out, attributes, fresh), row_writer(config, source, plan, out)


# -- rows ----------------------------------------------------------------------------------------------------------


def _compare_unchanged(rows: RowSummary, totals: Totals, inputs: ScoreInputs, header: dict[str, Any]) -> Comparison:
    """Compare the rows with those of the fit, if nobody has written to them since their header was read."""
    model = inputs.model
    require_unwritten(inputs.config.data, inputs.source, model.sources, header)
    sums = ComponentSums.from_array(totals.more, model.model[1].n_densities, len(model.columns))
    return compare(rows, sums, inputs.reference)


def _plan(inputs: ScoreInputs, progress: Progress) -> tuple[Rows, RowPlan]:
    """Return the rows and the plan of their outputs; the rows of a large CSV are counted first, which takes a read."""
    rows = unprepared_rows(inputs.source)
    lengths: Sequence[float] = rows.lengths
    if any(math.isnan(length) for length in lengths):
        progress(StageStarted("count", f"counting the rows of {inputs.source.path}"))
        counts: list[int] = map_reduce(rows, _count_chunk, None, "count")
        lengths = tuple(counts)
    return rows, plan_rows(inputs.config, inputs.request, inputs.source, lengths)


def _count_chunk(rows: Any, weights: Any, shared: None, number: int) -> list[int]:
    return [len(rows)]
