import math
import pickle
import re
from pathlib import Path

import dask
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from sklearn.datasets import make_blobs

from gmm_dask.errors import UserError
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import Rows
from messages import names
from paths import ROOT
from pipeline.config.data import DataConfig
from pipeline.sources import ChunkPolicy, base, open_source
from pipeline.sources.base import Selection

N = 103


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(N, 3)), columns=["a", "b", "c"])


def source(path, **options):
    return open_source(DataConfig(source=str(path), **options))


def assert_refused(path, *parts, **options):
    """Opening the data, or then reading it, fails with a message that names the path and all the parts."""
    with pytest.raises(UserError, match=names(path, *parts)):
        source(path, **options).array.compute(scheduler="sync")


def write(kind, frame):
    """Write a frame as CSV, Parquet or a Zarr group; returns the path."""
    path = f"data.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path, index=False, row_group_size=25)
    else:
        group = zarr.create_group(path)
        for name in frame.columns:
            group.create_array(name, data=frame[name].to_numpy(), chunks=(10,))
    return path


TABLES = ["csv", "parquet", "zarr"]


# -- what all formats share ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("chunk_rows", ["auto", 20, 1])
def test_tables_round_trip(here, frame, kind, chunk_rows):
    path = write(kind, frame)
    opened = source(path, chunk_rows=chunk_rows)
    assert opened.columns == ("a", "b", "c")
    assert (opened.format.name, opened.path) == (kind, path)
    assert opened.n_rows == (None if kind == "csv" else N)
    assert opened.weights is None
    assert opened.bytes_per_pass > 0
    assert opened.array.numblocks[1] == 1
    assert opened.array.dtype == np.float64
    result = opened.array.compute()
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, frame.to_numpy())


@pytest.mark.parametrize("kind", TABLES)
def test_columns_are_taken_in_the_order_asked_for(here, frame, kind):
    opened = source(write(kind, frame), columns=["c", "a"])
    assert opened.columns == ("c", "a")
    np.testing.assert_array_equal(opened.array.compute(), frame[["c", "a"]].to_numpy())


@pytest.mark.parametrize("kind", TABLES)
def test_weights_are_a_column_of_their_own(here, frame, kind):
    opened = source(write(kind, frame), weights="b", chunk_rows=30)
    assert opened.columns == ("a", "c")
    rows, weights = dask.compute(opened.array, opened.weights)
    np.testing.assert_array_equal(rows, frame[["a", "c"]].to_numpy())
    np.testing.assert_array_equal(weights, frame["b"].to_numpy())
    assert rows.flags.c_contiguous
    if kind != "csv":
        assert opened.weights.chunks == opened.array.chunks[:1]


