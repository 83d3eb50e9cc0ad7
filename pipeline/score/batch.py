"""Label the rows that arrive between two fits, with the newest model of a job."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.config.secrets import shown
from pipeline.config.templates import is_dated, with_name
from pipeline.progress import Progress, silent
from pipeline.score.new_rows import ScoreSummary, score
from pipeline.score.settings import ScoreSettings
from pipeline.stages import Stage, unchanged
from pipeline.store.paths import dated_now, existing_paths, last_complete


@hiding_secrets
def score_batch(
    config: JobConfig,
    *,
    progress: Progress = silent,
    as_task: Callable[[Stage], Stage] = unchanged,
    now: datetime | None = None,
) -> ScoreSummary:
    """Label the rows of ``score.source`` with the chosen model of the newest complete store.

    What the configuration sets of :data:`pipeline.score.settings.SETTABLE` holds for these rows; the rest is as in the
    store. If an earlier run left scores of the same rows by the same model unfinished, they are resumed at their path.

    Raises
    ------
    UserError
        As :func:`pipeline.score.new_rows.score`; if the configuration has no section ``score``, or there
        is no complete store.
    """
    if config.score is None:
        raise UserError("expected a section score, such as score: {source: new-rows.parquet}: the rows to label.")
    model = last_complete(config)
    if model is None:
        raise UserError(
            f"there is no complete result store of the job {config.name} at {config.output.store}, whose model could "
            f"label the rows of {shown(config.score.source)}. Run the job first (gmm-dask run), or write its name here."
        )
    source, settings = config.score.source, ScoreSettings.from_job(config, config.score)
    template = with_name(config.score.out, config.name)
    earlier = _earlier_paths(template)

    def score_rows(path: str, out: str, progress: Progress) -> ScoreSummary:
        """Label all rows, or the rest of them."""
        return score(path, source, out, settings=settings, earlier=earlier, progress=progress)

    out = dated_now(config, template, now) if is_dated(template) else template
    summary: ScoreSummary = as_task(score_rows)(model.store, out, progress)
    return summary


def _earlier_paths(template: str) -> list[str]:
    """Return the paths of scores that earlier runs have left, the newest first."""
    if not is_dated(template):
        return []
    # a folder of Parquet files has this suffix until it is complete
    unfinished = existing_paths(f"{template}.unfinished")
    found = {*existing_paths(template), *((moment, path.removesuffix(".unfinished")) for moment, path in unfinished)}
    return [path for _, path in sorted(found, reverse=True)]
