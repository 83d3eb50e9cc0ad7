"""The Prefect flow ``score-batch``: rows that arrive between two fits, labelled with the newest model."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.artifacts import ProgressArtifact, key_of
from flows.missed import ends_if_late
from flows.tasks import GivenConfig, as_task, flow_run_name, job_of, watcher


@flow(name="score-batch", flow_run_name=flow_run_name, validate_parameters=False, persist_result=False)
@ends_if_late
def score_batch(config: GivenConfig) -> Any:
    """Label the rows of ``score.source`` with the model of the newest complete store.

    Parameters
    ----------
    config : str or dict
        The path of a job's YAML file, or what is in it.
    """
    from pipeline.score.batch import score_batch as label

    job = job_of(config)
    with ProgressArtifact(job.name, "scores-progress") as bar:
        summary = label(job, progress=watcher(bar), as_task=as_task(job))
        bar.finish(f"{summary.n_rows:,} rows by {summary.model}")
    pairs = zip(summary.shares, summary.fit_shares, strict=True)
    drift = [f"drift: {line}" for line in summary.drift] or ["no drift past the bounds"]
    create_table_artifact(
        [
            {"component": k, "share here": f"{here:.2%}", "in the fit": f"{there:.2%}"}
            for k, (here, there) in enumerate(pairs)
        ],
        key=key_of(job.name, "scores"),
        description=f"{summary.n_rows:,} rows by **{summary.model}**, in `{summary.out}`; {'; '.join(drift)}.",
    )
    return summary
