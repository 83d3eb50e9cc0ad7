"""Rows with gaps that take part with what they have: ``missing="likelihood"`` in every method of the estimators."""

from __future__ import annotations

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from sklearn.mixture import GaussianMixture as Peer

from gaps import e_step, expected_statistics, with_gaps
from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError, match_components, merge_components
from mixtures import assert_identical, inits_of

MEANS = np.array([[0.0, 0, 0, 0], [6, 0, 4, 0], [0, 7, 0, -5]])
ROOT = np.array([[1.0, 0.8, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0.7], [0, 0, 0, 1]])


def rows_of_groups(n_rows, seed=0):
    random = np.random.RandomState(seed)
    labels = random.randint(3, size=n_rows)
    return MEANS[labels] + random.standard_normal((n_rows, 4)) @ ROOT, labels


@pytest.fixture(scope="module")
def gappy():
    X, labels = rows_of_groups(1500)
    return X, with_gaps(X, 0.3), labels


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical", "VEV"])
def test_without_a_gap_every_bit_is_as_without_it(covariance_type, accelerate, gappy):
    settings = {"covariance_type": covariance_type, "random_state": 0, "accelerate": accelerate}
    for X in (gappy[0], da.from_array(gappy[0], chunks=(400, 4))):
        one = GaussianMixture(3, missing="likelihood", **settings).fit(X)
        assert_identical(one, GaussianMixture(3, **settings).fit(X))


@pytest.mark.parametrize("prior", [None, "default"])
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_the_likelihood_rises_to_that_of_the_marginals(covariance_type, prior, gappy):
    X = gappy[1]
    mixture = GaussianMixture(
        3, covariance_type=covariance_type, missing="likelihood", tol=1e-8, reg_covar=0.0, prior=prior, random_state=0
    ).fit(X)
    assert (np.diff(mixture.lower_bounds_) > -1e-12).all()
    total, *_ = expected_statistics(X, covariance_type, mixture._model[1])
    n_rows = np.isfinite(X).any(axis=1).sum()
    assert mixture.score(X) == pytest.approx(total / n_rows, rel=1e-9)
    if prior is None:
        assert mixture.lower_bound_ == pytest.approx(total / n_rows, abs=1e-7)
        n_parameters = mixture._model[0].n_parameters(3, 4)
        assert mixture.bic(X) == pytest.approx(-2 * total + n_parameters * np.log(n_rows), rel=1e-9)


def test_one_step_is_that_of_ghahramani_and_jordan(gappy):
    X = gappy[1][:200]
    start = GaussianMixture(3, random_state=0).fit(gappy[0])._model[1]
    mixture = GaussianMixture(3, missing="likelihood", reg_covar=0.0, max_iter=1, **inits_of("full", start))
    with pytest.warns(match="converge"):
        mixture.fit(X)
    _, s0, s1, s2 = expected_statistics(X, "full", start)
    means = s1 / s0[:, None]
    np.testing.assert_allclose(mixture.weights_, s0 / s0.sum(), rtol=1e-10)
    np.testing.assert_allclose(mixture.means_, means, rtol=1e-9, atol=1e-9)
    covariances = s2 / s0[:, None, None] - means[:, :, None] * means[:, None, :]
    np.testing.assert_allclose(mixture.covariances_, covariances, rtol=1e-8, atol=1e-9)


