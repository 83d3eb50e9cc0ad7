"""Commands that keep running, and serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flows import terminal
from flows.cli.errors import error_messages, prefect_imported
from flows.cli.options import Debug, LogLevel

_STOPPED = "Runs at work are cancelled; the next run of each job resumes from its last checkpoint."


def serve(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="YAML files with a schedule.")],
    log_level: LogLevel = None,
    debug: Debug = False,
) -> None:
    """Run jobs on their schedules, as deployments on a Prefect server, until stopped."""
    with error_messages(debug, _STOPPED):
        if log_level:  # Prefect reads it when it is imported, in the processes of the runs as well
            os.environ["PREFECT_LOGGING_LEVEL"] = log_level.upper()
        terminal.print_line("gmm-dask serve " + " ".join(map(str, configs)))
        with prefect_imported():
            from flows.serving.deployments import serve_configs

        serve_configs(configs, terminal.print_line)
