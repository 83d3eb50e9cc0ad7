"""The Prefect flow and its embedded server, in real processes with a Prefect home of their own."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
import uuid
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest
import zarr
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import artifacts
from flows.prefect_server.choice import direct_to_this_machine, prefect_api, require_server
from gmm_dask.errors import FaultError, UserError
from messages import names, stages_of
from pipeline.progress import ChunksDone
from prefects import GMM_DASK, TIMEOUT, gmm_dask, kill, query, until, write_job


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory):
    """Shared by the tests, because Prefect takes 10 s to make its database."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def environment(prefect_home):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return inherited | {"PREFECT_HOME": str(prefect_home), "COLUMNS": "80"}


@pytest.fixture
def job(tmp_path):
    """A folder with a small job without a report, ``job.yaml``."""
    return small_job(tmp_path, report="false")


def small_job(folder, report="true", **sections):
    search = "{n_components: [2, 3], covariance_types: [tied, diag], init_params: kmeans, tol: 1.0e-4}"
    output = f"{{store: small.zarr, report: {report}}}"
    return write_job(folder, "Small.job", schedule="null", search=search, output=output, **sections)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_home, environment):
    """A finished run with the embedded server, and the id of its flow run; a secret is written out in its config."""
    folder = tmp_path_factory.mktemp("finished")
    data = f"{{source: 'file://{folder}/rows.npy', storage_options: {{secret: hunter2}}}}"
    done = run_job(small_job(folder, data=data), environment)
    ((run_id,),) = query(prefect_home, "select id from flow_run order by created desc limit 1")
    return done, run_id


ENDLESS = ["--set", "search.tol=0", "--set", "search.max_iter=1000000000"]


@contextmanager
def started(*command, **options):
    """A process with its output as text; killed at the end, if need be."""
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    with process:
        try:
            yield process
        finally:
            kill(process)


def run_job(folder, environment, *arguments):
    return gmm_dask("run", "job.yaml", *arguments, folder=folder, environment=environment)


