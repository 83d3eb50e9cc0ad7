"""Rows in single precision: computed in it where that is safe, with the parameters of a fit in double."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from gmm_dask import GaussianMixture
from gmm_dask.families import get_family
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.model_batch import build_batch, chunk_sums, unpack_sums
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_totals

SINGLE = np.dtype(np.float32)


def mixture_rows(n_features, n_components=5, n_rows=20_000, offset=0.0):
    """Overlapping clusters with correlated features, in single precision."""
    rng = np.random.RandomState(0)
    mixing = np.eye(n_features) + rng.standard_normal((n_features, n_features)) / np.sqrt(4 * n_features)
    centers = rng.standard_normal((n_components, n_features)) + offset
    rows = rng.standard_normal((n_rows, n_features)) @ mixing + centers[rng.randint(n_components, size=n_rows)]
    return rows.astype(np.float32)


def batch_of(mixture, X):
    model = mixture._model
    data_summary = summarize_rows(as_rows(X), 0)
    return build_batch([model], data_summary.center, data_summary.scatter, dtype=X.dtype)


def precision(batch):
    [group] = batch.groups
    return group.eta.dtype


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("n_features", "offset"), [(2, 0.0), (8, 1000.0), (32, 0.0)])
def test_parameters_are_those_of_double_precision(covariance_type, n_features, offset):
    X = mixture_rows(n_features, offset=offset)
    settings = {"covariance_type": covariance_type, "max_iter": 20, "tol": 0.0, "random_state": 0}
    single, double = (GaussianMixture(5, **settings).fit(rows) for rows in (X, X.astype(np.float64)))
    assert precision(batch_of(single, X)) == SINGLE
    spread = X.std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(single.weights_, double.weights_, rtol=1e-4)
    np.testing.assert_allclose(single.means_ / spread, double.means_ / spread, atol=1e-4)
    scale = np.abs(double.covariances_).max()
    np.testing.assert_allclose(single.covariances_ / scale, double.covariances_ / scale, atol=1e-4)
    assert single.lower_bound_ == pytest.approx(double.lower_bound_, abs=1e-5 * n_features)


def test_what_is_too_tight_for_single_precision_is_computed_in_double():
    X = mixture_rows(3)
    family, parameters = get_family("full"), GaussianMixture(3, random_state=0).fit(X)._model[1]
    tight = family.parameters(parameters.weights, parameters.means, parameters.covariances * 1e-5)
    data_summary = summarize_rows(as_rows(X), 0)
    batch = build_batch(
        [(family, parameters), (family, tight)], data_summary.center, data_summary.scatter, dtype=SINGLE
    )
    assert [(group.members, group.eta.dtype.name) for group in batch.groups] == [((0,), "float32"), ((1,), "float64")]
    exact = build_batch(batch.models, data_summary.center, data_summary.scatter)
    found, expected = (unpack_sums(s, chunk_sums(X, None, s)) for s in (batch, exact))
    np.testing.assert_allclose(found[0].s0, expected[0].s0, rtol=1e-4)
    np.testing.assert_allclose(found[1].s0, expected[1].s0, rtol=1e-12)


def test_the_bound_is_where_parameters_begin_to_suffer():
    """Moving all clusters away from the centre raises the terms; just below the bound one step is good to 1e-4."""
    X = mixture_rows(4, n_components=2)
    family = get_family("full")
    start = GaussianMixture(2, random_state=0).fit(X)._model[1]
    found = {}
    for far in np.geomspace(1, 1e3, 30):
        rows = np.concatenate([X, X + np.float32(far)])
        means = np.concatenate([start.means, start.means + far])
        covariances = np.concatenate([start.covariances] * 2)
        model = family, family.parameters(np.concatenate([start.weights] * 2) / 2, means, covariances)
        data_summary = summarize_rows(as_rows(rows), 0)
        single, double = (
            build_batch([model], data_summary.center, data_summary.scatter, dtype=d) for d in (SINGLE, np.dtype(float))
        )
        a, b = (family.maximise(unpack_sums(s, chunk_sums(rows, None, s))[0], 1e-6) for s in (single, double))
        error = np.abs(a.covariances - b.covariances).max() / np.abs(b.covariances).max()
        found.setdefault(precision(single), []).append(error)
    assert max(found[SINGLE]) < 1e-4
    assert len(found[SINGLE]) > 5
    assert max(found[np.dtype(float)]) == 0.0


def test_values_whose_squares_overflow_single_precision():
    X = mixture_rows(2)
    mixture = GaussianMixture(2, random_state=0).fit(X)
    X[0], X[1] = 1e20, -1e20
    batch = batch_of(mixture, X)
    assert precision(batch) == np.float64
    assert np.isfinite(unpack_sums(batch, chunk_sums(X, None, batch))[0].s0).all()


def test_criteria_and_answers_are_in_double_precision():
    X = mixture_rows(3)
    mixture = GaussianMixture(3, random_state=0).fit(X)
    data_summary = summarize_rows(as_rows(X), 0)
    model = get_family("full"), mixture._model[1]
    [single] = collect_totals(as_rows(X), data_summary, [model])
    [double] = collect_totals(as_rows(X.astype(float)), data_summary, [model])
    assert single.log_likelihood == pytest.approx(double.log_likelihood, rel=1e-13)
    np.testing.assert_array_equal(mixture.score_samples(X), mixture.score_samples(X.astype(float)))


def test_chunks_stay_in_single_precision():
    seen = []

    def look(rows):
        seen.append(rows.dtype)
        return rows

    X = da.from_array(mixture_rows(3), chunks=(5000, 3)).map_blocks(
        look, dtype=np.float32, meta=np.empty((0, 0), SINGLE)
    )
    GaussianMixture(2, random_state=0, max_iter=3, tol=10.0).fit(X)
    assert set(seen) == {SINGLE}
