"""Drift on a real server: the run's log and state, the event, and the notification of the recipe's automation."""

import json
import logging
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from paths import ROOT
from prefects import BIN, TIMEOUT, Server, gmm_dask, run_deployment, serving, until, write_job, write_rows

RECIPE = ROOT / "docs/how-to/drift.yaml"
NO_BLOCK = "00000000-0000-0000-0000-000000000000"
SAVE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock as Webhook
content = {"subject": "{{subject}}", "body": "{{body}}"}
print(Webhook(name="hook", url=sys.argv[1], json_data=content).save("alarms"))
"""


@contextmanager
def mailbox():
    """A web server that keeps what is posted to it, and its URL."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}", received
        finally:
            listener.shutdown()
            thread.join()


def automate(server, folder, url):
    """Create the automation of the recipe, which notifies at a URL."""
    block = run(server, BIN / "python", "-c", SAVE_BLOCK, url).split()[-1]
    assert NO_BLOCK in RECIPE.read_text()
    (folder / "recipe.yaml").write_text(RECIPE.read_text().replace(NO_BLOCK, block))
    run(server, BIN / "prefect", "automation", "create", "--from-file", folder / "recipe.yaml")


def run(server, *command):
    options = {"capture_output": True, "text": True, "timeout": TIMEOUT}
    return subprocess.run(command, env=server.environment, check=True, **options).stdout


def ended(server, name, count):
    """Message of the last run's state, and the lines of its log with their levels, when so many are completed."""
    until(lambda: [state for state, *_ in server.runs(name)] == ["Completed"] * count, "the end of the run")
    _, message, run_id = server.runs(name)[-1]
    log = f"select level, message from log where flow_run_id = '{run_id}'"
    # lines are sent in groups; this one, which tasks have as well, is the last
    last = "Finished in state Completed", message.split(";")[0]
    until(lambda: [line for _, line in server.query(log) if all(part in line for part in last)], "the log")
    return message, server.query(log)


def events_of_drift(server):
    """Payload and resource of each event, when the server has written them to its database."""
    return until(lambda: server.query("select payload, resource from events where event = 'gmm-dask.drift'"), "events")


def descriptions(server, key):
    """Descriptions of all artifacts of a key, the oldest first."""
    return [text for (text,) in server.query(f"select description from artifact where key = '{key}' order by created")]


@pytest.mark.slow
def test_drift_warns_sends_an_event_and_notifies(tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    write_job(
        folder,
        "night",
        schedule="{interval: 1000d, flow: score-batch}",
        search="{n_components: [3], covariance_types: [diag], init_params: kmeans}",
        score="{source: new.npy, out: 'out/scores-{started:%Y-%m-%dT%H%M%S}.zarr'}",
    )
    server = Server(tmp_path)
    first = gmm_dask("run", "job.yaml", "--no-prefect", folder=folder, environment=server.environment)
    assert first.returncode == 0, first.stderr
    with mailbox() as (url, received), server.running(), serving(server, folder):
        automate(server, tmp_path, url)
        until(lambda: server.query("select id from deployment where name = 'night'"), "the deployment")
        write_rows(folder / "new.npy", seed=6)
        run_deployment(server, "score-batch", "night")
        message, lines = ended(server, "night", 1)
        assert message == "300 rows by diag-k3; drift: none"
        assert not [line for level, line in lines if level >= logging.WARNING]

        write_rows(folder / "new.npy", seed=7, shift=1.0)
        run_deployment(server, "score-batch", "night")
        message, lines = ended(server, "night", 2)
        assert message.startswith("300 rows by diag-k3; drift: ")
        warned = [line for level, line in lines if level == logging.WARNING]
        assert warned
        assert all(line.startswith("drift: ") for line in warned)
        until(lambda: received, "the notification")
        ((payload, resource),) = events_of_drift(server)
    assert json.loads(resource)["prefect.resource.id"] == "gmm-dask.job.night"
    numbers = json.loads(payload)
    assert numbers["gain"] > numbers["chance_gain"]
    assert [f"drift: {line}" for line in numbers["drift"]] == warned
    (posted,) = received
    assert posted == {"subject": "night: the data have drifted", "body": "; ".join(numbers["drift"])}


@pytest.mark.slow
def test_a_refresh_tells_who_won_and_why(tmp_path):
    folder = write_job(tmp_path, "fresh", schedule="{interval: 1000d, flow: refresh}")
    server = Server(tmp_path)
    with server.running(), serving(server, folder):
        until(lambda: server.query("select id from deployment where name = 'fresh'"), "the deployment")
        expected = ("all candidates are fitted", "diag-k3 is kept", "all candidates are fitted again")
        for number, (shift, reason) in enumerate(zip((0.0, 0.0, 4.0), expected, strict=True), start=1):
            write_rows(folder / "rows.npy", seed=number, shift=shift)
            run_deployment(server, "refresh", "fresh")
            message, lines = ended(server, "fresh", number)
            assert message.startswith("best: diag covariance, 3 components (diag-k3), BIC ")
            assert reason in message
            assert [line for _, line in lines if line.startswith("best: diag covariance")]
            remarks = [line for _, line in lines if line.startswith("remark: ")]
            assert not (remarks and number == 2), remarks  # it did not search
            warned = [line for level, line in lines if level == logging.WARNING and line.startswith("drift: ")]
            assert bool(warned) == (number == 3)
        ((payload, _),) = events_of_drift(server)
        why = [text.split(". ")[0] for text in descriptions(server, "fresh-candidates")]
    searched, kept = (
        "**diag-k3** is the best of 2 candidates by BIC",
        "**diag-k3** is the last winner, fitted to these rows",
    )
    assert why == [searched, kept, searched]
    assert json.loads(payload)["gained"] > json.loads(payload)["bound"] == 0.05