@pytest.mark.parametrize("kind", ["parquet", "zarr"])
def test_float32_stays_float32_with_float64_weights(here, frame, kind):
    opened = source(write(kind, frame.astype({"a": "float32", "c": "float32"})), weights="b")
    assert opened.array.dtype == np.float32
    assert opened.weights.dtype == np.float64
    rows, weights = dask.compute(opened.array, opened.weights)
    assert (rows.dtype, weights.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(weights, frame["b"].to_numpy())


@pytest.mark.parametrize("kind", ["parquet", "zarr"])
@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", "bool", "float16"])
def test_other_numbers_become_float64(here, frame, kind, dtype):
    numbers = pd.DataFrame({"a": (frame["a"] > 0).astype(dtype)})
    opened = source(write(kind, numbers), columns=["a"])
    assert opened.array.dtype == np.float64
    np.testing.assert_array_equal(opened.array.compute()[:, 0], numbers["a"].to_numpy(dtype=float))


@pytest.mark.parametrize("kind", ["parquet", "zarr"])
def test_columns_of_both_precisions_become_float64(here, frame, kind):
    opened = source(write(kind, frame.astype({"a": "float32"})))
    assert opened.array.dtype == np.float64


@pytest.fixture
def reads(monkeypatch):
    """The pieces that were read, as they are read."""
    pieces = []
    read = base._ReadRows.__call__

    def counted(self, piece):
        pieces.append(piece)
        return read(self, piece)

    monkeypatch.setattr(base._ReadRows, "__call__", counted)
    return pieces


@pytest.mark.parametrize("weights", [None, "b"])
@pytest.mark.parametrize("kind", TABLES)
def test_opening_reads_nothing_and_a_pass_reads_each_chunk_once(here, frame, reads, kind, weights):
    opened = source(write(kind, frame), chunk_rows=25, weights=weights)
    n_chunks = opened.array.numblocks[0]
    assert n_chunks > 3
    assert reads == []
    dask.compute(opened.array, opened.weights)
    assert len(reads) == len(set(reads)) == n_chunks
    map_reduce(Rows(opened.array, opened.weights), lambda rows, *_: len(rows), None, "count")
    assert len(reads) == 2 * n_chunks


@pytest.mark.parametrize("weights", [None, "b"])
@pytest.mark.parametrize("kind", TABLES)
def test_reading_is_one_task_a_chunk_by_that_name(here, frame, kind, weights):
    opened = source(write(kind, frame), chunk_rows=25, weights=weights)
    names = [str(key[0]) for key in opened.array.__dask_graph__().to_dict()]
    assert sum(name.startswith("read-chunk-") for name in names) == opened.array.numblocks[0]


@pytest.mark.parametrize("kind", TABLES)
def test_the_graph_travels_to_other_processes(here, frame, kind):
    opened = pickle.loads(pickle.dumps(source(write(kind, frame)).array))
    np.testing.assert_array_equal(opened.compute(), frame.to_numpy())


@pytest.mark.parametrize("kind", TABLES)
def test_the_names_of_tasks_follow_the_data(here, frame, kind):
    name = source(write(kind, frame)).array.name
    assert name == source(f"data.{kind}").array.name
    assert name != source(f"data.{kind}", columns=["b"]).array.name
    assert name != source(f"data.{kind}", chunk_rows=10).array.name


@pytest.mark.parametrize("kind", TABLES)
def test_missing_column(here, frame, kind):
    path = write(kind, frame)
    assert_refused(path, "data.columns", "'aa'", "a?", "a, b, c", columns=["aa"])
    assert_refused(path, "data.weights", "'w'", "a, b, c", weights="w")


@pytest.mark.parametrize(
    ("kind", "type_name"), [("csv", "string"), ("parquet", "large_string"), ("zarr", "StringDType")]
)
def test_text_columns_are_left_out_and_refused_by_name(here, frame, kind, type_name):
    if kind == "zarr":
        write(kind, frame)
        zarr.open_group("data.zarr").create_array("s", data=np.full(N, "x", np.dtypes.StringDType()))
    else:
        write(kind, frame.assign(s="x"))
    assert source(f"data.{kind}").columns == ("a", "b", "c")
    assert_refused(f"data.{kind}", "data.columns", "'s'", "numeric", type_name, "a, b, c", columns=["a", "s"])
    assert_refused(f"data.{kind}", "data.weights", "'s'", type_name, weights="s")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_no_numeric_columns(here, kind):
    path = write(kind, pd.DataFrame({"s": ["x"], "t": ["y"]}))
    assert_refused(path, "data.source", "numeric", "s (", "t (")


def test_a_group_without_arrays(here):
    zarr.create_group("data.zarr")
    assert_refused("data.zarr", "data.source", "no columns")


@pytest.mark.parametrize("kind", TABLES)
def test_no_rows(here, frame, kind):
    opened = source(write(kind, frame[:0]))
    assert opened.n_rows == 0
    assert opened.array.compute().shape == (0, len(opened.columns))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_missing_values_are_nan(here, frame, kind):
    frame.loc[7, "b"] = np.nan
    result = source(write(kind, frame), chunk_rows=20).array.compute()
    np.testing.assert_array_equal(result, frame.to_numpy())


# -- paths ---------------------------------------------------------------------------------------------------


def test_paths_that_do_not_exist(here):
    for path in ("no.csv", "no/*.parquet"):
        assert_refused(path, "data.source", here)


@pytest.mark.parametrize("path", ["data.txt", "data.csv.gz", "noending", "*.txt", "a.npz", "*.csv"])
def test_endings_that_are_not_supported(here, path):
    Path(path.replace("*", "x")).write_text("a\n1\n")
    endings = ".csv, .npy, .zarr, .parquet, .parq, .pq, .metadata.json, .h5, .hdf5, .nc, .nc4"
    assert_refused(path, "data.source", endings, "folder", "glob")


# -- CSV -----------------------------------------------------------------------------------------------------


def test_csv_rounds_exactly(here):
    numbers = np.random.default_rng(1).normal(size=2000) * 10.0 ** np.arange(-300, 300, 0.3)[:2000]
    pd.DataFrame({"a": numbers}).to_csv("a.csv", index=False)
    np.testing.assert_array_equal(source("a.csv").array.compute()[:, 0], numbers)


def test_csv_type_does_not_depend_on_the_block(here):
    lines = ["a,b", *["1,2"] * 500, *["1.5,"] * 500, *["2,1e-3"] * 500]
    Path("a.csv").write_text("\n".join(lines))
    opened = source("a.csv", chunk_rows=100)
    assert opened.array.numblocks[0] > 10
    blocks = dask.compute(*opened.array.to_delayed().ravel())
    assert {block.dtype for block in blocks} == {np.dtype(np.float64)}
    result = np.concatenate(blocks)
    np.testing.assert_array_equal(result[:, 0], np.repeat([1, 1.5, 2], 500))
    np.testing.assert_array_equal(result[:, 1], np.repeat([2, np.nan, 1e-3], 500))


def test_csv_integers_before_floats_beyond_the_sample(here, monkeypatch):
    monkeypatch.setattr("pipeline.sources.formats.csv.SAMPLE_BYTES", 100)
    Path("a.csv").write_text("\n".join(["a", *["1"] * 500, *["1.5"] * 500]) + "\n")
    np.testing.assert_array_equal(source("a.csv").array.compute()[:, 0], np.repeat([1, 1.5], 500))


def test_csv_text_beyond_the_sample(here, monkeypatch):
    monkeypatch.setattr("pipeline.sources.formats.csv.SAMPLE_BYTES", 100)
    Path("a.csv").write_text("\n".join(["a,b", *["1,2"] * 500, "1,oops"]) + "\n")
    assert_refused("a.csv", "data.source", "line 502", "'b'", "'oops'", "data.columns")
    np.testing.assert_array_equal(source("a.csv", columns=["a"]).array.compute(), np.ones((501, 1)))


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_csv_blocks_hold_every_line_once(here, chunk_rows, end):
    rng = np.random.default_rng(2)
    numbers = [str(10 ** int(digits)) for digits in rng.integers(0, 15, size=N)]
    line_break = end or "\n"
    Path("a.csv").write_text(f"a{line_break}{line_break.join(numbers)}{end}", newline="")
    opened = source("a.csv", chunk_rows=chunk_rows)
    lengths = [len(block) for block in dask.compute(*opened.array.to_delayed().ravel())]
    assert sum(lengths) == N
    first, starts = np.cumsum([0, *lengths[:-1]]), opened.first_rows()
    assert starts == tuple(first)
    assert all(math.isnan(length) for length in opened.array.chunks[0])
    np.testing.assert_array_equal(opened.array.compute()[:, 0], [float(text) for text in numbers])


def test_csv_blank_lines_and_quotes_and_blanks(here):
    Path("a.csv").write_bytes(b'\xef\xbb\xbf"a", b \r\n\r\n"1", 2 \r\n\r\n3,-inf\r\n\r\n')
    opened = source("a.csv", chunk_rows=1)
    assert opened.columns == ("a", "b")
    np.testing.assert_array_equal(opened.array.compute(), [[1, 2], [3, -np.inf]])


def test_csv_booleans_count(here):
    Path("a.csv").write_text("a,b\n1,True\n2,False\n3,\n")
    assert source("a.csv").columns == ("a", "b")
    np.testing.assert_array_equal(source("a.csv", columns=["b"]).array.compute(), [[1], [0], [np.nan]])


def test_csv_row_numbers_without_a_name_are_left_out(here, frame):
    frame.to_csv("a.csv")
    assert source("a.csv").columns == ("a", "b", "c")


def test_csv_columns_that_are_empty_in_the_sample_are_not_lost(here):
    Path("a.csv").write_text("a,b\n1,\n2,\n")
    assert source("a.csv").columns == ("a", "b")
    np.testing.assert_array_equal(source("a.csv").array.compute(), [[1, np.nan], [2, np.nan]])


def test_csv_names_of_unnamed_pandas_columns(here):
    pd.DataFrame([[1.5, 2.5]]).to_csv("a.csv", index=False)
    assert source("a.csv").columns == ("0", "1")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ("empty", "header")),
        (b"\n1,2\n", ("empty", "header")),
        (b"1.5,-2e3\n3,4\n", ("first line", "1.5, -2e3", "header")),
        (b"a,a\n1,2\n", ("header", "'a' twice")),
        (b"\xff\xfe\x00,b\n1,2\n", ("first line", "header")),  # no text
        (b"a,b\n1,2\n1,2,3\n", ("line 3", "Expected 2 columns, got 3: 1,2,3")),
        (b"a,b\n1\n", ("line 2", "Expected 2 columns, got 1: 1")),
    ],
)
def test_csv_that_is_wrong(here, content, parts):
    Path("a.csv").write_bytes(content)
    assert_refused("a.csv", "data.source", *parts)


