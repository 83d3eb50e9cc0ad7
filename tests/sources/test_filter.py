"""``data.filter``: the rows that pandas' query finds, from no more of the files than it takes."""

import datetime as dt
import io
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask.errors import UserError
from messages import names
from pipeline.config.data import DataConfig
from pipeline.config.row_filter import parse_filter
from pipeline.sources import ChunkPolicy, open_keys, open_source
from pipeline.sources.location import Location


@pytest.fixture
def frame():
    """300 rows of three years, in the order of their depths in each."""
    rng = np.random.default_rng(0)
    depth = np.tile(np.arange(100) * 10, 3)
    day = pd.date_range("2024-01-01", periods=300, freq="D")
    return pd.DataFrame(
        {
            "temp": rng.normal(size=300),
            "salt": rng.normal(size=300),
            "depth": depth,
            "year": np.repeat([2024, 2025, 2026], 100),
            "ship name": np.where(rng.random(300) < 0.5, "Meteor", "Polarstern"),
            "good": rng.random(300) < 0.7,
            "time": day,
        }
    )


@pytest.fixture
def by_year(here, frame):
    """A folder of files by year, as Hive partitions them, in row groups of 20."""
    for year, rows in frame.groupby("year"):
        (here / f"data/year={year}").mkdir(parents=True)
        rows.drop(columns="year").to_parquet(f"data/year={year}/a.parquet", index=False, row_group_size=20)
    return "data"


def source(path, condition, columns=("temp", "salt"), **options):
    return open_source(DataConfig(source=str(path), filter=condition, columns=columns, **options))


def rows(path, condition, **options):
    return source(path, condition, **options).array.compute(scheduler="sync")


CONDITIONS = [
    "year == 2026 and depth < 700",
    "year != 2025 and (depth >= 900 or not good)",
    "100 <= depth < 300 and `ship name` == 'Meteor'",
    "depth in [10, 500] or year not in [2024, 2026] and depth > 950",
    "not (year == 2024 or depth >= 20)",
    "good == true and depth > 12.5",
    "depth == 12.5 or depth > -1e300 and depth < 25",
]


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("chunk_rows", ["auto", 30, 7])
def test_the_rows_are_those_of_pandas_query(by_year, frame, condition, chunk_rows):
    query = condition.replace("true", "True")
    expected = frame.query(query)[["temp", "salt"]].to_numpy()
    np.testing.assert_array_equal(rows(by_year, condition, chunk_rows=chunk_rows), expected)
    frame.to_parquet("one.parquet", row_group_size=50)
    np.testing.assert_array_equal(rows("one.parquet", condition, chunk_rows=chunk_rows), expected)


def test_dates_and_times(here, frame):
    frame.assign(day=frame.time.dt.date, zoned=frame.time.dt.tz_localize("UTC")).to_parquet("a.parquet")
    expected = frame[frame.time >= "2024-03-01"][["temp", "salt"]]
    for column in ("time", "day", "zoned"):
        np.testing.assert_array_equal(rows("a.parquet", f"{column} >= '2024-03-01'"), expected)
    np.testing.assert_array_equal(rows("a.parquet", "zoned > '2024-03-01T00:00+01:00'"), expected)


@pytest.mark.parametrize("group_rows", [2, 100])
def test_a_missing_value_meets_no_comparison(here, group_rows):
    """NaN is a missing value, also where the statistics of a file know nothing of it."""
    table = pa.table({"x": np.arange(6.0), "a": pa.array([3.0, np.nan, None, 1.0, 2.0, np.nan])})
    pq.write_table(table, "a.parquet", row_group_size=group_rows)
    for condition, expected in {
        "a != 3": [3, 4],
        "not a == 3": [3, 4],
        "a < 3": [3, 4],
        "a is null": [1, 2, 5],
        "a is not None": [0, 3, 4],
        "not (a is null or a < 2)": [0, 4],
    }.items():
        assert rows("a.parquet", condition, columns=["x"]).ravel().tolist() == expected, condition


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "float16", "float32", "bool", "decimal"])
def test_numbers_of_every_type(here, dtype):
    kind = pa.decimal128(21, 2) if dtype == "decimal" else pa.from_numpy_dtype(dtype)
    values = pa.array([True, False] * 3) if dtype == "bool" else pa.array([1, 2, 3, 4, 5, 100], pa.int64()).cast(kind)
    pq.write_table(pa.table({"x": np.arange(6.0), "a": values}), "a.parquet", row_group_size=3)
    cases = {"a == true": [0, 2, 4], "not a": [1, 3, 5]}
    if dtype != "bool":
        cases = {
            "a <= 2": [0, 1],
            "a > 2.5": [2, 3, 4, 5],
            "a < 1000": [0, 1, 2, 3, 4, 5],
            "a == 1000": [],
            "a > -1": [*range(6)],
        }
    for condition, expected in cases.items():
        assert rows("a.parquet", condition, columns=["x"]).ravel().tolist() == expected, condition


