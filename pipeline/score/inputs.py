"""What a score run begins with, checked before it computes: a stored model, its settings, and the opened rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmm_dask.errors import UserError
from gmm_dask.memory import Machine, Shape, program_bytes, thread_bytes, working_bytes
from pipeline import store
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig
from pipeline.config.secrets import secrets_hidden
from pipeline.dask_clusters import machine_of
from pipeline.metrics import require_folder
from pipeline.progress import Progress, StageStarted, report_notes, silent
from pipeline.score.reference import Reference, read_reference
from pipeline.score.row_pass import RowRequest, output_bytes
from pipeline.score.settings import ScoreSettings, score_config
from pipeline.score.writers import require_free_names
from pipeline.sources import MissingColumnsError, Source, open_source
from pipeline.sources.fingerprint import header_of
from pipeline.sources.overlap import require_apart, require_outside
from pipeline.sources.retries import read_with_retries, repeated_reads_reported
from pipeline.store import Result, StoredModel
from pipeline.store.arrays import require_local
from pipeline.store.paths import report_folder, require_no_group_around, results_of
from pipeline.store.places import is_url


@dataclass(frozen=True, eq=False)
class ScoreInputs:
    """A stored model and new rows.

    Attributes
    ----------
    config : JobConfig
        Of the scores: that of the stored job, with other data and settings, and their path as ``output.store``.
    result : Result
    model : StoredModel
    reference : Reference
        The rows of the fit.
    source : Source
        The opened rows.
    clusters : tuple of int or None
        The cluster of each component, where clusters are stored.
    notes : tuple of str
        What to know about the settings.
    """

    config: JobConfig
    result: Result
    model: StoredModel
    reference: Reference
    source: Source
    clusters: tuple[int, ...] | None
    notes: tuple[str, ...]

    @property
    def request(self) -> RowRequest:
        """What is computed; anomalies by the threshold of the fit, if it is of the same quantile."""
        output, reference = self.config.output, self.reference
        same = output.anomaly_quantile is not None and output.anomaly_quantile == reference.quantile
        return RowRequest(
            self.model,
            self.config.data.drops,
            output.row_outputs,
            reference.mean,
            output.anomaly_quantile,
            reference.threshold if same else None,
            self.clusters,
            reference.floor,
            self.config.data.has_gaps,
        )

    @property
    def shape(self) -> Shape:
        """Of the rows, and of what is computed of them."""
        n_components = self.model.model[1].n_densities
        return Shape(
            n_features=len(self.model.columns),
            n_columns=0 if self.model.transform.folds else len(self.source.columns),
            n_chunks=int(self.source.array.numblocks[0]),
            chunk_rows=self.source.chunk_rows,
            read_bytes=self.source.read_bytes,
            output_bytes=output_bytes(self.config.output.row_outputs, n_components, len(self.model.columns)),
            n_components=n_components,
            gaps=self.config.data.has_gaps,
            fills=self.config.data.has_gaps,
        )

    @property
    def machine(self) -> Machine:
        """Threads and memory limit of a process."""
        return machine_of(self.config, self.shape)

    @property
    def memory_bytes(self) -> int:
        """Projected peak of the process, or of a worker of a cluster."""
        return program_bytes() + working_bytes(self.shape, self.machine)


def open_inputs(
    path: str | Path,
    data: str,
    out: str | Path,
    *,
    model: str | None = None,
    columns: Sequence[str] | None = None,
    settings: ScoreSettings | None = None,
    progress: Progress = silent,
) -> ScoreInputs:
    """Open a stored model and new rows; parameters and errors are those of :func:`pipeline.score.new_rows.score`."""
    if not is_url(out):
        require_local(out, "-o")
    result = store.open_result(store.place_of(path).resolved().path)
    if result.by is not None:
        raise UserError(
            f"{result.store} has a model for each value of {result.by}: 'gmm-dask score' labels the rows of all "
            "groups, and pipeline.score.group_scores.score_groups does in Python; the flow score-batch takes stores of "
            "one model."
        )
    fitted, settings = result.model(model), settings or ScoreSettings()
    config = score_config(result, fitted, data, str(out), columns, settings)
    with secrets_hidden(*config.secret_values), repeated_reads_reported(progress):
        config, clusters, notes = _with_known_clusters(config, result, fitted.candidate.name)
        require_outputs(config)
        if config.data.has_gaps and not fitted.transform.keeps_columns:
            raise UserError(
                "data.missing: expected error or drop, got likelihood: a row with gaps has no principal components, "
                f"which the features of {fitted.candidate.name} are (data.transform)."
            )
        require_place(config, path, result)
        progress(StageStarted("open", f"{config.data.shown}, for {fitted.candidate.name} of {result.store}"))
        notes = (*config.notes, *notes)
        report_notes(notes, progress)
        try:
            source = open_new_rows(config.data, fitted.sources)
        except UserError as error:
            if not str(error).startswith("data.filter:") or "data.filter" in settings.values:
                raise
            raise UserError(
                f"{error} The filter is that of the job; --set data.filter=null takes all rows, and another filter "
                "others."
            ) from error
        require_free_names(config, source)
        found = ScoreInputs(config, result, fitted, read_reference(result, fitted), source, clusters, notes)
        _require_memory(found)
    return found


def require_outputs(config: JobConfig) -> None:
    """Raise :class:`UserError` if nothing is requested of the rows."""
    if not config.output.row_outputs:
        raise UserError(
            "no row output is requested: the configuration has no labels, log densities or responsibilities. Set "
            "output.labels to true (--set output.labels=true)."
        )


def require_place(config: JobConfig, path: str | Path, result: Result) -> None:
    """Raise :class:`UserError` if the scores, the data, or the store lie within each other."""
    place = config.output.store
    written = [place, store.replacement_of(place), f"{place}.unfinished", report_folder(place)]
    require_apart(config.data.source, written)
    require_outside(place, [*results_of(path), *results_of(result.store)])
    require_no_group_around(place)
    require_folder(config.output.metrics)


def _with_known_clusters(
    config: JobConfig, result: Result, name: str
) -> tuple[JobConfig, tuple[int, ...] | None, tuple[str, ...]]:
    """Return the configuration and the components' clusters, or without clusters, and a note, where none are known."""
    if config.output.clusters != "merged":
        return config, None, ()
    clusters = result.clusters_of(name)
    if clusters is not None:
        return config, clusters, ()
    if name == result.best:
        cause = f"{result.store} was written by a version that merged no components"
    else:
        cause = f"the components of {name} were not merged, only those of the chosen model, {result.best}"
    output = config.output.model_copy(update={"clusters": "components"})
    note = f"output.clusters: the clusters are left out, as {cause}."
    return config.model_copy(update={"output": output}), None, (note,)


