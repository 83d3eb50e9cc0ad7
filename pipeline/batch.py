"""The rows that arrive between two fits, labelled with the newest model."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

from gmm_dask.errors import UserError
from pipeline.config import JobConfig
from pipeline.dated import is_dated, with_name
from pipeline.places import dated_now, last_complete
from pipeline.progress import Progress, silent
from pipeline.run import Stage, unchanged
from pipeline.score import ScoreSummary, score


def score_batch(
    config: JobConfig,
    *,
    progress: Progress = silent,
    as_task: Callable[[Stage], Stage] = unchanged,
    now: datetime | None = None,
) -> ScoreSummary:
    """Label the rows of ``score.source`` with the chosen model of the newest complete store.

    Raises
    ------
    UserError
        As :func:`pipeline.score.score`; if the configuration has no section ``score``, or there is no complete store.
    """
    if config.score is None:
        raise UserError("expected a section score: what to label, such as score: {source: new-rows.parquet}.")
    model = last_complete(config)
    if model is None:
        raise UserError(
            f"there is no complete result store of the job {config.name} at {config.output.store}, whose model could "
            f"label the rows of {config.score.source}. Run the job first (gmm-dask run), or write its name here."
        )
    source, cluster = config.score.source, json.dumps(config.cluster.model_dump(mode="json"))
    overrides = [f"cluster={cluster}", f"data.storage_options={json.dumps(config.data.storage_options)}"]

    def score_rows(path: str, out: str, progress: Progress) -> ScoreSummary:
        """Label all rows, or the rest of them."""
        return score(path, source, out, overrides=overrides, progress=progress)

    summary: ScoreSummary = as_task(score_rows)(model.path, _out(config, config.score.out, now), progress)
    return summary


def _out(config: JobConfig, template: str, now: datetime | None) -> str:
    path = with_name(template, config.name)
    if not is_dated(path):
        return path
    return dated_now(config, path, now)