def is_gone(process):
    """Whether a process has ended, waited for or not."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def newest_state(home):
    ((state,),) = query(home, "select state_name from flow_run order by created desc limit 1")
    return state


# -- the flow ------------------------------------------------------------------------------------------------


def test_run_is_a_flow_with_its_stages_as_tasks(finished, prefect_home):
    done, run_id = finished
    assert done.returncode == 0, done.stderr
    assert "tied covariance, 3 components" in done.stdout
    ((flow, name, state, parameters),) = query(
        prefect_home,
        "select flow.name, run.name, run.state_name, run.parameters from flow_run run "
        f"join flow on flow.id = run.flow_id where run.id = '{run_id}'",
    )
    assert (flow, state) == ("bic-sweep", "Completed")
    assert re.fullmatch(r"Small\.job \d{4}(-\d\d){2} \d\d(:\d\d){2}", name)
    assert json.loads(parameters)["config"]["search"]["covariance_types"] == ["tied", "diag"]
    tasks = query(prefect_home, f"select name, state_name from task_run where flow_run_id = '{run_id}'")
    assert {state for _, state in tasks} == {"Completed"}
    stages = ("prepare", "seed", "fit_wave 1", "select", "merge", "write_rows", "finish", "draw")
    assert {name for name, _ in tasks} == {f"Small.job: {stage}" for stage in stages}


def test_no_secret_is_in_what_prefect_stores(finished, prefect_home):
    assert finished[0].returncode == 0
    stored = [path.read_bytes() for path in prefect_home.rglob("*") if path.is_file()]
    assert any(b"small.zarr" in content for content in stored)
    assert not any(b"hunter2" in content for content in stored)


def test_the_flow_run_leaves_candidates_progress_picture_and_report(finished, prefect_home):
    found = query(
        prefect_home, f"select key, type, data, description from artifact where flow_run_id = '{finished[1]}'"
    )
    artifacts = {key.removeprefix("small-job-"): tuple(rest) for key, *rest in found}
    assert {key: kind for key, (kind, *_) in artifacts.items()} == {
        "candidates": "table",
        "progress": "progress",
        "bic": "image",
        "report": "markdown",
    }
    assert float(artifacts["progress"][1]) == 100.0
    picture = json.loads(artifacts["bic"][1]).removeprefix("data:image/png;base64,")
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert sum(len(str(data)) for _, data, _ in artifacts.values()) < 80_000  # a run's share of Prefect's database
    assert "**tied-k3** is the best of 4 candidates by BIC" in artifacts["report"][1]
    _, data, description = artifacts["candidates"]
    rows = json.loads(json.loads(data))
    assert [row["delta"] for row in rows] == sorted(row["delta"] for row in rows)
    candidates = {(row["covariance_type"], row["n_components"]) for row in rows}
    assert candidates == {(kind, k) for kind in ("tied", "diag") for k in (2, 3)}
    assert "tied-k3" in description


def test_the_run_log_has_the_stages_and_the_terminal_only_the_jobs_lines(finished, prefect_home):
    done, run_id = finished
    printed = stages_of(done.stderr)
    assert printed == ["prefect", "note", "seed", "fit", "select", "write rows", "draw"]
    logged = query(prefect_home, f"select message from log where flow_run_id = '{run_id}'")
    assert set(printed[1:]) <= {message.split(":")[0] for (message,) in logged}


def test_the_run_log_and_the_message_of_its_state_name_the_winner(finished, prefect_home):
    run_id = finished[1]
    (winner,) = [line for line in finished[0].stdout.splitlines() if line.startswith("best: ")]
    ((message,),) = query(
        prefect_home,
        f"select state.message from flow_run run join flow_run_state state on state.id = run.state_id "
        f"where run.id = '{run_id}'",
    )
    assert message == winner
    logged = {line for (line,) in query(prefect_home, f"select message from log where flow_run_id = '{run_id}'")}
    assert winner in logged
    remarks = [line.strip() for line in finished[0].stdout.splitlines() if "evidence" in line]
    assert {f"remark: {line}" for line in remarks} <= logged


@pytest.mark.slow
def test_a_mistake_fails_the_flow_run_and_is_reported_once(job, prefect_home, environment):
    (job / "rows.npy").write_bytes((job / "rows.npy").read_bytes()[:100])
    done = run_job(job, environment)
    assert done.returncode == 2
    assert [line[:9] for line in done.stderr.splitlines()] == ["prefect: ", "gmm-dask:"]
    assert newest_state(prefect_home) == "Failed"


@pytest.mark.slow
def test_a_server_that_is_set_is_used_and_must_answer(job, environment):
    done = run_job(job, environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert done.returncode == 1
    assert "expected a Prefect server at http://127.0.0.1:9/api" in done.stderr
    assert "--no-prefect" in done.stderr


WITH_PASSWORD = "http://me:hunter2@127.0.0.1:9/api"


@pytest.mark.parametrize(("wrong", "kind"), [(httpx.ConnectError, FaultError), (httpx.InvalidURL, UserError)])
def test_the_password_of_a_server_that_does_not_answer_is_not_shown(monkeypatch, wrong, kind):
    def fail(**_):
        raise wrong(f"nobody at {WITH_PASSWORD}")

    monkeypatch.setattr("flows.prefect_server.choice.get_client", fail)
    with temporary_settings({PREFECT_API_URL: WITH_PASSWORD}), pytest.raises(kind) as caught:
        require_server()
    require_hidden(caught.value)
    assert "expected a Prefect server at http://***@127.0.0.1:9/api" in str(caught.value)


def test_the_password_of_a_server_that_fails_during_the_run_is_not_shown(monkeypatch):
    monkeypatch.setattr("flows.prefect_server.choice._require_answer", lambda *_: None)
    request = httpx.Request("GET", f"{WITH_PASSWORD}/flows")
    with temporary_settings({PREFECT_API_URL: WITH_PASSWORD}), pytest.raises(FaultError) as caught, prefect_api():
        httpx.Response(500, request=request).raise_for_status()
    require_hidden(caught.value)
    assert "500 Internal Server Error" in str(caught.value)


def require_hidden(error):
    logged = "".join(traceback.format_exception(error))
    assert "***@127.0.0.1:9" in logged
    assert "hunter2" not in logged


@pytest.mark.slow
def test_a_server_that_is_set_gets_the_run(job, prefect_home, environment):
    with server_of_another_process(environment) as (url, server):
        with started(GMM_DASK, "run", "job.yaml", cwd=job, env=environment | {"PREFECT_API_URL": url}) as run:
            children = set()
            while run.poll() is None:
                children |= {child.pid for child in psutil.Process(run.pid).children()}
                time.sleep(0.1)
        assert run.returncode == 0
        assert not children
        assert not is_gone(server)
    assert newest_state(prefect_home) == "Completed"


def test_telemetry_is_off_before_prefect_is_imported(environment):
    code = (
        "import sys, flows; assert 'prefect' not in sys.modules; import flows.flows\n"
        "from prefect._internal.analytics import is_telemetry_enabled\n"
        "from prefect.settings import get_current_settings\n"
        "settings = get_current_settings()\n"
        "print(is_telemetry_enabled(), settings.server.analytics_enabled,"
        " settings.telemetry.enable_resource_metrics, settings.cloud.enable_orchestration_telemetry)"
    )
    enabled = {"DO_NOT_TRACK": "0", "PREFECT_SERVER_ANALYTICS_ENABLED": "true", "CI": ""}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment | enabled, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False"] * 4


# -- the embedded server -------------------------------------------------------------------------------------

PARENT = """
import sys, time
from flows.prefect_server.embedded import EmbeddedServer
server = EmbeddedServer()
if sys.argv[1] == "ready":
    server.wait_until_ready()
