"""The command ``gmm-dask``.

Slow imports are inside the commands, so that the help and the first line of ``run`` appear at once.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import terminal
from flows.interrupts import Terminated, raised

FAULT, MISTAKE, INTERRUPTED, TERMINATED = 1, 2, 130, 143  # exit codes
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_MEMORY_REMEDY = (
    "The system gives the program no more memory, or no more threads. Raise its limits (ulimit -v unlimited, ulimit "
    "-u), which do not replace cluster.memory_limit, or take a machine with more memory."
)
# of address space: a small job with one thread takes 2.9 GiB of it and 0.4 GiB of memory, as each library and each
# thread reserves more than it uses. With less, libraries end the process, raise what says nothing of it, or (with 0.7
# GiB: OpenMP, in k-means) hang
_LEAST_ADDRESSES = 4 << 30
# what the loader of libraries and Python say where memory or threads are limited
_NO_MEMORY = ("failed to map segment", "can't start new thread", "Cannot allocate memory")

app = typer.Typer(
    name="gmm-dask",
    help="Gaussian mixtures for data that does not fit in memory: fit them, choose one, label every row.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A job's YAML file.", show_default=False)]
StorePath = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A result store, or its URL.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Replace a value of the config. May be repeated."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what Prefect logs.")]


def _print_version(requested: bool) -> None:
    if requested:
        print(f"gmm-dask {version('gmm-dask')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that precede a command. The app has a help text of its own."""


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, and replace a stored result in the end.")] = False,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="Run without a Prefect server.")] = False,
    debug: Debug = False,
) -> None:
    """Run a job: fit the candidates, choose the best, store it and label the rows.

    An unfinished job is resumed; a finished one is shown.
    """
    with error_messages(debug, _resumes("checkpoint", fresh)):
        terminal.print_line(f"gmm-dask run {config}")
        from pipeline.config.job import load_config

        job = load_config(config, overrides or [])
        with terminal.progress_listener() as progress:
            if no_prefect:
                from pipeline.fit.job import run as run_job
                from pipeline.stages import limited

                seconds = job.tasks.timeout_seconds
                summary = run_job(job, fresh=fresh, progress=progress, as_task=lambda stage: limited(stage, seconds))
            else:
                with prefect_imported("Or run without it: --no-prefect."):
                    from flows.flows import run_flow

                summary = run_flow(job, fresh=fresh, progress=progress, verbose=debug)
        terminal.show_summary(summary)


@app.command()
def validate(
    config: ConfigPath,
    overrides: Overrides = None,
    profile: Annotated[bool, typer.Option("--profile", help="Read the data once, and print what each column has.")] = (
        False
    ),
    time: Annotated[
        bool, typer.Option("--time", help="Read a chunk and compute on it, and print how long a pass takes.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Check a config and the header of its data, and print the size of the job. Computes nothing."""
    with error_messages(debug):
        from pipeline.config.job import load_config
        from pipeline.fit.plan import estimate_job

        job = load_config(config, overrides or [])
        estimate = estimate_job(job)
        terminal.show_estimate(estimate)
        if time:
            from pipeline.fit.timing import time_pass

            terminal.show_time(time_pass(job, estimate))
        if profile:
            from pipeline.fit.profile import profile_job

            with terminal.progress_listener() as progress:
                found = profile_job(job, progress)
            terminal.show_profile(found)


@app.command()
def show(store: StorePath, debug: Debug = False) -> None:
    """Print the candidates of a result store, finished or not."""
    with error_messages(debug):
        from pipeline.store import read_candidates

        terminal.show_result(read_candidates(store))


@app.command()
def score(
    store: StorePath,
    data: Annotated[str, typer.Argument(metavar="DATA", help="The rows: a path or URL, as data.source.")],
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="OUT", help="A Zarr group to write, or a folder ending in .parquet.")
    ],
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Columns of DATA to use as the model's features, in the model's order."),
    ] = None,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace existing scores in the end.")] = False,
    debug: Debug = False,
) -> None:
    """Label new rows with a stored model, and compare them with the rows of its fit."""
    with error_messages(debug, _resumes("chunk", fresh)):
        terminal.print_line(f"gmm-dask score {store} {data}")
        from pipeline.score.new_rows import score as score_rows
        from pipeline.score.settings import ScoreSettings

        settings = ScoreSettings.from_overrides(overrides or [])
        names = columns.split(",") if columns is not None else None
        with terminal.progress_listener() as progress:
            summary = score_rows(store, data, out, columns=names, settings=settings, fresh=fresh, progress=progress)
        terminal.show_score(summary)


