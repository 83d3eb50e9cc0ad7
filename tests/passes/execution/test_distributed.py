"""A cluster of processes gives the bits of threads, also when a worker is killed in the middle of a fit."""

import os
import signal
import threading
import time
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, default_client, get_worker

import alive
from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.em.verbose import FitPrinter
from gmm_dask.passes.execution.graph import keep_in_runs
from gmm_dask.passes.execution.merge_tree import cut_into_runs
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.rows import as_rows
from messages import names
from prefects import until

N_CHUNKS = 20
PASSES = 20


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(11)
    groups = [random.normal(center, 1.0, (2000, 3)) for center in (-3.0, 0.0, 2.5)]
    return da.from_array(random.permutation(np.concatenate(groups)), chunks=(6000 // N_CHUNKS, -1))


@pytest.fixture(scope="module")
def on_threads(rows):
    """What the fits below end with on the threads of this process, which no client has taken over yet."""
    return fitted_mixture(rows), fitted_search(rows)


@pytest.fixture(scope="module")
def cluster(on_threads):
    """Two worker processes of one thread each, to which all that Dask computes goes."""
    workers = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with LocalCluster(**workers, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
        yield cluster


def fitted_mixture(rows, verbose=0):
    mixture = GaussianMixture(3, tol=0.0, max_iter=PASSES, random_state=0, verbose=verbose)
    with pytest.warns(match=names("max_iter")):
        return mixture.fit(rows)


def fitted_search(rows):
    settings = {"n_init": 2, "init_params": "kmeans", "random_state": 0, "noise": [False, True]}
    return GaussianMixtureSearch([2, 3], ["full", "diag", "VVE"], **settings).fit(rows)


def assert_same_bits(mixture, other):
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        np.testing.assert_array_equal(getattr(mixture, name), getattr(other, name), err_msg=name)


def test_a_mixture_has_the_bits_of_threads(rows, on_threads, cluster):
    assert rows.numblocks[0] == N_CHUNKS
    assert_same_bits(fitted_mixture(rows), on_threads[0])
    counts = cluster.scheduler.task_prefixes["statistics"].state_counts
    runs = len(cut_into_runs(N_CHUNKS, 2))
    assert N_CHUNKS > runs == counts["memory"] / PASSES  # the workers did it, several chunks in a task


def test_a_search_has_the_bits_of_threads(rows, on_threads, cluster):
    search = fitted_search(rows)
    assert search.best_params_ == on_threads[1].best_params_
    assert search.results_.equals(on_threads[1].results_)
    assert_same_bits(search.best_estimator_, on_threads[1].best_estimator_)


def test_rows_that_the_workers_keep(rows, on_threads, cluster):
    kept = rows.persist()
    assert_same_bits(fitted_mixture(kept), on_threads[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_reading_ahead_changes_no_bit(rows, cluster, weighted):
    weights = da.arange(len(rows), chunks=rows.chunks[0]) if weighted else None
    plain = as_rows(rows.map_blocks(read_by_worker, dtype=rows.dtype), weights)
    found = [map_reduce(replace(plain, reads_ahead=ahead), moments, None, "moments") for ahead in (False, True)]
    np.testing.assert_array_equal(*found)


def read_by_worker(block):
    """A chunk, of a read that knows its worker, as reads do that fail and are repeated."""
    assert get_worker().address
    return block


def moments(chunk, weights, shared, number):
    time.sleep(0.01)
    return chunk.T @ (chunk if weights is None else weights[:, None] * chunk)


def test_a_thread_that_reads_ahead_holds_two_chunks(rows, cluster):
    ahead = replace(as_rows(rows.map_blocks(alive.counted, dtype=rows.dtype)), reads_ahead=True)
    default_client().run(alive.forget)
    map_reduce(ahead, moments, None, "moments")
    held = default_client().run(alive.most)
    assert set(held.values()) == {2}


def test_rows_that_the_workers_keep_are_not_read_ahead(rows, cluster):
    ahead = replace(as_rows(rows), reads_ahead=True)
    assert not keep_in_runs(ahead, default_client().persist, 2).reads_ahead


def numbered(chunk, weights, shared, number):
    return [(number, chunk.sum(), weights.sum())]


def test_a_run_of_chunks_is_kept_as_one(rows, cluster):
    weights = da.arange(len(rows), chunks=rows.chunks[0])
    kept = keep_in_runs(as_rows(rows, weights), default_client().persist, 2)
    found = map_reduce(kept, numbered, None, "kept-sums")
    assert found == map_reduce(as_rows(rows, weights), numbered, None, "sums")
    assert [number for number, *_ in found] == list(range(N_CHUNKS))
    counts = {name: cluster.scheduler.task_prefixes[name].state_counts for name in ("kept-sums", "read-chunk")}
    assert counts["kept-sums"]["memory"] == counts["read-chunk"]["memory"] == len(cut_into_runs(N_CHUNKS, 2))


def test_no_worker_holds_more_chunks_than_it_has_threads_and_one(rows, on_threads, cluster):
    """A chunk is read by the task that takes its statistics, and gone with it."""
    read = rows.map_blocks(alive.counted, dtype=rows.dtype, name="read-chunk")
    assert_same_bits(fitted_mixture(read), on_threads[0])
    held = default_client().run(alive.most)
    assert len(held) == 2
    assert all(1 <= most <= 1 + 1 for most in held.values()), held


def test_names_on_the_dashboard(rows, on_threads, cluster):
    kept = rows.map_blocks(np.array, dtype=rows.dtype, name="read-chunk-of-a-test").persist()
    fitted_mixture(kept)
    assert {"read-chunk-of-a-test", "parameters", "statistics", "merge"} <= set(cluster.scheduler.task_prefixes)


def test_a_killed_worker_changes_no_bit(rows, on_threads, cluster, monkeypatch):
    killed = cluster.workers[0].pid

    def kill_in_next_pass(printer, states):
        if states[0].n_iter == PASSES // 2:
            threading.Timer(0.02, os.kill, (killed, signal.SIGKILL)).start()

    monkeypatch.setattr(FitPrinter, "_after_pass", kill_in_next_pass)
    assert_same_bits(fitted_mixture(rows, verbose=1), on_threads[0])  # told of each pass
    until(lambda: cluster.workers[0].pid not in (None, killed), "another process in the place of the killed one", 60)