print(server._process.pid, server.url, flush=True)
time.sleep(600)
"""


@contextmanager
def server_of_another_process(environment, when="ready"):
    """URL and process of an embedded server, and its parent as the process's ``parent()``."""
    with started(sys.executable, "-c", PARENT, when, env=environment) as parent:
        pid, url = parent.stdout.readline().split()
        yield url, psutil.Process(int(pid))
        parent.kill()


# a server that starts needs 2 s before it could notice anything but the end of the pipe
@pytest.mark.slow
@pytest.mark.parametrize(("when", "timeout"), [("ready", TIMEOUT), ("starting", 1.5)])
def test_the_server_dies_with_its_parent_also_when_that_is_killed(environment, when, timeout):
    with server_of_another_process(environment, when) as (_, server):
        assert not is_gone(server)
        server.parent().send_signal(signal.SIGKILL)
        until(lambda: is_gone(server), "the server's end", timeout)


@pytest.mark.slow
def test_credentials_of_a_server_on_this_machine_are_those_of_the_embedded_one(job, environment):
    protected = environment | {"PREFECT_SERVER_API_AUTH_STRING": "scheduler:of-this-machine"}
    run = run_job(job, protected)
    assert run.returncode == 0, run.stderr
    assert zarr.open_group(job / "small.zarr", mode="r").attrs["status"] == "complete"


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_run_leaves_no_process(job, environment):
    with started(GMM_DASK, "run", "job.yaml", *ENDLESS, cwd=job, env=environment) as run:
        wait_for_the_fit(run)
        children = psutil.Process(run.pid).children(recursive=True)
        assert children
        run.send_signal(signal.SIGKILL)
        until(lambda: all(map(is_gone, children)), "the end of all children")


def wait_for_the_fit(run):
    lines = []
    for line in run.stderr:
        lines.append(line)
        if line.startswith("fit"):
            return
    pytest.fail(f"the run ended before its fit began, with exit code {run.wait()}: {lines}")


@pytest.mark.slow
def test_ctrl_c_is_code_130_and_a_crashed_flow_run(job, prefect_home, environment):
    command = [GMM_DASK, "run", "job.yaml", *ENDLESS]
    with started(*command, cwd=job, env=environment, start_new_session=True) as run:
        wait_for_the_fit(run)
        children = psutil.Process(run.pid).children(recursive=True)
        time.sleep(1.0)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does, to the job and what it started
        _, errors = run.communicate(timeout=TIMEOUT)
    assert run.returncode == 130
    assert "gmm-dask: interrupted. The same command resumes from the last checkpoint." in errors
    assert all(map(is_gone, children))
    assert newest_state(prefect_home) == "Crashed"
    assert zarr.open_group(job / "small.zarr", mode="r").attrs["status"] == "running"


