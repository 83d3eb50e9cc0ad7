"""A Prefect server that is away for a while: ``serve`` waits for it, and cancels runs when it is back."""

import asyncio
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import prefect._internal.observers as observers
import prefect.runner._scheduled_run_poller as poller
import prefect.runner.runner as runner
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings

from flows.prefect_server.outages import (
    Outage,
    _without_traceback,
    reason,
    repeat,
    runs_wait_for_server,
    survive_outages,
    wait_for_server,
)
from gmm_dask.errors import FaultError, LockedError, UserError
from prefects import Server, free_port, post, run_deployment, serving, until, write_job

AWAY = 45.0  # seconds, after which Prefect alone has given up


class Ended(Exception):
    pass


def workload(*answers):
    """A call that has these answers, one after the other, and then ends the loop."""
    left = list(answers)

    async def call():
        if not left:
            raise Ended
        if isinstance(answer := left.pop(0), Exception):
            raise answer

    return call


def refused(status):
    request = httpx.Request("GET", "http://server")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


def repeated(outage, *answers):
    asyncio.run(repeat(outage, workload(*answers), 0.0, jitter_range=0.3))


def test_an_outage_is_reported_once_and_its_end_as_well():
    said = []
    outage = Outage(said.append)
    with pytest.raises(Ended):
        repeated(outage, None, *[httpx.ConnectError("no route")] * 20, refused(503), None, None)
    assert len(said) == 2
    assert "does not answer (no route)" in said[0]
    assert "answers again" in said[1]


def test_the_end_is_reported_when_all_loops_have_an_answer():
    said = []
    outage = Outage(said.append)
    outage.failed("a", httpx.ReadTimeout(""))
    outage.failed("b", httpx.ReadTimeout(""))
    outage.answered("a")
    assert len(said) == 1
    assert "ReadTimeout" in said[0]
    outage.answered("b")
    assert len(said) == 2


def test_a_refusal_is_no_outage():
    said = []
    with pytest.raises(httpx.HTTPStatusError):
        repeated(Outage(said.append), refused(401))
    assert said == []


def test_a_loop_may_be_of_one_call():
    asyncio.run(repeat(Outage(str), workload(None), 9.0, run_once=True))


def test_the_loops_of_prefect_are_replaced(monkeypatch):
    for module in (observers, poller):
        monkeypatch.setattr(module, "critical_service_loop", module.critical_service_loop)
    survive_outages(str)
    assert {module.critical_service_loop.func for module in (observers, poller)} == {repeat}


def test_serve_starts_runs_with_the_command_that_waits(monkeypatch):
    monkeypatch.setattr(runner, "EngineCommandStarter", runner.EngineCommandStarter)
    runs_wait_for_server()
    assert runner.EngineCommandStarter()._command.endswith("-m flows.engine")


class Answering(BaseHTTPRequestHandler):
    """A server that knows no flows."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status", [200, 401])
def test_a_run_waits_until_the_server_answers_or_refuses(status):
    port, said, servers = free_port(), [], []

    def say(line):
        said.append(line)
        if not servers:
            servers.append(HTTPServer(("127.0.0.1", port), Answering))
            servers[0].status = status
            threading.Thread(target=servers[0].serve_forever, daemon=True).start()

    settings = {PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}
    with temporary_settings(settings):
        wait_for_server(say, "it waits", seconds=0.1)
    servers[0].shutdown()
    servers[0].server_close()
    assert len(said) == 2
    assert "does not answer" in said[0]
    assert said[0].endswith("; it waits")
    assert "answers again" in said[1]


def test_the_reason_of_an_outage_is_one_line_without_a_password():
    assert reason(httpx.ReadTimeout("")) == "ReadTimeout"
    assert reason(httpx.ConnectError("no\nroute to http://me:secret@server/api")) == "no route to http://***@server/api"


@pytest.mark.parametrize("error", [LockedError("locked"), UserError("a mistake"), FaultError("a full disk")])
def test_errors_that_say_what_to_do_have_no_traceback(error):
    record = logging.LogRecord("a", logging.ERROR, "", 0, "exception: %r", (error,), (type(error), error, None))
    assert _without_traceback(record)
    assert record.exc_info is None
    assert record.getMessage() == f"exception: {error!r}"


def test_only_lost_connections_lose_their_traceback():
    ended = logging.LogRecord("a", logging.ERROR, "", 0, "it ended", (), (None, asyncio.CancelledError(), None))
    assert not _without_traceback(ended)
    for error, keeps in ((httpx.ConnectError("no"), False), (ConnectionResetError(), False), (KeyError("x"), True)):
        record = logging.LogRecord("a", logging.WARNING, "", 0, "it failed", (), (type(error), error, None))
        assert _without_traceback(record)
        assert bool(record.exc_info) == keeps
        assert record.getMessage() == ("it failed" if keeps else f"it failed: {reason(error)}")


@pytest.mark.slow
def test_a_run_that_starts_while_the_server_is_away_waits_for_it(tmp_path):
    folder = write_job(tmp_path, "early", schedule="{interval: 1000d}")
    server = Server(tmp_path)
    log = folder / "serve.log"
    with server.running(), serving(server, folder):
        until(lambda: server.query("select id from deployment where name = 'early'"), "the deployment")
        run_deployment(server, "bic-sweep", "early")
        until(lambda: states(server, "early") == ["Submitting"], "the process of the run")
        with server.away():
            until(lambda: "begins when it does" in log.read_text(), "the line in the log")
        until(lambda: states(server, "early") == ["Completed"], "the run")
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_a_run_can_be_cancelled_after_the_server_was_away(tmp_path):
    search = "{n_components: [2, 3], covariance_types: [diag], tol: 0, max_iter: 1000000000}"
    folder = write_job(tmp_path, "endless", schedule="{interval: 1000d}", search=search)
    server = Server(tmp_path)
    log = folder / "serve.log"
    with server.running(), serving(server, folder) as served:
        until(lambda: server.query("select id from deployment where name = 'endless'"), "the deployment")
        run_deployment(server, "bic-sweep", "endless")
        until(lambda: states(server, "endless") == ["Running"], "the run")
        until(lambda: server.query("select id from task_run"), "its first stage")  # what precedes it is Prefect's
        with server.away():
            time.sleep(AWAY)
        until(lambda: "answers again" in log.read_text(), "the line in the log")
        ((*_, run_id),) = server.runs("endless")
        post(server, f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
        until(lambda: states(server, "endless") == ["Cancelled"], "the cancelled run")
        assert served.poll() is None
    text = log.read_text()
    assert "Traceback" not in text
    assert text.count("does not answer") == 1
    assert len(text.splitlines()) < 60


def states(server, job):
    return [state for state, *_ in server.runs(job)]
