"""What synchronizing costs a small job: the time in ``fsync``, and the job with and without it, in turns.

python benchmarks/durable.py
python benchmarks/durable.py --folder /mnt/nfs    # on another file system
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from machine import describe_machine

from pipeline.config.job import JobConfig
from pipeline.fit.job import run

RUNS = 5


def job(folder: Path) -> JobConfig:
    """The quickstart, without its report."""
    source = Path(__file__).parents[1] / "configs/data/old_faithful.csv"
    return JobConfig.model_validate(
        {
            "data": {"source": str(source)},
            "search": {"n_components": list(range(1, 10)), "init_params": "kmeans"},
            "output": {"store": str(folder / "job.zarr"), "report": False},
        }
    )


def seconds(config: JobConfig, fsync: Callable[[int], None]) -> float:
    """Time a job from its start to the complete store."""
    os.fsync = fsync
    shutil.rmtree(config.output.store, ignore_errors=True)
    begin = time.perf_counter()
    run(config)
    return time.perf_counter() - begin


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the store lies; by default a temporary folder")
    fsync, calls = os.fsync, []

    def counting(descriptor: int) -> None:
        begin = time.perf_counter()
        fsync(descriptor)
        calls.append(time.perf_counter() - begin)

    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as folder:
        config = job(Path(folder))
        run(config)  # compiles
        times = [(seconds(config, lambda _: None), seconds(config, counting)) for _ in range(RUNS)]
    without, with_fsync = (statistics.median(each) for each in zip(*times, strict=True))
    print(describe_machine())
    print(f"a job of {without:.2f} s without fsync takes {with_fsync:.2f} s with it, medians of {RUNS} runs in turns;")
    print(f"{len(calls) / RUNS:.0f} calls a job, the median of one {1e3 * statistics.median(calls):.2f} ms")


if __name__ == "__main__":
    main()
