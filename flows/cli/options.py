"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A job's YAML file.", show_default=False)]
StorePath = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A result store, or its URL.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Replace a value of the config. May be repeated."),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="A model of the store, such as full-k2; by default the best."),
]
GroupName = Annotated[
    str | None,
    typer.Option(
        "--group", metavar="VALUE", help="Of a store with a search for each group (data.by), the value of one."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what Prefect logs; as --log-level debug.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result, or the error, as a JSON document, and nothing else.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only warnings and errors.")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(
        help="What is written to standard error: everything, progress (the default), warnings or errors.",
        show_default=False,
    ),
]
