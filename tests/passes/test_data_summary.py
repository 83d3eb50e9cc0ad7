from __future__ import annotations

import itertools
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.errors import UnusableError, UserError
from gmm_dask.passes import data_summary as data_summary_module
from gmm_dask.passes.data_summary import Draw, finish_summary, sample_limit, summarize_chunk
from messages import names
from mixtures import random_rows


def summary_of(X, weights=None, cuts=(), seed=0, drop=False):
    edges = [0, *sorted(cuts), len(X)]
    chunks = [slice(*edge) for edge in itertools.pairwise(edges)]
    draw = Draw(seed, 1.0, tuple(edges[:-1]))
    parts = [summarize_chunk(X[c], None if weights is None else weights[c], draw, n) for n, c in enumerate(chunks)]
    return finish_summary(reduce(add, parts), drop=drop)


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 90), max_size=6), weighted=st.booleans(), offset=st.sampled_from([0, 1e6]))
def test_moments_of_any_chunks(cuts, weighted, offset):
    X = random_rows(90, 3)
    weights = np.random.RandomState(0).uniform(0, 2, 90) if weighted else None
    found = summary_of(X + offset, weights, cuts)
    center = np.average(X, axis=0, weights=weights)
    scatter = ((X - center).T * (1 if weights is None else weights)) @ (X - center)
    rounding = 1e-15 * offset
    assert found.n_rows == 90
    assert found.total_weight == pytest.approx(90 if weights is None else weights.sum(), rel=1e-14)
    np.testing.assert_allclose(found.center - offset, center, atol=1e-13 + rounding)
    np.testing.assert_allclose(found.scatter, scatter, atol=1e-10 + 1e3 * rounding)
    np.testing.assert_array_equal(found.minimum, (X + offset).min(axis=0))
    np.testing.assert_array_equal(found.maximum, (X + offset).max(axis=0))
    assert sum(found.chunk_rows) == 90
    np.testing.assert_array_equal(found.sample, X + offset)


def test_few_rows_are_all_in_the_sample_in_order():
    X, weights = random_rows(50, 2), np.arange(1.0, 51.0)
    found = summary_of(X, weights, cuts=(20, 20, 35))
    assert found.chunk_rows == (20, 0, 15, 15)
    np.testing.assert_array_equal(found.sample, X)
    np.testing.assert_array_equal(found.sample_weights, weights)


def test_the_sample_is_drawn_from_all_chunks_alike(monkeypatch):
    monkeypatch.setattr(data_summary_module, "SAMPLE_ROWS", 40)
    X, drawn = np.arange(400.0)[:, None], np.zeros(400)
    for seed in range(200):
        found = summary_of(X, X[:, 0] + 1, cuts=(30, 300), seed=seed)
        rows = found.sample[:, 0].astype(int)
        assert len(rows) == 40
        assert (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(found.sample_weights, rows + 1)
        drawn[rows] += 1
    shares = [drawn[:30].mean(), drawn[30:300].mean(), drawn[300:].mean()]
    np.testing.assert_allclose(shares, 20, atol=2)


def test_the_sample_depends_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr(data_summary_module, "SAMPLE_ROWS", 40)
    X = random_rows(400, 2)
    first, again, other = (summary_of(X, cuts=(100, 200), seed=seed).sample for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 400), max_size=6))
def test_the_sample_does_not_depend_on_the_chunks(cuts):
    X = np.arange(400.0)[:, None]
    X[::7] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_summary_module, "SAMPLE_ROWS", 40)
        whole, cut = summary_of(X, drop=True), summary_of(X, cuts=cuts, drop=True)
    np.testing.assert_array_equal(cut.sample, whole.sample)


def test_priorities_belong_to_rows_and_not_to_chunks():
    whole = Draw(3, 1.0, (0,)).priorities(0, 50)
    for start in range(9):
        np.testing.assert_array_equal(Draw(3, 1.0, (start,)).priorities(0, 20), whole[start : start + 20])
    unknown = [Draw(3, 1.0, None).priorities(number, 50) for number in range(2)]
    np.testing.assert_array_equal(unknown[0], whole)
    assert not set(unknown[0]) & set(unknown[1])


# -- rows that are not usable --------------------------------------------------------------------------------


def _with_holes():
    X, weights = random_rows(60, 3), np.arange(60.0)
    X[[3, 3, 40], [0, 2, 1]] = np.nan
    X[59, 0] = np.inf
    weights[7] = np.nan
    return X, weights


