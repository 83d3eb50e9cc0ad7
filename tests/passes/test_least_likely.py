"""The least likely rows of a pass."""

from __future__ import annotations

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest

from gmm_dask import GaussianMixture
from gmm_dask.errors import ChangedRowsError
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.least_likely import least_likely
from gmm_dask.passes.rows import as_rows, hold_out


@pytest.fixture(scope="module")
def fitted(blobs):
    return GaussianMixture(3, random_state=0).fit(blobs)


def found_in(rows, fitted, most=20):
    return least_likely(rows, summarize_rows(rows, 0), fitted._model, most)


def chunked(X, n_rows, weights=None):
    return as_rows(da.from_array(X, chunks=(n_rows, -1)), weights)


def test_they_are_those_of_the_smallest_densities_in_the_order_of_the_data(blobs, fitted):
    densities = fitted.score_samples(blobs)
    chosen = np.sort(np.argsort(densities)[:20])
    found = found_in(as_rows(blobs), fitted)
    np.testing.assert_array_equal(found.rows, blobs[chosen])
    np.testing.assert_array_equal(found.log_density, densities[chosen])
    np.testing.assert_array_equal(found.weights, np.ones(20))


@pytest.mark.parametrize("n_rows", [1, 7, 100])
def test_chunks_do_not_matter_nor_do_ties(blobs, fitted, n_rows):
    X = np.concatenate([blobs[:100], np.repeat(blobs[:5] + 50.0, 10, axis=0), blobs[:100]])
    whole = found_in(as_rows(X), fitted)
    parts = found_in(chunked(X, n_rows), fitted)
    for name in ("rows", "log_density", "weights"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_rows_without_weight_and_rows_that_are_held_out_are_absent(blobs, fitted):
    X = np.concatenate([blobs, blobs[:30] + 50.0])
    weights = np.where(np.arange(len(X)) < len(blobs), 2.0, 0.0)
    found = found_in(chunked(X, 50, weights), fitted)
    assert found.rows.max() < 40.0
    np.testing.assert_array_equal(found.weights, np.full(20, 2.0))
    rows = hold_out(chunked(X, 50), 0.5, seed=0)
    assert 5 < (found_in(rows, fitted, 30).rows.max(axis=1) > 40.0).sum() < 25


def test_fewer_rows_than_asked_for_are_all(blobs, fitted):
    np.testing.assert_array_equal(found_in(chunked(blobs[:12], 5), fitted).rows, blobs[:12])


def test_rows_that_have_changed_are_noticed(blobs, fitted):
    data_summary = summarize_rows(as_rows(blobs), 0)
    with pytest.raises(ChangedRowsError):
        least_likely(as_rows(blobs + 1.0), data_summary, fitted._model, 20)
    with pytest.raises(ChangedRowsError):
        least_likely(as_rows(blobs), replace(data_summary, n_rows=1), fitted._model, 20)
