"""Poisson-weighted resamples: drawn by row, and summed up from one read as weighted rows are."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from scipy.stats import poisson

from counting import CountingRows
from gmm_dask.errors import ChangedRowsError
from gmm_dask.passes.data_summary import Moments, summarize_rows
from gmm_dask.passes.holdout import Holdout
from gmm_dask.passes.resampling import (
    Resampling,
    collect_resampled_statistics,
    collect_resampled_totals,
    summarize_resamples,
    summary_of,
)
from gmm_dask.passes.rows import as_rows, hold_out
from gmm_dask.passes.statistics import collect_statistics, collect_totals
from mixtures import assert_same_statistics, every_model, random_rows

N, D, N_RESAMPLES, SEED = 500, 3, 3, 5
CHUNKS = (120, 200, 180)


def counts_of_all(resample, n_rows=N):
    return Resampling(SEED, (0,)).counts(resample, 0, n_rows)


def rows_with_weights(kind):
    X, weights = random_rows(N, D), np.random.default_rng(0).uniform(0, 2, N)
    weights[::7] = 0.0
    weights = weights if "weights" in kind else None
    if "lazy" not in kind:
        return as_rows(X, weights)
    return as_rows(
        da.from_array(X, chunks=(CHUNKS, D)), None if weights is None else da.from_array(weights, chunks=(CHUNKS,))
    )


def weighted_rows(resample, kind, rows):
    """All rows in memory, with how often a resample has them as weights."""
    counts = counts_of_all(resample)
    weights = counts if rows.weights is None else counts * np.asarray(rows.weights)
    found = as_rows(np.asarray(rows.array), weights)
    return hold_out(found, 0.3, SEED) if "held out" in kind else found


def test_counts_are_poisson_numbers():
    n = 200_000
    counts = counts_of_all(0, n)
    expected = poisson.pmf(np.arange(6), 1.0)
    found = np.array([np.mean(counts == k) for k in range(6)])
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / n))
    assert abs(np.corrcoef(counts, counts_of_all(1, n))[0, 1]) < 5 / np.sqrt(n)
    held_out = Holdout(0.5, SEED, (0,)).is_held_out(0, n)
    assert abs(np.corrcoef(counts, held_out)[0, 1]) < 5 / np.sqrt(n)


def test_counts_do_not_depend_on_chunks():
    starts = (0, 120, 320)
    parts = [Resampling(SEED, starts).counts(2, number, n) for number, n in enumerate(CHUNKS)]
    np.testing.assert_array_equal(np.concatenate(parts), counts_of_all(2))


@pytest.mark.parametrize("kind", ["memory", "lazy", "lazy weights", "lazy held out", "weights held out"])
def test_sums_are_those_of_weighted_rows(kind):
    rows = rows_with_weights(kind)
    rows = hold_out(rows, 0.3, SEED) if "held out" in kind else rows
    data_summary, resampling = summarize_rows(rows, seed=0), Resampling.of(rows, SEED)
    resamples = summarize_resamples(rows, data_summary, resampling, N_RESAMPLES)
    models = {number: every_model(D) for number in (0, 2)}
    statistics = collect_resampled_statistics(rows, data_summary, resampling, resamples, models)
    totals = collect_resampled_totals(rows, data_summary, resampling, resamples, models)
    assert list(statistics) == list(totals) == [0, 2]
    for number in models:
        expected = weighted_rows(number, kind, rows)
        summary = summarize_rows(expected, seed=0)
        assert resamples[number].weight == pytest.approx(summary.total_weight)
        np.testing.assert_allclose(resamples[number].mean, summary.center, rtol=1e-12)
        np.testing.assert_allclose(resamples[number].scatter, summary.scatter, rtol=1e-9)
        assert_same_statistics(statistics[number], collect_statistics(expected, summary, models[number]))
        for ours, theirs in zip(totals[number], collect_totals(expected, summary, models[number]), strict=True):
            np.testing.assert_allclose(np.hstack(ours), np.hstack(theirs), rtol=1e-9)


def test_one_read_serves_all_resamples():
    counting = CountingRows(random_rows(N, D))
    rows = as_rows(counting.as_dask((CHUNKS, D)))
    data_summary, resampling = summarize_rows(rows, seed=0), Resampling.of(rows, SEED)
    resamples = summarize_resamples(rows, data_summary, resampling, N_RESAMPLES)
    collect_resampled_statistics(rows, data_summary, resampling, resamples, dict.fromkeys(range(3), every_model(D)))
    assert counting.reads == 3


def test_rows_that_have_changed_are_noticed():
    X = random_rows(N, D)
    rows = as_rows(da.from_array(X, chunks=(100, D)))
    data_summary = summarize_rows(rows, seed=0)
    other = as_rows(da.from_array(X[:-1], chunks=(100, D)))
    with pytest.raises(ChangedRowsError, match=r"500.*499"):
        summarize_resamples(other, data_summary, Resampling.of(other, SEED), 2)


def test_a_summary_takes_the_resample_s_moments():
    data_summary = summarize_rows(as_rows(random_rows(N, D)), seed=0)
    found = summary_of(data_summary, Moments(7.0, np.ones(D), np.eye(D)))
    assert found.total_weight == 7.0
    assert found.n_rows == N
