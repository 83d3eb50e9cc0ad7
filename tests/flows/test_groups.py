"""What the commands print of a search for each group of rows."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from flows.artifacts import publish_job
from flows.cli import app
from flows.progress import describe
from pipeline.progress import GroupsDone
from pipeline.store import open_result

STORE = "results/groups.zarr"
CONFIG = (
    "name: groups\ndata: {source: rows.parquet, by: day, columns: [a, b]}\n"
    "search: {n_components: [1, 2], covariance_types: [diag], init_params: kmeans}\noutput: {metrics: .}\n"
)


def invoke(*arguments, code=0):
    found = CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == code, found.output
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The job is done in the folder."""
    folder, rng = tmp_path_factory.mktemp("groups"), np.random.default_rng(0)
    centers = np.repeat([-3.0, 3.0], 40)[:, None]
    days = [
        pd.DataFrame(centers * (i + 1) + rng.normal(size=(80, 2)), columns=["a", "b"]).assign(day=f"2026-11-0{i + 1}")
        for i in range(3)
    ]
    days.append(pd.DataFrame({"a": [0.0], "b": [1.0], "day": ["<b>"]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rows = pd.concat(days, ignore_index=True)
        rows.to_parquet("rows.parquet", index=False)
        rows.assign(day=rows["day"].replace("2026-11-02", "2026-12-24")).to_csv("new.csv", index=False)
        (folder / "job.yaml").write_text(CONFIG)
        (folder / "run.json").write_text(invoke("run", "job.yaml", "--no-prefect", "--json").stdout)
    return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def document(text, command):
    found = json.loads(text)
    jsonschema.validate(found, json.loads(invoke("schema", "--output", command).stdout))
    return found


def test_documents_of_a_run_and_of_its_store(folder):
    ran = document((folder / "run.json").read_text(), "run-groups")
    assert (ran["by"], ran["n_groups"], ran["n_done"], ran["failed"], ran["n_rows"]) == ("day", 4, 4, 1, 241)
    assert [(one["group"], one["best"]) for one in ran["groups"][:3]] == [
        (f"2026-11-0{i}", "diag-k2") for i in (1, 2, 3)
    ]
    failed = ran["groups"][3]
    assert (failed["status"], failed["best"], failed["n_rows"]) == ("failed", None, 1)
    assert ran["rows"]["usable"] == 240
    shown = document(invoke("show", STORE, "--json").stdout, "show-groups")
    assert shown["groups"] == ran["groups"]
    one = document(invoke("show", STORE, "--json", "--group", "2026-11-02").stdout, "show")
    assert one["best"] == "diag-k2"
    assert one["n_rows"] == 80
    listed = document(invoke("ls", "results", "--json").stdout, "ls")
    assert listed["stores"][0]["groups"] == 4
    planned = document(invoke("validate", "job.yaml", "--json").stdout, "validate")
    assert (planned["by"], planned["groups"], planned["candidates"]) == ("day", None, 2)
    assert 'groups{job="groups",status="converged"} 3' in (folder / "gmm-dask-groups-run.prom").read_text()


def test_what_a_terminal_shows():
    shown = invoke("show", STORE).stdout
    assert "3 of 4 groups of day have a model" in shown
    assert "<b>: The data has 1 row (" in " ".join(shown.split())
    assert "groups" in invoke("validate", "job.yaml").stdout
    assert "4 groups" in invoke("ls", "results").stdout
    again = invoke("run", "job.yaml", "--no-prefect").stdout
    assert "nothing was computed" in again
    assert describe(GroupsDone(30, 90, 20, 10.0)) == "30 of 90 groups; about 30 s left"
    assert describe(GroupsDone(8, 90, 0, 0.0)) == "8 of 90 groups"
    unknown = invoke("show", STORE, "--group", "2026-11-09", code=2).output
    assert "2026-11-02" in unknown


def test_a_store_whose_groups_all_failed_is_not_one_to_resume(folder):
    fails = ("--no-prefect", "--set", "search.n_components=[81]", "--set", "output.store=failed.zarr")
    ran = invoke("run", "job.yaml", *fails, code=2)
    assert "--fresh" in ran.stderr
    shown = " ".join(invoke("show", "failed.zarr").stdout.split())
    said = ("FAILED", "no group of day", "--fresh", "2026-11-01: no candidate", "<b>: The")
    assert all(word in shown for word in said)
    assert "resumes" not in shown
    failed = document(invoke("show", "failed.zarr", "--json").stdout, "show-groups")
    assert (failed["n_done"], failed["failed"]) == (4, 4)


def test_a_group_is_one_in_messages(folder):
    pd.read_parquet("rows.parquet").query("day == '2026-11-01'").to_parquet("one.parquet")
    other = ("--set", "data.source=one.parquet", "--set", "output.store=one.zarr")
    ran = invoke("run", "job.yaml", "--no-prefect", *other)
    assert "1 of 1 group of day has a model" in ran.stdout


def test_scores_count_the_groups_without_a_model():
    arguments = ("score", STORE, "new.csv", "-o", "scores.zarr")
    scores = document(invoke(*arguments, "--json").stdout, "score-groups")
    assert scores["unknown"] == {"2026-12-24": 80, "<b>": 1}
    assert (scores["n_groups"], scores["rows"]["usable"], scores["reused"]) == (2, 160, False)
    again = document(invoke(*arguments, "--json").stdout, "score-groups")
    assert again["unknown"] == scores["unknown"]
    assert again["reused"]
    labels = open_result(STORE).row_shapes["label"]
    assert labels == (241,)
    assert "80" in invoke(*arguments).stdout
    assert "drift is not measured" in " ".join(invoke(*arguments, "--fail-on-drift", code=2).output.split())


def test_scores_of_unknown_groups_alone_are_warned_of(folder):
    pd.DataFrame({"a": [0.0, 1.0], "b": [0.0, 1.0], "day": ["Monday", None]}).to_csv("unknown.csv", index=False)
    arguments = ("score", STORE, "unknown.csv", "-o", "unknown.zarr")
    assert "such as Monday" in " ".join(invoke(*arguments).stdout.split())
    warned = invoke(*arguments, "--json")
    assert json.loads(warned.stdout)["n_groups"] == 0
    assert all(word in warned.stderr for word in ("day", "Monday", "2026-11-01", "unknown.csv"))


def test_one_group_is_exported_reported_and_compared(folder):
    invoke("export", STORE, "--to", "json", "--group", "2026-11-03")
    exported = json.loads((folder / "results/groups-group-2026-11-03-diag-k2.json").read_text())
    assert exported["n_components"] == 2
    invoke("report", STORE, "--group", "2026-11-01")
    page = (folder / "results/groups.zarr-report/group-2026-11-01/index.html").read_text()
    assert "2 components" in page
    found = document(invoke("diff", STORE, STORE, "--group", "2026-11-01", "--json").stdout, "diff")
    assert found["agreement"] == 1.0
    for words in (("export", STORE, "--to", "json"), ("diff", STORE, STORE), ("name", STORE, "0", "early")):
        assert "group" in invoke(*words, code=2).output


def test_the_report_of_all_groups(folder):
    page = (folder / "results/groups.zarr-report/index.html").read_text()
    assert page.count("<svg") == 3
    assert page.count("data-value") == 4 * 7
    assert "&lt;b&gt;" in page
    assert "<b>: " not in page
    # the page's own script runs, and no other
    assert page.count("<script") == 1
    assert "script-src &#39;sha256-" not in page
    assert "script-src 'sha256-" in page


def test_a_table_of_groups_on_the_page_of_a_run(monkeypatch):
    created = {}
    monkeypatch.setattr(
        "flows.artifacts.create_table_artifact", lambda table, **more: created.update(table=table, **more)
    )
    publish_job("groups", open_result(STORE))
    assert [row["group"] for row in created["table"]] == ["2026-11-01", "2026-11-02", "2026-11-03", "<b>"]
    assert created["table"][3]["bic"] is None
    assert "3 of 4 groups" in created["description"]
    json.dumps(created["table"])
