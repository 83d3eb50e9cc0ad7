"""``serve`` that is told to end, on a real server: its runs are cancelled, and resumed by the next ones."""

import signal
import time
from contextlib import contextmanager

import pytest

from pipeline import store
from pipeline.config.templates import dated_paths
from prefects import STORE, TIMEOUT, Server, run_deployment, serving, until, write_job


@pytest.mark.slow
def test_serve_cancels_its_runs_when_it_is_stopped_and_the_next_resumes(tmp_path):
    search = "{n_components: [2, 3], covariance_types: [diag], tol: 0, max_iter: 1000000000}"
    folder = write_job(tmp_path, "endless", schedule="{interval: 1000d}", search=search)
    template = str(folder / STORE.replace("{name}", "endless"))
    server = Server(tmp_path)
    with server.running():
        for attempt, (number, code, word) in enumerate(
            ((signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")), start=1
        ):
            with stopped(server, folder, number, code) as log:
                until(lambda: server.query("select id from deployment where name = 'endless'"), "the deployment")
                run_deployment(server, "bic-sweep", "endless")
                until(lambda n=attempt: running_since(template, n), "a checkpoint")
            assert f"gmm-dask: {word}. " in log.read_text()
            assert [state for state, *_ in server.runs("endless")] == ["Cancelled"] * attempt
        with stopped(server, folder, signal.SIGTERM, 143) as log:  # without a run
            until(lambda: "serving at" in log.read_text(), "the start")
            time.sleep(1.0)


@contextmanager
def stopped(server, folder, number, code):
    """Serve a job, and stop it by a signal at the end; gives its log."""
    log = folder / "serve.log"
    with serving(server, folder) as served:
        yield log
        served.send_signal(number)
        assert served.wait(TIMEOUT) == code
    text = log.read_text()
    for word in ("Traceback", "Warning"):
        assert word not in text, text


def running_since(template, attempt):
    """Whether the only store has a checkpoint of a run that is the n-th to work on it."""
    paths = [path for _, path in dated_paths(template)]
    if not paths:
        return False
    (path,) = paths
    found = store.open_result(path, unfinished=True)
    return found.attempts == attempt and found.passes > attempt
