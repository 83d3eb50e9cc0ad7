"""Values of the rows as they are written: whole chunks by one task each, in the order of the data, resumable."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
import zarr
from pyarrow import parquet

from gmm_dask.errors import FaultError, UserError
from messages import names
from pipeline.store import RowPlan, Totals, ZarrRows, prepare_store, read_summary, rows_folder
from pipeline.store.rows import zarr as rows_module
from pipeline.store.rows.parquet import ParquetRows

NAMES = ("label", "log_density", "responsibility")
CONFIG = {"name": "a", "data": {"source": "a.csv"}, "output": {"store": "r.zarr"}}
LENGTHS = [(4, 4, 2), (10,), (3, 4, 2, 1), (1, 9), (4, 0, 6), (5, 5), (2, 2, 6), (0, 10, 0), (1,) * 10, (3, 3, 3, 1)]


@pytest.fixture
def path(tmp_path):
    prepare_store(tmp_path / "r.zarr", CONFIG, {"path": "a.csv"})
    return str(tmp_path / "r.zarr")


@pytest.fixture(params=["zarr", "parquet"])
def make(request, path):
    """Makes a writer of ten rows; another one of the same path finds what the first has written."""

    def writer(lengths=(3, 4, 2, 1), token="one"):
        plan = RowPlan(tuple(lengths), (0, 1, 2), NAMES, token)
        return ZarrRows(path, plan) if request.param == "zarr" else ParquetRows(rows_folder(path), plan, None, path)

    return writer


def values_of(writer, number):
    """The row's number in all three values."""
    row = np.arange(*writer.plan.starts[number : number + 2], dtype=float)
    return {"label": row.astype(np.int64), "log_density": row + 0.5, "responsibility": row[:, None] + np.arange(3)}


def write(writer, *numbers):
    for number in numbers:
        n_rows = writer.plan.lengths[number]
        writer.write(number, values_of(writer, number), Totals(n_rows, 0.1 * number, 0.7, np.array([n_rows, 0, 1])))


def read(path):
    """All values by name, from wherever they are."""
    if Path(rows_folder(path)).exists():
        table = parquet.read_table(rows_folder(path))
        found = {name: table[name].to_numpy() for name in table.column_names}
        each = [found.pop(f"responsibility_{k}") for k in range(3)]
        return found | {"responsibility": np.stack(each, axis=1)}
    group = xr.open_zarr(path, group="rows", consolidated=False)
    return {name: group[name].values for name in group}


@pytest.mark.parametrize("step", [None, 1, 2, 3])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_rows_keep_their_order_whatever_the_chunks(make, path, lengths, step, monkeypatch):
    if step:
        monkeypatch.setattr(rows_module, "_zarr_rows", lambda _: step)
    writer = make(lengths)
    assert not writer.begin()
    write(writer, *reversed(range(len(lengths))))
    writer.join()
    for number in range(len(lengths)):
        np.testing.assert_array_equal(writer.log_density(number), values_of(writer, number)["log_density"])
    writer.finish({"usable": 10})
    found = read(path)
    assert found["label"].dtype == np.int32
    assert found["label"].tolist() == list(range(10))
    assert found["log_density"].tolist() == [i + 0.5 for i in range(10)]
    np.testing.assert_array_equal(found["responsibility"], np.arange(10)[:, None] + [0, 1, 2])
    assert read_summary(path)["usable"] == 10
    assert read_summary(path)["n_rows"] == 10
    assert make(lengths).begin()


def test_no_two_tasks_write_one_chunk(path, monkeypatch):
    monkeypatch.setattr(rows_module, "_zarr_rows", lambda _: 4)
    written, original = [], zarr.storage.LocalStore.set
    current = threading.local()

    async def record(self, key, value):
        written.append((getattr(current, "number", None), key))
        await original(self, key, value)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", record)
    writer = ZarrRows(path, RowPlan((3, 9, 1, 12, 5), (0, 1, 2), NAMES, "one"))
    writer.begin()
    written.clear()
    write(writer, *range(5))
    chunks = [key for _, key in written if "/c/" in key]
    assert len(chunks) == len(set(chunks))


def test_many_threads_write_at_once(make, path):
    rng = np.random.default_rng(0)
    lengths = rng.multinomial(10, np.full(6, 1 / 6))
    writer = make(lengths)
    writer.begin()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: write(writer, number), range(6)))
    writer.join()
    writer.finish({})
    assert read(path)["label"].tolist() == list(range(10))