def test_a_folder_is_not_a_csv_file(here):
    Path("a.csv").mkdir()
    assert_refused("a.csv", "data.source", "folder", ".parquet")


def test_the_sets_that_come_with_the_program(monkeypatch):
    monkeypatch.chdir(ROOT)
    faithful = source("configs/data/old_faithful.csv").array.compute()
    assert faithful.shape == (272, 2)
    blobs, _ = make_blobs(n_samples=600, centers=3, cluster_std=(1.0, 1.4, 0.8), random_state=7)
    np.testing.assert_array_equal(source("configs/data/blobs.csv").array.compute(), blobs)


# -- NPY -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", ">f4", "i4", "u1", "?", "f2", "g"])
@pytest.mark.parametrize("options", [{}, {"columns": ["x2", "x0"]}, {"weights": "x1"}])
def test_npy(here, order, dtype, options):
    numbers = (np.random.default_rng(0).normal(size=(N, 3)) * 9).clip(0).astype(dtype)
    np.save("a.npy", np.asarray(numbers, order=order))
    opened = source("a.npy", chunk_rows=20, **options)
    single = np.dtype(dtype) in (np.dtype("f4"), np.dtype(">f4"))
    assert opened.array.dtype == (np.float32 if single else np.float64)
    assert (opened.n_rows, opened.format.name) == (N, "npy")
    result = opened.array.compute()
    assert result.dtype == opened.array.dtype
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    wanted = [int(name[1:]) for name in opened.columns]
    assert wanted == {"columns": [2, 0], "weights": [0, 2]}.get(next(iter(options), ""), [0, 1, 2])
    np.testing.assert_array_equal(result, numbers[:, wanted].astype(result.dtype))
    if opened.weights is not None:
        np.testing.assert_array_equal(opened.weights.compute(), numbers[:, 1].astype(float))


