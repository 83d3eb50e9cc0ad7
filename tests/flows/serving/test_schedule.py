"""Schedules on a real Prefect server in real processes."""

import json
import re
import shutil
import signal
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from browser import CHROMIUM, browsing
from flows.serving.deployments import serve_configs
from gmm_dask import UserError
from gmm_dask.errors import FaultError
from paths import ROOT
from pipeline import store
from pipeline.config.templates import dated_paths
from pipeline.config.yaml_file import read_document
from prefects import (
    BIN,
    GMM_DASK,
    STORE,
    TIMEOUT,
    Server,
    gmm_dask,
    process,
    run_deployment,
    serving,
    until,
    write_job,
    write_rows,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    soon = {"PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "4"}
    with Server(tmp_path_factory.mktemp("server"), **soon).running() as found:
        yield found


def refused(folder, error=UserError, **settings):
    """Why a job is not served."""
    with temporary_settings(**settings), pytest.raises(error) as caught:
        serve_configs([folder / "job.yaml"], lambda line: None)
    return str(caught.value)


def test_serve_without_a_server_names_the_command_that_starts_one(tmp_path):
    write_job(tmp_path, "alone")
    assert "prefect server start" in refused(tmp_path, restore_defaults={PREFECT_API_URL})
    url = "http://127.0.0.1:9/api"
    assert url in refused(tmp_path, FaultError, updates={PREFECT_API_URL: url})


def test_serve_without_a_schedule_shows_an_example(tmp_path):
    write_job(tmp_path, "idle", schedule="null")
    message = refused(tmp_path)
    assert "has no schedule" in message
    assert "schedule: {cron" in message


@pytest.mark.slow
def test_the_address_of_a_servers_pages_is_not_that_of_its_api(tmp_path, server):
    write_job(tmp_path, "alone")
    website = server.environment | {"PREFECT_API_URL": server.url.removesuffix("/api")}
    done = gmm_dask("serve", "job.yaml", folder=tmp_path, environment=website)
    assert done.returncode == 2
    assert "ends in /api" in done.stderr


@pytest.mark.slow
def test_a_scheduled_run_is_executed_and_of_missed_ones_only_the_newest(tmp_path, server):
    folder = write_job(tmp_path, "often", schedule="{interval: 6s}")
    with serving(server, folder):
        until(lambda: "Completed" in [state for state, *_ in server.runs("often")], "a run")
    assert list((folder / "out").glob("often-*.zarr/zarr.json"))
    until(lambda: [state for state, *_ in server.runs("often")].count("Late") >= 3, "runs that are missed")
    with serving(server, folder):
        until(lambda: [state for state, *_ in server.runs("often")].count("Skipped") >= 2, "missed runs that end")
    reasons = [text for state, text, _ in server.runs("often") if state == "Skipped"]
    left = r"this run was due at .{19} UTC and left the work to the newer run that was due at .{19} UTC\."
    assert any(re.fullmatch(left, reason) for reason in reasons), reasons
    # on a busy machine one may meet the store of the run before it
    at_work = "another run is at work on the result store .+"
    assert all(re.fullmatch(f"{left}|{at_work}", reason) for reason in reasons), reasons


@pytest.mark.slow
def test_a_killed_run_is_marked_and_the_next_resumes_it(tmp_path, server):
    folder = write_job(
        tmp_path,
        "mortal",
        schedule="{interval: 10s}",
        search="{n_components: [2, 3], covariance_types: [diag], tol: 0, max_iter: 1000000000}",
    )

    def fits():
        return [pid for pid in psutil.Process(served.pid).children(recursive=True) if pid.name().startswith("python")]

    def checkpoint():
        return any(found.checkpoint for _, path in dated_paths(template) if (found := attributes(path)))

    template = str(folder / STORE.replace("{name}", "mortal"))
    with serving(server, folder) as served:
        until(checkpoint, "a checkpoint")
        ((_, path),) = dated_paths(template)
        for child in fits():
            child.send_signal(signal.SIGKILL)
        until(lambda: "Crashed" in [state for state, *_ in server.runs("mortal")], "the run to be marked")
        until(lambda: attributes(path).attempts >= 2, "the next run")
        assert [found for _, found in dated_paths(template)] == [path]
        until(lambda: "Skipped" in [state for state, *_ in server.runs("mortal")], "a run that finds the store locked")
    (reason,) = {text for state, text, _ in server.runs("mortal") if state == "Skipped" and "at work" in text}
    assert "another run is at work on the result store" in reason


def attributes(path):
    try:
        return store.open_result(path, unfinished=True)
    except (UserError, OSError, ValueError):  # it is being written
        return None


class Flaky(BaseHTTPRequestHandler):
    """Serves one file, or fails every request while ``broken``."""

    body, broken, key = b"", False, None

    def do_HEAD(self):
        self.answer(b"")

    def do_GET(self):
        begin, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        self.answer(self.body[int(begin) : int(end) + 1 if end else None])

    def answer(self, body):
        Flaky.key = self.headers.get("X-Key")
        self.send_response(503 if self.broken else 206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(body) if body or self.broken else len(self.body)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(b"" if self.broken else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def flaky():
    with ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}/rows.csv"
        found.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_task_that_fails_twice_succeeds_at_the_second_retry_and_its_secrets_are_not_kept(tmp_path, server, flaky):
    write_rows(tmp_path / "rows.npy")
    lines = [f"{a},{b}" for a, b in np.load(tmp_path / "rows.npy")]
    Flaky.body, Flaky.broken = "\n".join(["a,b", *lines]).encode(), True
    folder = write_job(
        tmp_path,
        "flaky",
        schedule="{interval: 10d}",
        data=f"{{source: '{flaky}'}}",
        tasks="{retries: 2, retry_delay_seconds: 3}",
    )
    with serving(server, folder):
        until(lambda: server.query("select id from deployment where name = 'flaky'"), "the deployment")
        config = read_document(folder / "job.yaml").values
        config["data"]["storage_options"] = {"client_kwargs": {"headers": {"X-Key": "hunter2"}}}
        run_deployment(server, "bic-sweep", "flaky", config=config)
        tries = "select run_count, state_name from task_run where name = 'flaky: prepare'"
        until(lambda: (2, "AwaitingRetry") in server.query(tries), "the second attempt to fail")
        Flaky.broken = False
        until(lambda: "Completed" in [state for state, *_ in server.runs("flaky")], "the end")
    ((_, _, run_id),) = server.runs("flaky")
    assert ("flaky: prepare", "Completed", 3) in server.tasks(run_id)
    assert Flaky.key == "hunter2"
    ((parameters,),) = server.query(f"select parameters from flow_run where id = '{run_id}'")
    assert json.loads(parameters)["config"]["data"]["storage_options"]["client_kwargs"]["headers"] == {"X-Key": "***"}


@pytest.mark.slow
def test_refresh_and_score_batch_are_served_under_one_name(tmp_path, server):
    folder = write_job(tmp_path, "both", schedule="{cron: '7 3 1 * *', flow: refresh}")
    text = (folder / "job.yaml").read_text().replace("flow: refresh", "flow: score-batch")
    (folder / "scores.yaml").write_text(text + "score: {source: rows.npy}\n")
    command = GMM_DASK, "serve", "job.yaml", "scores.yaml"
    with process(*command, log=folder / "serve.log", env=server.environment, cwd=folder):
        until(lambda: len(server.query("select id from deployment where name = 'both'")) == 2, "the deployments")
        for number, flow in enumerate(("refresh", "score-batch"), start=1):
            run_deployment(server, flow, "both")
            until(lambda n=number: [state for state, *_ in server.runs("both")].count("Completed") == n, flow)
    kinds = {key.removeprefix("both-") for (key,) in server.query("select key from artifact where key like 'both-%'")}
    assert kinds == {"progress", "candidates", "bic", "report", "refresh", "scores-progress", "scores"}
    due = server.query(
        "select strftime('%d %H:%M', run.expected_start_time) from flow_run run join deployment on "
        "deployment.id = run.deployment_id where deployment.name = 'both' and run.auto_scheduled"
    )
    assert set(due) == {("01 03:07",)}
    names = {name for (name,) in server.query("select name from flow_run where name like 'both %'")}
    assert len(names) == 2, names
    assert (folder / "out/both-latest.zarr/zarr.json").is_file()
    assert list((folder / "results").glob("both-scores-*.zarr/zarr.json"))


@pytest.mark.slow
def test_a_mistake_is_not_retried_and_the_states_message_names_it(tmp_path, server):
    folder = write_job(tmp_path, "mistaken", tasks="{retries: 5, retry_delay_seconds: 100}")
    (folder / "rows.npy").unlink()
    done = gmm_dask("run", "job.yaml", folder=folder, environment=server.environment)
    assert done.returncode == 2
    ((count, state, message),) = server.query(
        "select task.run_count, task.state_name, state.message from task_run task "
        "join task_run_state state on state.id = task.state_id where task.name = 'mistaken: prepare'"
    )
    assert (count, state) == (1, "Failed")
    assert "rows.npy" in message


@pytest.mark.slow
def test_a_stage_that_exceeds_its_limit_is_timed_out_with_the_reason(tmp_path, server):
    folder = write_job(
        tmp_path,
        "slow",
        search="{n_components: [2, 3], covariance_types: [diag], tol: 0, max_iter: 1000000000}",
        tasks="{retries: 1, retry_delay_seconds: 0, timeout_seconds: 0.5}",
    )
    done = gmm_dask("run", "job.yaml", folder=folder, environment=server.environment)
    assert done.returncode == 1
    assert "tasks.timeout_seconds" in done.stderr
    ((count, state, message),) = server.query(
        "select task.run_count, task.state_name, state.message from task_run task "
        "join task_run_state state on state.id = task.state_id where task.name = 'slow: fit_wave 1'"
    )
    assert (count, state) == (2, "TimedOut")
    assert "took longer than tasks.timeout_seconds, 0.5 s" in message
    ((_, path),) = dated_paths(str(folder / STORE.replace("{name}", "slow")))
    assert json.loads((Path(path) / "zarr.json").read_text())["attributes"]["passes"] > 2


# -- a work pool, and the pages ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deployed(tmp_path_factory, server):
    """The id of a run of prefect.yaml's deployment, executed by a process worker."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "configs", folder / "configs")
    recipe = (ROOT / "prefect.yaml").read_text()
    cron = re.search(r'- cron: ".+"\n +timezone: .+\n', recipe)[0]
    (folder / "prefect.yaml").write_text(recipe.replace(cron, "- interval: 30\n"))
    for command in (("work-pool", "create", "gmm-dask", "--type", "process"), ("deploy", "--all", "--no-prompt")):
        subprocess.run(
            [BIN / "prefect", *command],
            cwd=folder,
            env=server.environment | {"PWD": str(folder)},  # which the recipe names
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
        )
    worker = BIN / "prefect", "worker", "start", "--pool", "gmm-dask"
    with process(*worker, log=folder / "worker.log", env=server.environment, cwd=folder):
        (done, *_) = until(lambda: [run for run in server.runs("quickstart") if run[0] == "Completed"], "a run")
    assert (folder / "results/old-faithful.zarr/zarr.json").is_file()
    return done[2]


@pytest.mark.slow
def test_a_worker_executes_a_scheduled_run_of_the_pool(deployed, server):
    ((name, tag),) = server.query(f"select name, auto_scheduled from flow_run where id = '{deployed}'")
    assert re.fullmatch(r"old-faithful \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", name)
    assert tag == 1
    assert ("old-faithful: fit_wave 1", "Completed", 1) in server.tasks(deployed)


TEXT = "document.body?.innerText ?? ''"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_pages_of_a_run_and_its_artifacts_show_its_results(deployed, server, tmp_path):
    site = server.url.removesuffix("/api")
    artifacts = dict(server.query(f"select key, id from artifact where flow_run_id = '{deployed}'"))
    shown = {
        f"runs/flow-run/{deployed}": "seed: reading the data once, then computing the starts",
        f"artifacts/artifact/{artifacts['old-faithful-candidates']}": "2314.33",
        f"artifacts/artifact/{artifacts['old-faithful-report']}": "is the best of 36 candidates by BIC",
    }
    widths = "[...document.images].filter(image => image.src.startsWith('data:')).map(image => image.naturalWidth)"
    with browsing() as page:
        page.send("Emulation.setDeviceMetricsOverride", width=1300, height=1500, deviceScaleFactor=1, mobile=False)
        for number, (path, words) in enumerate(shown.items()):
            page.send("Page.navigate", url=f"{site}/{path}")
            with pictured(page, tmp_path / f"{number}.png") as picture:
                until(lambda words=words: words in page.evaluate(TEXT), f"{words} on {path}, see {picture}")
        (width,) = page.evaluate(widths)
        assert width > 100, f"see {picture}"
        page.send("Page.navigate", url=f"{site}/artifacts/artifact/{artifacts['old-faithful-bic']}")
        with pictured(page, tmp_path / "bic.png") as picture:
            until(lambda: page.evaluate(widths), f"the picture, see {picture}")
        assert min(page.evaluate(widths)) > 100, f"see {picture}"


@contextmanager
def pictured(page, file):
    """Take a screenshot of the page at the end, whether the test passes or fails."""
    try:
        yield file
    finally:
        file.write_bytes(page.screenshot())
