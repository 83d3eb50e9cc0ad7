"""The sums of a pass: right, additive, and the same in any batch, block, chunking and order."""

from __future__ import annotations

import itertools
import pickle
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive
from gmm_dask.families import get_family
from gmm_dask.passes import model_batch as batch_module
from gmm_dask.passes.model_batch import build_batch, chunk_sums, unpack_sums, unpack_totals
from gmm_dask.passes.predict import predict_chunk
from mixtures import (
    assert_same_parameters,
    assert_same_statistics,
    beside_noise,
    every_model,
    moments,
    random_parameters,
    random_rows,
)

N_ROWS = 150


def statistics(models, X, weights=None, cuts=(), order=None):
    """Statistics of rows cut into chunks, their sums merged in ``order``."""
    batch = build_batch(models, *moments(X, weights))
    edges = [0, *sorted(cuts), len(X)]
    chunks = [slice(*edge) for edge in itertools.pairwise(edges)]
    sums = [chunk_sums(X[c], None if weights is None else weights[c], batch) for c in chunks]
    return unpack_sums(batch, reduce(add, [sums[i] for i in (order or range(len(sums)))]))


@pytest.fixture(params=[False, True], ids=["feature map", "centred"])
def kernel(request, monkeypatch):
    """Both ways of computing, by moving the guard."""
    monkeypatch.setattr(batch_module, "MAX_KAPPA", -1.0 if request.param else np.inf)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("n_features", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_em_step_matches_loops(covariance_type, n_features, weighted):
    X, parameters = random_rows(N_ROWS, n_features), random_parameters(covariance_type, 3, n_features)
    weights = np.random.RandomState(2).uniform(0, 3, N_ROWS) if weighted else None
    family = get_family(covariance_type)
    [found] = statistics([(family, parameters)], X, weights)
    rows, row_weights = naive.numbers(X), None if weights is None else weights.tolist()
    resp, densities = naive.e_step(rows, naive.model_of(covariance_type, parameters))
    expected = naive.m_step(covariance_type, rows, resp, row_weights, 1e-6)
    assert found.log_likelihood == pytest.approx(np.dot(densities, np.ones(N_ROWS) if weights is None else weights))
    s0, _, _ = naive.sums_about(rows, resp, parameters.means.tolist(), row_weights)
    np.testing.assert_allclose(found.s0, s0, rtol=1e-11)
    assert_same_parameters(family.maximise(found, 1e-6), naive.parameters_of(covariance_type, expected), rtol=1e-10)


@pytest.mark.usefixtures("kernel")
def test_answers_match_loops(covariance_type):
    X, parameters = random_rows(N_ROWS, 3), random_parameters(covariance_type, 4, 3)
    batch = build_batch([(get_family(covariance_type), parameters)], *moments(X), densities=True)
    found = predict_chunk(X, batch, ["label", "log_density", "responsibility"])
    resp, densities = naive.e_step(naive.numbers(X), naive.model_of(covariance_type, parameters))
    np.testing.assert_allclose(found["responsibility"], resp, atol=1e-12)
    np.testing.assert_allclose(found["log_density"], densities, rtol=1e-12)
    np.testing.assert_array_equal(found["label"], np.argmax(resp, axis=1))


@pytest.mark.usefixtures("kernel")
def test_totals_without_statistics_are_the_same():
    models, X = every_model(3), random_rows(N_ROWS, 3)
    batch = build_batch(models, *moments(X))
    totals = unpack_totals(batch, chunk_sums(X, None, batch, statistics=False))
    for found, expected, (family, parameters) in zip(totals, statistics(models, X), models, strict=True):
        resp, _ = naive.e_step(naive.numbers(X), naive.model_of(family.name, parameters))
        assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)
        assert found.log_top == pytest.approx(np.log(np.max(resp, axis=1)).sum(), abs=1e-9)


def test_a_batch_gives_each_model_what_it_gets_alone():
    models, X = every_model(3), random_rows(N_ROWS, 3)
    alone = [statistics([model], X)[0] for model in models]
    assert_same_statistics(statistics(models, X), alone, rtol=1e-12)


def test_models_stand_side_by_side_as_long_as_blocks_have_their_rows(covariance_type, monkeypatch):
    family, X = get_family(covariance_type), random_rows(N_ROWS, 3)
    models = [(family, random_parameters(covariance_type, k, 3, seed=k)) for k in (3, 1, 2, 6)]
    whole = statistics(models, X)
    monkeypatch.setattr(batch_module, "MOST_COMPONENTS", 4)
    batch = build_batch(models, *moments(X))
    assert [group.members for group in batch.groups] == [(0, 1), (2,), (3,)]
    assert_same_statistics(statistics(models, X), whole)