def test_npy_counts_the_bytes_it_reads(here, frame):
    np.save("c.npy", np.ascontiguousarray(frame.to_numpy()))
    np.save("f.npy", np.asfortranarray(frame.to_numpy()))
    assert source("c.npy", columns=["x1"]).bytes_per_pass == N * 3 * 8
    assert source("f.npy", columns=["x1"]).bytes_per_pass == N * 8


def test_npy_of_one_dimension_is_one_column(here):
    np.save("a.npy", np.arange(5.0))
    opened = source("a.npy")
    assert opened.columns == ("x0",)
    np.testing.assert_array_equal(opened.array.compute(), np.arange(5.0)[:, None])


def test_npy_versions(here, frame):
    for version in [(1, 0), (2, 0), (3, 0)]:
        with open("a.npy", "wb") as file:
            np.lib.format.write_array(file, frame.to_numpy(), version=version)
        np.testing.assert_array_equal(source("a.npy").array.compute(), frame.to_numpy())


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.zeros((2, 0)), ("no columns",)),
        (np.zeros((2, 2, 2)), ("(n_rows, n_columns)", "(2, 2, 2)")),
        (np.zeros((2, 1), complex), ("numeric", "x0 (complex128)")),
        (np.array([["a"]]), ("numeric", "x0 (<U1)")),
        (np.array([[{}]]), ("numeric", "x0 (object)")),
    ],
)
def test_npy_that_holds_no_rows_of_numbers(here, array, parts):
    np.save("a.npy", array)
    assert_refused("a.npy", "data.source", *parts)


def test_npy_missing_column(here):
    np.save("a.npy", np.zeros((2, 2)))
    assert_refused("a.npy", "data.columns", "'x2'", "x0, x1", columns=["x2"])


def test_npy_truncated(here):
    np.save("a.npy", np.zeros((100, 2)))
    content = Path("a.npy").read_bytes()
    opened = source("a.npy")
    Path("a.npy").write_bytes(content[:-8])
    with pytest.raises(UserError, match=names("a.npy", "truncated", "8 bytes")):
        opened.array.compute()
    assert_refused("a.npy", "data.source", "truncated", 1600, 1592)


def test_npy_that_is_none(here):
    Path("a.npy").write_text("hello")
    assert_refused("a.npy", "data.source", "NPY")


# -- Zarr ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
@pytest.mark.parametrize("options", [{}, {"columns": ["x2", "x0"]}, {"weights": "x1"}])
def test_zarr_array(here, frame, zarr_format, dtype, options):
    numbers = (frame.to_numpy() * 9).astype(dtype)
    zarr.create_array("a.zarr", data=numbers, chunks=(10, 2), zarr_format=zarr_format)
    opened = source("a.zarr", chunk_rows=25, **options)
    assert opened.array.dtype == (np.float32 if dtype == "f4" else np.float64)
    assert opened.array.chunks[0] == (20, 20, 20, 20, 20, 3)
    wanted = [int(name[1:]) for name in opened.columns]
    result = opened.array.compute()
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, numbers[:, wanted].astype(opened.array.dtype))
    if opened.weights is not None:
        np.testing.assert_array_equal(opened.weights.compute(), numbers[:, 1].astype(float))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_group_of_columns(here, frame, zarr_format):
    group = zarr.create_group("g.zarr", zarr_format=zarr_format)
    for name in frame:
        group.create_array(name, data=frame[name].to_numpy(), chunks=(10,))
    group.create_array("matrix", data=np.zeros((N, 2)))
    group.create_group("inner")
    opened = source("g.zarr")
    assert opened.columns == ("a", "b", "c")
    np.testing.assert_array_equal(opened.array.compute(), frame.to_numpy())
    assert_refused("g.zarr", "data.columns", "'matrix'", f"({N}, 2)", columns=["matrix"])


def test_zarr_chunks_are_whole_storage_chunks(here):
    zarr.create_array("a.zarr", data=np.zeros((100, 1)), chunks=(30, 1))
    assert source("a.zarr", chunk_rows=70).array.chunks[0] == (60, 40)
    assert source("a.zarr", chunk_rows=7).array.chunks[0] == (30, 30, 30, 10)


