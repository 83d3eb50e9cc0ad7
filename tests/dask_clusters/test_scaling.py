"""What benchmarks/scaling.py measures, as bounds, on schedulers and workers that are started by command."""

import importlib
import os

import psutil
import pytest
from distributed import Client, span

from processes import ROOT, Processes

BENCHMARKS = ROOT / "benchmarks"
FINDS_BENCHMARKS = {"PYTHONPATH": f"{ROOT}{os.pathsep}{BENCHMARKS}"}
# chunks that sleep leave the cores to others: 1.92 times on a quiet machine, 1.90 while two processes burned both cores
LEAST_GAIN = 1.8
N_CHUNKS, REPEATS = 40, 2
SETTLED, PASSES, MOST_GROWTH = 50, 200, 1.10

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scaling():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        found = importlib.import_module("scaling")
        patch.setattr(found, "REPEATS", REPEATS)
        yield found


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    made = Processes(tmp_path_factory.mktemp("dask"))
    made.start_scheduler(**FINDS_BENCHMARKS)
    yield made
    made.stop()


def start(processes, client, name):
    """Start a worker, unless it runs."""
    if name not in processes.workers:
        processes.start_worker(name, **FINDS_BENCHMARKS)
    client.wait_for_workers(len(processes.workers), timeout=60)


def test_two_workers_do_nearly_twice_the_work_of_one(scaling, processes):
    seconds = []
    with Client(processes.address) as client:
        for name in ("a", "b"):
            start(processes, client, name)
            seconds.append(scaling.timed(scaling.idle_pass(N_CHUNKS, scaling.WORK_SECONDS)))
    assert seconds[0] / seconds[1] >= LEAST_GAIN, seconds


def test_the_memory_of_all_processes_stays_as_passes_go_by(scaling, processes):
    with Client(processes.address) as client, span("gmm-dask"):  # as the stages of a job are
        for name in ("a", "b"):
            start(processes, client, name)
        every = {"client": os.getpid(), "scheduler": processes.scheduler.pid}
        every |= {f"worker {name}": worker.pid for name, worker in processes.workers.items()}
        action = scaling.idle_pass(20)
        for _ in range(SETTLED):
            action()
        before = resident(every)
        for _ in range(PASSES - SETTLED):
            action()
        growth = {name: after / before[name] for name, after in resident(every).items()}
    assert max(growth.values()) <= MOST_GROWTH, growth


def resident(pids):
    return {name: psutil.Process(pid).memory_info().rss for name, pid in pids.items()}