@app.command()
def export(
    store: StorePath,
    to: Annotated[Literal["sklearn", "onnx", "json"], typer.Option(help="The format.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="The file to write; by default beside the store.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Export the best model for use elsewhere: as scikit-learn's estimator, ONNX, or JSON."""
    with error_messages(debug):
        from pipeline.export import Target
        from pipeline.export import export as export_model

        terminal.print_line(f"model: {export_model(store, Target(to), out)}")


@app.command()
def report(store: StorePath, debug: Debug = False) -> None:
    """Write the report of a complete result store: one HTML file, and its pictures as PNG files."""
    with error_messages(debug):
        from pipeline.report import write_report

        terminal.print_line(f"report: {write_report(store)}")


@app.command()
def serve(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="YAML files with a schedule.")],
    debug: Debug = False,
) -> None:
    """Run jobs on their schedules, as deployments on a Prefect server, until stopped."""
    with error_messages(debug):
        terminal.print_line("gmm-dask serve " + " ".join(map(str, configs)))
        with prefect_imported():
            from flows.deployments import serve_configs

        serve_configs(configs, terminal.print_line)


@app.command()
def synth(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file or folder to write, ending in .zarr, .npy or .parquet.")
    ],
    rows: Annotated[int, typer.Option(min=1, help="Number of rows.")],
    features: Annotated[int, typer.Option(min=1, help="Number of columns.")] = 8,
    components: Annotated[int, typer.Option(min=1, help="Number of components.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Random seed: the same seed gives the same rows.")] = 0,
    debug: Debug = False,
) -> None:
    """Write rows of a random mixture, in any number, with the true parameters beside them."""
    with error_messages(debug):
        from pipeline.synth import Plan, write_synthetic

        with terminal.progress_bar("writing") as progress:
            truth = write_synthetic(out, Plan(rows, features, components, seed), progress)
        terminal.print_line(f"rows: {out}")
        terminal.print_line(f"truth: {truth}")


@app.command()
def schema(
    model: Annotated[bool, typer.Option("--model", help="Print the schema of 'export --to json' instead.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of the config as Markdown instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of the config, for editors and validators."""
    if model:
        from pipeline.export import ExportedMixture

        print(json.dumps(ExportedMixture.model_json_schema(), indent=2))
        return
    if markdown:
        from pipeline.config.reference import config_markdown

        print(config_markdown(), end="")
        return
    from pipeline.config.job import config_schema

    print(json.dumps(config_schema(), indent=2))


def _resumes(last: str, fresh: bool) -> str:
    """Say how an interrupted command is resumed: with --fresh it would start over."""
    return f"The same command{' without --fresh' if fresh else ''} resumes from the last {last}."


@contextmanager
def error_messages(debug: bool, after_interrupt: str = "") -> Iterator[None]:
    """Turn an exception, or SIGTERM, into a paragraph on standard error and an exit code."""
    try:
        with raised(signal.SIGTERM):
            _require_addresses()
            yield
    except KeyboardInterrupt as error:
        is_term = isinstance(error, Terminated)
        terminal.print_error(f"{'terminated' if is_term else 'interrupted'}. {after_interrupt}".rstrip())
        raise typer.Exit(TERMINATED if is_term else INTERRUPTED) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = _message_and_code(error, debug)
        terminal.print_error(message)
        raise typer.Exit(code) from None


def _require_addresses() -> None:
    """Refuse an address space in which the libraries end the process, or hang, before they can raise an error."""
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESSES:
        from gmm_dask.errors import UserError

        raise UserError(
            f"the address space is limited to {limit / 2**20:,.0f} MiB (ulimit -v), and {_LEAST_ADDRESSES >> 20:,} MiB "
            "are needed, most of which is reserved and never used. Lift the limit: ulimit -v unlimited. The memory of "
            "a job is limited by cluster.memory_limit."
        )


@contextmanager
def prefect_imported(otherwise: str = "") -> Iterator[None]:
    """Say why Prefect cannot be imported: it reads its settings then, from a home folder that it may have to make."""
    from gmm_dask.errors import UserError

    try:
        yield
    except (OSError, RuntimeError) as error:
        remedy = f"Set PREFECT_HOME to a folder that can be written. {otherwise}".rstrip()
        raise UserError(f"Prefect cannot start: {str(error).rstrip('.')}. {remedy}") from error


def _message_and_code(error: Exception, debug: bool) -> tuple[str, int]:
    from gmm_dask.errors import FaultError, UserError

    if any(isinstance(cause, OSError) and cause.errno in _TOO_MANY_FILES for cause in _causes(error)):
        return f"{error}\nToo many files are open at once. Raise the limit (ulimit -n 4096), then run it again.", FAULT
    if isinstance(error, UserError):
        return str(error), MISTAKE
    if any(map(_lacks_memory, _causes(error))):
        return f"{type(error).__name__}: {error}\n{_MEMORY_REMEDY}", FAULT
    if isinstance(error, FaultError):
        return str(error), FAULT
    hint = "" if debug else " Add --debug to see where it happened."
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text.rstrip('.')}.{hint}", FAULT


def _lacks_memory(error: BaseException) -> bool:
    """Whether an error says that the operating system gave no memory; a library's address space counts as well."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(words in str(error) for words in _NO_MEMORY)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised for."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def main() -> None:
    """Run the command line (the console script ``gmm-dask``)."""
    sys.exit(app())