def test_zarr_columns_that_are_chunked_differently(here):
    group = zarr.create_group("g.zarr")
    group.create_array("a", data=np.arange(100.0), chunks=(10,))
    group.create_array("b", data=np.arange(100.0), chunks=(15,))
    group.create_array("c", data=np.arange(100.0), chunks=(97,))
    assert source("g.zarr", columns=["a", "b"], chunk_rows=35).array.chunks[0] == (30, 30, 30, 10)
    opened = source("g.zarr", columns=["a", "c"], chunk_rows=35)
    assert opened.array.chunks[0] == (97, 3)
    np.testing.assert_array_equal(opened.array.compute()[:, 1], np.arange(100.0))


def test_zarr_shards(here, frame):
    zarr.create_array("a.zarr", data=frame.to_numpy(), chunks=(10, 3), shards=(40, 3))
    opened = source("a.zarr", chunk_rows=20)
    assert opened.array.chunks[0] == (20, 20, 20, 20, 20, 3)
    np.testing.assert_array_equal(opened.array.compute(), frame.to_numpy())


def test_zarr_array_inside_a_store(here, frame):
    zarr.create_group("g.zarr").create_group("inner").create_array("x", data=frame.to_numpy())
    np.testing.assert_array_equal(source("g.zarr/inner/x").array.compute(), frame.to_numpy())


def test_zarr_of_one_dimension_is_one_column(here):
    zarr.create_array("a.zarr", data=np.arange(5.0))
    np.testing.assert_array_equal(source("a.zarr").array.compute(), np.arange(5.0)[:, None])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_of_xarray(here, zarr_format):
    xr = pytest.importorskip("xarray")
    data = xr.Dataset(
        {"t": ("profile", [1.0, -99.0, 3.0]), "s": ("profile", np.array([5, 6, -1], "int32"))},
        coords={"profile": [10, 11, 12]},
    )
    encoding = {"t": {"_FillValue": -99.0}, "s": {"_FillValue": -1}}
    data.to_zarr("x.zarr", zarr_format=zarr_format, consolidated=False, encoding=encoding)
    opened = source("x.zarr")
    assert opened.columns == ("s", "t")  # not the index of the rows
    np.testing.assert_array_equal(opened.array.compute(), [[5, 1], [6, np.nan], [np.nan, 3]])
    assert source("x.zarr", columns=["profile"]).array.compute().ravel().tolist() == [10, 11, 12]


def test_zarr_zeros_that_are_not_stored_are_zeros_if_asked_for(here):
    zarr.create_array("a.zarr", shape=(6, 2), dtype="f8", chunks=(2, 2), fill_value=0.0)
    opened = source("a.zarr", missing_chunks="fill")
    np.testing.assert_array_equal(opened.array.compute(), np.zeros((6, 2)))


def test_zarr_errors(here):
    group = zarr.create_group("g.zarr")
    group.create_array("a", data=np.zeros(3))
    group.create_array("b", data=np.zeros(4))
    assert_refused("g.zarr", "data.source", "length", "a 3, b 4", "data.columns")
    zarr.create_array("d.zarr", data=np.zeros((2, 2, 2)))
    assert_refused("d.zarr", "data.source", "(n_rows, n_columns)", "(2, 2, 2)")
    zarr.create_array("e.zarr", shape=(0, 2), dtype="f8")
    assert source("e.zarr").n_rows == 0
    Path("f.zarr").mkdir()
    assert_refused("f.zarr", "data.source", "Zarr")


def test_zarr_foreign_files_do_no_harm(here, frame):
    write("zarr", frame)
    Path("data.zarr/README.txt").write_text("hello")
    assert source("data.zarr").columns == ("a", "b", "c")


# -- Parquet -------------------------------------------------------------------------------------------------


def test_parquet_chunks_are_row_groups(here, frame):
    frame.to_parquet("a.parquet", row_group_size=25)
    assert source("a.parquet", chunk_rows=60).array.chunks[0] == (50, 53)
    assert source("a.parquet").array.chunks[0] == (N,)


@pytest.mark.parametrize("batch_rows", [7, 1000])
def test_parquet_large_row_groups_are_read_in_parts(here, frame, monkeypatch, batch_rows):
    monkeypatch.setattr("pipeline.sources.formats.parquet.BATCH_ROWS", batch_rows)
    frame.to_parquet("a.parquet")
    opened = source("a.parquet", chunk_rows=40)
    assert opened.array.chunks[0] == (35, 35, 33)
    np.testing.assert_array_equal(opened.array.compute(), frame.to_numpy())


def test_parquet_automatic_chunks_divide_only_huge_row_groups(here, frame):
    frame.to_parquet("a.parquet")
    for group_rows, chunks in ((N, (N,)), (60, (52, 51))):
        policy = ChunkPolicy(chunk_bytes=20 * 3 * 8, group_bytes=group_rows * 3 * 8)
        assert open_source(DataConfig(source="a.parquet"), policy).array.chunks[0] == chunks


