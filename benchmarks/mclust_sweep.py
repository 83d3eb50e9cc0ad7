"""All fourteen models in one job, beside mclust on the largest subsample that it does in the same time.

The job is ``gmm-dask run`` on rows of five overlapping clusters, mclust's fourteen models with K = 1 to 10 and the
defaults of jobs. mclust fits the same models to the first rows, as many as take it about as long: it begins with 1,000,
and each next run has as many rows as the last one's time leads to. Seconds are those of the processor, all threads
together, without R's start, so that other work on the machine hardly counts.

    python benchmarks/mclust_sweep.py                  # a million rows of 8 columns
    python benchmarks/mclust_sweep.py --effort 0.1     # with a tenth of the search for starts: some minutes
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe_machine
from models import mclust_version
from sweep import N_CLUSTERS, make_data

COUNTS = list(range(1, 11))
FIRST_ROWS = 1_000
# a run of mclust has at most so many times the rows of the one before, and at least so many
MOST_GROWTH, LEAST_GROWTH = 4.0, 1.2
MCLUST = """
suppressMessages(library(mclust))
args <- commandArgs(TRUE)
rows <- matrix(readBin(args[1], "double", n = as.integer(args[2]) * as.integer(args[3])), ncol = as.integer(args[3]),
               byrow = TRUE)
begin <- proc.time()
fit <- Mclust(rows, G = 1:10, verbose = FALSE)
taken <- proc.time() - begin
cat(taken[["user.self"]] + taken[["sys.self"]], fit$modelName, fit$G)
"""


def run_job(path: Path, folder: Path, effort: float) -> float:
    """Print what the job takes and what it chooses; returns its processor seconds."""
    store, config = folder / "result.zarr", folder / "job.json"
    search = {"n_components": COUNTS, "covariance_types": "mclust", "start_effort": effort}
    job = {"data": {"source": str(path)}, "search": search, "output": {"store": str(store), "report": False}}
    config.write_text(json.dumps(job))
    command = [sys.executable, "-c", "from flows.cli import app; app()"]
    before, begin = _processor_seconds(), time.perf_counter()
    subprocess.run([*command, "run", str(config), "--no-prefect"], check=True, capture_output=True)
    seconds, wall = _processor_seconds() - before, time.perf_counter() - begin
    shown = subprocess.run([*command, "show", str(store), "--json"], check=True, capture_output=True, text=True)
    found = json.loads(shown.stdout)
    print(
        f"gmm-dask  {seconds:7.0f} s of the processor, {wall:.0f} s in all, {found['passes']} passes: {found['best']}"
    )
    return seconds


def run_mclust(path: Path, n_rows: int, n_features: int, limit: float) -> float | None:
    """Print what mclust takes and chooses; returns its processor seconds, None if the limit ended it."""
    command = ["Rscript", "-e", MCLUST, str(path), str(n_rows), str(n_features)]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2)),
    )
    if ended.returncode:
        print(f"mclust    more than {limit:.0f} s for {n_rows:,} rows", flush=True)
        return None
    seconds, model, count = ended.stdout.split()
    print(f"mclust    {float(seconds):7.0f} s of the processor for {n_rows:,} rows: {model}, K = {count}", flush=True)
    return float(seconds)


def largest_subsample(X: np.ndarray, folder: Path, budget: float) -> int:
    """The most rows that mclust was seen to fit within so many processor seconds."""
    path = folder / "rows.bin"
    X.tofile(path)
    n_rows, largest = FIRST_ROWS, 0
    while n_rows <= len(X):
        seconds = run_mclust(path, n_rows, X.shape[1], budget)
        if seconds is None:
            break
        largest = n_rows
        growth = min(MOST_GROWTH, 0.9 * budget / seconds)
        if growth < LEAST_GROWTH:
            break
        n_rows = int(growth * n_rows)
    return largest


def _processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run both sides, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--effort", type=float, default=1.0, help="of the job's search for starts")
    arguments = parser.parse_args()
    version = mclust_version()
    if not version:
        raise SystemExit("R's package mclust was not found: install R and the package.")
    print(f"{describe_machine()}, mclust {version}")
    print(f"{arguments.rows:,} rows x {arguments.features}, {N_CLUSTERS} clusters, 14 models, K = 1..10", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        X = make_data(arguments.rows, arguments.features)
        np.save(folder / "rows.npy", X)
        budget = run_job(folder / "rows.npy", folder, arguments.effort)
        n_rows = largest_subsample(X, folder, budget)
    print(f"mclust does {n_rows:,} rows in the time of {arguments.rows:,}: {arguments.rows / max(1, n_rows):.0f} times")


if __name__ == "__main__":
    main()
