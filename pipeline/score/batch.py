"""Label the rows that arrive between two fits, with the newest model of a job."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.config.templates import is_dated, with_name
from pipeline.progress import Progress, report_removed, silent
from pipeline.score.estimate import naming_score_source, no_model, required_section
from pipeline.score.new_rows import ScoreSummary, score, tell_nobody
from pipeline.score.settings import ScoreSettings
from pipeline.stages import Stage, unchanged
from pipeline.store.paths import dated_now, existing_paths, last_complete, reported_once
from pipeline.store.retention import remove_old_scores


@hiding_secrets
def score_batch(
    config: JobConfig,
    *,
    progress: Progress = silent,
    as_task: Callable[[Stage], Stage] = unchanged,
    tell: Callable[[ScoreSummary], object] = tell_nobody,
    now: datetime | None = None,
) -> ScoreSummary:
    """Label the rows of ``score.source`` with ``score.model`` of the newest complete store, by default the chosen one.

    What the configuration sets of :data:`pipeline.score.settings.SETTABLE` holds for these rows; the rest is as in the
    store. If an earlier run left scores of the same rows by the same model unfinished, they are resumed at their path.
    ``tell`` receives the summary as that of :func:`pipeline.score.new_rows.score` does.

    Raises
    ------
    UserError
        As :func:`pipeline.score.new_rows.score`; if the configuration has no section ``score``, or there
        is no complete store.
    """
    section = required_section(config)
    model = last_complete(config, reported_once(progress))
    if model is None:
        raise UserError(no_model(config, section))
    source, name, settings = section.source, section.model, ScoreSettings.from_job(config, section)
    template = with_name(section.out, config.name)
    earlier = _earlier_paths(template)

    def score_rows(path: str, out: str, progress: Progress) -> ScoreSummary:
        """Label all rows, or the rest of them."""
        return score(path, source, out, model=name, settings=settings, earlier=earlier, progress=progress, tell=tell)

    out = dated_now(config, template, now) if is_dated(template) else template
    with naming_score_source():
        summary: ScoreSummary = as_task(score_rows)(model.store, out, progress)
    if config.output.keep is not None:
        report_removed(remove_old_scores(config, config.output.keep), progress)
    return summary


def _earlier_paths(template: str) -> list[str]:
    """Return the paths of scores that earlier runs have left, the newest first."""
    if not is_dated(template):
        return []
    # a folder of Parquet files has this suffix until it is complete
    unfinished = existing_paths(f"{template}.unfinished")
    found = {*existing_paths(template), *((moment, path.removesuffix(".unfinished")) for moment, path in unfinished)}
    return [path for _, path in sorted(found, reverse=True)]