def test_parquet_folders_and_globs(here, frame):
    Path("cells/day=2").mkdir(parents=True)
    Path("cells/_tmp").mkdir()
    frame[:40].to_parquet("cells/a.parquet")
    frame[40:].to_parquet("cells/day=2/b.parquet")
    frame[:3].to_parquet("cells/_tmp/c.parquet")
    frame[:3].to_parquet("cells/.hidden.parquet")
    Path("cells/_SUCCESS").touch()
    for path in ["cells", "cells/", "c*/**/[ab].parquet"]:
        opened = source(path)
        assert opened.n_rows == N
        np.testing.assert_array_equal(opened.array.compute(), frame.to_numpy())
    Path("cells").rename("cells.parquet")
    assert source("cells.parquet").n_rows == N


def test_parquet_bytes_are_those_of_the_columns(here, frame):
    frame.to_parquet("a.parquet", compression=None, row_group_size=25)
    metadata = pq.read_metadata("a.parquet")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert source("a.parquet", columns=["b"]).bytes_per_pass == sum(g.column(1).total_compressed_size for g in groups)


def test_parquet_of_pandas_nullable_and_bool_columns(here):
    frame = pd.DataFrame(
        {
            "i": pd.array([1, None, 3], dtype="Int64"),
            "f": pd.array([1.5, None, 2.5], dtype="Float32"),
            "b": pd.array([True, None, False], dtype="boolean"),
            "s": ["x", "y", "z"],
            "when": pd.to_datetime(["2024-01-01"] * 3),
        }
    )
    frame.to_parquet("a.parquet")
    opened = source("a.parquet")
    assert opened.columns == ("i", "f", "b")
    (note,) = opened.notes
    for part in ("s (", "when (timestamp[us])", "data.columns"):
        assert part in note
    np.testing.assert_array_equal(opened.array.compute(), [[1, 1.5, 1], [np.nan] * 3, [3, 2.5, 0]])
    named = source("a.parquet", columns=["b"])
    np.testing.assert_array_equal(named.array.compute(), [[1], [np.nan], [0]])
    single = source("a.parquet", columns=["f"])
    np.testing.assert_array_equal(single.array.compute(), np.array([[1.5], [np.nan], [2.5]], np.float32))
    assert single.array.dtype == np.float32


def test_parquet_decimals_and_large_integers(here):
    decimals = pa.array([1, 2]).cast(pa.decimal128(38, 2))
    pq.write_table(pa.table({"d": decimals, "i": [2**60 + 1, 0]}), "a.parquet")
    np.testing.assert_array_equal(source("a.parquet").array.compute(), [[1.0, 2.0**60], [2.0, 0.0]])


def test_parquet_index_of_pandas_is_left_out(here, frame):
    frame.rename_axis("id").set_index(frame.index * 2).to_parquet("a.parquet")
    assert source("a.parquet").columns == ("a", "b", "c")
    frame.set_index("c").to_parquet("b.parquet")
    assert source("b.parquet").columns == ("a", "b")
    np.testing.assert_array_equal(source("b.parquet", columns=["c"]).array.compute()[:, 0], frame["c"])


def test_parquet_schemas_that_differ(here, frame):
    Path("d").mkdir()
    frame.to_parquet("d/a.parquet")
    frame.astype({"b": "str"}).to_parquet("d/b.parquet")
    assert_refused("d", "data.source", "'b'", "double in d/a.parquet", "string in d/b.parquet", "data.columns")
    assert source("d", columns=["a", "c"]).n_rows == 2 * N


@pytest.mark.parametrize("kinds", [("int32", "int64"), ("float32", "float64"), ("int64", "float32"), ("bool", "uint8")])
def test_parquet_numbers_of_several_types_are_read_together(here, frame, kinds):
    Path("d").mkdir()
    parts = [(frame * 100 % 2).astype({"b": kind}) for kind in kinds]
    for number, part in enumerate(parts):
        part.to_parquet(f"d/{number}.parquet")
    opened = source("d")
    assert opened.array.dtype == np.float64
    np.testing.assert_array_equal(opened.array.compute(), np.concatenate([p.to_numpy(np.float64) for p in parts]))
    assert source("d", columns=["b"]).array.dtype == np.float64


def test_parquet_columns_of_one_name(here):
    numbers, text = pa.array([1.0, 2.0]), pa.array(["x", "y"])
    pq.write_table(pa.table([numbers, numbers, numbers], names=["a", "b", "a"]), "a.parquet")
    assert_refused("a.parquet", "data.source", "'a'", "Rename", "data.columns")
    assert_refused("a.parquet", "data.source", "'a'", columns=["b"], weights="a")
    np.testing.assert_array_equal(source("a.parquet", columns=["b"]).array.compute(), [[1], [2]])
    pq.write_table(pa.table([numbers, text, numbers], names=["a", "b", "b"]), "b.parquet")
    assert_refused("b.parquet", "data.source", "'b'", "Rename", "data.columns")


