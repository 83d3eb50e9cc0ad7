"""The rows that arrive between two fits, labelled with the newest model."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import reduce
from operator import getitem

from gmm_dask.errors import UserError
from pipeline.config.formats import format_of
from pipeline.config.job import JobConfig
from pipeline.config.schedule import ScoreConfig
from pipeline.config.templates import dated_paths, is_dated, with_name
from pipeline.progress import Progress, silent
from pipeline.score.new_rows import SETTABLE, ScoreSummary, is_parquet, score
from pipeline.stages import Stage, unchanged
from pipeline.store.paths import dated_now, last_complete


def score_batch(
    config: JobConfig,
    *,
    progress: Progress = silent,
    as_task: Callable[[Stage], Stage] = unchanged,
    now: datetime | None = None,
) -> ScoreSummary:
    """Label the rows of ``score.source`` with the chosen model of the newest complete store.

    What the configuration sets of ``output``, ``data.missing`` and ``data.chunk_rows`` holds for these rows; the rest
    is as in the store. Labels of the same rows by the same model that an earlier run did not finish are gone on with,
    at their path. What :data:`pipeline.score.new_rows.SETTABLE` does not name is of the fit.

    Raises
    ------
    UserError
        As :func:`pipeline.score.new_rows.score`; if the configuration has no section ``score``, or there
        is no complete store.
    """
    if config.score is None:
        raise UserError("expected a section score: what to label, such as score: {source: new-rows.parquet}.")
    model = last_complete(config)
    if model is None:
        raise UserError(
            f"there is no complete result store of the job {config.name} at {config.output.store}, whose model could "
            f"label the rows of {config.score.source}. Run the job first (gmm-dask run), or write its name here."
        )
    source, overrides = config.score.source, _overrides(config, config.score)
    template = with_name(config.score.out, config.name)
    earlier = _earlier(template)

    def score_rows(path: str, out: str, progress: Progress) -> ScoreSummary:
        """Label all rows, or the rest of them."""
        return score(path, source, out, overrides=overrides, earlier=earlier, progress=progress)

    out = dated_now(config, template, now) if is_dated(template) else template
    summary: ScoreSummary = as_task(score_rows)(model.path, out, progress)
    return summary


def _overrides(config: JobConfig, asked: ScoreConfig) -> list[str]:
    """What the configuration sets itself; what it leaves out is as in the store, and not the default.

    What computes, and how a URL is reached, is never as in the store.
    """
    keys = {"cluster": True, "data.storage_options": True}
    keys |= {key: _is_set(config, key) for key in SETTABLE if key not in keys}
    # these belong to one format, which the new rows need not have
    found = format_of(asked.source)
    keys["data.dataset"] &= found is not None and found.has_datasets
    keys["output.key_columns"] &= is_parquet(asked.out)
    values = config.model_dump(mode="json")
    return [f"{key}={json.dumps(reduce(getitem, key.split('.'), values))}" for key, taken in keys.items() if taken]


def _is_set(config: JobConfig, key: str) -> bool:
    section, name = key.split(".")
    return name in getattr(config, section).model_fields_set


def _earlier(template: str) -> list[str]:
    """Paths of scores that earlier runs have left, the newest first; Parquet has another name until it is whole."""
    if not is_dated(template):
        return []
    begun = dated_paths(f"{template}.unfinished")
    found = {*dated_paths(template), *((moment, path.removesuffix(".unfinished")) for moment, path in begun)}
    return [path for _, path in sorted(found, reverse=True)]
