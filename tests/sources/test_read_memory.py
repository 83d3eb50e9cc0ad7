"""A read takes no more memory than its source says: that of the chunk, and of what it holds beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from gmm_dask import UserError
from gmm_dask.memory import reading_bytes
from messages import names
from pipeline.config.data import DataConfig
from pipeline.sources import ChunkPolicy, open_source
from pipeline.sources.formats import csv

N, D = 3000, 2000
MIB = 2**20


def values(n_columns=D):
    return np.random.default_rng(0).normal(size=(N, n_columns))


def npy(path):
    np.save(path, values())


def npy_by_columns(path):
    np.save(path, np.asfortranarray(values()))


def hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = values()


def hdf5_chunks(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values(), chunks=(500, D), compression="lzf")


def hdf5_chunks_of_columns(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values(), chunks=(N, 50))


def hdf5_fields(path):
    rows = np.resize(values(), (10 * N, D // 10)).view([(f"x{i}", "f8") for i in range(D // 10)])
    with h5py.File(path, "w") as file:
        file["x"] = rows[:, 0]


def hdf5_block(path):
    """As pandas writes a table: all columns in one field."""
    rows = np.zeros(N, dtype=[("index", "i8"), ("x", "f8", (D,))])
    rows["x"] = values()
    with h5py.File(path, "w") as file:
        file["table"] = rows


def zarr_array(path):
    zarr.create_array(path, data=values(), chunks=(500, D))


def zarr_rows(path):
    """Many chunks of whole rows, in one chunk of a job."""
    stored = zarr.create_array(path, shape=(20 * 500, D), chunks=(500, D), dtype="f8")
    for start in range(0, 20 * 500, 500):
        stored[start : start + 500] = values()[:500]


def zarr_shards(path):
    zarr.create_array(path, data=values(), chunks=(100, D), shards=(N, D))


def zarr_long_chunks(path):
    group = zarr.create_group(path)
    for i in range(2):
        group.create_array(f"x{i}", data=np.resize(values(1)[:, 0], 2_000_000), chunks=(2_000_000,))


def csv_cells(path):
    line = ",".join(["0.12345678"] * D) + "\n"
    path.write_text(",".join(f"x{i}" for i in range(D)) + "\n" + line * N)


def csv_text(path):
    path.write_text("x0,x1,text\n" + f"0.5,1.5,{'a' * 20_000}\n" * N)


def parquet_columns(path):
    pq.write_table(pa.table({f"x{i}": column for i, column in enumerate(values().T)}), path)


def parquet_large_group(path):
    columns = {f"x{i}": np.resize(values(20)[:, i], 400_000) for i in range(20)}
    pq.write_table(pa.table(columns), path, row_group_size=400_000, use_dictionary=False)


def zarr_grid(path, chunks=(1, 20, 100, 100)):
    stored = zarr.create_group(path).create_array(
        "t", shape=(4, 20, 300, 400), chunks=chunks, dtype="f4", dimension_names=("time", "depth", "lat", "lon")
    )
    for i in range(4):
        stored[i] = np.resize(values(), (20, 300, 400))


def zarr_grid_planes(path):
    """Storage chunks of all times at one depth."""
    zarr_grid(path, (4, 1, 300, 400))


def hdf5_grid(path):
    with h5py.File(path, "w") as file:
        file["t"] = np.resize(values(), (4, 20, 300, 400)).astype("f4")
        for axis, dim in enumerate(("time", "depth", "lat", "lon")):
            file["t"].dims[axis].label = dim


ON_GRID = {"variables": ["t"], "feature_dims": ["depth"]}
# how the data are written, and which columns are read
CASES = {
    "npy": (npy, ".npy", ["x0", f"x{D - 1}"]),
    "npy-all": (npy, ".npy", None),
    "npy-by-columns": (npy_by_columns, ".npy", ["x0", "x1"]),
    "hdf5": (hdf5, ".h5", ["x0", f"x{D - 1}"]),
    "hdf5-all": (hdf5, ".h5", None),
    "hdf5-chunks": (hdf5_chunks, ".h5", ["x0", f"x{D - 1}"]),
    "hdf5-chunks-of-columns": (hdf5_chunks_of_columns, ".h5", ["x0", "x1"]),
    "hdf5-fields": (hdf5_fields, ".h5", ["x0", "x1"]),
    "hdf5-block": (hdf5_block, ".h5", ["x_0", "x_1"]),
    "zarr": (zarr_array, ".zarr", ["x0", f"x{D - 1}"]),
    "zarr-all": (zarr_array, ".zarr", None),
    "zarr-rows": (zarr_rows, ".zarr", ["x0", f"x{D - 1}"]),
    "zarr-shards": (zarr_shards, ".zarr", ["x0", "x1"]),
    "zarr-long-chunks": (zarr_long_chunks, ".zarr", ["x0", "x1"]),
    "zarr-grid": (zarr_grid, ".zarr", ON_GRID),
    "zarr-grid-planes": (zarr_grid_planes, ".zarr", ON_GRID),
    "hdf5-grid": (hdf5_grid, ".h5", ON_GRID),
    "csv": (csv_cells, ".csv", ["x0", "x1"]),
    "csv-all": (csv_cells, ".csv", None),
    "csv-text": (csv_text, ".csv", ["x0", "x1"]),
    "parquet": (parquet_columns, ".parquet", ["x0", "x1"]),
    "parquet-all": (parquet_columns, ".parquet", None),
    "parquet-large-group": (parquet_large_group, ".parquet", None),
}
POLICY = ChunkPolicy(chunk_bytes=4 * MIB, group_bytes=8 * MIB)

# reads some chunks of each source, and prints how much more memory that took at most
READ = """
import ctypes, json, re, sys
import pyarrow
from pipeline.config.data import DataConfig
from pipeline.sources import ChunkPolicy, open_source

