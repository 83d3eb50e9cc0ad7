"""Automatic chunks: worth a task, within the memory, and the same when a job goes on."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

import pipeline.sources.rows
from gmm_dask import UserError
from gmm_dask.memory import CHUNK_COPIES, IMPORTS_BYTES
from messages import names
from pipeline.config.job import JobConfig
from pipeline.dask_clusters import machine_of
from pipeline.fit.chunking import TASK_SECONDS, chunk_sizes, min_task_rows, open_job
from pipeline.fit.job import run
from pipeline.fit.plan import data_shape, estimate_job
from pipeline.progress import PassDone
from pipeline.store import open_result

MIB = 2**20


def job(path="x.npy", memory="1GiB", store="r.zarr", **search):
    return JobConfig.model_validate(
        {
            "data": {"source": str(path)},
            "search": search,
            "cluster": {"memory_limit": memory},
            "output": {"store": str(store), "report": False},
        }
    )


@pytest.fixture
def large(tmp_path):
    """A header of 100 M rows x 8, and nothing else: 6.4 GB that take no space."""
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=float, shape=(10**8, 8))
    return path


def test_more_candidates_make_a_row_worth_more():
    few, many = job(n_components=[2], covariance_types=["diag"]), job(n_components={"min": 1, "max": 9}, n_init=5)
    assert min_task_rows(few, 8) > 500_000
    assert 5_000 < min_task_rows(many, 8) < 60_000
    assert min_task_rows(many, 30) < min_task_rows(many, 8)


@pytest.mark.parametrize("memory", ["700MiB", "1GiB", "2GiB", "16GiB"])
def test_chunks_fit_the_memory_limit(large, tmp_path, memory):
    config = job(large, memory, tmp_path / "r.zarr")
    source = open_job(config)
    n_bytes = 8 * 8 * source.chunk_rows
    limit = config.cluster.memory_bytes
    assert MIB <= n_bytes <= 64 * MIB
    assert 4 * CHUNK_COPIES * n_bytes <= limit - IMPORTS_BYTES
    assert machine_of(config, data_shape(config, source)).threads >= 1
    if memory != "700MiB":
        assert source.chunk_rows >= min_task_rows(config, 8)


def test_more_memory_makes_larger_chunks(large, tmp_path):
    rows = [open_job(job(large, memory, tmp_path / "r.zarr")).chunk_rows for memory in ("700MiB", "1GiB", "4GiB")]
    assert rows == sorted(set(rows))


def test_row_groups_that_would_not_fit_are_read_in_parts(tmp_path):
    pd.DataFrame(np.zeros((1_000_000, 8)), columns=list("abcdefgh")).to_parquet(tmp_path / "x.parquet")
    path = tmp_path / "x.parquet"
    assert open_job(job(path, "2GiB", tmp_path / "r.zarr")).array.numblocks[0] == 1
    assert open_job(job(path, "700MiB", tmp_path / "r.zarr")).array.numblocks[0] >= 3


def test_storage_chunks_are_whole(tmp_path):
    stored = zarr.create_array(tmp_path / "x.zarr", shape=(2_000_000, 2), chunks=(70_001, 2), dtype="f8")
    lengths = open_job(job(tmp_path / "x.zarr", store=tmp_path / "r.zarr")).array.chunks[0]
    assert all(length % stored.chunks[0] == 0 for length in lengths[:-1])


@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_a_storage_chunk_that_does_not_fit_is_refused_before_it_is_read(tmp_path, kind):
    path, shape = tmp_path / f"x.{kind}", (200_000, 1000)  # 1.6 GB in one chunk, which is not written
    if kind == "zarr":
        zarr.create_array(path, shape=shape, chunks=shape, dtype="f8")
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", shape=shape, chunks=shape, dtype="f8")
    config = job(path, "2GiB", tmp_path / "r.zarr", init_params="kmeans")
    config = config.model_copy(update={"data": config.data.model_copy(update={"columns": ("x0", "x999")})})
    with pytest.raises(UserError, match=names("cluster.memory_limit", "2,048 MiB", "to read", "storage chunks")):
        estimate_job(config)


class Stop(Exception):
    pass


def stop(event):
    if isinstance(event, PassDone) and event.number == 3:
        raise Stop


@pytest.mark.parametrize("kind", ["npy", "csv"])
def test_a_job_goes_on_in_the_chunks_that_it_began_with(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    rows = np.random.default_rng(0).normal(size=(60_000, 8))
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, rows)
    else:
        pd.DataFrame(rows, columns=list("abcdefgh")).round(2).to_csv(path, index=False)
    search = {"n_components": [2], "covariance_types": ["diag"], "init_params": "kmeans", "tol": 0.0, "max_iter": 6}
    small, larger = (job(path, memory, tmp_path / "r.zarr", **search) for memory in ("610MiB", "8GiB"))
    n_chunks = open_job(small).array.numblocks[0]
    assert n_chunks > open_job(larger).array.numblocks[0]
    with pytest.raises(Stop):
        run(small, progress=stop, checkpoint_seconds=0.0)
    assert open_job(larger).array.numblocks[0] == n_chunks
    assert open_job(larger, fresh=True).array.numblocks[0] < n_chunks
    found = run(larger, checkpoint_seconds=0.0)
    assert open_result(found.store).data["chunks"] == chunk_sizes(small, open_job(small))
    whole = run(job(path, "610MiB", tmp_path / "whole.zarr", **search), checkpoint_seconds=0.0)
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)


@pytest.mark.slow
def test_an_automatic_chunk_takes_its_time(tmp_path, monkeypatch):
    """Fifty milliseconds of work, by the clock; a faster processor or a busy one may differ by a few times."""
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3_000_000, 4)))
    config = job(
        tmp_path / "x.npy",
        "4GiB",
        tmp_path / "r.zarr",
        n_components=[4],
        covariance_types=["full"],
        max_iter=4,
        tol=0.0,
    )
    seconds = []
    run(config, progress=lambda event: seconds.append(event.seconds) if isinstance(event, PassDone) else None)
    source = open_job(config)
    threads = machine_of(config, data_shape(config, source)).threads
    each = min(seconds) * min(threads, source.array.numblocks[0]) / source.array.numblocks[0]
    assert 0.4 * TASK_SECONDS < each < 20 * TASK_SECONDS
