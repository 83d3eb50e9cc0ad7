from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import naive
from gmm_dask import kernels
from gmm_dask.families.matrix_base import pack_quadratic, unpack_scatter
from gmm_dask.kernels.compilation import jit
from gmm_dask.kernels.feature_map import factors, n_monomials
from gmm_dask.passes.model_batch import ROW_MULTIPLE
from marks import slow
from mixtures import monomials
from paths import ROOT


@pytest.fixture
def block():
    """A block of rows, feature by feature."""
    return np.random.RandomState(0).standard_normal((3, 40)) * [[1], [2], [5]]


@pytest.fixture
def weights():
    return np.random.RandomState(1).uniform(size=40)


@pytest.fixture(params=[np.float64, np.float32])
def dtype(request):
    return request.param


def random_lines(n_features, n_rows, dtype=np.float64):
    """Lines ``1 | z | |z|^2`` of a block."""
    z = np.random.RandomState(0).standard_normal((n_features, n_rows))
    return np.vstack([np.ones(n_rows), z, np.sum(z**2, axis=0)]).astype(dtype)


@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_features_are_the_monomials_in_their_order(n_features):
    z = np.random.RandomState(0).standard_normal((n_features, 7))
    phi = monomials(z)
    assert len(phi) == n_monomials(n_features)
    for row, column in zip(z.T, phi.T, strict=True):
        products = [row[a] * row[b] for a in range(n_features) for b in range(a + 1, n_features)]
        np.testing.assert_allclose(column, [sum(row**2), 1, *row, *row**2, *products], rtol=1e-14)


