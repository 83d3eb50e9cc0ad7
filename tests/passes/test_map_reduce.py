"""Passes: every chunk read once, one task a chunk, and the same bits whatever runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import reduce
from operator import add

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counting import CountingRows, TaskNames
from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.passes import rows as rows_module
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import as_rows
from mixtures import assert_identical, assert_same_parameters, inits_of, random_parameters

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def row_sums(rows, weights, shared, number):
    return [(number, float(np.sum(rows)) * shared)]


# -- reads and tasks ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_chunks", [1, 7, 8, 9, 70])
def test_results_merge_in_the_chunks_order(n_chunks):
    X = np.arange(2.0 * n_chunks).reshape(n_chunks, 2)
    found = map_reduce(as_rows(da.from_array(X, chunks=(1, 2))), row_sums, 3.0, "sums")
    assert found == [(i, 3 * X[i].sum()) for i in range(n_chunks)]


def test_merges_are_a_tree():
    X = np.random.RandomState(0).rand(70, 1) * 10.0 ** np.arange(70)[:, None]
    found = map_reduce(as_rows(da.from_array(X, chunks=(1, 1))), lambda rows, *_: rows[0, 0], None, "sums")
    level = list(X[:, 0])
    while len(level) > 1:  # 70 -> 35 -> 18 -> ... -> 1; each order of additions rounds in a way of its own
        level = [reduce(add, level[i : i + 2]) for i in range(0, len(level), 2)]
    assert found == level[0]


FORKED = r"""
import os
import dask, dask.array as da
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import as_rows

def work(rows, weights, shared, number):
    return number

def told(graph, keys, **options):
    os.write(1, f"{keys[0]}\n".encode())
    return dask.get(graph, keys)

rows = as_rows(da.zeros((2, 2), chunks=(1, 2)))
for _ in range(2):
    if not (child := os.fork()):
        with dask.config.set(scheduler=told):
            map_reduce(rows, work, None, "sums")
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_passes_of_forked_processes_have_keys_of_their_own():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    one, other = done.stdout.splitlines()
    assert one != other


@pytest.mark.parametrize("chunks", [(50, 2), (40, 1), (33, 2), (600, 2)], ids=str)
def test_a_pass_reads_each_chunk_once(blobs, chunks):
    data = CountingRows(blobs)
    GaussianMixture(3, n_init=4, tol=0, max_iter=5, random_state=0).fit(data.as_dask(chunks))
    assert data.reads == 1 + 5  # pass 0, and a pass an iteration for all starts


def test_a_search_shares_its_reads(blobs):
    data = CountingRows(blobs)
    search = GaussianMixtureSearch(range(1, 5), n_init=3, init_params="kmeans", tol=0, max_iter=4, random_state=0)
    search.fit(data.as_dask((100, 2)))
    assert len(search.results_) == 16
    assert data.reads == 1 + 4 + 1


def test_scores_read_once(blobs):
    data = CountingRows(blobs)
    fitted = GaussianMixture(3, random_state=0).fit(blobs)
    for n, method in enumerate((fitted.score, fitted.bic, fitted.aic, fitted.icl), start=1):
        method(data.as_dask((50, 2)))
        assert data.reads == n


@pytest.mark.parametrize("weighted", [False, True])
def test_one_task_a_chunk(blobs, weighted):
    X = CountingRows(blobs).as_dask((50, 2))
    weights = da.ones(600, chunks=50) if weighted else None
    with TaskNames() as tasks:
        GaussianMixture(2, tol=0, max_iter=3, random_state=0).fit(X, sample_weight=weights)
    counts = Counter(tasks.names)
    assert counts.pop("data-summary") == 12
    assert counts.pop("statistics") == 3 * 12
    assert counts.pop("merge") == 4 * 2  # 8 of 12, and their sum with the other 4, a pass
    counts.pop("parameters", None)
    assert not counts


def test_work_on_a_chunk_before_the_fit_is_fused_too(blobs):
    X = (CountingRows(blobs).as_dask((50, 2)) * 2 + 1).astype("float64")
    with TaskNames() as tasks:
        GaussianMixture(2, tol=0, max_iter=1, random_state=0).fit(X)
    assert set(tasks.names) <= {"data-summary", "statistics", "merge", "parameters"}


def test_small_arrays_need_no_graph(blobs):
    with TaskNames() as tasks:
        GaussianMixture(3, random_state=0).fit(blobs).predict(blobs)
    assert tasks.names == []