@pytest.mark.parametrize("cuts", [(), (4,), (3, 4, 59)])
def test_unusable_rows_are_left_out_and_counted(cuts):
    X, weights = _with_holes()
    usable = np.setdiff1d(np.arange(60), [3, 7, 40, 59])
    found, expected = summary_of(X, weights, cuts, drop=True), summary_of(X[usable], weights[usable])
    assert (found.n_rows, found.total_weight) == (56, expected.total_weight)
    np.testing.assert_allclose(found.center, expected.center, rtol=1e-14)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-13)
    np.testing.assert_array_equal(found.sample, expected.sample)
    assert sum(found.read_rows) == 60
    assert found.unusable.n_rows == 4
    assert found.unusable.columns.tolist() == [2, 1, 1]
    assert found.unusable.weights == 1


def test_chunks_without_a_usable_row():
    X = random_rows(30, 2)
    X[10:20] = np.nan
    found = summary_of(X, cuts=(10, 20), drop=True)
    assert found.chunk_rows == (10, 0, 10)
    assert found.read_rows == (10, 10, 10)
    np.testing.assert_array_equal(found.minimum, np.nanmin(X, axis=0))


def test_unusable_rows_are_refused_with_their_number():
    X, weights = _with_holes()
    with pytest.raises(UnusableError, match=names("4 of 60 rows", "2 in column 0", "1 in column 1", "1 in column 2")):
        summary_of(X, weights, cuts=(20,))


@pytest.mark.parametrize(("value", "drop"), [(-1.0, True), (np.nan, False), (np.inf, False)])
def test_weights_that_are_no_weights(value, drop):
    weights = np.ones(20)
    weights[3] = value
    with pytest.raises(UserError, match=names("1 sample weights", "negative")):
        summary_of(random_rows(20, 2), weights, drop=drop)


def test_no_usable_row():
    with pytest.raises(UserError, match=names("no rows", "usable", 5)):
        summary_of(np.full((5, 2), np.nan), drop=True)
    with pytest.raises(UserError, match=names("no rows", "5 in column 1")):
        summary_of(np.column_stack([np.arange(5.0), np.full(5, np.nan)]), drop=True)


def test_merging_associates_in_the_sample_too(monkeypatch):
    monkeypatch.setattr(data_summary_module, "SAMPLE_ROWS", 40)
    X = random_rows(300, 2)
    a, b, c = (summarize_chunk(part, None, Draw(5, 1.0, None), n) for n, part in enumerate(np.split(X, [100, 200])))
    left, right = (a + b) + c, a + (b + c)
    np.testing.assert_array_equal(left.sample.rows, right.sample.rows)
    np.testing.assert_allclose(left.moments.scatter, right.moments.scatter, rtol=1e-12)


def test_the_sample_has_a_limit_in_bytes():
    assert sample_limit(2) == 2**18
    assert sample_limit(8) == 2**18
    assert sample_limit(100) * 100 * 8 <= 16 << 20


def test_float32_is_summed_in_float64():
    X = (random_rows(10_000, 2) + 1000).astype(np.float32)
    found = summary_of(X, cuts=(3000,))
    np.testing.assert_allclose(found.center, X.astype(np.float64).mean(axis=0), rtol=1e-12)
    assert found.sample.dtype == found.center.dtype == np.float64


def test_a_ceiling_on_the_priorities_leaves_the_sample_as_it_is():
    """Where the number of rows is known, chunks send less; the same rows are drawn."""
    n_rows = 3 * sample_limit(8)
    X = np.random.default_rng(0).normal(size=(n_rows, 8))
    chunks = np.array_split(X, 5)
    starts = [0, *np.cumsum([len(chunk) for chunk in chunks])[:-1].tolist()]
    parts = [
        [summarize_chunk(c, None, draw, n) for n, c in enumerate(chunks)]
        for draw in (Draw(1, 1.0, starts), Draw.of(n_rows, 8, 1, starts))
    ]
    assert sum(len(part.sample.rows) for part in parts[1]) < 1.1 * sample_limit(8)
    unknown, known = (finish_summary(reduce(add, found)) for found in parts)
    assert len(known.sample) == sample_limit(8)
    np.testing.assert_array_equal(known.sample, unknown.sample)