def test_parameters_are_within_their_sampling_error_where_few_rows_are_complete():
    """Of eight columns with 30 % of the values missing, 6 % of the rows are complete."""
    random = np.random.RandomState(5)
    means = np.zeros((2, 8))
    means[1] = 2.5
    labels = random.randint(2, size=3000)
    X = means[labels] + random.standard_normal((3000, 8)) @ (np.eye(8) + 0.4 * np.eye(8, k=1))
    Y = with_gaps(X, 0.3, seed=6)
    complete = Y[np.isfinite(Y).all(axis=1)]
    assert len(complete) < 0.07 * len(Y)

    def error(mixture):
        order = np.argsort(mixture.means_.sum(axis=1))
        return np.abs(mixture.means_[order] - means).max()

    whole = error(Peer(2, random_state=0).fit(X))
    ours = error(GaussianMixture(2, random_state=0, missing="likelihood").fit(Y))
    dropped = error(Peer(2, random_state=0).fit(complete))
    deviation = np.sqrt(1.16 / (1500 * 0.7))  # of a mean over the rows of a component that have the column
    assert ours < 3.5 * deviation
    assert whole < ours < 0.6 * dropped


def test_every_kind_of_data_gives_the_same(gappy):
    X = gappy[1]
    mixture = GaussianMixture(3, missing="likelihood", random_state=0).fit(X)
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(len(X)) + 7)
    named = GaussianMixture(3, missing="likelihood", random_state=0).fit(frame)
    np.testing.assert_array_equal(named.means_, mixture.means_)
    masked = np.ma.masked_invalid(np.where(np.isnan(X), 1e3, X))
    masked.mask = np.isnan(X)
    kinds = {
        "infinite": np.where(np.isnan(X), np.inf, X),
        "masked": masked,
        "dask": da.from_array(X, chunks=(313, 4)),
        "dask frame": dd.from_pandas(frame, npartitions=4),
    }
    for name, kind in kinds.items():
        other = GaussianMixture(3, missing="likelihood", random_state=0).fit(kind)
        np.testing.assert_allclose(other.means_, mixture.means_, rtol=1e-9, err_msg=name)
        assert other.score(kind) == pytest.approx(mixture.score(X), rel=1e-12), name
        for method in ("predict", "score_samples", "predict_proba", "impute"):
            found, expected = getattr(other, method)(kind), getattr(mixture, method)(X)
            found = np.asarray(found.compute() if hasattr(found, "compute") else found)
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8, err_msg=f"{name} {method}")
    assert named.impute(frame).index.equals(frame.index)
    assert list(named.condition(kinds["dask frame"]).variance.columns) == list("abcd")


def test_the_bits_do_not_depend_on_threads(gappy):
    import dask

    X, fits = da.from_array(gappy[1], chunks=(200, 4)), []
    for n_threads in (1, 3):
        with dask.config.set(num_workers=n_threads):
            fits.append(GaussianMixture(3, missing="likelihood", random_state=0).fit(X))
    assert_identical(*fits)


def test_weights_are_rows_that_come_several_times(gappy):
    X, counts = gappy[1][:400], np.random.RandomState(7).randint(0, 4, 400)
    start = inits_of("full", GaussianMixture(3, random_state=0).fit(gappy[0])._model[1])
    weighted = GaussianMixture(3, missing="likelihood", tol=1e-6, **start).fit(X, sample_weight=counts)
    repeated = GaussianMixture(3, missing="likelihood", tol=1e-6, **start).fit(np.repeat(X, counts, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-8)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-7, atol=1e-9)
    assert weighted.bic(X, counts) == pytest.approx(repeated.bic(np.repeat(X, counts, axis=0)), rel=1e-10)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_what_is_missing_is_told_from_what_is_there(covariance_type, gappy):
    mixture = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(gappy[0])  # of complete rows
    X = gappy[1][:80]
    mean, variance = mixture.condition(X)
    np.testing.assert_array_equal(mixture.impute(X), mean)
    far = np.full((1, X.shape[1]), np.nan)
    far[0, 0] = 1e200  # its square overflows
    np.testing.assert_array_equal(mixture.impute(far), far)
    for i, row in enumerate(X):
        here = np.isfinite(row)
        if not here.any():
            assert np.isnan([mean[i], variance[i]]).all()
            continue
        _, resp, expected, left = e_step(row, covariance_type, mixture._model[1])
        np.testing.assert_allclose(mean[i], resp @ expected, rtol=1e-8, atol=1e-8)
        second = resp @ (expected**2 + np.diagonal(left, axis1=1, axis2=2))
        np.testing.assert_allclose(variance[i], np.where(here, 0.0, second - (resp @ expected) ** 2), atol=1e-7)
        assert (mean[i][here] == row[here]).all()


