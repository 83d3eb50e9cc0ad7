"""``gmm-dask ls``: the result stores of a folder; and exports to standard output."""

import io
import json
import shutil
from functools import partial
from pathlib import Path

import joblib
import jsonschema
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import app
from flows.documents import document_schema
from flows.terminal.results import show_stores
from pipeline import store
from pipeline.export import ExportedMixture, Target, export
from pipeline.store.attributes import RunStatus
from pipeline.store.listing import ListedStatus, ListedStore, list_stores
from stores import small_store


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a complete store, others that are not, a link, and files of other kinds."""
    folder = tmp_path_factory.mktemp("results")
    _, complete = small_store(folder)
    for name in ("damaged", "stopped"):
        shutil.copytree(complete, folder / f"{name}.zarr")
    text = (folder / "damaged.zarr/zarr.json").read_text()
    (folder / "damaged.zarr/zarr.json").write_text(text.replace('"attempts"', '"attempt"'))
    store.update_attributes(folder / "stopped.zarr", status=RunStatus.RUNNING, best=None, manifest=None)
    (folder / "night-latest.zarr").symlink_to(complete)
    (folder / "other").mkdir()
    return folder


def test_each_store_has_its_status(folder):
    found = {Path(one.store).name: one for one in list_stores(str(folder))}
    assert {name: one.status for name, one in found.items()} == {
        "damaged.zarr": ListedStatus.DAMAGED,
        "night.zarr": ListedStatus.COMPLETE,
        "stopped.zarr": ListedStatus.STOPPED,
    }
    night = found["night.zarr"]
    assert (night.best, night.n_rows, night.name) == ("tied-k2", 80, "gmm-dask")
    with store.lock(folder / "stopped.zarr"):
        statuses = [one.status for one in list_stores(f"{folder}/")]
    assert statuses == [ListedStatus.DAMAGED, ListedStatus.COMPLETE, ListedStatus.RUNNING]


def test_the_command_prints_a_line_for_each(folder):
    lines = invoke("ls", folder).stdout.splitlines()
    (night,) = [line.split() for line in lines if line.strip().startswith("night.zarr")]
    assert night[1:4] == ["complete", "tied-k2", "80"]
    assert not [line for line in lines if "latest" in line or "other" in line]


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [
        (100, ["winner", "rows", "2026-11-23 02:00 UTC"], []),
        (80, ["winner", "rows", "2026-11-23"], ["02:00"]),
        (64, ["winner", "--json"], ["finished"]),
        (30, ["status", "--json"], ["winner"]),
    ],
)
def test_a_narrow_terminal_gets_less_and_whole_names(monkeypatch, width, shown, left_out):
    name = f"{'long-' * 6}.zarr"
    night = ListedStore(
        f"results/{name}", ListedStatus.COMPLETE, "job", "full-k12", 1_000_000, None, "2026-11-23 02:00 UTC"
    )
    printed = io.StringIO()
    console = partial(Console, file=printed, force_terminal=True, width=width, color_system=None)
    for module in ("console", "results"):
        monkeypatch.setattr(f"flows.terminal.{module}.console_for", console)
    show_stores([night])
    found = printed.getvalue()
    assert all(text in found for text in [name, "complete", *shown])
    assert not [text for text in left_out if text in found]


def test_the_document_of_a_listing(folder):
    found = json.loads(invoke("ls", folder, "--json").stdout)
    jsonschema.validate(found, document_schema("ls"))
    assert [one["status"] for one in found["stores"]] == ["damaged", "complete", "stopped"]


def test_a_folder_that_is_not_there_or_has_no_stores(folder, tmp_path):
    missing = invoke("ls", tmp_path / "nowhere")
    assert missing.exit_code == 2
    assert "nowhere" in missing.stderr
    assert invoke("ls", folder / "other").stdout == "no result stores\n"


# -- exports -------------------------------------------------------------------------------------------------


def test_an_export_to_standard_output_is_that_of_a_file_and_nothing_else(folder, tmp_path):
    for target in Target:
        file = export(folder / "night.zarr", target, tmp_path / f"model{target.ending}")
        before = sorted(folder.iterdir())
        result = invoke("export", folder / "night.zarr", "--to", target, "-o", "-")
        assert result.exit_code == 0
        assert sorted(folder.iterdir()) == before
        if target is Target.SKLEARN:
            means = joblib.load(io.BytesIO(result.stdout_bytes)).means_
            np.testing.assert_array_equal(means, joblib.load(file).means_)
        else:
            assert result.stdout_bytes == file.read_bytes()
    ExportedMixture.model_validate_json(invoke("export", folder / "night.zarr", "--to", "json", "-o", "-").stdout)


def test_completion_can_be_installed():
    assert "--install-completion" in invoke("--help").stdout
