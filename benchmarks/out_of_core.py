"""What it costs that the data is not in memory: seconds a pass from Zarr, and the peak of a job's memory.

Measured on synthetic mixtures, in whole passes of one batch (K = 2..6, four covariance types):

- a pass over rows in memory, decoding the Zarr array alone, and a pass over the Zarr array: on the larger data if they
  have at most 10 M rows, else on the smaller;
- the job `gmm-dask run` under a memory limit, for two sizes of data: seconds a pass, and peak resident memory.

    python benchmarks/out_of_core.py                             # 10 M rows x 8, and a tenth of it
    python benchmarks/out_of_core.py --rows 100000000            # 6.4 GB
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import zarr
from dask.system import CPU_COUNT
from machine import describe_machine

from gmm_dask.init.starts import first_states
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.model_batch import Model
from gmm_dask.passes.rows import Rows, as_rows
from gmm_dask.passes.statistics import collect_statistics
from gmm_dask.selection.grid import check_candidates, generator_copies
from pipeline.config.data import DataConfig
from pipeline.sources import open_source
from pipeline.synth import Plan, write_synthetic

FEATURES = 8
COMPONENTS = [2, 3, 4, 5, 6]
TYPES = ["full", "tied", "diag", "spherical"]
PASSES = 5
HELD_ROWS = 10_000_000  # the most that are held in memory, for the comparison

# the peak of the process itself; getrusage would count what its parent held when it was started
JOB = """
import re, sys
import flows.progress
from flows.cli import app
flows.progress.SECONDS_BETWEEN_LINES = 0.0
try:
    app()
finally:
    status = open("/proc/self/status").read()
    print("PEAK", re.search(r"VmHWM:\\s+(\\d+)", status).group(1), file=sys.stderr)
"""


def median_seconds(work, repeats: int = 3) -> float:
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return float(np.median(found))


def draw_models(data_summary: DataSummary) -> list[Model]:
    """The batch's mixtures, as k-means starts them."""
    states = first_states(
        check_candidates(COMPONENTS, TYPES),
        replace(data_summary, sample=data_summary.sample[:20_000]),
        init_params="kmeans",
        n_init=1,
        random_state=generator_copies(0),
        reg_covar=1e-6,
    )
    return [state.model for state in states]


def measure_decoding(path: Path) -> None:
    """A pass in memory, the decoding alone and a pass from Zarr, on the same rows and chunks."""
    source = open_source(DataConfig(source=str(path)))
    stored = zarr.open_array(str(path), mode="r")
    chunk_rows = source.array.chunks[0][0]
    held = dask.array.from_array(stored[...], chunks=(chunk_rows, -1), name=False)
    with one_blas_thread():
        data_summary = summarize_rows(Rows(source.array), 0)
        models = draw_models(data_summary)
        collect_statistics(Rows(held), data_summary, models)  # compiles the kernels
        in_memory = median_seconds(lambda: collect_statistics(Rows(held), data_summary, models))
        decoding = median_seconds(lambda: source.array.map_blocks(lambda rows: rows[:1, :1]).compute())
        from_zarr = median_seconds(lambda: collect_statistics(as_rows(source.array), data_summary, models))
    print(f"{stored.shape[0]:,} rows x {FEATURES}, chunks of {chunk_rows:,} rows, codec {stored.compressors}")
    print(f"  in memory {in_memory:.2f} s, decoding alone {decoding:.2f} s, from Zarr {from_zarr:.2f} s a pass", end="")
    print(f" ({from_zarr / in_memory:.2f} times in memory), {CPU_COUNT} threads", flush=True)


def measure_job(path: Path, folder: Path, limit: str) -> None:
    """A whole job as a process of its own, stopped by max_iter."""
    job = {
        "data": {"source": str(path)},
        "search": {"n_components": COMPONENTS, "covariance_types": TYPES, "tol": 0.0, "max_iter": PASSES},
        "cluster": {"memory_limit": limit},
        "output": {"store": str(folder / f"{path.stem}-result.zarr"), "labels": False},
    }
    config = folder / f"{path.stem}.json"
    config.write_text(json.dumps(job))
    begin = time.perf_counter()
    command = [sys.executable, "-c", JOB, "run", str(config), "--no-prefect"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    peak = int(re.search(r"PEAK (\d+)", ended.stderr).group(1)) / 1024
    if ended.returncode:
        raise SystemExit(ended.stderr)
    rate = float(np.median([float(s) for s in re.findall(r"took ([\d.e+]+) s", ended.stderr)] or [np.nan]))
    n_rows = zarr.open_array(str(path), mode="r").shape[0]
    print(
        f"{n_rows:,} rows, limit {limit}: {seconds:.1f} s in all, {rate:.2f} s a pass, peak {peak:,.0f} MiB resident",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--limit", default="1GiB")
    parser.add_argument("--folder", type=Path, help="where the data is kept; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        small, large = folder / "small.zarr", folder / "large.zarr"
        for path, rows in ((small, given.rows // 10), (large, given.rows)):
            if not path.exists():
                write_synthetic(path, Plan(rows, FEATURES, 5))
        print(describe_machine(), flush=True)
        measure_decoding(large if given.rows <= HELD_ROWS else small)
        for path in (small, large):
            measure_job(path, Path(temporary), given.limit)


if __name__ == "__main__":
    main()
