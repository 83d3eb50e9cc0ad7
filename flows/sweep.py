"""The Prefect flow ``bic-sweep``: a job from its configuration to its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from prefect import flow

from flows.api import keep_console_readable, prefect_api
from flows.artifacts import ProgressArtifact, publish
from flows.missed import ends_if_late
from flows.tasks import GivenConfig, as_task, flow_run_name, job_of, watched_by, watcher
from pipeline.config.job import JobConfig
from pipeline.progress import Progress, StageStarted, silent

if TYPE_CHECKING:
    from pipeline.report.summary import Summary


def run_flow(config: JobConfig, *, fresh: bool = False, progress: Progress = silent, verbose: bool = False) -> Summary:
    """Run a job as a flow, on the user's Prefect server if one is set and on an embedded one if not.

    Parameters
    ----------
    config : JobConfig
    fresh : bool
        Whether to start anew where a stored result exists.
    progress : callable
        Told of each stage and pass; Prefect's log of the run tells the same.
    verbose : bool
        Whether Prefect and its embedded server log to the terminal.

    Returns
    -------
    Summary
        As of :func:`pipeline.fit.job.run`, whose errors it raises.

    Raises
    ------
    UserError
        If the Prefect server that is set does not answer.
    ServerError
        If the embedded server does not start.
    """
    if not verbose:
        keep_console_readable()
    progress(StageStarted("prefect", "connecting to its server"))
    with prefect_api(verbose), watched_by(progress):
        return cast("Summary", bic_sweep(config.model_dump(mode="json"), fresh))


@flow(name="bic-sweep", flow_run_name=flow_run_name, validate_parameters=False, persist_result=False)
@ends_if_late
def bic_sweep(config: GivenConfig, fresh: bool = False) -> Any:
    """Fit the candidates, choose the best, store it and label the rows.

    Parameters
    ----------
    config : str or dict
        The path of a job's YAML file, or what is in it.
    fresh : bool
        Whether to start anew where a stored result exists.
    """
    from pipeline.fit.job import run

    job = job_of(config)
    with ProgressArtifact(job.name) as bar:
        summary = run(job, fresh=fresh, progress=watcher(bar), as_task=as_task(job))
        bar.finish(f"best: {summary.best}")
    publish(job.name, summary)
    return summary
