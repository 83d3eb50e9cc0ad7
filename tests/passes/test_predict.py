"""Answers for Dask input are lazy, and read each chunk once."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from scipy.stats import norm

from counting import CountingRows
from gmm_dask import GaussianMixture
from gmm_dask.families import get_family
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.rows import as_rows
from mixtures import random_parameters, random_rows

METHODS = {"predict": np.int64, "predict_proba": np.float64, "score_samples": np.float64}


@pytest.fixture
def fitted(blobs):
    return GaussianMixture(3, random_state=0).fit(blobs)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_read_before_it_is_asked_for(fitted, blobs, method):
    data = CountingRows(blobs)
    answer = getattr(fitted, method)(data.as_dask((70, 2)))
    assert data.reads == 0
    assert answer.chunks[0] == (70,) * 8 + (40,)
    assert answer.shape == (600, 3) if method == "predict_proba" else (600,)
    assert answer.dtype == METHODS[method]
    expected = getattr(fitted, method)(blobs)
    found = answer.compute()
    assert data.reads == 1
    assert found.dtype == expected.dtype == METHODS[method]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_part_reads_its_chunks_alone(fitted, blobs):
    data = CountingRows(blobs)
    fitted.predict(data.as_dask((100, 2)))[:150].compute()
    assert data.counts[:200].min() == data.counts[:200].max() == 1
    assert data.counts[200:].max() == 0


def test_answers_together_share_a_read(covariance_type):
    X, parameters = random_rows(300, 3), random_parameters(covariance_type, 2, 3)
    data = CountingRows(X)
    wanted = ["label", "log_density", "responsibility"]
    lazy = predict_rows(as_rows(data.as_dask((50, 3))), get_family(covariance_type), parameters, wanted)
    found = dask.compute(lazy)[0]
    assert data.reads == 1
    expected = predict_rows(as_rows(X), get_family(covariance_type), parameters, wanted)
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, atol=1e-12)


def test_lazy_answers_that_are_computed_together_share_a_read(fitted, blobs):
    data = CountingRows(blobs)
    X = data.as_dask((100, 2))
    dask.compute(fitted.predict(X), fitted.predict_proba(X), fitted.score_samples(X))
    assert data.reads == 1


def test_large_numpy_answers_are_arrays(fitted, blobs, monkeypatch):
    expected = {method: getattr(fitted, method)(blobs) for method in METHODS}
    monkeypatch.setattr("gmm_dask.passes.rows.CHUNK_BYTES", 1000)
    for method, answer in expected.items():
        found = getattr(fitted, method)(blobs)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, answer, rtol=1e-12, atol=1e-12)


def test_fit_predict_is_lazy_for_dask(blobs):
    data = CountingRows(blobs)
    mixture = GaussianMixture(3, random_state=0)
    labels = mixture.fit_predict(data.as_dask((100, 2)))
    assert isinstance(labels, da.Array)
    before = data.reads
    np.testing.assert_array_equal(labels.compute(), mixture.predict(blobs))
    assert data.reads == before + 1


def test_tight_components_are_predicted_about_their_own_means(covariance_type):
    """Far from the centre of the mixture, in units of their widths, and in more rows than a block has."""
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.normal(place, 1e-5, (4000, 2)) for place in (-1.0, 1.0)])
    family = get_family(covariance_type)
    shape = family.covariance_shape(2, 2)
    covariances = 1e-10 * (np.broadcast_to(np.eye(2), shape) if covariance_type in ("full", "tied") else np.ones(shape))
    means = np.array([[-1.0, -1.0], [1.0, 1.0]])
    parameters = family.parameters(np.array([0.25, 0.75]), means, covariances)
    found = predict_rows(as_rows(X), family, parameters, ["label", "log_density", "responsibility"])
    near = np.repeat([0, 1], 4000)
    np.testing.assert_array_equal(found["label"], near)
    np.testing.assert_allclose(found["responsibility"], np.eye(2)[near], atol=1e-300)
    expected = np.log([0.25, 0.75])[near] + norm.logpdf(X, means[near], 1e-5).sum(axis=1)
    np.testing.assert_allclose(found["log_density"], expected, rtol=1e-9)