def test_a_search_chooses_as_on_complete_rows(gappy):
    _, Y, labels = gappy
    search = GaussianMixtureSearch(range(1, 5), ("full", "tied"), missing="likelihood", random_state=0, held_out=0.2)
    search.fit(Y)
    assert search.best_params_ == {"n_components": 3, "covariance_type": "tied"}
    assert search.results_["held_out"].notna().all()
    assert search.best_estimator_.missing == "likelihood"
    found = search.predict(Y)
    there = np.isfinite(Y).sum(axis=1) >= 3
    table = pd.crosstab(found[there], labels[there]).to_numpy()
    assert table.max(axis=1).sum() > 0.95 * there.sum()
    assert search.impute(Y).shape == Y.shape
    assert len(merge_components(search, Y).clusters()) == 3
    assert match_components(search, search, Y).changed == 0.0


def test_a_saved_start_goes_on_with_gaps(gappy):
    mixture = GaussianMixture(3, missing="likelihood", random_state=0, warm_start=True, accelerate=True).fit(gappy[1])
    before = mixture.lower_bound_
    assert mixture.fit(gappy[1]).lower_bound_ >= before


@pytest.mark.parametrize("in_chunks", [False, True])
def test_rows_without_any_value_are_left_out_where_no_other_has_gaps(gappy, covariance_type, in_chunks):
    X = gappy[0].copy()
    X[7] = np.nan
    mixture = GaussianMixture(2, covariance_type=covariance_type, missing="likelihood", random_state=0)
    mixture.fit(da.from_array(X, chunks=(150, -1)) if in_chunks else X)
    rest = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(np.delete(X, 7, axis=0))
    assert mixture.lower_bound_ == pytest.approx(rest.lower_bound_, rel=1e-9)
    assert mixture.predict(X)[7] == -1


def test_gaps_that_are_held_out_alone(gappy):
    X = gappy[0]
    settings = {"covariance_types": ["full"], "missing": "likelihood", "random_state": 0, "held_out": 0.5}
    expected = GaussianMixtureSearch(2, **settings).fit(X).results_["held_out"]
    for row in range(4):
        incomplete = X.copy()
        incomplete[row, 0] = np.nan
        found = GaussianMixtureSearch(2, **settings).fit(incomplete).results_["held_out"]
        np.testing.assert_allclose(found, expected, rtol=0.02)


def test_what_does_not_go_with_gaps_is_refused_by_name(gappy):
    X = gappy[1]
    with pytest.raises(UserError, match="noise=True"):
        GaussianMixture(2, missing="likelihood", noise=True).fit(X)
    for name, value in {"noise": [False, True], "resamples": 20, "inference": "variational"}.items():
        with pytest.raises(UserError, match=f"missing='likelihood'.*{name}"):
            GaussianMixtureSearch(2, missing="likelihood", **{name: value}).fit(X)
    with pytest.raises(ValueError, match=r"missing.*'likelihood'"):
        GaussianMixture(missing="drop").fit(X)
    with pytest.raises(ValueError, match="NaN"):
        GaussianMixture(2).fit(X)
    noisy = GaussianMixture(2, noise=True, random_state=0).fit(gappy[0])
    with pytest.raises(UserError, match="noise"):
        noisy.impute(X)
    empty = X.copy()
    empty[:, 2] = np.nan
    with pytest.raises(UserError, match=r"column 2 has no value"):
        GaussianMixture(2, missing="likelihood").fit(empty)
    weights = np.ones(len(X))
    weights[4] = np.nan
    with pytest.raises(ValueError, match=r"sample_weight"):
        GaussianMixture(2, missing="likelihood").fit(X, sample_weight=weights)
