"""What programs read of the commands: documents, exit codes, and silence."""

import json
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from flows import terminal
from flows.cli import app
from flows.documents import DOCUMENTS, document_schema
from messages import stages_of
from pipeline import store
from pipeline.config.job import load_config
from pipeline.fit import job as stages
from pipeline.progress import Message, StageStarted, silent

STORE = "results/small.zarr"
ROWS = np.concatenate([np.random.default_rng(3).normal(center, 0.3, (100, 2)) for center in (-3.0, 3.0)])
CONFIG = (
    "name: small\ndata: {source: rows.npy}\n"
    "search: {n_components: [1, 2], covariance_types: [diag], init_params: kmeans}\noutput: {report: false}\n"
)


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A small job in the current directory: 200 rows in two clusters."""
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", ROWS)
    (tmp_path / "job.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        np.save("rows.npy", ROWS)
        (folder / "job.yaml").write_text(CONFIG)
        return folder, invoke("run", "job.yaml", "--no-prefect", "--json", "--set", "output.anomaly_quantile=0.05")


@pytest.fixture
def finished(run_once, monkeypatch):
    """What ``run --json`` printed; its folder is the current one."""
    folder, result = run_once
    monkeypatch.chdir(folder)
    return result


def document(result, command):
    """The document that a command has printed, which is as its schema says."""
    found = json.loads(result.stdout)
    jsonschema.validate(found, json.loads(invoke("schema", "--output", command).stdout))
    return found


# -- documents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_refuses_what_it_does_not_describe(name):
    schema = document_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == 1
    assert schema["additionalProperties"] is False
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": 1, "command": name}, schema)


def test_the_document_of_a_run(finished):
    assert finished.exit_code == 0, finished.output
    found = document(finished, "run")
    result = store.open_result(STORE)
    assert (found["store"], found["name"], found["status"]) == (STORE, "small", "complete")
    assert (found["best"], found["criterion"], found["reused"]) == ("diag-k2", "bic", False)
    assert found["candidates"][0]["criteria"]["bic"] == result.row("diag-k2")["bic"]
    assert [one["name"] for one in found["candidates"]] == ["diag-k2", "diag-k1"]
    assert found["candidates"][0]["criteria"]["held_out"] is None
    assert found["weights"] == list(result.weights)
    assert found["rows"]["label_counts"] == [100, 100]
    assert found["rows"]["anomalies"] == 10
    assert (found["n_rows"], found["report"], found["passes"]) == (200, None, result.passes)


def test_progress_stays_on_standard_error(finished):
    assert stages_of(finished.stderr) == ["seed", "fit", "select", "write rows"]


def test_a_run_that_finds_its_result_says_so(finished):
    again = invoke("run", "job.yaml", "--no-prefect", "--json", "--set", "output.anomaly_quantile=0.05")
    assert document(again, "run")["reused"]


def test_the_document_of_a_store(finished):
    shown = document(invoke("show", STORE, "--json"), "show")
    ran = json.loads(finished.stdout)
    assert shown == {name: ran[name] for name in shown} | {"command": "show"}


def test_the_document_of_an_unfinished_store(job):
    config = load_config("job.yaml")
    stages.prepare(config, False, silent)
    stages.seed(config, silent)
    found = document(invoke("show", STORE, "--json"), "show")
    assert (found["status"], found["weights"], found["finished"]) == ("running", [], None)
    assert {one["status"] for one in found["candidates"]} == {"running"}


def test_the_document_of_an_estimate(job):
    found = document(invoke("validate", "job.yaml", "--json", "--time", "--profile"), "validate")
    assert (found["n_rows"], found["columns"], found["format"]) == (200, ["x0", "x1"], "npy")
    assert (found["candidates"], found["starts"], found["waves"]) == (2, 2, 1)
    assert found["bytes_per_pass"] == ROWS.nbytes
    assert found["time"]["passes"][0] == 4
    assert found["profile"]["columns"][0]["mean"] == pytest.approx(ROWS[:, 0].mean())
    plain = document(invoke("validate", "job.yaml", "--json"), "validate")
    assert (plain["time"], plain["profile"]) == (None, None)


def test_the_document_of_scores(finished):
    found = document(
        invoke("score", STORE, "rows.npy", "-o", "same.zarr", "--json", "--set", "output.report=true"), "score"
    )
    assert (found["out"], found["model"], found["drifted"], found["drift"]) == ("same.zarr", "diag-k2", False, [])
    assert found["report"] == "same.zarr-report/index.html"
    assert found["rows"]["n_rows"] == 200
    assert [one["share"] for one in found["components"]] == pytest.approx([0.5, 0.5])


# -- drift, and exit codes -----------------------------------------------------------------------------------


def test_drift_is_an_exit_code_where_it_is_asked_for(finished):
    np.save("shifted.npy", np.add(ROWS, (1.0, 0.0)))
    drifted = invoke("score", STORE, "shifted.npy", "-o", "shifted.zarr", "--fail-on-drift")
    assert drifted.exit_code == 4
    assert "drift: " in drifted.stdout
    again = invoke("score", STORE, "shifted.npy", "-o", "shifted.zarr", "--fail-on-drift", "--json")
    assert again.exit_code == 4
    assert document(again, "score")["drifted"]
    assert "warning: drift: " in again.stderr
    assert invoke("score", STORE, "shifted.npy", "-o", "shifted.zarr").exit_code == 0
    assert invoke("score", STORE, "rows.npy", "-o", "unshifted.zarr", "--fail-on-drift").exit_code == 0


def test_a_mistake_is_a_document(job):
    result = invoke("run", "job.yaml", "--no-prefect", "--json", "--set", "data.source=nowhere.npy")
    error = document(result, "error")["error"]
    assert (result.exit_code, error["kind"], error["exit_code"]) == (2, "mistake", 2)
    assert "nowhere.npy" in error["message"]
    assert result.stderr == f"gmm-dask: {error['message']}\n"


def test_a_fault_and_an_interrupt_are_documents(job, monkeypatch):
    for raised, kind, code in ((OSError("disk"), "fault", 1), (KeyboardInterrupt(), "interrupted", 130)):

        def fail(config, raised=raised):
            raise raised

        monkeypatch.setattr("pipeline.fit.plan.estimate_job", fail)
        result = invoke("validate", "job.yaml", "--json")
        error = document(result, "error")["error"]
        assert (result.exit_code, error["kind"]) == (code, kind)


@pytest.mark.parametrize("command", ["run", "score"])
def test_a_lock_that_another_run_holds_has_a_code_of_its_own(finished, command):
    arguments = {
        "run": ("run", "job.yaml", "--no-prefect", "--set", "output.anomaly_quantile=0.05"),
        "score": ("score", STORE, "rows.npy", "-o", "held.zarr"),
    }[command]
    with store.lock(STORE if command == "run" else "held.zarr"):
        result = invoke(*arguments, "--json")
    assert result.exit_code == 3
    assert document(result, "error")["error"]["kind"] == "locked"


# -- silence -------------------------------------------------------------------------------------------------


def test_a_quiet_run_prints_nothing(finished):
    for command in (
        ("run", "job.yaml", "--no-prefect", "--fresh", "--set", "output.store=quiet.zarr"),
        ("validate", "job.yaml", "--profile"),
        ("score", STORE, "rows.npy", "-o", "quiet-scores.zarr"),
    ):
        result = invoke(*command, "--quiet")
        assert (result.exit_code, result.output) == (0, "")


def test_a_quiet_command_still_warns_and_fails_aloud(finished):
    np.save("far.npy", ROWS + 5.0)
    warned = invoke("score", STORE, "far.npy", "-o", "far.zarr", "-q")
    assert warned.stdout == ""
    assert "warning: drift: " in warned.stderr
    errors_alone = invoke("score", STORE, "far.npy", "-o", "far.zarr", "-q", "--log-level", "error")
    assert (errors_alone.exit_code, errors_alone.output) == (0, "")
    failed = invoke("score", STORE, "nowhere.npy", "-o", "none.zarr", "-q")
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert "nowhere.npy" in failed.stderr


def test_levels_of_the_log(capsys):
    lost = Message("prefect", "its server has ended", is_warning=True)
    lines = SimpleNamespace(info=2, debug=2, warning=1, error=0)
    for level, expected in vars(lines).items():
        with terminal.progress_listener(level) as listener:
            listener(StageStarted("seed"))
            listener(lost)
        shown = capsys.readouterr().err.splitlines()
        assert len(shown) == expected
        assert not shown or "its server has ended" in shown[-1]


def test_debug_is_a_level(job, monkeypatch):
    def fail(config):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("pipeline.fit.plan.estimate_job", fail)
    assert invoke("validate", "job.yaml", "--log-level", "debug").stderr.startswith("Traceback")
    assert "Traceback" not in invoke("validate", "job.yaml", "--log-level", "info").stderr
