"""The driver of a job, its workers, nannies, schedulers and servers are ended at random moments: the bits are the same.

``pytest tests/flows/test_kills.py --runslow --moments 10`` tries more moments; ``--seed`` repeats those of a failure.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import distributed
import numpy as np
import psutil
import pytest

from paths import ROOT
from prefects import kill, until
from processes import Processes
from runs import everything_in, passes_of

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PASSES = 60
LONGEST = 300.0
# the command, with a checkpoint after each pass, and the rows read chunk by chunk
COMMAND = """
import functools, sys
import pipeline.fit.job, pipeline.sources.rows
pipeline.sources.rows.IN_MEMORY_BYTES = 0
pipeline.fit.job.run = functools.partial(pipeline.fit.job.run, checkpoint_seconds=0.0)
from flows.cli import main
sys.argv[0] = "gmm-dask"
main()
"""
JOB = f"""
data: {{source: rows.npy, chunk_rows: 500}}
search:
  {{n_components: [2, 3], covariance_types: [full, diag, VVE], noise: [false, true], init_params: kmeans, tol: 0.0,
    max_iter: {PASSES}}}
output: {{report: false}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    generator = np.random.default_rng(3)
    groups = [generator.normal(center, 1.0, (2500, 3)) for center in (-2.0, 1.5)]
    np.save(folder / "rows.npy", generator.permutation(np.concatenate(groups)))
    (folder / "job.yaml").write_text(JOB)
    return folder


@contextmanager
def running(folder, store, *overrides, prefect=False):
    """A run of the job, with its output in a file, killed at the end if need be."""
    settings = [part for override in (f"output.store={store}", *overrides) for part in ("--set", override)]
    command = [sys.executable, "-c", COMMAND, "run", "job.yaml", *settings, *([] if prefect else ["--no-prefect"])]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")}
    with (folder / f"{store}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        kill(process)


def ended(process, folder, store):
    """The exit code and the output of a run that ends by itself."""
    code = process.wait(LONGEST)
    return code, (folder / f"{store}.log").read_text()


def finish(folder, store, *overrides):
    with running(folder, store, *overrides) as process:
        code, output = ended(process, folder, store)
    assert code == 0, output


@pytest.fixture(scope="module")
def undisturbed(folder):
    finish(folder, "undisturbed.zarr")
    return everything_in(folder / "undisturbed.zarr")


@pytest.fixture
def moments(request):
    """Passes after which a process is ended, and seconds to wait then; printed, so that a failure can be repeated."""
    seed = request.config.getoption("--seed")
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"--seed {seed}")
    generator = random.Random(seed)

    def moments(count):
        passes = sorted(generator.randrange(PASSES) for _ in range(count))
        return [(number, generator.uniform(0.0, 0.2)) for number in passes]

    return moments


@pytest.fixture
def count(request):
    return request.config.getoption("--moments")


def wait_for(moment, process, store):
    """Wait until the run has done some passes; returns whether it is still at work then."""
    passes, seconds = moment
    while process.poll() is None and passes_of(store) < passes:
        time.sleep(0.005)
    time.sleep(seconds)
    return process.poll() is None


by_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


@pytest.mark.slow
@by_signal
def test_the_driver(folder, undisturbed, moments, count, number):
    store = f"driver-{number.name}.zarr"
    for moment in moments(count):
        with running(folder, store) as process:
            if wait_for(moment, process, folder / store):
                process.send_signal(number)
            code, output = ended(process, folder, store)
        started = "seed:" in output or "resume:" in output  # before that, Python ends as it does anywhere
        if code != 0 and number != signal.SIGKILL and started:
            assert code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], output
            assert "resumes from the last checkpoint" in output
    finish(folder, store)
    assert everything_in(folder / store) == undisturbed


@pytest.mark.slow
def test_the_driver_in_the_stage_of_resamples(folder, moments, count):
    resamples, store = ("search.resamples=6", "search.max_iter=20"), "resampled.zarr"
    finish(folder, "all-resampled.zarr", *resamples)
    killed = 0
    for _, seconds in moments(count):
        with running(folder, store, *resamples) as process:
            log = folder / f"{store}.log"
            while process.poll() is None and "resample:" not in log.read_text():
                time.sleep(0.05)
            time.sleep(5 * seconds)
            killed += process.poll() is None
            process.kill()
            process.wait()
    assert killed
    finish(folder, store, *resamples)
    assert everything_in(folder / store) == everything_in(folder / "all-resampled.zarr")


