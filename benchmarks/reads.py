"""How many bytes a job reads: of a Parquet folder, pass by pass, beside the size of the columns that it uses.

The kernel's count of what the process has asked to be read (``rchar`` of /proc/self/io) is taken where stages begin
and end. Pass 0 should read each byte of the columns once, and a fit as many times as it makes passes.

    python benchmarks/reads.py                     # 20 M rows x 8 in ten files, of which six columns are used: 1.3 GB
    python benchmarks/reads.py --rows 2000000
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from machine import describe_machine

from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.progress import Event, PassDone, StageStarted
from pipeline.sources import open_source
from pipeline.synth import Plan, write_synthetic

FEATURES, USED, FILES = 8, 6, 10
PASSES = 5


def bytes_read() -> int:
    """Bytes that this process has asked to be read so far."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text()).group(1))


class Counter:
    """Bytes read and seconds passed in each stage, as the job tells of them."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[int, float]] = {}
        self.passes = 0
        self._stage, self._bytes, self._time = "", bytes_read(), time.perf_counter()

    def __call__(self, event: Event) -> None:
        """Close the stage before; count passes."""
        self.passes += isinstance(event, PassDone)
        if isinstance(event, StageStarted):
            self.begin(event.name)

    def begin(self, stage: str) -> None:
        """Put down what the stage before has read."""
        now, seconds = bytes_read(), time.perf_counter()
        if self._stage:
            self.stages[self._stage] = now - self._bytes, seconds - self._time
        self._stage, self._bytes, self._time = stage, now, seconds


def write_folder(folder: Path, rows: int) -> int:
    """Write the files; returns the bytes of the columns that will be used."""
    size = 0
    for number in range(FILES):
        path = folder / f"part-{number}.parquet"
        write_synthetic(path, Plan(rows // FILES, FEATURES, 4, seed=number))
        metadata = pq.read_metadata(path)
        groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
        size += sum(group.column(i).total_compressed_size for group in groups for i in range(USED))
    return size


def job_of(folder: Path, store: Path) -> JobConfig:
    columns = pq.read_schema(next(folder.glob("*.parquet"))).names[:USED]
    return JobConfig.model_validate(
        {
            "data": {"source": str(folder), "columns": columns, "cache": "none"},
            "search": {
                "n_components": [3, 4],
                "covariance_types": ["full", "diag"],
                "init_params": "random_from_data",
                "tol": 0.0,
                "max_iter": PASSES,
            },
            "output": {"store": str(store), "labels": True, "report": False},
        }
    )


def measure(rows: int, folder: Path) -> None:
    size = write_folder(folder, rows)
    with tempfile.TemporaryDirectory() as small:  # what is imported late is not to be counted
        (Path(small) / "data").mkdir()
        write_folder(Path(small) / "data", 10_000)
        run(job_of(Path(small) / "data", Path(small) / "r.zarr"))
    job = job_of(folder, folder.parent / "r.zarr")
    source = open_source(job.data)
    chunks = source.array.chunks[0]
    whole = sum(file.stat().st_size for file in folder.glob("*.parquet"))
    print(f"{rows:,} rows x {FEATURES} in {FILES} files of {whole / 1e6:,.0f} MB together; {USED} columns are used, ")
    print(f"of {size / 1e6:,.0f} MB; {len(chunks)} chunks of up to {max(chunks):,} rows")
    counter = Counter()
    summary = run(job, progress=counter)
    counter.begin("")
    expected = {"seed": 1, "fit": counter.passes, "select": 1, "write rows": 1}
    for stage, passes in expected.items():
        found, seconds = counter.stages[stage]
        print(
            f"  {stage:<10} {passes} passes: {found / 1e6:9,.1f} MB read, {found / (passes * size):.4f} times the "
            f"columns' size a pass, {seconds / passes:.2f} s a pass"
        )
    print(f"  the store says {summary.passes} passes, {summary.bytes_read / 1e6:,.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        measure(options.rows, data)


if __name__ == "__main__":
    main()
