"""The command ``gmm-dask``.

Slow imports are inside the commands, so that the help and the first line of ``run`` appear at once.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from flows.cli import jobs, servers, stores, tools
from flows.cli.errors import EXIT_CODES

app = typer.Typer(
    name="gmm-dask",
    help="Gaussian mixtures for data that does not fit in memory: fit them, choose one, label every row.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

# in the order of the help
COMMANDS = (
    tools.init,
    jobs.run,
    jobs.validate,
    stores.show,
    stores.ls,
    stores.name,
    stores.diff,
    stores.score,
    stores.export,
    stores.report,
    servers.serve,
    tools.synth,
    tools.schema,
)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"gmm-dask {version('gmm-dask')}")
        raise typer.Exit


@app.callback()
def global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that precede a command. The app has a help text of its own."""


for command in COMMANDS:
    app.command(epilog=EXIT_CODES)(command)


def main() -> None:
    """Run the command line (the console script ``gmm-dask``)."""
    sys.exit(app())
