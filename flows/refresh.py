"""The Prefect flow ``refresh``: the last winner fitted to the data as they are now."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.artifacts import ProgressArtifact, key_of, publish
from flows.missed import ends_if_late
from flows.tasks import GivenConfig, as_task, flow_run_name, job_of, watcher


@flow(name="refresh", flow_run_name=flow_run_name, validate_parameters=False, persist_result=False)
@ends_if_late
def refresh(config: GivenConfig) -> Any:
    """Fit the last winner to the data as they are now, or search again if it has drifted, and publish that.

    Parameters
    ----------
    config : str or dict
        The path of a job's YAML file, or what is in it.
    """
    from pipeline.fit.refresh import refresh as refit

    job = job_of(config)
    with ProgressArtifact(job.name) as bar:
        done = refit(job, progress=watcher(bar), as_task=as_task(job))
        bar.finish(f"best: {done.summary.best}")
    publish(job.name, done.summary)
    reason = done.decision.reason
    lines = [f"{reason[:1].upper()}{reason[1:]}.", f"Stored in `{done.summary.store}`; `{done.link}` is the newest."]
    lines += [f"Removed: `{path}`." for path in done.removed]
    create_markdown_artifact("\n\n".join(lines), key=key_of(job.name, "refresh"), description="What was decided")
    return done
