"""An embedded Prefect server that cannot outlive the job.

Prefect can start a server of its own when no API URL is set, but stops it from an exit hook, so a killed job
leaves it behind for ever. Here the server is a child process whose standard input is a pipe that only the job
holds open. However the job ends, ``kill -9`` included, the operating system closes the pipe; the server reads
the end of it and leaves. That needs no signals and no polling, and holds wherever there are pipes.

Run as a script, this file is the child. It prints its URL as soon as it has a port, and ``ready`` once it answers.
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
from typing import IO

READY = "ready"
STARTUP_SECONDS = 120  # a first start creates Prefect's database: 9 s on a laptop, longer on a network disk
SHUTDOWN_SECONDS = 5
ATTEMPTS = 3  # two first starts at once collide in Prefect's database; the loser finds it made

CHILD_SETTINGS = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_UI_ENABLED": "0",
}


class ServerError(RuntimeError):
    """The embedded server did not start, or did not last."""


class EmbeddedServer:
    """A Prefect server in a child process.

    Parameters
    ----------
    verbose : bool
        Let the server write its log to this process's standard error. Otherwise the log is kept in an unnamed
        temporary file, and quoted where the server fails to start.

    Attributes
    ----------
    url : str
        The API's address, known at once; it answers after :meth:`wait_until_ready`.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._log = None if verbose else tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the server)
        self._launch()
        atexit.register(self.stop)

    def _launch(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],  # -P: nothing in the current directory is imported
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **CHILD_SETTINGS},
            start_new_session=True,  # Ctrl-C is for the job, which then still reports to the server
        )
        self.url = self._next_line()

    def wait_until_ready(self) -> str:
        """Block until the server answers.

        Returns
        -------
        url : str
            The API's address; another one than before if the first start failed.

        Raises
        ------
        ServerError
            The server left during its start, or took longer than two minutes.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                self._launch()
            if self._next_line() == READY:
                return self.url
            self._end_process()
        raise ServerError(f"Prefect's embedded server did not start. {self._last_words()}")

    def require_alive(self, failure: Exception) -> None:
        """Raise :class:`ServerError`, caused by ``failure``, if the server has left by itself."""
        if self._process.poll() is not None:
            raise ServerError(
                f"Prefect's embedded server ended during the run, with exit code {self._process.returncode}. "
                "What the job had finished is in the result store: run the command again, or with --no-prefect."
            ) from failure

    def stop(self) -> None:
        """End the server and wait until it is gone; harmless when it is gone already."""
        self._end_process()
        if self._log is not None:
            self._log.close()

    def _next_line(self) -> str:
        """One line from the server; empty when it left, or was killed here for being late."""
        late = threading.Timer(STARTUP_SECONDS, self._process.kill)
        late.start()
        try:
            return _pipe(self._process.stdout).readline().decode().strip()
        finally:
            late.cancel()

    def _end_process(self) -> None:
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(2 * SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()

    def _last_words(self) -> str:
        if self._log is None:
            return "Its log is above."
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"The end of its log: {' '.join(lines[-3:])}" if lines else "It left no log."


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # every stream used here was asked for as a pipe
    return stream


def main() -> None:
    """Serve until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed here belongs to the log
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/api", file=replies)
    _serve(listener, replies)


def _leave_with_parent() -> None:
    """Wait for the parent's end, then let the server finish what it holds, but not for long."""
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