@pytest.mark.parametrize("n_threads", [1, 3])
def test_large_numpy_arrays_are_cut_into_chunks(monkeypatch, blobs, n_threads):
    monkeypatch.setattr(rows_module, "CHUNK_BYTES", 8 * 2 * 100)
    weights, seen = np.arange(600.0), []

    def function(rows, weights, shared, number):
        seen.append(threading.get_ident())
        time.sleep(0.01)
        return [(number, len(rows), rows[0, 0], weights[0], shared)]

    with dask.config.set(num_workers=n_threads), TaskNames() as tasks:
        found = map_reduce(as_rows(blobs, weights), function, 5, "sums")
    assert found == [(i, 100, blobs[100 * i, 0], 100.0 * i, 5) for i in range(6)]
    assert tasks.names == []
    assert (len(set(seen)) > 1) == (n_threads > 1)


def test_the_chunks_of_numpy_arrays_are_few(blobs, monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK_BYTES", 1)
    numbers = map_reduce(as_rows(blobs), lambda rows, weights, shared, number: [number], 0, "n")
    assert len(numbers) <= rows_module.MOST_CHUNKS


def test_parameters_travel_once(blobs):
    """What the driver sends is one key of the graph, not a copy in each task."""
    shared = np.arange(3.0)
    seen = []

    def function(rows, weights, shared, number):
        seen.append(id(shared))
        return [number]

    map_reduce(as_rows(da.from_array(blobs, chunks=(50, 2))), function, shared, "sums")
    assert set(seen) == {id(shared)}


# -- the same result ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def many_rows():
    """More rows than one chunk of a NumPy array takes (4 MiB)."""
    rng = np.random.RandomState(0)
    return rng.standard_normal((200_000, 4)) + rng.randint(0, 3, (200_000, 1)) * 3


@pytest.mark.parametrize("kind", ["numpy", "dask"])
def test_threads_do_not_change_a_bit(many_rows, covariance_type, kind):
    X = many_rows if kind == "numpy" else da.from_array(many_rows, chunks=(17_000, 4))
    inits = inits_of(covariance_type, random_parameters(covariance_type, 3, 4))
    fits = []
    for n_threads in (1, 2, 4):
        with dask.config.set(scheduler="threads", num_workers=n_threads):
            mixture = GaussianMixture(3, covariance_type=covariance_type, max_iter=4, **inits).fit(X)
            fits.append((mixture, np.asarray(mixture.score_samples(X)), mixture.bic(X)))
    for mixture, log_density, bic in fits[1:]:
        assert_identical(mixture, fits[0][0])
        np.testing.assert_array_equal(log_density, fits[0][1])
        assert bic == fits[0][2]


def test_threads_do_not_change_a_search(blobs):
    X, tables = da.from_array(blobs, chunks=(37, 2)), []
    for n_threads in (1, 2, 4):
        with dask.config.set(scheduler="threads", num_workers=n_threads):
            tables.append(
                GaussianMixtureSearch(range(1, 5), n_init=2, init_params="kmeans", random_state=0).fit(X).results_
            )
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], check_exact=True)


def test_threads_do_not_change_the_sample_of_rows(many_rows, monkeypatch):
    monkeypatch.setattr("gmm_dask.passes.data_summary.SAMPLE_ROWS", 3000)
    X, fits = da.from_array(many_rows, chunks=(17_000, 4)), []
    for n_threads in (1, 4):
        with dask.config.set(scheduler="threads", num_workers=n_threads):
            fits.append(GaussianMixture(3, max_iter=3, random_state=0).fit(X))
    assert_identical(*fits)


@settings(max_examples=12)
@given(cuts=st.lists(st.integers(1, 599), unique=True, max_size=12).map(sorted), weighted=st.booleans())
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_any_chunking(covariance_type, init_params, blobs, cuts, weighted):
    chunks = tuple(np.diff([0, *cuts, 600]).tolist())
    weights = np.random.RandomState(0).uniform(0.5, 2, 600) if weighted else None
    settings_ = {"covariance_type": covariance_type, "init_params": init_params, "random_state": 0}
    whole = GaussianMixture(3, **settings_).fit(blobs, sample_weight=weights)
    parts = GaussianMixture(3, **settings_).fit(da.from_array(blobs, chunks=(chunks, 2)), sample_weight=weights)
    assert parts.n_iter_ == whole.n_iter_
    assert_same_parameters(parts, whole, rtol=1e-9)
    np.testing.assert_allclose(parts.lower_bounds_, whole.lower_bounds_, rtol=1e-9)


def test_empty_chunks_do_no_harm(blobs):
    X = da.concatenate([da.from_array(blobs, chunks=(200, 2))[:0], da.from_array(blobs, chunks=(200, 2))])
    X = X[da.ones(len(X), chunks=X.chunks[0], dtype=bool)]
    fitted = GaussianMixture(3, random_state=0).fit(X)
    assert_same_parameters(fitted, GaussianMixture(3, random_state=0).fit(blobs))
