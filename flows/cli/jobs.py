"""Commands that read a job's config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows import terminal
from flows.cli.errors import error_messages, prefect_imported, resumes
from flows.cli.imports import importing
from flows.cli.options import AsJson, ConfigPath, Debug, LogLevel, Overrides, Quiet
from flows.cli.output import Output

if TYPE_CHECKING:
    from flows.documents import ScoringPart
    from pipeline.config.job import JobConfig


def run(
    config: ConfigPath,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, and replace a stored result in the end.")] = False,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="Run without a Prefect server.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log_level: LogLevel = None,
    debug: Debug = False,
) -> None:
    """Run a job: fit the candidates, choose the best, store it and label the rows.

    An unfinished job is resumed; a finished one is shown.
    """
    output = Output(as_json, quiet, log_level)
    debug = debug or log_level == "debug"
    with error_messages(debug, resumes("checkpoint", fresh), as_json=as_json):
        output.announce(f"gmm-dask run {config}")
        with importing():
            from flows.documents import GroupsRunDocument, RunDocument
            from pipeline.config.job import load_config
            from pipeline.fit.job import GroupsSummary
            from pipeline.fit.job import run as run_job
            from pipeline.stages import limited

        job = load_config(config, overrides or [])
        with output.progress() as progress:
            if no_prefect:
                seconds = job.tasks.timeout_seconds
                summary = run_job(job, fresh=fresh, progress=progress, as_task=lambda stage: limited(stage, seconds))
            else:
                with prefect_imported("Or run without it: --no-prefect."), importing():
                    from flows.flows import run_flow

                summary = run_flow(job, fresh=fresh, progress=progress, verbose=debug)
        if isinstance(summary, GroupsSummary):
            output.result(lambda: terminal.show_groups_summary(summary), lambda: GroupsRunDocument.of_run(summary))
            return
        output.result(lambda: terminal.show_summary(summary), lambda: RunDocument.of_run(summary))


def validate(
    config: ConfigPath,
    overrides: Overrides = None,
    profile: Annotated[bool, typer.Option("--profile", help="Read the data once, and print what each column has.")] = (
        False
    ),
    time: Annotated[
        bool, typer.Option("--time", help="Read a chunk and compute on it, and print how long a pass takes.")
    ] = False,
    connect: Annotated[
        bool,
        typer.Option("--connect", help="Contact the Dask scheduler, the Prefect server and the bucket of the result."),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log_level: LogLevel = None,
    debug: Debug = False,
) -> None:
    """Check a config and the header of its data, and print the size of the job. Computes nothing."""
    output = Output(as_json, quiet, log_level)
    with error_messages(debug or log_level == "debug", as_json=as_json):
        with importing():
            from flows.documents import EstimateDocument, ScoringDocument
            from pipeline.config.job import load_config
            from pipeline.fit.plan import estimate_job

        job = load_config(config, overrides or [])
        if job.schedule is not None and job.schedule.flow == "score-batch":
            _require_none_measured(time, profile)
            scoring, answering = _show_scoring(job, output), _contacted(job, output) if connect else []
            output.result(lambda: None, lambda: ScoringDocument(scoring=scoring, answering=answering))
            return
        estimate, pass_time, found = estimate_job(job), None, None
        if output.is_text:  # before what takes longer
            terminal.show_estimate(estimate)
        scored = None if job.score is None else _show_scoring(job, output)
        answering = _contacted(job, output) if connect else []
        if time:
            from pipeline.fit.timing.chunks import time_pass

            pass_time = time_pass(job, estimate)
        if profile:
            from pipeline.fit.profile import profile_job

            with output.progress() as progress:
                found = profile_job(job, progress)
        output.result(
            lambda: terminal.show_measured(pass_time, found),
            lambda: EstimateDocument.of(estimate, pass_time, found, answering, scored),
        )


def _require_none_measured(time: bool, profile: bool) -> None:
    if time or profile:
        from gmm_dask.errors import UserError

        raise UserError(
            "--time and --profile measure the rows of a search, and the flow of this config is score-batch. Leave them "
            "out, or give a config whose schedule.flow is bic-sweep or refresh."
        )


def _show_scoring(job: JobConfig, output: Output) -> ScoringPart:
    """Print what score-batch would read and need, and return it for a document."""
    from flows.documents import ScoringPart
    from pipeline.score.estimate import estimate_scores

    scores = estimate_scores(job)
    if output.is_text:
        terminal.show_score_estimate(scores)
    return ScoringPart.of(scores)


def _contacted(job: JobConfig, output: Output) -> list[str]:
    """Contact what a job connects to, print what answers, and return it."""
    with prefect_imported():
        from flows.connections import contact

    answering = contact(job)
    for line in answering:
        output.announce(line)
    return answering
