"""An embedded Prefect server that cannot outlive the job.

Prefect can start a server of its own when no API URL is set, but stops it from an exit hook, so that a killed job
leaves it running for ever. Here the server is a child process whose standard input is a pipe that only the job keeps
open. However the job ends, ``kill -9`` included, the operating system closes the pipe; the server reads the end of its
input and exits. That needs neither signals nor polling, and works wherever there are pipes.

Run as a script, this file is the child. It prints its URL as soon as it has a port, and ``ready`` once it answers. It
imports nothing slow before that, so that it notices early if its parent has ended.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO

READY = "ready"
STARTUP_SECONDS = 120  # the first start creates Prefect's database: 9 s on a laptop, longer on a network disk
SHUTDOWN_SECONDS = 5
ATTEMPTS = 3  # two first starts at once collide while they create the database; the next attempt finds it there

CHILD_SETTINGS = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_UI_ENABLED": "0",
}


class ServerError(RuntimeError):
    """The embedded server did not start, or ended during the run."""


class EmbeddedServer:
    """A Prefect server in a child process.

    Parameters
    ----------
    verbose : bool
        Let the server write its log to this process's standard error. Otherwise the log goes to an unnamed temporary
        file, and its end is part of the error message if the server fails to start.

    Attributes
    ----------
    url : str
        Address of the API, which answers after :meth:`wait_until_ready`.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._log = None if verbose else tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the server)
        self._stopping = False
        self._launch()
        atexit.register(self.stop)

    def _launch(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],  # -P: nothing in the current directory is imported
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **CHILD_SETTINGS},
            start_new_session=True,  # Ctrl-C must reach the job only, which then reports its end to the server
        )
        self.url = self._next_line()

    def wait_until_ready(self) -> str:
        """Wait until the server answers, and return the URL of its API.

        Raises
        ------
        ServerError
            If the server ended during its start, or took longer than two minutes, in each of three attempts.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                self._launch()
            if self._next_line() == READY:
                return self.url
            self._end_process()
        raise ServerError(f"Prefect's embedded server did not start. {self._end_of_log()}")

    def watch(self, report: Callable[[], object]) -> None:
        """Call a function at once, in a thread, if the server ends before it is stopped."""

        def wait() -> None:
            self._process.wait()
            if not self._stopping:
                report()

        threading.Thread(target=wait, name="embedded server", daemon=True).start()

    def require_alive(self, failure: Exception) -> None:
        """Raise :class:`ServerError`, caused by ``failure``, if the server has ended."""
        if self._process.poll() is not None:
            raise ServerError(
                f"Prefect's embedded server ended during the run, with exit code {self._process.returncode}. "
                "The finished part of the job is in the result store: run the command again, or with --no-prefect."
            ) from failure

    def stop(self) -> None:
        """End the server, if it still runs, and wait for its end."""
        self._stopping = True
        self._end_process()
        if self._log is not None:
            self._log.close()

    def _next_line(self) -> str:
        """Return one line from the server; empty if it has ended, or was killed here because it took too long."""
        timeout = threading.Timer(STARTUP_SECONDS, self._process.kill)
        timeout.start()
        try:
            return _pipe(self._process.stdout).readline().decode().strip()
        finally:
            timeout.cancel()

    def _end_process(self) -> None:
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(2 * SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()

    def _end_of_log(self) -> str:
        if self._log is None:
            return "Its log is above."
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"The end of its log: {' '.join(lines[-3:])}" if lines else "Its log is empty."


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # the streams used here are pipes
    return stream


def main() -> None:
    """Serve until standard input ends (the child process)."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # everything else that is printed here goes to the log
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/api", file=replies)
    _serve(listener, replies)


def _exit_with_parent() -> None:
    """Wait for the parent's end, then give the server a few seconds to finish its requests."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SHUTDOWN_SECONDS)
    os._exit(1)


def _serve(listener: socket.socket, replies: IO[str]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(READY, file=replies)

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    Server(config).run([listener])


if __name__ == "__main__":
    main()
