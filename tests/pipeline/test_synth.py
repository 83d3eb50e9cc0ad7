"""Synthetic mixtures: whole or not there, reproducible, and true to their truth."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

import pipeline.synth
from disks import files_of_at_most
from gmm_dask.errors import FaultError, UserError
from messages import names
from pipeline.synth import Plan, draw_chunks, draw_truth, write_synthetic


def read_back(path):
    if path.suffix == ".zarr":
        return zarr.open_array(str(path), mode="r")[...]
    return np.load(path) if path.suffix == ".npy" else pq.read_table(path).to_pandas().to_numpy()


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pipeline.synth, "CHUNK_BYTES", 8 * 3 * 1000)


@pytest.mark.parametrize("ending", [".zarr", ".npy", ".parquet"])
def test_every_format_holds_the_same_rows(tmp_path, ending, small_chunks):
    plan, told = Plan(2500, 3, 4, seed=5), []
    truth = write_synthetic(tmp_path / f"a{ending}", plan, lambda *counts: told.append(counts))
    rows = read_back(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(rows, np.concatenate(list(draw_chunks(draw_truth(plan), plan))))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert {path.name for path in tmp_path.iterdir()} == {f"a{ending}", truth.name}


def test_the_seed_decides(small_chunks):
    first, same, other = (
        np.concatenate(list(draw_chunks(draw_truth(p), p))) for p in map(lambda s: Plan(1500, 3, 2, s), (1, 1, 2))
    )
    np.testing.assert_array_equal(first, same)
    assert not (first == other).any()
    assert not (first[:500] == first[1000:]).any(), "chunks have streams of their own"


def test_moments_are_the_truths(tmp_path):
    plan = Plan(200_000, 2, 3, seed=1)
    truth = json.loads(write_synthetic(tmp_path / "a.npy", plan).read_text())
    rows = np.load(tmp_path / "a.npy")
    weights, means, covariances = (np.array(truth[name]) for name in ("weights", "means", "covariances"))
    mean = weights @ means
    spread = np.einsum("k,kij->ij", weights, covariances) + np.einsum(
        "k,ki,kj->ij", weights, means - mean, means - mean
    )
    np.testing.assert_allclose(rows.mean(axis=0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(rows.T), spread, rtol=0.02, atol=0.1)


def test_what_stops_half_way_leaves_nothing(tmp_path, small_chunks):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "a.zarr", Plan(2500, 3, 2), stop)
    assert list(tmp_path.iterdir()) == []


def test_data_are_never_without_their_truth(tmp_path, monkeypatch):
    replace = Path.replace

    def killed(self, target):
        if target == tmp_path / "a.npy":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "a.npy", Plan(10, 2, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy-truth.json"]


@pytest.mark.parametrize("ending", [".zarr", ".npy", ".parquet"])
def test_a_full_disk_leaves_nothing(tmp_path, ending):
    out = tmp_path / f"a{ending}"
    with files_of_at_most(4096), pytest.raises(FaultError, match=names(out, "Free some space")):
        write_synthetic(out, Plan(5000, 3, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=names(tmp_path / "file/a.npy", "cannot write")):
        write_synthetic(tmp_path / "file/a.npy", Plan(10, 2, 2))


def test_mistakes(tmp_path):
    for seed in (-1, 2**64):
        with pytest.raises(UserError, match=names("seed", "whole number", seed)):
            write_synthetic(tmp_path / "a.npy", Plan(10, 2, 2, seed))
    (tmp_path / "there.npy").touch()
    with pytest.raises(UserError, match=names(tmp_path / "there.npy", "exists")):
        write_synthetic(tmp_path / "there.npy", Plan(10, 2, 2))
    with pytest.raises(UserError, match=names(".zarr", ".npy", ".parquet")):
        write_synthetic(tmp_path / "a.csv", Plan(10, 2, 2))
    with pytest.raises(UserError, match=names("n_rows", "at least 1")):
        write_synthetic(tmp_path / "a.npy", Plan(0, 2, 2))