def require_unwritten(data: DataConfig, source: Source, columns: tuple[str, ...], header: dict[str, Any]) -> None:
    """Raise :class:`UserError` if somebody has written to the rows since their header was read."""
    if header_of(open_new_rows(data.at(source.version), columns)) != header:
        raise UserError(
            f"data.source: {data.shown} was changed while it was scored. Run the same command again when nobody "
            "writes to it."
        )


def open_new_rows(data: DataConfig, columns: tuple[str, ...], owner: str = "the model's") -> Source:
    """Open the data with a model's features, in the model's order; an error names all that are missing.

    Scores run on a schedule: a server that does not answer is asked again for a while.
    """
    try:
        return read_with_retries(open_source, data)
    except MissingColumnsError as error:
        missing = error.columns
        raise UserError(
            f"{data.shown} lacks {len(missing)} of {owner} {len(columns)} features: {', '.join(missing)}. Columns are "
            "found by their names, in any order: rename them, or give the names that they have here with --columns, in "
            f"the order {', '.join(columns)}."
        ) from error


def _require_memory(inputs: ScoreInputs) -> None:
    """Raise :class:`UserError` if one chunk at a time is more than the memory allows."""
    shape, limit = inputs.shape, inputs.config.cluster.memory_bytes
    needed = program_bytes() + thread_bytes(shape)
    if needed > limit:
        raise UserError(
            f"the memory limit is {limit / 2**20:,.0f} MiB, and {needed / 2**20:,.0f} MiB are needed for one thread at "
            f"work on chunks of {shape.chunk_rows:,} rows. Raise it (--set cluster.memory_limit=2GiB), or use smaller "
            "chunks (--set data.chunk_rows=10000)."
        )
