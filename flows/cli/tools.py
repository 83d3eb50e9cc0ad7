"""Commands around jobs: a first config, synthetic data, and schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import terminal
from flows.cli.errors import error_messages
from flows.cli.options import Debug, Overrides


def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="The rows: a path or URL, as data.source.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="The file to write, by default named by DATA; - for standard output."
        ),
    ] = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Write a first config for data, from their header: complete, with comments, to be edited."""
    with error_messages(debug):
        from pipeline.starter import default_file, starter, write_starter

        if str(out) == "-":
            print(starter(data, str(default_file(data)), overrides or []), end="")
            return
        file = write_starter(data, out, overrides or [])
        terminal.print_line(f"config: {file}")
        terminal.print_line(f"next: gmm-dask validate {file}")


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


def schema(
    model: Annotated[bool, typer.Option("--model", help="Print the schema of 'export --to json' instead.")] = False,
    output: Annotated[
        Literal[
            "run",
            "run-groups",
            "validate",
            "validate-scores",
            "show",
            "show-groups",
            "score",
            "score-groups",
            "ls",
            "diff",
            "error",
        ]
        | None,
        typer.Option(help="Print the schema of what this command prints with --json, or of its errors, instead."),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of the config as Markdown instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of the config, for editors and validators."""
    if model:
        from pipeline.export import ExportedMixture

        print(json.dumps(ExportedMixture.model_json_schema(), indent=2))
        return
    if output:
        from flows.documents import document_schema

        print(json.dumps(document_schema(output), indent=2))
        return
    if markdown:
        from pipeline.config.reference import config_markdown

        print(config_markdown(), end="")
        return
    from pipeline.config.job import config_schema

    print(json.dumps(config_schema(), indent=2))
