"""What a pass costs on worker processes beside its work, and what follows for many workers.

A pass is one graph: a task per run of chunks, a tree of merges, one key with the parameters. Measured are

* passes without work over 10 to 2,000 chunks, on threads and on 1 and 2 worker processes of one thread each;
* passes of 200 chunks that take 100 ms each, on 1 and 2 worker processes: once asleep, which needs no processor and
  shows what the scheduling loses, and once the statistics of a sweep's candidates, beside the sum of the seconds that
  the chunks took in the workers;
* with ``--passes 500``, the memory of the workers, and of the process with the scheduler and the client, as they go by;
* with ``--simulate 100``, the share of the time in which so many workers of one thread are at work, in this process,
  where 20,000 chunks sleep for 50 ms each; and the share by the model below, with costs that are measured on passes
  without work over up to as many chunks.

The seconds of passes without work over n chunks in r runs on W workers are fitted by ``a + b * r + c * n / W``. The
model is a queue: the scheduler hands out a run every ``b`` seconds, each worker takes the next one when it is done with
one, and a chunk takes ``c`` seconds beside its work. Where scheduler and workers share two cores, ``b`` is too large
for a scheduler that has one of its own.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --passes 500
    python benchmarks/scaling.py --simulate 100
"""

from __future__ import annotations

import argparse
import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any, TypeVar

import dask
import dask.array as da
import numpy as np
import psutil
from distributed import Client, LocalCluster, span
from machine import describe_machine
from scipy.optimize import nnls

from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.starts import first_states
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.execution.merge_tree import cut_into_runs
from gmm_dask.passes.map_reduce import map_reduce, one_blas_thread
from gmm_dask.passes.model_batch import BatchSums, ModelBatch, build_batch, chunk_sums
from gmm_dask.passes.rows import as_rows
from pipeline.dask_clusters.start import SETTINGS

Result = TypeVar("Result")

CHUNKS = (10, 100, 500, 2000)
WORK_SECONDS = 0.1
WORK_CHUNKS = 200
REPEATS = 3
FEATURES = 8
WORKERS = (10, 100, 1000)
CHUNKS_PER_WORKER = 100
CHUNK_SECONDS = (0.05, 0.1, 0.5, 2.0, 5.0)
SIMULATED_CHUNKS, SIMULATED_SECONDS = 20_000, 0.05


def idle(rows: Any, weights: Any, seconds: float, number: int) -> int:
    """A chunk's work that is none."""
    time.sleep(seconds)
    return 1


def timed(action: Callable[[], object]) -> float:
    """The fewest seconds of some calls, after one that does not count."""
    return min(runs(action))[0]


def runs(action: Callable[[], Result]) -> list[tuple[float, Result]]:
    """Seconds and result of some calls, after one that does not count."""
    action()
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        result = action()
        found.append((time.perf_counter() - begin, result))
    return found


def idle_pass(n_chunks: int, seconds: float = 0.0) -> Callable[[], object]:
    rows = as_rows(da.zeros((n_chunks, FEATURES), chunks=(1, FEATURES)))
    return lambda: map_reduce(rows, idle, seconds, "statistics")


def make_chunk(number: int, n_rows: int) -> np.ndarray:
    """Rows of three clusters, made anew for each pass as if they were read."""
    centers = np.arange(n_rows) % 3 * 4.0
    return centers[:, None] + np.random.default_rng(number).standard_normal((n_rows, FEATURES))


@dataclass(frozen=True)
class Timed:
    """Sums over rows, and the seconds that they took."""

    seconds: float
    sums: BatchSums

    def __add__(self, other: Timed) -> Timed:
        return Timed(self.seconds + other.seconds, self.sums + other.sums)


def work(rows: Any, weights: Any, shared: tuple[ModelBatch, int], number: int) -> Timed:
    """A chunk's rows and their statistics, with the seconds that both took."""
    begin = time.perf_counter()
    batch, n_rows = shared
    sums = chunk_sums(make_chunk(number, n_rows), None, batch)
    return Timed(time.perf_counter() - begin, sums)


def candidates() -> ModelBatch:
    """What a pass of a search computes: four covariance types with 2 to 6 components."""
    data_summary = summarize_rows(as_rows(make_chunk(0, 20_000)), 0)
    types = [Candidate(name, k) for name in ("full", "tied", "diag", "spherical") for k in range(2, 7)]
    made = partial(first_states, types, data_summary, init_params="random_from_data", n_init=1)
    states = made(random_state=lambda: np.random.RandomState(0), reg_covar=1e-3)
    models = [(get_family(state.covariance_type), state.parameters) for state in states]
    return build_batch(models, data_summary.center, data_summary.scatter)


def working_pass(n_chunks: int, batch: ModelBatch, chunk_rows: int) -> Callable[[], float]:
    """A pass that gives the sum of its chunks' seconds."""
    rows = as_rows(da.zeros((n_chunks, FEATURES), chunks=(1, FEATURES)))
    return lambda: map_reduce(rows, work, (batch, chunk_rows), "statistics").seconds


def sized(batch: ModelBatch) -> int:
    """Rows of a chunk that takes about 100 ms in the workers that there are."""
    n_chunks, chunk_rows = 20, 20_000
    action = working_pass(n_chunks, batch, chunk_rows)
    action()
    return round(chunk_rows * WORK_SECONDS * n_chunks / action())


@contextmanager
def workers(number: int) -> Iterator[LocalCluster]:
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "memory_limit": "2GiB"}
    options |= {"n_workers": number, "threads_per_worker": 1, "processes": True}
    with dask.config.set(SETTINGS), LocalCluster(**options) as cluster, Client(cluster):
        yield cluster


def print_table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for line in lines:
        print("| " + " | ".join(map(str, line)) + " |")


