"""Which files of a folder are read, in which order, and what is said of the others."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray
from fsspec.core import url_to_fs

from gmm_dask import UserError
from messages import names
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.score.new_rows import score
from pipeline.sources import open_source


def rows(n=60):
    """Three groups one after the other; the last column is the number of the row."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(n, 2)) + 9.0 * (np.arange(n)[:, None] // (n // 3)), columns=["a", "b"])
    return frame.assign(number=np.arange(float(n)))


def write_parts(frame, folder):
    """Twelve files with names as Dask gives them."""
    fs, path = url_to_fs(folder)
    fs.makedirs(path, exist_ok=True)
    for i, part in enumerate(np.array_split(np.arange(len(frame)), 12)):
        frame.iloc[part].to_parquet(f"{folder}/part.{i}.parquet", index=False)


def source(path, **options):
    return open_source(DataConfig(source=str(path), **options))


# -- order -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of pandas, in Dask
@pytest.mark.parametrize("path", ["x", "x/*.parquet", "memory://parts"])
def test_parts_are_read_in_the_order_of_dask(here, path):
    frame = rows()
    write_parts(frame, path.removesuffix("/*.parquet"))
    found = source(path).array.compute(scheduler="sync")
    np.testing.assert_array_equal(found, dd.read_parquet(path).compute())
    np.testing.assert_array_equal(found, frame)


def test_folders_are_in_natural_order_too(here):
    frame = rows()
    for i in range(12):
        Path(f"x/month={i}").mkdir(parents=True)
        frame[5 * i : 5 * i + 5].to_parquet(f"x/month={i}/data.parquet")
    np.testing.assert_array_equal(source("x", columns=["number"]).array.compute().ravel(), frame.number)
    np.testing.assert_array_equal(source("x/**/*.parquet", columns=["number"]).array.compute().ravel(), frame.number)


def test_results_tell_the_first_row_of_each_file(here):
    frame = rows()
    write_parts(frame, "x")
    job = {"name": "j", "data": {"source": "x", "columns": ["a", "b"]}, "output": {"store": "r.zarr", "report": False}}
    job["search"] = {"n_components": [3], "covariance_types": ["diag"], "init_params": "kmeans"}
    run(JobConfig.model_validate(job))
    score("r.zarr", "x", "s.zarr")
    score("r.zarr", "x", "s.parquet")
    result, scores = (xarray.open_zarr(path, group="rows", consolidated=False) for path in ("r.zarr", "s.zarr"))
    starts = [*result.first_row.values, result.sizes["row"]]
    for path, start, stop in zip(result.file.values, starts, starts[1:], strict=False):
        np.testing.assert_array_equal(pd.read_parquet(path).number, frame.number[start:stop])
    labels = result.label.values.reshape(3, 20)
    assert (labels == labels[:, :1]).all()  # as the groups lie apart, and one after the other
    assert len(set(labels[:, 0])) == 3
    xarray.testing.assert_equal(scores.first_row, result.first_row)
    files = pd.DataFrame(json.loads(Path("s.parquet/_summary.json").read_text())["files"])
    pd.testing.assert_series_equal(files.set_index("file").first_row, result.first_row.to_series())


def test_one_file_begins_with_the_first_row(here):
    rows().drop(columns="number").to_csv("x.csv", index=False)
    job = {"name": "j", "data": {"source": "x.csv"}, "output": {"store": "r.zarr", "report": False}}
    job["search"] = {"n_components": [3], "covariance_types": ["diag"], "init_params": "kmeans"}
    run(JobConfig.model_validate(job))
    stored = xarray.open_zarr("r.zarr", group="rows", consolidated=False)
    assert (stored.file.values.tolist(), stored.first_row.values.tolist()) == (["x.csv"], [0])


# -- what is read, and what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["b.pq", "b.parq", "b.PARQUET"])
def test_files_of_several_endings_are_read_and_that_is_said(here, other):
    frame = rows()
    Path("x").mkdir()
    frame[:30].to_parquet("x/a.parquet")
    frame[30:].to_parquet(f"x/{other}")
    opened = source("x")
    np.testing.assert_array_equal(opened.array.compute(), frame)
    (note,) = opened.notes
    assert re.search(names("several endings", "1 of .parquet", f"1 of {Path(other).suffix}"), note)
    assert source(f"x/{other}").n_rows == 30


@pytest.mark.parametrize("folder", ["x", "memory://folder"])
def test_files_that_are_passed_over_are_named(here, folder):
    fs, path = url_to_fs(folder)
    fs.makedirs(path, exist_ok=True)
    frame = rows()
    frame.to_parquet(f"{folder}/a.parquet")
    for name in ("README.md", "more/b.csv", "_temporary/c.parquet", "_SUCCESS", ".crc", "._a.parquet"):
        fs.makedirs(f"{path}/{Path(name).parent}", exist_ok=True)
        fs.pipe_file(f"{path}/{name}", b"x")
    opened = source(folder)
    assert opened.n_rows == len(frame)
    (note,) = opened.notes
    assert re.search(names("passed over", "README.md", "more/b.csv", "_temporary/c.parquet"), note)
    assert "_SUCCESS" not in note
    assert "._a" not in note


def test_links_to_folders_are_not_followed_and_that_is_said(here):
    rows().to_parquet("a.parquet")
    for folder in ("x", "elsewhere"):
        Path(folder).mkdir()
        os.link("a.parquet", f"{folder}/a.parquet")
    os.symlink("../elsewhere", "x/more")
    opened = source("x")
    assert opened.n_rows == 60
    assert any("passed over" in note and "more" in note for note in opened.notes)


def delta():
    Path("t/_delta_log").mkdir(parents=True)
    log = {"add": {"path": "a.parquet"}}, {"remove": {"path": "a.parquet"}}
    Path("t/_delta_log/00000000000000000000.json").write_text("\n".join(map(json.dumps, log)))
    return "t"


def hudi():
    Path("t/.hoodie").mkdir(parents=True)
    Path("t/.hoodie/hoodie.properties").touch()
    return "t"


def iceberg():
    for folder in ("t/metadata", "t/data"):
        Path(folder).mkdir(parents=True)
    Path("t/metadata/v1.metadata.json").touch()
    return "t/data"


@pytest.mark.parametrize("table", [delta, hudi, iceberg])
def test_tables_with_a_log_are_refused(here, table):
    folder = table()
    for name in ("a", "b"):
        rows().to_parquet(f"{folder}/{name}.parquet")
    for path in ("t", ".", f"{folder}/*.parquet", f"{folder}/**/*.parquet"):
        if (path, table) != ("t", delta):
            with pytest.raises(UserError, match=names("data.source", "t ", table.__name__.capitalize(), "log")):
                source(path)
