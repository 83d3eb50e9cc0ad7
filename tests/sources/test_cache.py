"""The cache of a run: a slow source is read once, the result is the same, and nothing stays."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from disks import files_of_at_most
from gmm_dask import UserError
from messages import names
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.fit.plan import estimate_job
from pipeline.progress import PassDone
from pipeline.sources import cache
from pipeline.sources.cache import cache_bytes, cache_folder
from pipeline.sources.rows import IN_MEMORY_BYTES
from runs import Stop, stop_at

pytestmark = pytest.mark.usefixtures("unheld")
N_ROWS = 3000


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same rows in two formats, whose chunks are the same."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(centre, 1.0, (N_ROWS // 2, 3)) for centre in (0.0, 6.0)])
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
    whole = {"weights": "w", "chunk_rows": N_ROWS}  # 96,000 bytes: no file of the result is as large
    with files_of_at_most(90_000):
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


def test_what_is_cached(sources, tmp_path, monkeypatch):
    def needed(source="x.csv", **values):
        config = job(sources / source, tmp_path, **values.pop("data", {})).model_copy(update=values)
        return cache_bytes(config, estimate_job(config).source)

    assert N_ROWS * 24 < needed() < 2 * N_ROWS * 32
    assert needed("x.npy") == needed("small-groups.parquet") == needed(data={"cache": "none"}) == 0
    assert needed("x.parquet") == N_ROWS * 24  # its row group would be decoded for each chunk
    assert needed("x.npy", data={"cache": str(tmp_path)}) == N_ROWS * 24
    assert "r.zarr-cache" in estimate_job(job(sources / "x.csv", tmp_path)).cache
    monkeypatch.setattr("pipeline.sources.cache.SHARE", 1e-12)
    assert needed() == 0
    monkeypatch.setattr("pipeline.sources.rows.IN_MEMORY_BYTES", IN_MEMORY_BYTES)
    assert needed(data={"cache": str(tmp_path)}) == 0


def test_a_cache_within_the_data_is_refused(tmp_path, sources):
    folder = tmp_path / "rows"
    folder.mkdir()
    pd.DataFrame({"a": np.arange(100.0), "b": np.arange(100.0) ** 2}).to_parquet(folder / "0.parquet")
    with pytest.raises(UserError, match=names("rows")):
        run(job(folder, tmp_path, cache=str(Path(folder) / "fast")))
