"""Prefect servers, and jobs served on them, as real processes that are ended by their id."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import numpy as np
import psutil
import pytest

BIN = Path(sys.executable).parent
GMM_DASK = BIN / "gmm-dask"
TIMEOUT = 120.0
# what Prefect does every few seconds, it does more often
OFTEN = {
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "2",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
}
STORE = "out/{name}-{started:%Y-%m-%dT%H%M%S}.zarr"


class Server:
    """A Prefect server on this machine, with queries of its database."""

    def __init__(self, home, **settings):
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        own = {"PREFECT_HOME": str(home), "PREFECT_API_URL": self.url, "DO_NOT_TRACK": "1", "COLUMNS": "200"}
        own |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.environment = {**inherited, **own, **OFTEN, **settings}

    @contextmanager
    def running(self):
        self._start()
        try:
            yield self
        finally:
            kill(self._process)

    @contextmanager
    def away(self):
        """Kill the server, and start it again at the end."""
        kill(self._process)
        yield
        self._start()

    def _start(self):
        command = BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)
        with open(self.home / "log", "a") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env=self.environment)
        try:
            until(lambda: answers(self.url), "the server")
        except BaseException:
            kill(self._process)
            raise

    def query(self, statement):
        return query(self.home, statement)

    def runs(self, job):
        """State, message and id of each run that is no longer scheduled, in the order in which they were due."""
        return self.query(
            "select run.state_name, state.message, run.id from flow_run run join deployment on "
            "deployment.id = run.deployment_id join flow_run_state state on state.id = run.state_id "
            f"where deployment.name = '{job}' and run.state_name != 'Scheduled' order by run.expected_start_time"
        )

    def tasks(self, run_id):
        return self.query(
            f"select name, state_name, run_count from task_run where flow_run_id = '{run_id}' order by start_time"
        )


def query(home, statement):
    """The rows that a statement selects from the database of a Prefect home."""
    with closing(sqlite3.connect(f"file:{home}/prefect.db?mode=ro", uri=True)) as database:
        return database.execute(statement).fetchall()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def process(*command, log, **options):
    """A process whose output goes to a file; killed at the end, with its children."""
    with open(log, "w") as output:
        started = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output, **options)
    try:
        yield started
    finally:
        kill(started)


def kill(started):
    """Kill a process and all its children with SIGKILL."""
    try:
        family = [*psutil.Process(started.pid).children(recursive=True), psutil.Process(started.pid)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    started.wait()


def until(condition, what, timeout=TIMEOUT):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    pytest.fail(f"waited {timeout} s for {what}")


def answers(url):
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=2).status == 200
    except OSError:
        return False


def write_rows(path, seed=5, shift=0.0, n_rows=300):
    random = np.random.default_rng(seed)
    rows = np.concatenate([random.normal(center, 0.3, (n_rows // 3, 2)) for center in (-3.0, 0.0, 3.0 + shift)])
    np.save(path, rows)


def write_job(folder, name, schedule="{interval: 5s}", **sections):
    write_rows(folder / "rows.npy")
    sections = {
        "data": "{source: rows.npy}",
        "search": "{n_components: [2, 3], covariance_types: [diag], init_params: kmeans}",
        "output": f'{{store: "{STORE}"}}',
        "schedule": schedule,
        **sections,
    }
    text = "\n".join([f"name: {name}", *(f"{key}: {value}" for key, value in sections.items())])
    (folder / "job.yaml").write_text(text + "\n")
    return folder


def serving(server, folder):
    return process(GMM_DASK, "serve", "job.yaml", log=folder / "serve.log", env=server.environment, cwd=folder)


def gmm_dask(*arguments, folder, environment):
    """Run a command that ends by itself."""
    command = [GMM_DASK, *arguments]
    options = {"capture_output": True, "text": True, "timeout": TIMEOUT, "check": False}
    return subprocess.run(command, cwd=folder, env=environment, **options)


def post(server, path, body):
    """What the server's API answers to a request; asked again while its database is busy."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/{path}", json.dumps(body).encode(), headers)

    def answered():
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise

    return until(answered, f"an answer to {path}")


def run_deployment(server, flow, name, **parameters):
    """Order a run of a deployment, due now, with parameters in place of its own."""
    ((deployment,),) = server.query(
        "select deployment.id from deployment join flow on flow.id = deployment.flow_id "
        f"where flow.name = '{flow}' and deployment.name = '{name}'"
    )
    post(
        server,
        f"deployments/{deployment}/create_flow_run",
        {"idempotency_key": str(uuid.uuid4()), "parameters": parameters},
    )