@pytest.mark.parametrize("stored", [np.float64, np.float32])
def test_lines_are_centred_and_filled_up(dtype, stored):
    rows, center = np.random.RandomState(0).standard_normal((40, 3)).astype(stored) + 1e4, np.array([1e4, 1e4, 9e3])
    z, short = np.full((5, 48), np.nan, dtype), np.full((4, 48), np.nan, dtype)
    kernels.fill_lines(rows, center, z, 48)
    kernels.fill_lines(rows, center, short, 48)
    expected = (rows.astype(float) - center).astype(dtype)  # the difference is taken before it is rounded
    np.testing.assert_array_equal(z[:4, :40], np.vstack([np.ones(40), expected.T]))
    np.testing.assert_allclose(z[4, :40], np.sum(expected**2, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(z[:, 40:], 0.0)
    np.testing.assert_array_equal(short, z[:4])


@pytest.mark.parametrize("n_components", [*range(1, 10), 16, 21])
@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_log_densities_are_sums_over_the_monomials(n_components, n_features, dtype):
    z = random_lines(n_features, 2 * ROW_MULTIPLE, dtype)
    eta = np.random.RandomState(1).standard_normal((n_monomials(n_features), n_components)).astype(dtype)
    out = np.full((n_components, z.shape[1]), np.nan, dtype)
    kernels.log_densities(eta, *factors(n_features), z, out, z.shape[1])
    exact, lines = eta.astype(float), z.astype(float)
    for k, i in itertools.product(range(n_components), range(0, z.shape[1], 7)):
        terms = [
            exact[p, k] * lines[a, i] * lines[b, i] for p, (a, b) in enumerate(zip(*factors(n_features), strict=True))
        ]
        assert out[k, i] == pytest.approx(math.fsum(terms), abs=20 * np.finfo(dtype).eps * sum(map(abs, terms)))


@pytest.mark.parametrize("n_components", [*range(1, 10), 16, 21])
@pytest.mark.parametrize("n_rows", [ROW_MULTIPLE, 20 * ROW_MULTIPLE])
def test_sums_add_up_over_the_rows(n_components, n_rows, dtype):
    first, second = (part[:9] for part in factors(3))
    z = random_lines(3, n_rows, dtype)
    resp = np.random.RandomState(1).uniform(size=(n_components, n_rows)).astype(dtype)
    sums = np.ones((n_components, 9))
    kernels.add_sums(resp, first, second, z, sums, n_rows)
    z, resp = z.astype(float), resp.astype(float)
    for k, p in np.ndindex(sums.shape):
        terms = [resp[k, i] * z[first[p], i] * z[second[p], i] for i in range(n_rows)]
        assert sums[k, p] == pytest.approx(1 + math.fsum(terms), abs=20 * np.finfo(dtype).eps * sum(map(abs, terms)))


def test_single_precision_loses_nothing_over_many_rows():
    """A sum of a million ones and as many small numbers: panels are gathered in float64."""
    z = np.ones((2, 100 * ROW_MULTIPLE), np.float32)
    z[1] = 1e-4
    sums, lines = np.zeros((1, 3)), np.array([0, 0, 1])
    for _ in range(200):
        kernels.add_sums(z[:1], np.zeros(3, np.int64), lines, z, sums, z.shape[1])
    np.testing.assert_allclose(sums[0] / (200 * z.shape[1]), [1, 1, 1e-4], rtol=1e-6)


def test_packed_quadratic_is_the_quadratic_form(block):
    root = np.random.RandomState(2).standard_normal((3, 3))
    precision = root @ root.T
    expected = [-0.5 * z @ precision @ z for z in block.T]
    np.testing.assert_allclose(pack_quadratic(precision) @ monomials(block)[5:], expected, rtol=1e-12)


def test_unpacked_sums_are_the_scatter(block):
    np.testing.assert_allclose(unpack_scatter(monomials(block)[5:].sum(axis=1), 3), block @ block.T, rtol=1e-12)


def softmax(logits, edges=None, weights=None):
    """Responsibilities in place; each mixture's log densities and logarithms of the largest responsibility."""
    edges = np.array([0, len(logits)]) if edges is None else edges
    weights = np.ones(logits.shape[1]) if weights is None else weights
    log_density, log_top = np.empty((2, len(edges) - 1, logits.shape[1]), logits.dtype)
    kernels.softmax(logits, edges, weights.astype(logits.dtype), log_density, log_top, logits.shape[1])
    return log_density, log_top


def test_responsibilities_match_loops():
    logits = np.random.RandomState(3).standard_normal((4, ROW_MULTIPLE)) * 300
    resp = logits.copy()
    (log_density,), (log_top,) = softmax(resp)
    for i, terms in enumerate(logits.T):
        exact = [naive.EXTENDED.exp(naive.EXTENDED.number(t)) for t in terms]
        np.testing.assert_allclose(resp[:, i], naive.array([e / sum(exact) for e in exact]), rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(log_density[i], float(naive.EXTENDED.log(sum(exact))), rtol=1e-14)
    np.testing.assert_allclose(log_top, np.log(resp.max(axis=0)), atol=1e-15)


def test_responsibilities_of_an_empty_component_are_zero():
    resp = np.stack([np.full(ROW_MULTIPLE, -np.inf), np.linspace(-800.0, 3.0, ROW_MULTIPLE)])
    expected = resp[1].copy()
    (log_density,), (log_top,) = softmax(resp)
    np.testing.assert_array_equal(resp, [np.zeros(ROW_MULTIPLE), np.ones(ROW_MULTIPLE)])
    np.testing.assert_array_equal(log_density, expected)
    np.testing.assert_array_equal(log_top, 0)


def test_responsibilities_of_several_mixtures_with_weights():
    logits, weights = np.random.RandomState(5).standard_normal((9, ROW_MULTIPLE)) * 5, np.arange(48.0)
    edges = np.array([0, 4, 5, 9])
    resp = logits.copy()
    log_density, log_top = softmax(resp, edges, weights)
    for m, part in enumerate(slice(a, b) for a, b in itertools.pairwise(edges)):
        alone = logits[part].copy()
        (one_density,), (one_top,) = softmax(alone)
        np.testing.assert_array_equal(log_density[m], one_density)
        np.testing.assert_array_equal(log_top[m], one_top)
        np.testing.assert_allclose(resp[part], alone * weights, rtol=1e-15)


@pytest.mark.parametrize(("dtype", "smallest"), [(np.float64, 1e-300), (np.float32, 1e-38)])
def test_the_exponential_is_exact_to_two_units_in_the_last_place(dtype, smallest):
    largest = 700 if dtype is np.float64 else 86
    x = np.concatenate([-np.geomspace(smallest, largest, 19_999), [0.0] * 17]).astype(dtype)
    resp = np.stack([np.zeros_like(x), x])
    softmax(resp)
    exponential = np.exp(x.astype(np.longdouble))
    error = np.abs(resp[1] / (exponential / (1 + exponential)) - 1)
    assert error.max() < 4 * np.finfo(dtype).eps


def test_what_single_precision_cannot_hold_is_zero():
    resp = np.zeros((2, ROW_MULTIPLE), np.float32)
    resp[1] = -np.linspace(88, 1e30, ROW_MULTIPLE)
    softmax(resp)
    np.testing.assert_array_equal(resp, [np.ones(ROW_MULTIPLE), np.zeros(ROW_MULTIPLE)])


def test_nan_stays_nan():
    resp = np.zeros((3, ROW_MULTIPLE))
    resp[1, 2] = np.nan
    softmax(resp)
    assert np.isnan(resp[:, 2]).all()
    assert np.isfinite(np.delete(resp, 2, axis=1)).all()


def test_kernels_run_where_no_machine_code_can_be_kept(tmp_path):
    """A read-only installation and a home that cannot be written: compiled in memory, with the same numbers."""
    script = """
import numpy as np, numba.core.caching as caching
caching.CacheImpl._locator_classes.clear()
from gmm_dask import kernels
resp, shares = np.zeros((2, 48)), np.ones((3, 48))
kernels.softmax(resp, np.array([0, 2]), shares[2], shares[:1], shares[1:2], 48)
assert (resp == 0.5).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


A_KERNEL = """
import numpy as np
from gmm_dask import kernels
resp, shares = np.zeros((2, 48)), np.ones((3, 48))
kernels.softmax(resp, np.array([0, 2]), shares[2], shares[:1], shares[1:2], 48)
names = "softmax",
"""
A_FIT = """
import numpy as np
from gmm_dask import GaussianMixture, kernels
X = np.random.RandomState(0).standard_normal((100, 2))
GaussianMixture(2).fit(X).predict(X)
names = "add_chunk", "predict_chunk"
"""


@pytest.mark.parametrize("script", [A_KERNEL, *slow([A_FIT])], ids=["a kernel", "a fit"])
def test_machine_code_is_made_once(tmp_path, script):
    """What one process compiled, the next one loads: nothing is compiled again for each worker, nor reported."""
    script = f"""
from gmm_dask.kernels.compilation.jit import compilation_reported
reported = []
with compilation_reported(reported.append):
{textwrap.indent(script, "    ")}
assert all(reported)
print(*(sum(getattr(kernels, name).stats.cache_misses.values()) for name in names), len(reported))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    runs = [
        subprocess.run(command, check=True, env=environment, capture_output=True, text=True, cwd=ROOT) for _ in range(2)
    ]
    first, second = (set(run.stdout.split()) for run in runs)
    assert (first, second) == ({"1"}, {"0"})


def test_every_kernel_is_there():
    for name in kernels._COMPILED:
        assert callable(getattr(kernels, name)), name


def test_machine_code_on_disk_is_that_of_all_sources():
    """A kernel's file holds the code of those that it calls: a change of any of them makes it anew."""
    stamp = kernels.add_chunk._cache._cache_file._source_stamp
    assert stamp[1] == jit._sources()