@dataclass(frozen=True)
class Costs:
    """Seconds per pass, per run and per chunk that are no work."""

    per_pass: float
    per_run: float
    per_chunk: float

    @classmethod
    def fitted(cls, seconds: dict[tuple[int, int], float]) -> Costs:
        """Least squares of relative errors, to the seconds of passes over (chunks, workers)."""
        terms = [(1, len(cut_into_runs(n, workers)), n / workers) for n, workers in seconds]
        took = np.array(list(seconds.values()))
        return cls(*nnls(np.array(terms) / took[:, None], np.ones(len(took)))[0])

    def busy(self, n_workers: int, n_chunks: int, work: float) -> float:
        """Share of the workers' time that is work, by the model."""
        free = [0.0] * n_workers
        for number, run in enumerate(cut_into_runs(n_chunks, n_workers)):
            begin = max(heapq.heappop(free), self.per_run * number)
            heapq.heappush(free, begin + len(run) * (work + self.per_chunk))
        return n_chunks * work / n_workers / (self.per_pass + max(free))


def milliseconds(seconds: Iterable[float], digits: int) -> list[str]:
    return [f"{1e3 * value:.{digits}f} ms" for value in seconds]


def predict(costs: Costs) -> None:
    """Shares of the workers' time that are work, over 100 chunks per worker."""
    lines = [
        [f"{n:,}", *(f"{costs.busy(n, CHUNKS_PER_WORKER * n, work):.0%}" for work in CHUNK_SECONDS)] for n in WORKERS
    ]
    print_table(["workers", *(f"chunks of {work:g} s" for work in CHUNK_SECONDS)], lines)


def simulate(n_workers: int) -> None:
    """Workers in this process, which sleep: they share one core, so that their costs are measured anew."""
    options = {"processes": False, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    n_chunks, work = SIMULATED_CHUNKS, SIMULATED_SECONDS
    passes = [n * n_workers for n in (1, 5, 20) if n * n_workers < n_chunks] + [n_chunks]
    with dask.config.set(SETTINGS), LocalCluster(n_workers=n_workers, **options) as cluster, Client(cluster):
        costs = Costs.fitted({(n, n_workers): timed(idle_pass(n)) for n in passes})
        took = timed(idle_pass(n_chunks, work))
    found, expected = n_chunks * work / n_workers / took, costs.busy(n_workers, n_chunks, work)
    print_table(
        ["workers", "per pass", "per run", "per chunk", "seconds", "at work", "by the model"],
        [[n_workers, *milliseconds(astuple(costs), 3), f"{took:.2f} s", f"{found:.0%}", f"{expected:.0%}"]],
    )
    print("load average of the last minutes:", *(f"{load:.1f}" for load in os.getloadavg()))


def memory(n_passes: int) -> None:
    with workers(2) as cluster, span("gmm-dask"):  # as the stages of a job are
        action, lines = idle_pass(20), []
        processes = {"scheduler and client": psutil.Process()}
        processes |= {f"worker {name}": psutil.Process(w.pid) for name, w in cluster.workers.items()}
        first: dict[str, float] = {}
        for number in range(1, n_passes + 1):
            action()
            if number % max(50, n_passes // 10) == 0 or number == 50:
                found = {name: process.memory_info().rss / 2**20 for name, process in processes.items()}
                first = first or found
                lines.append([number, *(f"{mib:.0f} ({mib / first[n] - 1:+.1%})" for n, mib in found.items())])
        print_table(["passes", *(f"{name}, MiB" for name in processes)], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=0, help="follow the memory over so many passes, and nothing else")
    parser.add_argument("--simulate", type=int, default=0, help="so many workers that sleep, and nothing else")
    options = parser.parse_args()
    print(describe_machine())
    if options.simulate:
        simulate(options.simulate)
        return
    if options.passes:
        memory(options.passes)
        return
    with one_blas_thread():
        measure()


def measure() -> None:
    empty = {0: {n: timed(idle_pass(n)) for n in CHUNKS}}
    batch, chunk_rows, asleep, working = candidates(), 0, {}, {}
    for number in (1, 2):
        with workers(number):
            empty[number] = {n: timed(idle_pass(n)) for n in CHUNKS}
            asleep[number] = timed(idle_pass(WORK_CHUNKS, WORK_SECONDS))
            chunk_rows = chunk_rows or sized(batch)
            working[number] = min(runs(working_pass(WORK_CHUNKS, batch, chunk_rows)))
    names = {0: "threads", 1: "1 worker process", 2: "2 worker processes"}
    head = ["chunks without work", *(f"{n:,}" for n in CHUNKS)]
    lines = [[names[k], *milliseconds(found.values(), 0)] for k, found in empty.items()]
    print_table(head, lines)
    lines = []
    for number, (took, in_chunks) in working.items():
        lost = 1 - WORK_CHUNKS * WORK_SECONDS / number / asleep[number]
        line = [f"{asleep[number]:.2f} s", f"{lost:.1%}", f"{took:.2f} s", f"{in_chunks:.2f} s"]
        lines.append([names[number], *line, f"{1 - in_chunks / number / took:.1%}"])
    print_table(
        [f"{WORK_CHUNKS} chunks of 100 ms", "asleep", "lost", "statistics", "in the chunks", "lost"],
        lines,
    )
    gains = [asleep[1] / asleep[2], working[1][0] / working[2][0]]
    print(f"\n2 worker processes against 1: asleep {gains[0]:.2f}, statistics {gains[1]:.2f}")
    costs = Costs.fitted({(n, number): t for number in (1, 2) for n, t in empty[number].items()})
    print("per pass, run and chunk:", *milliseconds(astuple(costs), 2))
    predict(costs)


if __name__ == "__main__":
    main()
