"""What the flow score-batch would read and need, found out before it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gmm_dask.errors import UserError
from pipeline.config.formats import format_of
from pipeline.config.job import JobConfig, hiding_secrets, require_schedulable
from pipeline.config.schedule import ScoreConfig
from pipeline.config.secrets import shown
from pipeline.config.templates import is_dated, with_name
from pipeline.dask_clusters import require_importable
from pipeline.score.inputs import ScoreInputs, open_inputs
from pipeline.score.settings import ScoreSettings
from pipeline.sources import Source, open_source
from pipeline.store import DamagedError, Result
from pipeline.store.paths import dated_now, last_complete


@dataclass(frozen=True, eq=False)
class ScoreEstimate:
    """What a run of score-batch reads and needs.

    Attributes
    ----------
    source : Source
        The opened rows.
    inputs : ScoreInputs or None
        The model and the settings; None if no store of the job is complete yet.
    out : str
        Path of the scores, where dates are not filled in.
    notes : tuple of str
        What to know about the configuration and the data.
    """

    source: Source
    inputs: ScoreInputs | None
    out: str
    notes: tuple[str, ...]


@hiding_secrets
def estimate_scores(config: JobConfig) -> ScoreEstimate:
    """Read the header of the rows of ``score.source``, and the model that would label them.

    Raises
    ------
    UserError
        As :func:`pipeline.score.batch.score_batch`, but for a job that has no complete store yet, which is a note; if
        the schedule has ended or its runs would share a result, or the class of the cluster cannot be imported.
    """
    score = required_section(config)
    require_schedulable(config)
    require_importable(config.cluster)
    passed_over: list[DamagedError] = []
    result = last_complete(config, passed_over.append)
    damaged = tuple(str(error) for error in passed_over)
    out = with_name(score.out, config.name)
    if result is None:
        found = format_of(score.source)
        dataset = config.data.dataset if found is not None and found.has_datasets else None
        of_the_fit = {"columns": None, "weights": None, "version": None, "dataset": dataset}
        rows = config.data.model_copy(update={"source": score.source, **of_the_fit})
        missing = f"{no_model(config, score)} Until then, score-batch ends with an error."
        with naming_score_source():
            return ScoreEstimate(open_source(rows), None, out, (*config.notes, *damaged, missing))
    with naming_score_source():
        inputs = _inputs(config, score, result, out)
    return ScoreEstimate(inputs.source, inputs, out, (*inputs.notes, *inputs.source.notes, *damaged))


def _inputs(config: JobConfig, score: ScoreConfig, result: Result, out: str) -> ScoreInputs:
    path = dated_now(config, out) if is_dated(out) else out
    settings = ScoreSettings.from_job(config, score)
    return open_inputs(result.store, score.source, path, model=score.model, settings=settings)


@contextmanager
def naming_score_source() -> Iterator[None]:
    """Call the rows ``score.source`` in the errors of what opens them, which calls all rows ``data.source``."""
    try:
        yield
    except UserError as error:
        error.args = (re.sub("^data.source:", "score.source:", str(error)), *error.args[1:])
        raise


def required_section(config: JobConfig) -> ScoreConfig:
    """Return the section ``score``; raises :class:`UserError` if there is none."""
    if config.score is None:
        raise UserError("expected a section score, such as score: {source: new-rows.parquet}: the rows to label.")
    return config.score


def no_model(config: JobConfig, score: ScoreConfig) -> str:
    """Say that a job has no model yet, and what to do."""
    return (
        f"there is no complete result store of the job {config.name} at {config.output.store}, whose model could "
        f"label the rows of {shown(score.source)}. Run the job first (gmm-dask run), or write its name here."
    )
