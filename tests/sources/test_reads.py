"""How many bytes a job reads, as the kernel counts them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import pipeline.sources.rows
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.progress import PassDone, StageStarted
from pipeline.sources import open_source

IO = Path("/proc/self/io")
N_ROWS, N_FILES, NAMES = 600_000, 4, [f"x{i}" for i in range(8)]
USED = ["x1", "x2", "x6"]


def bytes_read():
    return int(re.search(r"rchar: (\d+)", IO.read_text()).group(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reads") / "rows"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(N_FILES):
        part = pd.DataFrame(rng.normal(size=(N_ROWS // N_FILES, 8)), columns=NAMES)
        part.to_parquet(folder / f"{number}.parquet", index=False, row_group_size=50_000)
    return folder


def columns_size(folder, names=USED):
    size = 0
    for file in folder.iterdir():
        metadata = pq.read_metadata(file)
        for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
            found = (group.column(i) for i in range(group.num_columns))
            size += sum(column.total_compressed_size for column in found if column.path_in_schema in names)
    return size


def job(folder, store, **search):
    return JobConfig.model_validate(
        {
            # to choose whether to cache, the run would read a chunk
            "data": {"source": str(folder), "columns": USED, "cache": "none"},
            "search": {"n_components": [2], "init_params": "random_from_data", "tol": 0.0, "max_iter": 4, **search},
            "output": {"store": str(store), "report": False},
        }
    )


@pytest.mark.skipif(not IO.exists(), reason="the kernel does not count what a process reads")
def test_a_pass_reads_each_byte_of_the_columns_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    run(job(folder, tmp_path / "warm.zarr", max_iter=1))  # what is imported late is not to be counted
    at, passes = {}, []

    def watch(event):
        if isinstance(event, StageStarted):
            at[event.name] = bytes_read()
        else:
            passes.append(isinstance(event, PassDone))

    config = job(folder, tmp_path / "r.zarr")
    at["prepare"] = bytes_read()
    summary = run(config, progress=watch)
    size = columns_size(folder)
    assert at["seed"] - at["prepare"] < 0.05 * size  # footers
    assert at["fit"] - at["seed"] == pytest.approx(size, rel=0.05)
    assert at["select"] - at["fit"] == pytest.approx(sum(passes) * size, rel=0.05)
    # beside the data, the result's own files are read: for their hashes, when they are checked, and for the summary
    end, own = bytes_read(), sum(file.stat().st_size for file in (tmp_path / "r.zarr").rglob("*") if file.is_file())
    assert own < 0.04 * size
    for begin, stop, n_reads in ((at["select"], at["write rows"], 1), (at["write rows"], end, 5)):
        assert 0.95 * size < stop - begin < 1.05 * size + n_reads * own
    assert summary.bytes_read == summary.passes * open_source(config.data).bytes_per_pass
    assert open_source(config.data).bytes_per_pass == size


@pytest.mark.skipif(not IO.exists(), reason="the kernel does not count what a process reads")
@pytest.mark.parametrize("names", [["x0"], ["x5", "x2"]])
def test_columns_that_are_not_used_are_not_read(folder, names):
    array = open_source(DataConfig(source=str(folder), columns=names)).array
    array[:10].compute()
    before = bytes_read()
    array.sum().compute(scheduler="sync")
    assert bytes_read() - before == pytest.approx(columns_size(folder, names), rel=0.05)
