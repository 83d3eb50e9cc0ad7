"""Commands that read a result store."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import terminal
from flows.cli.errors import ExitCode, error_messages, resumes
from flows.cli.imports import importing
from flows.cli.options import AsJson, Debug, GroupName, LogLevel, ModelName, Overrides, Quiet, StorePath
from flows.cli.output import Output


def show(store: StorePath, group: GroupName = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Print the candidates of a result store, finished or not; of a search for each group, all groups."""
    with error_messages(debug, as_json=as_json):
        with importing():
            from flows.documents import GroupsDocument, ResultDocument
            from pipeline.store import GroupsResult, of_group, read_candidates

        result = of_group(read_candidates(store), group)
        if isinstance(result, GroupsResult):
            Output(as_json).result(lambda: terminal.show_groups(result), lambda: GroupsDocument.of(result))
            return
        Output(as_json).result(lambda: terminal.show_result(result), lambda: ResultDocument.of(result))


def name(
    store: StorePath,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The component's, as labels have it.", min=0)],
    text: Annotated[str, typer.Argument(metavar="NAME", help="Its name; '' takes it away.")],
    debug: Debug = False,
) -> None:
    """Name a component of the best model; later stores of the job keep the name."""
    with error_messages(debug):
        with importing():
            from pipeline.report import has_report, write_report
            from pipeline.store import name_component
            from pipeline.store.listing import newest_after

        result = name_component(store, number, text)
        terminal.show_names(result)
        if later := newest_after(result):
            command = shlex.join(["gmm-dask", "name", later, str(number), text])
            terminal.print_line(f"{later} is newer and has names of its own. To name the component there: {command}")
        if has_report(result.store):
            terminal.print_line(f"report: {write_report(result.store)}")


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A result store, or its URL.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one, such as a later one of the job.")],
    group: GroupName = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare two complete result stores: criteria, best models, components and labels."""
    with error_messages(debug, as_json=as_json):
        with importing():
            from flows.documents import DiffDocument
            from pipeline.compare import compare_stores

        found = compare_stores(a, b, group)
        Output(as_json).result(lambda: terminal.show_difference(found), lambda: DiffDocument.of(found))


def ls(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder with result stores, or its URL.")] = ".",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the result stores of a folder: status, winner, rows and date."""
    with error_messages(debug, as_json=as_json):
        with importing():
            from flows.documents import ListDocument
            from pipeline.store.listing import list_stores

        found = list_stores(folder)
        Output(as_json).result(lambda: terminal.show_stores(found), lambda: ListDocument.of(folder, found))


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
    model: ModelName = None,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace existing scores in the end.")] = False,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="End with exit code 4 if the rows have drifted from the fit.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log_level: LogLevel = None,
    debug: Debug = False,
) -> None:
    """Label new rows with a stored model, and compare them with the rows of its fit."""
    output = Output(as_json, quiet, log_level)
    with error_messages(debug or log_level == "debug", resumes("chunk", fresh), as_json=as_json):
        output.announce(f"gmm-dask score {store} {data}")
        with importing():
            from flows.documents import ScoreDocument
            from pipeline.report import write_score_report
            from pipeline.score.new_rows import score as score_rows
            from pipeline.score.settings import ScoreSettings
            from pipeline.store import open_result, place_of

        settings = ScoreSettings.from_overrides(overrides or [])
        names = columns.split(",") if columns is not None else None
        if open_result(place_of(store).resolved().path).by is not None:
            _refuse_of_groups(model, fail_on_drift)
            from flows.documents import GroupScoresDocument
            from pipeline.score.group_scores import score_groups

            with output.progress() as progress:
                scores = score_groups(
                    store, data, out, columns=names, settings=settings, fresh=fresh, progress=progress
                )
            output.result(lambda: terminal.show_group_scores(scores), lambda: GroupScoresDocument.of(scores))
            if scores.warning:
                output.warn(scores.warning)
            return
        with output.progress() as progress:
            summary = score_rows(
                store, data, out, model=model, columns=names, settings=settings, fresh=fresh, progress=progress
            )
        write_score_report(summary)
        output.result(lambda: terminal.show_score(summary), lambda: ScoreDocument.of(summary))
        for line in summary.drift:
            output.warn(f"drift: {line}")
        if fail_on_drift and summary.drift:
            raise typer.Exit(ExitCode.DRIFT)


def _refuse_of_groups(model: str | None, fail_on_drift: bool) -> None:
    given = "--model" if model is not None else "--fail-on-drift" if fail_on_drift else ""
    if given:
        from gmm_dask.errors import UserError

        raise UserError(
            f"{given}: leave it out, as the store has a model for each group (data.by): each row is labelled by the "
            "winner of its group, and drift is not measured."
        )


def export(
    store: StorePath,
    to: Annotated[Literal["sklearn", "onnx", "json"], typer.Option(help="The format.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="The file to write, by default beside the store; - for standard output."
        ),
    ] = None,
    model: ModelName = None,
    group: GroupName = None,
    debug: Debug = False,
) -> None:
    """Export a model for use elsewhere: as scikit-learn's estimator, ONNX, or JSON."""
    with error_messages(debug):
        with importing():
            from pipeline.export import Target, exported
            from pipeline.export import export as export_model

        if str(out) == "-":
            sys.stdout.buffer.write(exported(store, Target(to), model=model, group=group))
            return
        terminal.print_line(f"model: {export_model(store, Target(to), out, model=model, group=group)}")


def report(store: StorePath, model: ModelName = None, group: GroupName = None, debug: Debug = False) -> None:
    """Write the report of a complete result store: one HTML file, and its pictures as PNG files."""
    with error_messages(debug):
        with importing():
            from pipeline.report import write_report

        terminal.print_line(f"report: {write_report(store, model, group)}")