@pytest.mark.parametrize("missing_in", ["a", "b"])
def test_parquet_columns_that_some_files_lack(here, frame, missing_in):
    Path("d").mkdir()
    for name in "ab":
        frame[["a", "b"] if name == missing_in else ["a", "b", "c"]].to_parquet(f"d/{name}.parquet")
    there, lacking = ("missing", "double") if missing_in == "a" else ("double", "missing")
    assert_refused("d", "'c'", f"{there} in d/a.parquet", f"{lacking} in d/b.parquet")
    assert source("d", columns=["a"]).n_rows == 2 * N


def test_parquet_files_without_rows_between_others(here, frame):
    Path("d").mkdir()
    for name, part in [("a", frame[:0]), ("b", frame), ("c", frame[:0])]:
        part.to_parquet(f"d/{name}.parquet")
    opened = source("d")
    assert opened.array.chunks[0] == (N,)
    np.testing.assert_array_equal(opened.array.compute(), frame.to_numpy())


def test_parquet_errors(here, frame):
    Path("d").mkdir()
    assert_refused("d", "data.source", "folder", ".parquet")
    Path("a.parquet").write_text("hello")
    assert_refused("a.parquet", "data.source", "Parquet")
    frame.to_parquet("b.parquet")
    opened = source("b.parquet")
    frame[:50].to_parquet("b.parquet")
    with pytest.raises(UserError, match=names("b.parquet", "changed")):
        opened.array.compute()


# -- HDF5 ----------------------------------------------------------------------------------------------------


def write_hdf5(path="a.h5", **datasets):
    with h5py.File(path, "w") as file:
        for name, (values, chunks) in datasets.items():
            file.create_dataset(name, data=values, chunks=chunks, compression="gzip" if chunks else None)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i2", "u8", "?", ">f8"])
@pytest.mark.parametrize("chunks", [None, (25, 3), (10, 1)])
def test_hdf5(here, frame, dtype, chunks):
    values = (frame.to_numpy() * 10).astype(dtype)
    write_hdf5(rows=(values, chunks))
    opened = source("a.h5", chunk_rows=30)
    assert (opened.format.name, opened.n_rows, opened.columns) == ("hdf5", N, ("x0", "x1", "x2"))
    assert opened.array.dtype == (np.float32 if dtype == "f4" else np.float64)
    assert opened.array.chunks[0][0] % (chunks[0] if chunks else 1) == 0
    np.testing.assert_array_equal(opened.array.compute(), values.astype(opened.array.dtype))
    some = source("a.h5", columns=["x2", "x0"], weights="x1")
    rows, weights = dask.compute(some.array, some.weights)
    np.testing.assert_array_equal(rows, values[:, [2, 0]])
    np.testing.assert_array_equal(weights, values[:, 1])


def test_hdf5_of_named_fields(here, frame):
    records = np.zeros(N, dtype=[("a", "f8"), ("name", "S3"), ("b", "i4")])
    records["a"], records["b"] = frame["a"], np.arange(N)
    write_hdf5(table=(records, (20,)))
    opened = source("a.h5", chunk_rows=20)
    assert opened.columns == ("a", "b")
    (note,) = opened.notes
    assert "name (|S3)" in note
    assert "data.columns" in note
    np.testing.assert_array_equal(opened.array.compute(), np.column_stack([frame["a"], np.arange(N)]))


def pandas_table(path, fields, levels=None, **attributes):
    """Write records as PyTables does for ``DataFrame.to_hdf(format="table")``."""
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        group.attrs["pandas_type"] = np.bytes_("frame_table")
        if levels:
            group.attrs["levels"] = np.bytes_(pickle.dumps(levels, protocol=0))
        records = np.zeros(len(fields["index"]), dtype=[(k, v.dtype, v.shape[1:]) for k, v in fields.items()])
        for name, values in fields.items():
            records[name] = values
        table = group.create_dataset("table", data=records)
        for name, value in attributes.items():
            table.attrs[name] = np.bytes_(value if isinstance(value, str) else pickle.dumps(value, protocol=0))


def test_hdf5_tables_of_pandas(here, frame):
    fields = {"index": np.arange(N), "values_block_0": frame[["a", "b"]].to_numpy(), "c": frame["c"].to_numpy()}
    fields["when"] = np.arange(N)
    pandas_table("a.h5", fields, values_block_0_kind=["a", "b"], when_dtype="datetime64[ns]")
    opened = source("a.h5", dataset="df/table", chunk_rows=20)
    assert opened.columns == ("a", "b", "c")
    assert any("index" in note for note in opened.notes)
    assert any("when (datetime64[ns])" in note for note in opened.notes)
    np.testing.assert_array_equal(opened.array.compute(), frame)
    some = source("a.h5", dataset="df/table", columns=["c", "index", "b"]).array.compute()
    np.testing.assert_array_equal(some, np.column_stack([frame["c"], np.arange(N), frame["b"]]))