def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))

for case, data, chunk_bytes, group_bytes in json.loads(sys.argv[1]):
    source = open_source(DataConfig.model_validate(data), ChunkPolicy(chunk_bytes, group_bytes))
    pieces = source.chunks.pieces
    source.chunks.reader.read(pieces[-1])  # imports what a read needs
    pyarrow.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    for piece in pieces[:12]:
        source.chunks.reader.read(piece)
    print(case, memory("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reads")


@pytest.fixture(scope="module")
def sources(folder):
    """The data of each case, and the source that is opened for them."""
    found = {}
    for case, (write, ending, columns) in CASES.items():
        path = folder / f"{write.__name__}{ending}"
        if not path.exists():
            write(path)
        data = {"source": str(path), **(columns if isinstance(columns, dict) else {"columns": columns})}
        found[case] = data, open_source(DataConfig.model_validate(data), POLICY)
    return found


@pytest.fixture(scope="module")
def peaks(sources):
    """Bytes that the reads of each case took."""
    sizes = POLICY.chunk_bytes, POLICY.group_bytes
    arguments = json.dumps([[case, data, *sizes] for case, (data, _) in sources.items()])
    ended = subprocess.run([sys.executable, "-c", READ, arguments], capture_output=True, text=True, check=True)
    return {case: int(found) for case, found in map(str.split, ended.stdout.splitlines())}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize("case", CASES)
def test_a_read_takes_no_more_than_is_projected(sources, peaks, case):
    _, source = sources[case]
    chunk_bytes = 8 * source.chunk_rows * len(source.columns)
    print(f"{case}: chunk {chunk_bytes >> 10} KiB, beside it {source.read_bytes >> 10}, took {peaks[case] >> 10}")
    assert peaks[case] < reading_bytes(chunk_bytes, source.read_bytes) + 4 * MIB


# -- lines and row groups that are too large ----------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "x0,x1\n", "x0,x1\n" + 500 * "1,2\n"])
def test_a_csv_without_line_feeds_is_refused_before_it_is_in_memory(tmp_path, header):
    path = tmp_path / "x.csv"
    with path.open("wb") as file:
        file.write(header.encode())
        file.truncate(10 * csv.LINE_BYTES)  # zeros that take no space
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=names(path, "line feed", f"{csv.LINE_BYTES >> 20} MiB", "Parquet")):
            open_source(DataConfig(source=str(path)))
        assert tracemalloc.get_traced_memory()[1] < csv.LINE_BYTES
    finally:
        tracemalloc.stop()


def test_a_long_line_in_the_middle_of_a_csv_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv, "LINE_BYTES", 2**20)
    monkeypatch.setattr(csv, "SAMPLE_BYTES", 100)
    path = tmp_path / "x.csv"
    lines = "0.5,1.5\n" * 1000
    path.write_text(f"x0,x1\n{lines}0.5,{'1' * 2**22}\n{lines}")
    source = open_source(DataConfig(source=str(path), chunk_rows=500))
    with pytest.raises(UserError, match=names(path, "line feed", "1 MiB")):
        source.array.compute(scheduler="sync")


@pytest.mark.parametrize("kind", ["zarr", "h5", "parquet"])
def test_stored_units_that_are_too_large_are_read_in_parts_and_that_is_said(tmp_path, kind):
    expected, path = np.random.default_rng(0).normal(size=(10_000, 4)), tmp_path / f"x.{kind}"
    if kind == "zarr":
        zarr.create_array(path, data=expected, chunks=(9000, 4))
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=expected, chunks=(9000, 4))
    else:
        pq.write_table(pa.table({f"x{i}": column for i, column in enumerate(expected.T)}), path, row_group_size=9000)
    source = open_source(DataConfig(source=str(path)), ChunkPolicy(chunk_bytes=8 * 4 * 1000, group_bytes=8 * 4 * 3000))
    assert max(source.array.chunks[0]) == 3000
    assert any("3 times" in note for note in source.notes)
    np.testing.assert_array_equal(source.array.compute(scheduler="sync"), expected)
    small = open_source(DataConfig(source=str(path)), ChunkPolicy(chunk_bytes=8 * 4 * 1000, group_bytes=8 * 4 * 9000))
    assert max(small.array.chunks[0]) == 9000
    assert not small.notes
