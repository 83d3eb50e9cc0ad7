from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import naive
from gmm_dask.families.matrices import pack_quadratic, unpack_scatter
from gmm_dask.kernels.centred import mahalanobis_diagonal, mahalanobis_matrix, scatter_diagonal, scatter_matrix
from gmm_dask.kernels.estep import responsibilities
from gmm_dask.kernels.features import fill_features, n_monomials


@pytest.fixture
def block():
    """A block of rows, feature by feature."""
    return np.random.RandomState(0).standard_normal((3, 40)) * [[1], [2], [5]]


@pytest.fixture
def weights():
    return np.random.RandomState(1).uniform(size=40)


@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_features_are_the_monomials_in_their_order(n_features):
    z = np.random.RandomState(0).standard_normal((n_features, 7))
    phi = np.empty((n_monomials(n_features), 7))
    fill_features(z, phi, squared_norm=True)
    for row, column in zip(z.T, phi.T, strict=True):
        products = [row[a] * row[b] for a in range(n_features) for b in range(a + 1, n_features)]
        np.testing.assert_allclose(column, [sum(row**2), 1, *row, *row**2, *products], rtol=1e-14)


@pytest.mark.parametrize("n_rows", [5, 8])
def test_features_stop_where_the_buffer_does(block, n_rows):
    whole, part = np.empty((n_monomials(3), 40)), np.full((n_rows, 40), np.nan)
    fill_features(block, whole, squared_norm=True)
    fill_features(block, part, squared_norm=False)
    assert np.isnan(part[0]).all()
    np.testing.assert_array_equal(part[1:], whole[1:n_rows])


def test_packed_quadratic_is_the_quadratic_form(block):
    root = np.random.RandomState(2).standard_normal((3, 3))
    precision = root @ root.T
    phi = np.empty((n_monomials(3), 40))
    fill_features(block, phi, squared_norm=False)
    expected = [-0.5 * z @ precision @ z for z in block.T]
    np.testing.assert_allclose(pack_quadratic(precision) @ phi[5:], expected, rtol=1e-12)


def test_unpacked_sums_are_the_scatter(block):
    phi = np.empty((n_monomials(3), 40))
    fill_features(block, phi, squared_norm=False)
    np.testing.assert_allclose(unpack_scatter(phi[5:].sum(axis=1), 3), block @ block.T, rtol=1e-12)


def softmax_of_one(logits):
    """Of one mixture, and rows that weigh alike."""
    return responsibilities(logits, np.array([0, len(logits)]), np.ones(logits.shape[1]))


def test_responsibilities_match_loops():
    logits = np.random.RandomState(3).standard_normal((4, 30)) * 300
    resp = logits.copy()
    (log_density,), (log_top,) = softmax_of_one(resp)
    for i, terms in enumerate(logits.T):
        exact = [naive.EXTENDED.exp(naive.EXTENDED.number(t)) for t in terms]
        np.testing.assert_allclose(resp[:, i], naive.array([e / sum(exact) for e in exact]), rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(log_density[i], float(naive.EXTENDED.log(sum(exact))), rtol=1e-14)
    np.testing.assert_allclose(log_top, np.log(resp.max(axis=0)), atol=1e-15)


def test_responsibilities_of_an_empty_component_are_zero():
    resp = np.array([[-np.inf, -np.inf], [-800.0, 3.0]])
    (log_density,), (log_top,) = softmax_of_one(resp)
    np.testing.assert_array_equal(resp, [[0, 0], [1, 1]])
    np.testing.assert_array_equal(log_density, [-800.0, 3.0])
    np.testing.assert_array_equal(log_top, [0, 0])


def test_responsibilities_of_several_mixtures_with_weights():
    logits, weights = np.random.RandomState(5).standard_normal((9, 20)) * 5, np.arange(20.0)
    edges = np.array([0, 4, 5, 9])
    resp = logits.copy()
    log_density, log_top = responsibilities(resp, edges, weights)
    for m, part in enumerate(slice(a, b) for a, b in itertools.pairwise(edges)):
        alone = logits[part].copy()
        (one_density,), (one_top,) = softmax_of_one(alone)
        np.testing.assert_array_equal(log_density[m], one_density)
        np.testing.assert_array_equal(log_top[m], one_top)
        np.testing.assert_allclose(resp[part], alone * weights, rtol=1e-15)


def test_the_exponential_is_exact_to_two_units_in_the_last_place():
    x = np.concatenate([-np.geomspace(1e-300, 700, 20_000), [0.0]])
    resp = np.stack([np.zeros_like(x), x])
    softmax_of_one(resp)
    exponential = np.exp(x.astype(np.longdouble))
    error = np.abs(resp[1] / (exponential / (1 + exponential)) - 1)
    assert error.max() < 4 * np.finfo(float).eps


def test_nan_stays_nan():
    resp = np.zeros((3, 5))
    resp[1, 2] = np.nan
    softmax_of_one(resp)
    assert np.isnan(resp[:, 2]).all()
    assert np.isfinite(np.delete(resp, 2, axis=1)).all()


def test_kernels_run_where_no_machine_code_can_be_kept(tmp_path):
    """A read-only installation and a home that cannot be written: compiled in memory, with the same numbers."""
    script = """
import numpy as np, numba.core.caching as caching
caching.CacheImpl._locator_classes.clear()
from gmm_dask.kernels.estep import responsibilities
resp = np.zeros((2, 8))
responsibilities(resp, np.array([0, 2]), np.ones(8))
assert (resp == 0.5).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent.parent)


def test_mahalanobis_matches_loops(block):
    mean, factor = np.array([1.0, -2.0, 3.0]), np.triu(np.random.RandomState(4).uniform(1, 2, (3, 3)))
    expected = [(x - mean) @ factor @ factor.T @ (x - mean) for x in block.T]
    np.testing.assert_allclose(mahalanobis_matrix(block, mean, factor), expected, rtol=1e-12)
    diagonal = np.diag(factor)
    expected = [sum(((x - mean) * diagonal) ** 2) for x in block.T]
    np.testing.assert_allclose(mahalanobis_diagonal(block, mean, diagonal), expected, rtol=1e-12)


def test_scatter_matches_loops(block, weights):
    expected = sum(w * np.outer(y, y) for w, y in zip(weights, block.T, strict=True))
    np.testing.assert_allclose(scatter_matrix(block, weights), expected, rtol=1e-12)
    np.testing.assert_allclose(scatter_diagonal(block, weights), np.diag(expected), rtol=1e-12)