def test_a_server_that_does_not_answer_progress_updates_delays_nothing(monkeypatch):
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda *_, **__: uuid.uuid4())
    monkeypatch.setattr(artifacts, "SECONDS_BETWEEN_UPDATES", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/api"
        settings = temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0})
        with suppress(InterruptedError), settings, artifacts.ProgressArtifact("job") as bar:
            for done in range(3):
                bar(ChunksDone(done, total=3, rows=1, seconds=1.0))
            raise InterruptedError
        mute.settimeout(TIMEOUT)
        with mute.accept()[0] as request:
            assert b" /api/" in request.recv(1024)


# Prefect tries to send each event for 7 s, also those that are left at the end
FEW_EVENTS = {"PREFECT_EVENTS_WORKER_MAX_QUEUE_SIZE": "2"}
# with one retry of a request where the command has three, which take 14 s
IMPATIENT = """
import sys, flows.prefect_server.choice, flows.cli
flows.prefect_server.choice.EMBEDDED_RETRIES = 1
sys.argv[0] = "gmm-dask"
flows.cli.main()
"""
LONG = [*ENDLESS[:2], "--set", "search.max_iter=300"]


@pytest.mark.slow
def test_a_server_that_dies_is_named_and_the_result_stays(job, environment):
    command = [sys.executable, "-c", IMPATIENT, "run", "job.yaml", *LONG]
    with started(*command, cwd=job, env=environment | FEW_EVENTS) as run:
        wait_for_the_fit(run)
        (server,) = psutil.Process(run.pid).children()
        server.kill()
        errors = require_result_and(run, "ServerError: Prefect's embedded server ended during the run", job)
    assert re.match(names("prefect:", "embedded server", "ended"), errors.splitlines()[0])
    assert not re.search(r"Event\(|EventsWorker|Error logging", errors)


@pytest.mark.slow
def test_a_server_of_the_users_that_dies_is_named_and_the_result_stays(job, environment):
    with server_of_another_process(environment) as (url, server):
        one_retry = environment | FEW_EVENTS | {"PREFECT_API_URL": url, "PREFECT_CLIENT_MAX_RETRIES": "1"}
        with started(GMM_DASK, "run", "job.yaml", *LONG, cwd=job, env=one_retry) as run:
            wait_for_the_fit(run)
            server.kill()
            require_result_and(run, f"the Prefect server at {url} failed during the run", job)


def require_result_and(run, words, folder):
    """Check that a run fails with these words, and that its store is complete."""
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 1
    assert words in errors
    assert zarr.open_group(folder / "small.zarr", mode="r").attrs["status"] == "complete"
    return errors


PROXY, SOCKS = "http://127.0.0.1:9", "socks5://127.0.0.1:9"


@pytest.mark.slow
def test_proxies_do_not_come_between_a_run_and_its_server(job, environment):
    run = run_job(job, environment | {"HTTP_PROXY": PROXY, "https_proxy": PROXY, "ALL_PROXY": SOCKS})
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("url", "socks"), [(None, None), ("http://localhost:4200/api", None), ("https://prefect.example.org/api", SOCKS)]
)
def test_proxies_for_other_machines_stay(monkeypatch, url, socks):
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("ALL_PROXY", SOCKS)
    monkeypatch.setenv("NO_PROXY", "example.org")
    before = dict(os.environ)
    with temporary_settings({PREFECT_API_URL: url}), direct_to_this_machine():
        assert (os.environ["HTTPS_PROXY"], os.environ.get("ALL_PROXY")) == (PROXY, socks)
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
    assert dict(os.environ) == before


@pytest.mark.slow
def test_first_starts_at_the_same_time_both_succeed(tmp_path, environment):
    environment |= {"PREFECT_HOME": str(tmp_path)}
    with server_of_another_process(environment) as (one, _), server_of_another_process(environment) as (other, _):
        assert one != other