@pytest.mark.slow
@by_signal
def test_a_worker_of_the_job(folder, undisturbed, moments, count, number):
    store = f"worker-{number.name}.zarr"
    cluster = ("cluster.kind=local", "cluster.workers=2", "cluster.threads_per_worker=1", "cluster.timeout=20")
    with running(folder, store, *cluster) as process:
        for moment in moments(count):
            if wait_for(moment, process, folder / store):
                generator = random.Random(moment[1])
                with suppress(psutil.Error):
                    generator.choice(workers_of(process)).send_signal(number)
        code, output = ended(process, folder, store)
    if code != 0 and number == signal.SIGINT:  # as by hand: Dask's nannies may take it for the end of their workers
        assert "cluster: all workers" in output
        finish(folder, store, *cluster)
    else:
        assert code == 0, output
    assert everything_in(folder / store) == undisturbed


def workers_of(process):
    """Worker processes of a run; the run itself, to no effect, where it has ended meanwhile."""

    def found():
        if process.poll() is not None:
            return [process]
        workers = []
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                workers += [child] if "spawn_main" in " ".join(child.cmdline()) else []
        return workers

    return until(found, "a worker")


@pytest.fixture
def processes(tmp_path):
    made = Processes(tmp_path)
    yield made
    made.stop()


def at_address(address, timeout):
    return "cluster.kind=address", f"cluster.address={address}", f"cluster.timeout={timeout}"


def start_worker(processes, name, folder):
    """Start a worker, and wait until it has joined."""
    processes.start_worker(name, cwd=folder)
    with distributed.Client(processes.address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)


@pytest.mark.slow
@by_signal
def test_a_nanny(folder, undisturbed, moments, count, number, processes):
    store = f"nanny-{number.name}.zarr"
    settings = at_address(processes.start_scheduler(), timeout=60)
    for name in ("0", "1"):
        processes.start_worker(name, cwd=folder, nanny=True)
    with running(folder, store, *settings) as process:
        for order, moment in enumerate(moments(count)):
            if wait_for(moment, process, folder / store):
                processes.start_worker(str(order + 2), cwd=folder, nanny=True)
                processes.workers[str(order)].send_signal(number)
        code, output = ended(process, folder, store)
    assert code == 0, output
    assert everything_in(folder / store) == undisturbed


@pytest.mark.slow
@by_signal
def test_a_scheduler(folder, undisturbed, moments, count, number, processes):
    store = f"scheduler-{number.name}.zarr"
    settings = at_address(processes.start_scheduler(), timeout=5)
    port = int(processes.address.rpartition(":")[2])
    for order, moment in enumerate(moments(max(1, count // 2))):
        start_worker(processes, str(order), folder)
        with running(folder, store, *settings) as process:
            is_at_work = wait_for(moment, process, folder / store)
            processes.scheduler.send_signal(number)
            processes.scheduler.wait()
            code, output = ended(process, folder, store)
        if is_at_work and code != 0:
            assert code == 1, output
            assert "scheduler" in output
        processes.kill(processes.workers[str(order)])
        processes.start_scheduler(port)
    start_worker(processes, "last", folder)
    finish(folder, store, *settings)
    assert everything_in(folder / store) == undisturbed


@pytest.mark.slow
@by_signal
def test_the_server_of_prefect(folder, undisturbed, moments, count, number):
    for order, moment in enumerate(moments(max(1, count // 2))):
        store = f"server-{number.name}-{order}.zarr"
        with running(folder, store, prefect=True) as process:
            if wait_for(moment, process, folder / store):
                for server in servers_of(process):
                    server.send_signal(number)
            # Prefect then tries for a minute to send what is left
            until(
                lambda process=process, store=store: process.poll() is not None or is_complete(folder / store),
                "the end",
            )
        finish(folder, store)
        assert everything_in(folder / store) == undisturbed


def servers_of(process):
    """The server of a run; none where the run is about to end, and has ended it."""
    found = []
    with suppress(psutil.Error):  # it has just ended
        for child in psutil.Process(process.pid).children():
            found += [child] if any(part.endswith("embedded.py") for part in child.cmdline()) else []
    return found


def is_complete(store):
    return '"status": "complete"' in (store / "zarr.json").read_text() if (store / "zarr.json").exists() else False
