"""The cache of a run: a slow source is read once, the result is the same, and nothing stays."""

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from disks import files_of_at_most
from gmm_dask import UserError
from messages import names
from pipeline.config.cluster import ClusterConfig
from pipeline.config.job import JobConfig
from pipeline.fit.cache_choice import choose_cache
from pipeline.fit.job import run
from pipeline.fit.plan import estimate_job
from pipeline.progress import Message, PassDone
from pipeline.sources import cache
from pipeline.sources.cache import cache_folder, choose_by_kind
from pipeline.sources.rows import IN_MEMORY_BYTES
from runs import Stop, stop_at

pytestmark = pytest.mark.usefixtures("unheld")
N_ROWS = 3000


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same rows in two formats, whose chunks are the same."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    # of two decimals, so that a result, which is compressed, takes far less than the rows in a cache
    x = np.concatenate([rng.normal(centre, 1.0, (N_ROWS // 2, 3)) for centre in (0.0, 6.0)]).round(2)
    weights = rng.uniform(0.5, 2.0, N_ROWS)
    pd.DataFrame(np.column_stack([x, weights]), columns=["a", "b", "c", "w"]).to_csv(folder / "x.csv", index=False)
    np.save(folder / "x.npy", x)
    pd.DataFrame(x, columns=["a", "b", "c"]).to_parquet(folder / "x.parquet")
    pd.DataFrame(x, columns=["a", "b", "c"]).to_parquet(folder / "small-groups.parquet", row_group_size=500)
    return folder


def job(source, folder, *, weights=None, **data):
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "chunk_rows": 500, "weights": weights, **data},
            "search": {"n_components": [2], "init_params": "kmeans", "tol": 0.0, "max_iter": 5},
            "output": {"store": str(folder / "r.zarr"), "report": False},
        }
    )


@pytest.mark.parametrize("weights", [None, "w"])
def test_a_csv_is_parsed_once_with_the_same_result(sources, tmp_path, weights):
    (tmp_path / "plain").mkdir()
    cached, plain = (
        run(job(sources / "x.csv", folder, cache=key, weights=weights))
        for key, folder in (("auto", tmp_path), ("none", tmp_path / "plain"))
    )
    assert cached.table.equals(plain.table)
    size = (sources / "x.csv").stat().st_size
    assert cached.bytes_read == pytest.approx(2 * size, rel=0.01)  # its lines are counted first
    assert plain.bytes_read > 6 * size
    assert [path.name for path in tmp_path.iterdir() if "cache" in path.name] == []


def test_a_folder_for_another_format(sources, tmp_path):
    config = job(sources / "x.npy", tmp_path, cache=str(tmp_path / "fast"))
    seen = []

    def look(event):
        if isinstance(event, PassDone):
            seen.extend(tmp_path.glob("fast/r.zarr-cache/*.npy"))

    summary = run(config, progress=look)
    assert len(set(seen)) == N_ROWS // 500
    assert summary.bytes_read == pytest.approx(N_ROWS * 24, rel=0.01)
    assert list((tmp_path / "fast").iterdir()) == []


def test_what_a_killed_run_left_is_not_used(sources, tmp_path, monkeypatch):
    config = job(sources / "x.csv", tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr("pipeline.sources.cache._remove", lambda folder: None)
        with pytest.raises(Stop):
            run(config, progress=stop_at(2), checkpoint_seconds=0.0)
    left = list(cache_folder(config).glob("*.npy"))
    assert left
    for file in left:
        np.save(file, np.zeros_like(np.load(file)))
    resumed = run(config)
    (tmp_path / "plain").mkdir()
    assert resumed.table.equals(run(job(sources / "x.csv", tmp_path / "plain", cache="none")).table)
    assert not cache_folder(config).exists()


def test_another_folder_in_its_place_is_left_alone(sources, tmp_path):
    config = job(sources / "x.csv", tmp_path)
    cache_folder(config).mkdir()
    kept = cache_folder(config) / "thesis.txt"
    kept.write_text("years of work")
    with pytest.raises(UserError, match=names("data.cache", "r.zarr-cache", "none")):
        run(config)
    assert kept.read_text() == "years of work"


def test_a_full_disk_costs_nothing_but_time(sources, tmp_path):
    (tmp_path / "plain").mkdir()
    whole = {"weights": "w", "chunk_rows": N_ROWS}  # 96,000 bytes
    with files_of_at_most(80_000):
        summary = run(job(sources / "x.csv", tmp_path, **whole))
    assert summary.table.equals(run(job(sources / "x.csv", tmp_path / "plain", cache="none", **whole)).table)
    assert summary.bytes_read > 5 * (sources / "x.csv").stat().st_size


def test_a_file_that_changes_in_the_first_pass_is_named(sources, tmp_path, monkeypatch):
    copied = tmp_path / "x.csv"
    copied.write_bytes((sources / "x.csv").read_bytes())

    def write(path, block, write=cache._write):
        write(path, block)
        os.utime(copied, (1.0, 1.0))

    monkeypatch.setattr(cache, "_write", write)
    with pytest.raises(UserError, match=names("x.csv", "changed")):
        run(job(copied, tmp_path))


def test_the_kind_of_source_tells_what_is_cached(sources, tmp_path, monkeypatch):
    def choice(source="x.csv", **values):
        config = job(sources / source, tmp_path, **values.pop("data", {})).model_copy(update=values)
        return choose_by_kind(config, estimate_job(config).source)

    assert N_ROWS * 24 < choice().n_bytes < 2 * N_ROWS * 32
    assert choice("x.npy") is choice("small-groups.parquet") is None
    assert choice("x.parquet").n_bytes == N_ROWS * 24  # its row group would be decoded for each chunk
    assert choice("x.npy", data={"cache": str(tmp_path)}).n_bytes == N_ROWS * 24
    assert choice(data={"cache": "none"}).n_bytes == 0
    monkeypatch.setattr("pipeline.sources.cache.SHARE", 1e-12)
    assert choice().n_bytes == choice("x.npy").n_bytes == 0
    assert re.search(names("text", "free space"), choice().reason)
    assert choice("x.npy").reason == ""
    elsewhere = choice(cluster=ClusterConfig(kind="address", address="tcp://a:1"))
    assert elsewhere.n_bytes == 0
    assert re.search(names("text", "workers", "data.cache"), elsewhere.reason)
    monkeypatch.setattr("pipeline.sources.rows.IN_MEMORY_BYTES", IN_MEMORY_BYTES)
    assert choice(data={"cache": str(tmp_path)}).n_bytes == 0


def test_validate_tells_why(sources, tmp_path):
    assert re.search(names("r.zarr-cache", "text"), estimate_job(job(sources / "x.csv", tmp_path)).cache)
    assert "--time" in estimate_job(job(sources / "x.npy", tmp_path)).cache


class Slow:
    """A reader whose reads take long."""

    def __init__(self, reader, seconds):
        self.reader, self.seconds = reader, seconds

    def read(self, piece):
        time.sleep(self.seconds)
        return self.reader.read(piece)


@pytest.fixture
def slow_source(sources, tmp_path):
    """Makes the source of a job whose reads take so many seconds."""

    def make(seconds):
        config = job(sources / "x.npy", tmp_path)
        source = estimate_job(config).source
        chunks = replace(source.chunks, reader=Slow(source.chunks.reader, seconds))
        return config, replace(source, chunks=chunks)

    return make


@pytest.mark.parametrize(("of_row", "n_bytes"), [(1e-7, N_ROWS * 24), (1.0, 0)], ids=["fast", "slow"])
def test_what_takes_longer_to_decode_than_to_compute_is_cached(slow_source, monkeypatch, of_row, n_bytes):
    monkeypatch.setattr("pipeline.fit.cache_choice.seconds_of_row", lambda *_: of_row)
    choice = choose_cache(*slow_source(0.1))
    assert choice.n_bytes == n_bytes
    assert re.search(names("0.1", "decode", "compute"), choice.reason)


def test_what_a_cache_would_not_speed_up_is_not_cached(slow_source, monkeypatch):
    monkeypatch.setattr("pipeline.fit.cache_choice.seconds_of_row", lambda *_: pytest.fail("there is no need"))
    monkeypatch.setattr("pipeline.fit.cache_choice.DISK_RATE", 1e5)  # 500 rows take 0.12 s
    choice = choose_cache(*slow_source(0.1))
    assert choice.n_bytes == 0
    assert "cache" in choice.reason


def test_what_is_read_at_once_is_not_cached(slow_source, monkeypatch):
    monkeypatch.setattr("pipeline.fit.cache_choice.seconds_of_row", lambda *_: pytest.fail("there is no need"))
    monkeypatch.setattr("pipeline.fit.cache_choice.LEAST_SECONDS", 60.0)
    assert choose_cache(*slow_source(0.1)).n_bytes == 0


def test_rows_that_no_fit_can_begin_with_are_not_cached(slow_source, monkeypatch):
    def refuse(*_):
        raise UserError("too few rows.")

    monkeypatch.setattr("pipeline.fit.cache_choice.seconds_of_row", refuse)
    choice = choose_cache(*slow_source(0.1))
    assert choice.n_bytes == 0
    assert "too few rows" in choice.reason


@pytest.mark.parametrize("caches", [True, False])
def test_a_run_does_and_says_what_the_time_of_a_chunk_tells(sources, tmp_path, monkeypatch, caches):
    monkeypatch.setattr("pipeline.fit.cache_choice.seconds_of_row", lambda *_: 0.0 if caches else 1.0)
    monkeypatch.setattr("pipeline.fit.cache_choice.WORTHWHILE", 1e9)
    monkeypatch.setattr("pipeline.fit.cache_choice.LEAST_SECONDS", 0.0)
    told = []
    summary = run(job(sources / "x.npy", tmp_path), progress=told.append)
    assert summary.bytes_read == (1 if caches else summary.passes) * N_ROWS * 24
    notes = [event.detail for event in told if isinstance(event, Message) and "data.cache" in event.detail]
    assert len(notes) == 1
    assert ("r.zarr-cache" in notes[0]) == caches
    assert "decode" in notes[0]


def test_a_cache_within_the_data_is_refused(tmp_path, sources):
    folder = tmp_path / "rows"
    folder.mkdir()
    pd.DataFrame({"a": np.arange(100.0), "b": np.arange(100.0) ** 2}).to_parquet(folder / "0.parquet")
    with pytest.raises(UserError, match=names("rows")):
        run(job(folder, tmp_path, cache=str(Path(folder) / "fast")))