def test_hdf5_tables_of_pandas_with_other_names(here, frame):
    fields = {"index": np.arange(N), "values_block_0": frame.to_numpy(), "site": np.arange(N)}
    pandas_table("a.h5", fields, levels=["site"], values_block_0_kind=[0, 1, 2])
    assert source("a.h5", dataset="df/table").columns == ("0", "1", "2")
    pandas_table("b.h5", fields)
    assert source("b.h5", dataset="df/table", columns=["values_block_0_1"]).array.shape == (N, 1)


def test_hdf5_datasets_are_named(here, frame):
    write_hdf5(**{"run/rows": (frame.to_numpy(), None), "other": (np.zeros(3), None)})
    np.testing.assert_array_equal(source("a.h5", dataset="/run/rows").array.compute(), frame)
    assert_refused("a.h5", "data.dataset", "2 datasets", "other, run/rows")
    write_hdf5("b.hdf5", cube=(np.zeros((2, 2, 2)), None))
    assert_refused("b.hdf5", "data.dataset", "/cube", "(2, 2, 2)")
    write_hdf5("c.h5", rows=(np.zeros((0, 2)), None))
    assert source("c.h5").n_rows == 0


def write_virtual(path, source, dataset="rows", n_rows=4):
    layout = h5py.VirtualLayout((n_rows, 2), "f8")
    layout[:] = h5py.VirtualSource(str(source), dataset, (n_rows, 2))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("rows", layout)


def test_hdf5_reads_no_file_but_those_of_its_folder(here, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_hdf5(str(elsewhere / "b.h5"), rows=(np.ones((4, 2)), None))
    write_hdf5("b.h5", rows=(np.ones((4, 2)), None))
    write_virtual("a.h5", "b.h5")
    assert source("a.h5").array.compute().tolist() == [[1.0, 1.0]] * 4
    for other in (elsewhere / "b.h5", "no.h5", "sub/../../b.h5"):
        write_virtual("a.h5", other)
        assert_refused("a.h5", "data.dataset", "rows", repr(str(other)), "same folder")


def test_hdf5_datasets_that_are_made_of_each_other_are_refused(here):
    write_virtual("a.h5", "b.h5")
    write_virtual("b.h5", "a.h5")
    assert_refused("a.h5", "data.dataset", "rows", "sources")
    write_virtual("c.h5", "c.h5")
    assert_refused("c.h5", "data.dataset", "rows", "sources")
    write_hdf5("d.h5", rows=(np.ones((4, 2)), None))
    layout = h5py.VirtualLayout((8, 2), "f8")
    layout[:4] = layout[4:] = h5py.VirtualSource("d.h5", "rows", (4, 2))  # one source twice is no circle
    with h5py.File("e.h5", "w") as file:
        file.create_virtual_dataset("rows", layout)
    assert source("e.h5").array.compute().tolist() == [[1.0, 1.0]] * 8


def test_hdf5_with_external_values_is_refused(here):
    Path("secret").write_bytes(bytes(64))
    with h5py.File("a.h5", "w") as file:
        file.create_dataset("rows", shape=(4, 2), dtype="f8", external=[(str(here / "secret"), 0, 64)])
    assert_refused("a.h5", "data.dataset", "rows", "external", "secret")
    write_virtual("b.h5", "a.h5")
    assert_refused("b.h5", "data.dataset", "rows", "external", "secret")


def test_hdf5_links_to_other_files_are_refused(here):
    write_hdf5("b.h5", rows=(np.ones((4, 2)), None))
    with h5py.File("a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("b.h5", "/rows")
    assert_refused("a.h5", "data.dataset", "linked", "another file", dataset="linked")


# -- notes ---------------------------------------------------------------------------------------------------


def test_columns_that_are_left_out_are_told_unless_columns_are_named(here, frame):
    days = frame.assign(s="x", day=pd.Timestamp("2013-01-01"), flag=frame["a"] > 0)
    path = write("parquet", days.set_index("day"))
    opened = source(path)
    assert opened.columns == ("a", "b", "c", "flag")
    (note,) = opened.notes
    assert "s (" in note
    assert source(path, columns=["a"]).notes == ()
    wide = pd.DataFrame({f"s{i}": ["x"] for i in range(30)} | {"a": [1.0]})
    (note,) = source(write("csv", wide)).notes
    assert re.search(names("s11 (string)", "18 more", "data.columns"), note)


# -- sizes of chunks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_rows", "n_fields", "expected"),
    [
        (50, 2, 100_000),
        (3_200_000, 2, 200_000),
        (10**9, 2, 1_000_000),
        (10**9, 40, 52_428),
        (10**9, 10**9, 1),
    ],
)
def test_automatic_chunks(n_rows, n_fields, expected):
    rows = ChunkPolicy().rows(DataConfig(source="x"), n_rows, n_fields)
    assert rows == expected
    assert rows == 1 or rows * n_fields * 8 <= 16 * 2**20


def test_chunks_as_configured():
    assert ChunkPolicy().rows(DataConfig(source="x", chunk_rows=7), 10**9, 1000) == 7


def test_fields_end_with_the_weights():
    assert Selection(("a", "b"), "w", np.dtype("f4")).fields == ("a", "b", "w")
