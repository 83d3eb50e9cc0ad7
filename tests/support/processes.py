"""A Dask scheduler and its workers as processes of their own, on loopback, ended by their id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from paths import ROOT
from prefects import kill


class Processes:
    """What ``dask scheduler`` and ``dask worker`` start; logs go to files in a folder."""

    def __init__(self, folder, options=()):
        self.folder = Path(folder)
        self.options = list(options)
        self.workers = {}
        self.scheduler = None
        self.address = None

    def start_scheduler(self, port=0, **environment):
        file = self.folder / f"scheduler-{time.monotonic_ns()}.json"
        command = [
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--dashboard-address",
            "127.0.0.1:0",
            "--no-show",
        ]
        self.scheduler = self._start([*command, "--scheduler-file", str(file)], environment=environment)
        deadline = time.monotonic() + 60
        while self.address is None or not file.exists():
            assert self.scheduler.poll() is None, "the scheduler has ended"
            assert time.monotonic() < deadline, "the scheduler does not start"
            time.sleep(0.1)
            if file.exists() and file.read_text().endswith("}"):
                self.address = json.loads(file.read_text())["address"]
        return self.address

    def start_worker(self, name, cwd=ROOT, nanny=False, **environment):
        command = ["worker", self.address, "--name", name, "--nthreads", "1", "--memory-limit", "1GiB"]
        options = ["--nanny" if nanny else "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
        self.workers[name] = self._start([*command, *options], cwd, environment)

    def _start(self, command, cwd=ROOT, environment=()):
        log = (self.folder / f"{command[0]}-{time.monotonic_ns()}.log").open("wb")
        # the dask command would put its own folder first: the packages of this work tree must be found
        every = {**os.environ, "PYTHONPATH": str(ROOT), **dict(environment)}
        command = [sys.executable, "-m", "dask", *command, *self.options]
        with log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd, env=every)

    def kill(self, process):
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self):
        for process in filter(None, [*self.workers.values(), self.scheduler]):
            kill(process)  # with the worker of a nanny