def test_centred_and_mapped_models_share_a_batch():
    X = random_rows(N_ROWS, 2)
    tight = [(f, f.parameters(p.all_weights, p.means, p.covariances * 1e-9)) for f, p in every_model(2)]
    models = [model for pair in zip(every_model(2), tight, strict=True) for model in pair]
    batch = build_batch(models, *moments(X))
    assert batch.centred == tuple(range(1, len(models), 2))
    assert_same_statistics(statistics(models, X), [statistics([model], X)[0] for model in models], rtol=1e-12)


def test_blocks_do_not_matter(monkeypatch):
    models, X = every_model(3), random_rows(N_ROWS, 3)
    whole = statistics(models, X)
    monkeypatch.setattr(batch_module, "BLOCK_BYTES", 1)
    [group, *_] = build_batch(models, *moments(X)).groups
    assert group.workspace(N_ROWS)[0].shape[1] < N_ROWS
    assert_same_statistics(statistics(models, X), whole, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_parts_of_the_components_do_not_matter(monkeypatch, dtype):
    """The last part is not full, and there are several blocks and panels."""
    X = random_rows(1000, 32).astype(dtype)
    model = get_family("full"), random_parameters("full", 130, 32)
    cut = build_batch([model], *moments(X), dtype=np.dtype(dtype))
    monkeypatch.setattr(batch_module, "MOST_COMPONENTS", 130)
    whole = build_batch([model], *moments(X), dtype=np.dtype(dtype))
    assert [batch.groups[0].eta.shape for batch in (cut, whole)] == [(2, 561, 112), (1, 561, 130)]
    assert {batch.groups[0].eta.dtype for batch in (cut, whole)} == {np.dtype(dtype)}
    found, expected = (predict_chunk(X, batch, ["label", "log_density", "responsibility"]) for batch in (cut, whole))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    expected = chunk_sums(X, None, whole)
    monkeypatch.undo()
    found = chunk_sums(X, None, cut)
    rtol = 1e-12 if dtype is np.float64 else 1e-6
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=rtol)
    largest = np.abs(expected.groups[0]).max()
    np.testing.assert_allclose(found.groups[0], expected.groups[0], rtol=rtol, atol=rtol * largest)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_components", [20, 97, 1000])
def test_block_memory_is_bounded(n_components, dtype):
    names = ["full", "tied", "diag", "spherical"]  # each slice of the feature map
    models = [(get_family(name), random_parameters(name, n_components, 30)) for name in names]
    models += [beside_noise(*model) for model in models]
    batch = build_batch(models, np.zeros(30), np.eye(30), dtype=np.dtype(dtype))
    for group in batch.groups:
        n_bytes = sum(memory.nbytes for memory in group.workspace(10**6))
        assert n_bytes <= batch_module.block_bytes(group.n_lines, group.n_components)
        assert n_components > batch_module.MOST_COMPONENTS or n_bytes <= batch_module.BLOCK_BYTES


chunkings = st.lists(st.integers(0, N_ROWS), max_size=8)


@pytest.mark.usefixtures("kernel")
@settings(max_examples=25)
@given(cuts=chunkings, seed=st.integers(0, 2**31 - 1), weighted=st.booleans())
def test_any_chunking_and_any_row_order(cuts, seed, weighted):
    models, X = every_model(2), random_rows(N_ROWS, 2)
    weights = np.random.RandomState(1).uniform(0, 2, N_ROWS) if weighted else None
    rows = np.random.RandomState(seed).permutation(N_ROWS)
    shuffled = statistics(models, X[rows], None if weights is None else weights[rows], cuts)
    assert_same_statistics(shuffled, statistics(models, X, weights), rtol=1e-11)


@settings(max_examples=25)
@given(cuts=chunkings, data=st.data())
def test_merging_commutes(cuts, data):
    models, X = every_model(2), random_rows(N_ROWS, 2)
    order = data.draw(st.permutations(range(len(cuts) + 1)))
    assert_same_statistics(statistics(models, X, cuts=cuts, order=order), statistics(models, X), rtol=1e-11)


@settings(max_examples=25)
@given(cut=st.tuples(st.integers(0, N_ROWS), st.integers(0, N_ROWS)).map(sorted))
def test_merging_associates(cut):
    models, X = every_model(2), random_rows(N_ROWS, 2)
    batch = build_batch(models, *moments(X))
    a, b, c = (chunk_sums(part, None, batch) for part in np.split(X, cut))
    left, right = (a + b) + c, a + (b + c)
    assert_same_statistics(unpack_sums(batch, left), unpack_sums(batch, right), rtol=1e-12)


def test_merging_leaves_its_arguments_alone():
    X = random_rows(20, 2)
    batch = build_batch(every_model(2), *moments(X))
    part = chunk_sums(X, None, batch)
    before = pickle.dumps(part)
    part + part
    assert pickle.dumps(part) == before


def test_weights_count_as_copies_of_rows():
    models, X = every_model(3), random_rows(N_ROWS, 3)
    weights = np.random.RandomState(1).randint(0, 4, N_ROWS)
    copies = statistics(models, np.repeat(X, weights, axis=0))
    assert_same_statistics(statistics(models, X, weights.astype(float)), copies, rtol=1e-11)