def test_what_is_finished_is_found_again(make, path):
    first = make()
    first.begin()
    write(first, 2, 0)
    again = make()
    assert not again.begin()
    found = again.finished()
    assert [totals is not None for totals in found] == [True, False, True, False]
    assert (found[2].usable, found[2].deviation, found[2].squares) == (2, 0.2, 0.7)
    assert found[2].labels.tolist() == [2, 0, 1]
    assert read_summary(path) is None
    write(again, 1, 3)
    again.join()
    again.finish({})
    assert read(path)["label"].tolist() == list(range(10))


def test_answers_of_another_model_are_not_taken(make):
    first = make()
    first.begin()
    write(first, 0, 1)
    other = make(token="two")
    assert not other.begin()
    assert other.finished() == [None] * 4


def test_anomalies_are_marked_by_the_stored_densities(make, path):
    writer = make((3, 4, 3))
    writer.begin()
    write(writer, 0, 1, 2)
    writer.join()
    assert writer.mark(2.0) == 2
    assert writer.mark(4.5) == 4  # marked again after a kill
    writer.finish({})
    found = read(path)
    assert found["anomaly"].dtype == bool
    assert found["anomaly"].tolist() == [True] * 4 + [False] * 6


def test_shapes(path):
    assert rows_module.row_shapes(path) == {}
    writer = ZarrRows(path, RowPlan((4, 6), (0, 1, 2), NAMES, "one"))
    writer.begin()
    assert rows_module.row_shapes(path) == {"label": (10,), "log_density": (10,), "responsibility": (10, 3)}


def test_what_is_not_written_reads_as_no_answer(path):
    writer = ZarrRows(path, RowPlan((5, 5), (0, 1, 2), NAMES, "one"))
    writer.begin()
    write(writer, 1)
    found = read(path)
    assert found["label"].tolist() == [-1] * 5 + [5, 6, 7, 8, 9]
    assert np.isnan(found["log_density"][:5]).all()


def test_nothing_of_the_work_is_left(make, path):
    writer = make()
    writer.begin()
    write(writer, 0, 1, 2, 3)
    writer.join()
    writer.finish({})
    assert not [file for file in Path(path).parent.rglob("*") if "unfinished" in str(file) or "partial" in str(file)]


def test_a_disk_that_takes_no_more_is_a_fault_that_names_the_place(make, monkeypatch):
    writer = make()
    writer.begin()

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zarr.core.array.Array.__setitem__", refuse)
    monkeypatch.setattr("pyarrow.parquet.write_table", refuse)
    with pytest.raises(FaultError, match=names("rows", "No space left on device")):
        write(writer, 0)
    assert writer.finished() == [None] * 4


# -- Parquet alone -----------------------------------------------------------------------------------------------


def test_keys_stand_beside_the_values(path):
    plan = RowPlan((6, 4), (0, 1, 2), ("label",), "one")
    keys = {0: pa.table({"id": list("abcdef")}), 1: pa.table({"id": list("ghij")})}
    writer = ParquetRows(rows_folder(path), plan, keys.__getitem__, path)
    writer.begin()
    write(writer, 0, 1)
    writer.finish({})
    table = parquet.read_table(rows_folder(path))
    assert table.column_names == ["id", "label"]
    assert "".join(table["id"].to_pylist()) == "abcdefghij"
    assert read_summary(path)["parquet"]["files"] > 0


def test_a_folder_of_something_else_is_left_alone(path):
    folder = Path(rows_folder(path))
    folder.mkdir()
    parquet.write_table(pa.table({"x": [1]}), folder / "part-00000.parquet")
    with pytest.raises(UserError, match=names(folder, "gmm-dask")):
        ParquetRows(folder, RowPlan((1,), (0, 1, 2), NAMES, "one"), None, path).begin()
    assert parquet.read_table(folder)["x"].to_pylist() == [1]


def test_a_damaged_file_is_written_again(path):
    plan = RowPlan((6, 4), (0, 1, 2), ("label",), "one")
    writer = ParquetRows(rows_folder(path), plan, None, path)
    writer.begin()
    write(writer, 0, 1)
    file = Path(f"{rows_folder(path)}.unfinished/part-00001.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    again = ParquetRows(rows_folder(path), plan, None, path)
    again.begin()
    assert [totals is not None for totals in again.finished()] == [True, False]
    write(again, 1)
    again.finish({})
    assert parquet.read_table(rows_folder(path))["label"].to_pylist() == list(range(10))


def test_a_folder_that_was_named_before_the_kill_is_whole(path):
    plan = RowPlan((10,), (0, 1, 2), ("label",), "one")
    writer = ParquetRows(rows_folder(path), plan, None, path)
    writer.begin()
    write(writer, 0)
    ParquetRows(rows_folder(path), plan, None, None).finish({"usable": 10})  # named, but the store was not told
    assert read_summary(path) is None
    assert writer.begin()
    assert read_summary(path)["usable"] == 10