@pytest.mark.parametrize("dtype", ["int64", "float32", "float64", "decimal"])
def test_whole_numbers_beyond_all_types(here, dtype):
    kind = pa.decimal128(21, 2) if dtype == "decimal" else pa.from_numpy_dtype(dtype)
    pq.write_table(pa.table({"x": [0.0, 1.0, 2.0], "a": pa.array([1, None, 2], kind)}), "a.parquet")
    huge = "1" + 400 * "0"
    for condition, expected in {f"a < {huge}": [0, 2], f"a > -{huge}": [0, 2], f"a >= {huge}": []}.items():
        assert rows("a.parquet", condition, columns=["x"]).ravel().tolist() == expected, condition[:8]


@pytest.mark.parametrize("unit", ["ns", "us"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_times_beyond_those_of_nanoseconds(here, zone, unit):
    time = pa.array([dt.datetime(2026, 1, 1), None, dt.datetime(2026, 1, 2)], pa.timestamp(unit, zone))
    pq.write_table(pa.table({"x": [0.0, 1.0, 2.0], "t": time}), "a.parquet")
    for condition, expected in {
        "t < '9999-12-31'": [0, 2],
        "t < '9999-12-31T23:59-05:00'": [0, 2],
        "t >= '1600-01-01'": [0, 2],
        "t != '9999-12-31'": [0, 2],
        "t > '9999-12-31'": [],
    }.items():
        assert rows("a.parquet", condition, columns=["x"]).ravel().tolist() == expected, condition


def test_a_name_is_taken_as_it_is_written(here):
    """Python's parser takes the micro sign for the Greek letter."""
    pq.write_table(pa.table({"x": [0.0, 1.0], "\u00b5": [1, 2], "\u03bc": [2, 1]}), "a.parquet")
    assert rows("a.parquet", "\u00b5 < 2", columns=["x"]).tolist() == [[0.0]]
    assert rows("a.parquet", "\u03bc in [1]", columns=["x"]).tolist() == [[1.0]]


def test_a_decimal_fraction_is_that_of_the_column(here):
    pq.write_table(pa.table({"x": [0.0, 1.0], "a": pa.array([0.1, 0.2], pa.float32())}), "a.parquet")
    assert rows("a.parquet", "a == 0.1", columns=["x"]).tolist() == [[0.0]]


class CountedFile(io.BytesIO):
    """A file in memory that counts the bytes that are read of it."""

    n_bytes = 0

    def read(self, size=-1):
        found = super().read(size)
        CountedFile.n_bytes += len(found)
        return found


def test_folders_and_row_groups_that_cannot_pass_are_not_read(here, monkeypatch):
    fs, rng = fsspec.filesystem("memory"), np.random.default_rng(0)
    for year in (2024, 2025, 2026):
        table = {name: rng.normal(size=20_000) for name in ("temp", "salt")} | {"depth": np.arange(20_000)}
        with fs.open(f"/filtered/year={year}/a.parquet", "wb") as file:
            pq.write_table(pa.table(table), file, row_group_size=2_000)
    monkeypatch.setattr(Location, "open", lambda location: CountedFile(fs.cat_file(location.path)))
    n_read = {}
    for condition in (None, "year == 2026", "year == 2026 and depth < 5000", "year == 1999"):
        opened = source("memory://filtered", condition)
        CountedFile.n_bytes = 0
        n_rows = len(opened.array.compute(scheduler="sync"))
        n_read[condition] = CountedFile.n_bytes
        assert n_rows == {None: 60_000, "year == 2026": 20_000, "year == 1999": 0}.get(condition, 5_000)
        # what the plan says is what is read
        assert n_read[condition] == pytest.approx(opened.bytes_per_pass, rel=0.01)
    assert n_read["year == 2026"] == pytest.approx(n_read[None] / 3, rel=0.01)
    # three of ten row groups, with the depths
    assert n_read["year == 2026 and depth < 5000"] < 0.5 * n_read["year == 2026"]
    assert n_read["year == 1999"] == 0


def test_what_is_left_is_said(by_year):
    note = source(by_year, "year == 2026 and depth < 250").notes[-1]
    assert "1 of 3 files" in note
    assert "2 of the 5 row groups" in note


def test_the_lengths_are_known_where_folders_decide(by_year):
    assert source(by_year, "year >= 2025").n_rows == 200
    opened = source(by_year, "depth < 250", chunk_rows=20)
    assert opened.n_rows is None
    assert opened.chunk_rows == 20
    assert opened.counted().chunks.lengths == [20, 5] * 3
    assert opened.first_rows() == (0, 20, 25, 45, 50, 70)
    assert opened.array.compute(scheduler="sync").shape == (75, 2)


def test_partition_columns_are_numbers_that_are_chosen_by_name(by_year, frame):
    assert any("year" in note and "partition" in note for note in open_source(DataConfig(source=by_year)).notes)
    found = rows(by_year, "depth == 10", columns=["temp", "year"])
    np.testing.assert_array_equal(found, frame.query("depth == 10")[["temp", "year"]])
    assert source("data/year=202[56]/*.parquet", None, columns=["year"]).array.compute().mean() == 2025.5
    weighted = source(by_year, "year > 2024", weights="year")
    assert set(weighted.weights.compute().tolist()) == {2025.0, 2026.0}


def test_a_column_of_the_files_counts_not_the_folder_of_its_name(here):
    parts = []
    for month in ("2026-10", "2026-11", "2026-12"):
        time = pd.date_range(f"{month}-01", periods=300, freq="h")
        parts.append(pd.DataFrame({"x": np.arange(300.0), "time": time}))
        (here / f"hs/time={month}").mkdir(parents=True)
        parts[-1].to_parquet(f"hs/time={month}/p.parquet", index=False)
    expected = pd.concat(parts).query("time >= '2026-11-05'")[["x"]]
    np.testing.assert_array_equal(rows("hs", "time >= '2026-11-05'", columns=["x"]), expected)


@pytest.mark.parametrize("stored_in", [2024, 2025, 2026])
def test_a_column_that_one_file_stores_and_folders_tell_of_others(by_year, frame, stored_in):
    """The file counts for its own rows, though its folder says otherwise, and whichever file is the first."""
    rows_of_it = frame[frame.year == stored_in].assign(year=np.repeat(np.int32([stored_in, 2030]), 50))
    rows_of_it.to_parquet(f"data/year={stored_in}/a.parquet", index=False)
    expected = pd.concat([rows_of_it if year == stored_in else each for year, each in frame.groupby("year")])
    for condition in (f"year == {stored_in}", "year != 1999 and depth < 300", f"year >= {stored_in}", "year < 2030"):
        np.testing.assert_array_equal(rows(by_year, condition, columns=["temp"]), expected.query(condition)[["temp"]])
    opened = open_source(DataConfig(source=by_year))
    assert "year" not in opened.columns
    assert any("'year' of 2 of 3 files" in note and "1 store it" in note for note in opened.notes)
    np.testing.assert_array_equal(rows(by_year, None, columns=["year"]).ravel(), expected["year"])


def test_a_column_that_not_all_folders_tell(by_year, frame):
    frame.drop(columns="year").to_parquet("data/b.parquet", index=False)
    opened = open_source(DataConfig(source=by_year))
    assert (opened.columns, opened.n_rows) == (("temp", "salt", "depth", "good"), 600)
    assert any("'year' of 3 of 4 files" in note and "1 have none" in note for note in opened.notes)
    for options in ({"columns": ["temp", "year"]}, {"columns": ["temp"], "filter": "year == 2024"}):
        with pytest.raises(UserError, match=names("year", "data/b.parquet")):
            open_source(DataConfig(source=by_year, **options))


def test_a_column_that_the_first_file_lacks(here, frame):
    (here / "d").mkdir()
    frame[["temp"]].to_parquet("d/a.parquet")
    frame[["temp", "salt"]].to_parquet("d/b.parquet")
    with pytest.raises(UserError, match=names("'salt'", "missing in d/a.parquet", "double in d/b.parquet")):
        rows("d", None)


@pytest.mark.parametrize("condition", ["year == 2026 and depth < 300", "year == 1999"])
def test_results_below_a_folder_with_partitions_are_left_out(by_year, frame, condition):
    table = pa.Table.from_pandas(frame[:5][["temp"]]).replace_schema_metadata({"gmm-dask": "labels"})
    for folder in ("a", "year=2026/labels"):
        Path("data", folder).mkdir()
        pq.write_table(table, f"data/{folder}/part-00000.parquet")
    opened = source(by_year, condition, ["temp", "year"])
    np.testing.assert_array_equal(opened.array.compute(), frame.query(condition)[["temp", "year"]])
    assert any("row outputs of gmm-dask" in note for note in opened.notes)


def test_partitions_of_texts_and_missing_values(here):
    for folder in ("ship=A%20B/day=2026_01", "ship=C/day=__HIVE_DEFAULT_PARTITION__"):
        (here / "d" / folder).mkdir(parents=True)
        pq.write_table(pa.table({"x": [float(len(folder))]}), here / "d" / folder / "a.parquet")
    assert rows("d", "ship == 'A B' and day == '2026_01'", columns=["x"]).tolist() == [[22.0]]
    assert rows("d", "day is null", columns=["x"]).tolist() == [[37.0]]


@pytest.mark.parametrize(
    ("values", "others"),
    [(("1", "2.5", "north"), "north"), (("1", "2"), ""), (("a", "b"), ""), (("1", "2026_01"), "2026_01")],
)
def test_partitions_of_which_some_are_no_numbers_are_said_to_be_text(here, values, others):
    for value in values:
        (here / "d" / f"site={value}").mkdir(parents=True)
        pq.write_table(pa.table({"x": [1.0, 2.0]}), here / "d" / f"site={value}" / "a.parquet")
    found = [note for note in open_source(DataConfig(source="d")).notes if "not all are numbers" in note]
    assert [note.rpartition(": ")[2] for note in found] == ([others] if others else [])


@pytest.mark.parametrize("condition", ["depth < 250", "year == 2025", "year == 2025 and depth in [0, 990]"])
def test_keys_are_those_of_the_rows(by_year, frame, condition):
    opened = source(by_year, condition, chunk_rows=30)
    read = open_keys(opened, ["time", "year", "ship name"])
    found = pa.concat_tables([read(i) for i in range(len(opened.chunks.pieces))]).to_pandas()
    expected = frame.query(condition)
    assert found["time"].tolist() == expected["time"].tolist()
    assert found["year"].tolist() == expected["year"].tolist()
    assert found["ship name"].tolist() == expected["ship name"].tolist()


def test_the_filter_is_part_of_the_identity(by_year):
    found = [source(by_year, condition).chunks.identity for condition in (None, "depth < 3", "depth < 4")]
    assert len(set(found)) == 3


def test_no_row_can_pass(by_year):
    opened = source(by_year, "year == 1999")
    assert (opened.n_rows, opened.array.shape) == (0, (0, 2))
    assert rows(by_year, "depth == 5").shape == (0, 2)


@pytest.mark.parametrize(
    ("condition", "parts"),
    [
        ("dept < 3", ["dept", "did you mean depth?", "ship name"]),
        ("depth < '3'", ["depth", "int64", "a number", "'3'"]),
        ("`ship name` > 3", ["ship name", "string", "text in quotes"]),
        ("time > 'noon'", ["time", "timestamp", "2026-03-01", "noon"]),
        ("year == 'x'", ["year", "int64", "a number"]),
        ("good < true", ["good", "bool", "=="]),
        ("depth", ["depth", "int64", "a number", "True"]),
    ],
)
def test_columns_and_values_that_do_not_fit(by_year, condition, parts):
    with pytest.raises(UserError, match=names("data.filter", *parts)):
        source(by_year, condition)


@pytest.mark.parametrize(
    "condition",
    [
        *("depth = 3", "depth <", "depth < salt", "depth + 1 < 3", "f(depth)", "depth == null", "3 < 4", "depth in []"),
        *(
            "a.b < 3",
            "__import__('os')",
            "(a > 1) & (b < 2)",
            "a == 1j",
            "a is 3",
            "lambda: 3",
            " ",
            "not " * 9000 + "a",
        ),
    ],
)
def test_texts_that_are_no_condition(condition):
    with pytest.raises(ValueError, match="year == 2026"):
        parse_filter(condition)


def test_other_formats_have_no_filter(here, frame):
    frame[["temp", "salt"]].to_csv("a.csv")
    with pytest.raises(UserError, match=names("data.filter", "a.csv", "Parquet")):
        source("a.csv", "temp < 3")


def test_a_float_column_with_a_time_of_day(here):
    """A date column beside a time of day is compared as a time."""
    table = pa.table({"x": [0.0, 1.0], "d": [dt.date(2026, 1, 1), dt.date(2026, 1, 2)]})
    pq.write_table(table, "a.parquet")
    assert rows("a.parquet", "d > '2026-01-01T12:00'", columns=["x"]).tolist() == [[1.0]]


def test_chunks_are_planned_by_the_rows_before_the_filter(by_year):
    policy = ChunkPolicy(worthwhile=lambda n_fields: 40)
    opened = open_source(DataConfig(source=by_year, filter="depth < 700", columns=["temp"]), policy)
    assert opened.chunk_rows <= 40
