"""Rows with missing values: expected sums, log-likelihoods and row outputs are those of a loop with SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from gaps import e_step, expected_statistics, with_gaps
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, get_family
from gmm_dask.passes import model_batch as batch_module
from gmm_dask.passes.gaps.chunks import split_rows, sums_of_chunk
from gmm_dask.passes.gaps.moments import PairMoments
from gmm_dask.passes.model_batch import build_batch, unpack_sums, unpack_totals
from gmm_dask.passes.predict import kernel_outputs, prediction_batch
from gmm_dask.passes.row_outputs import KERNEL_OUTPUTS
from mixtures import beside_noise, random_parameters, random_rows

N_FEATURES = 4


def batch_of(models, X, weights=None):
    complete, center = np.isfinite(X).all(axis=1), np.nanmean(X, axis=0)
    z, w = X[complete] - center, np.ones(complete.sum()) if weights is None else weights[complete]
    return build_batch(models, center, (w * z.T) @ z, gaps=True)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_expected_sums_are_those_of_a_loop(covariance_type, centred, monkeypatch):
    monkeypatch.setattr(batch_module, "MAX_KAPPA", 0.0 if centred else np.inf)
    X, weights = with_gaps(random_rows(150, N_FEATURES), 0.4), np.random.RandomState(1).uniform(0, 2, 150)
    family, parameters = get_family(covariance_type), random_parameters(covariance_type, 3, N_FEATURES)
    total, s0, s1, s2 = expected_statistics(X, covariance_type, parameters, weights)
    batch = batch_of([(family, parameters)], X, weights)
    (found,) = unpack_sums(batch, sums_of_chunk(X, weights, batch))
    assert found.log_likelihood == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(found.s0, s0, rtol=1e-10)
    made = family.maximise(found, 0.0, parameters)
    means = s1 / s0[:, None]
    np.testing.assert_allclose(made.means, means, rtol=1e-9, atol=1e-9)
    # the M-step of the same family, from the loop's sums
    scatters = s2 - means[:, :, None] * s1[:, None, :]
    upper = np.triu_indices(N_FEATURES, 1)
    squares = np.diagonal(scatters, axis1=1, axis2=2)
    columns = [squares.sum(axis=1)[:, None], s0[:, None], np.zeros_like(means), squares, scatters[:, *upper]]
    own = np.column_stack(columns)[:, family.density_columns(N_FEATURES)]
    expected = family.maximise(family.unpack_centred(own, means), 0.0, parameters)
    np.testing.assert_allclose(made.covariances, expected.covariances, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("covariance_type", ["tied", "EII", "EEI"])
def test_no_row_may_be_complete(covariance_type):
    """Models of one covariance take the squares of complete rows from the scatter, which then is of none."""
    X = random_rows(150, N_FEATURES)
    X[np.arange(150), np.arange(150) % N_FEATURES] = np.nan
    family, parameters = get_family(covariance_type), random_parameters(covariance_type, 3, N_FEATURES)
    batch = build_batch([(family, parameters)], np.zeros(N_FEATURES), np.zeros((N_FEATURES, N_FEATURES)), gaps=True)
    (found,) = unpack_sums(batch, sums_of_chunk(X, np.ones(150), batch))
    _, _, s1, s2 = expected_statistics(X, covariance_type, parameters, np.ones(150))
    np.testing.assert_allclose(found.s1, s1, atol=1e-9)
    # covariances of the squares of all rows, as the M-step adds them up
    own = {"tied": s2.sum(axis=0), "EII": np.einsum("kaa->", s2), "EEI": np.einsum("kaa->a", s2)}[covariance_type]
    np.testing.assert_allclose(found.s2 if covariance_type == "tied" else found.s2.sum(axis=0), own, rtol=1e-9)


def test_all_models_share_a_chunk_and_complete_rows_go_as_ever():
    X = random_rows(300, N_FEATURES)
    models = [(get_family(name), random_parameters(name, k, N_FEATURES)) for name in FAMILIES for k in (1, 3)]
    batch, plain = batch_of(models, X), build_batch(models, X.mean(axis=0), np.eye(N_FEATURES))
    gappy, complete = sums_of_chunk(X, None, batch), sums_of_chunk(X, None, plain)
    for one, other in zip(gappy.groups + gappy.centred, complete.groups + complete.centred, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not any(array.any() for array in gappy.incomplete)
    X = with_gaps(X, 0.3)
    totals = unpack_totals(batch := batch_of(models, X), sums_of_chunk(X, None, batch, statistics=False))
    for (family, parameters), found in zip(models, totals, strict=True):
        expected, *_ = expected_statistics(X, family.name, parameters)
        assert found.log_likelihood == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_row_outputs_are_those_of_the_marginals(covariance_type, dtype):
    X = with_gaps(random_rows(60, N_FEATURES), 0.5).astype(dtype)
    X[7] = [np.inf, np.nan, -np.inf, np.nan]
    family, parameters = get_family(covariance_type), random_parameters(covariance_type, 3, N_FEATURES)
    names = tuple(output.name for output in KERNEL_OUTPUTS)
    found = kernel_outputs(X, prediction_batch(family, parameters, gaps=True), names)
    for i, row in enumerate(X.astype(np.float64)):
        if not np.isfinite(row).any():
            assert found["label"][i] == -1
            assert np.isnan(found["log_density"][i])
            assert np.isnan(found["responsibility"][i]).all()
            continue
        log_density, resp, *_ = e_step(row, covariance_type, parameters)
        assert found["log_density"][i] == pytest.approx(log_density, rel=1e-9 if dtype == np.float64 else 1e-5)
        np.testing.assert_allclose(found["responsibility"][i], resp, atol=1e-9 if dtype == np.float64 else 1e-4)
        assert found["label"][i] == resp.argmax()


@pytest.mark.parametrize("n_features", [1, 3, 64, 65, 200])
def test_rows_are_sorted_by_what_they_have(n_features):
    X = random_rows(400, n_features)
    lacks = np.random.RandomState(2).uniform(size=(90, n_features)) < 0.2
    X[100:][lacks[np.random.RandomState(3).randint(90, size=300)]] = np.nan
    here = np.isfinite(X)
    complete, patterns = split_rows(X)
    np.testing.assert_array_equal(complete, np.flatnonzero(here.all(axis=1)))
    np.testing.assert_array_equal(np.sort(patterns.positions), np.flatnonzero(~here.all(axis=1)))
    assert len(np.unique(patterns.present, axis=0)) == len(patterns.present) == len(np.unique(here, axis=0)) - 1
    for present, start, stop in zip(patterns.present, patterns.starts[:-1], patterns.starts[1:], strict=True):
        assert (here[patterns.positions[start:stop]] == present).all()
        assert (np.diff(patterns.positions[start:stop]) > 0).all()
    assert split_rows(X[complete]) is None


def test_noise_knows_no_gaps():
    model = beside_noise(get_family("full"), random_parameters("full", 2, 2))
    with pytest.raises(UserError, match="noise"):
        prediction_batch(*model, gaps=True)


def test_moments_by_pair_are_those_of_the_rows_that_have_both():
    X, weights = with_gaps(random_rows(500, 3), 0.3), np.random.RandomState(4).randint(0, 3, 500).astype(float)
    parts = [slice(0, 200), slice(200, 201), slice(201, 500)]
    first, second, third = (PairMoments.of(X[part], weights[part]) for part in parts)
    found = first + second + third
    for a in range(3):
        for b in range(3):
            both = np.isfinite(X[:, [a, b]]).all(axis=1)
            w = weights[both]
            assert found.weight[a, b] == w.sum()
            assert found.mean[a, b] == pytest.approx(np.average(X[both, a], weights=w))
            covariance = np.cov(X[both][:, [a, b]].T, aweights=w, bias=True)[0, 1] if a != b else None
            if covariance is not None:
                assert found.scatter[a, b] == pytest.approx(covariance * w.sum())
