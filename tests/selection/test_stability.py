"""How sure a choice is: the fits to resamples are weighted fits, and their spread is what mclust finds."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from counting import CountingRows
from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.inputs import sample_seed
from gmm_dask.passes.contingency import count_pairs
from gmm_dask.passes.resampling import Resampling
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.results import results_table
from gmm_dask.selection.stability import STABILITY_NUMBERS, adjusted_rand_index
from marks import slow
from mclust import MCLUST_NAMES
from mixtures import inits_of, rows_of_five_groups
from paths import ROOT

SEED, N_RESAMPLES = 3, 6
SETTINGS = {"init_params": "kmeans", "tol": 1e-5, "max_iter": 300, "reg_covar": 1e-6, "random_state": SEED}
TRUSTED = ["converged", "max_iter"]
NUMBERS = list(STABILITY_NUMBERS)


def counts_of(resample, n_rows):
    return Resampling(sample_seed(SEED), (0,)).counts(resample, 0, n_rows)


@pytest.mark.parametrize(("n_labels", "n_rows"), [((3, 4), 200), ((1, 1), 20), ((1, 5), 50), ((2, 2), 3)])
def test_adjusted_rand_index(n_labels, n_rows):
    random = np.random.default_rng(0)
    a, b = (random.integers(0, n, n_rows) for n in n_labels)
    b = np.where(random.random(n_rows) < 0.5, a % n_labels[1], b)
    found = adjusted_rand_index(count_pairs(a, b, n_labels))
    assert found == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)


@pytest.mark.parametrize("criterion", ["bic", "aic"])
@pytest.mark.parametrize("weighted", [False, True])
def test_resamples_are_weighted_fits(criterion, weighted):
    X = rows_of_five_groups(400)
    weights = np.random.default_rng(1).uniform(0, 2, len(X)) if weighted else np.ones(len(X))
    weights[::9] = 0.0 if weighted else 1.0
    search = GaussianMixtureSearch([1, 5, 6], ("full", "tied"), **SETTINGS, criterion=criterion, resamples=N_RESAMPLES)
    search.fit(X, sample_weight=weights if weighted else None)
    plain = GaussianMixtureSearch([1, 5, 6], ("full", "tied"), **SETTINGS, criterion=criterion)
    plain.fit(X, sample_weight=weights if weighted else None)
    pd.testing.assert_frame_equal(search.results_.drop(columns=NUMBERS), plain.results_.drop(columns=NUMBERS))

    names = search.results_[["n_components", "covariance_type"]].itertuples(index=False)
    criteria, agreed, fits = [], [], {}
    for k, kind in names:
        fit = GaussianMixture(k, covariance_type=kind, **SETTINGS).fit(X, sample_weight=weights)
        parameters = fit._model[1]
        labels = fit.predict(X[weights > 0])
        refits = [
            GaussianMixture(k, covariance_type=kind, **inits_of(kind, parameters), **SETTINGS).fit(
                X, sample_weight=weights * counts_of(b, len(X))
            )
            for b in range(N_RESAMPLES)
        ]
        fits[k, kind] = refits
        criteria.append(
            [getattr(one, criterion)(X, sample_weight=weights * counts_of(b, len(X))) for b, one in enumerate(refits)]
        )
        agreed.append(np.mean([adjusted_rand_score(labels, one.predict(X[weights > 0])) for one in refits]))
    winner = search.best_params_["n_components"], search.best_params_["covariance_type"]
    criteria = np.array(criteria)
    best = list(fits).index(winner)
    table = search.results_
    assert (table["refits"] == N_RESAMPLES).all()
    np.testing.assert_allclose(table["stability"], agreed, atol=1e-12)
    errors = np.std(criteria - criteria[best], axis=1, ddof=1)
    np.testing.assert_allclose(table["delta_error"], errors, rtol=1e-6, atol=1e-6)
    assert table["wins"].sum() == pytest.approx(1.0)
    may_win = table["status"].isin(TRUSTED).to_numpy()[:, None] & [
        [one.status_ in TRUSTED for one in of_candidate] for of_candidate in fits.values()
    ]
    firsts = np.argmin(np.where(may_win, criteria, np.inf), axis=0)
    np.testing.assert_allclose(table["wins"], np.bincount(firsts, minlength=len(table)) / N_RESAMPLES)
    for name in ("weights", "means"):
        expected = np.std([getattr(one, f"{name}_") for one in fits[winner]], axis=0, ddof=1)
        np.testing.assert_allclose(getattr(search, f"{name}_error_"), expected, rtol=1e-6)


@pytest.mark.parametrize("held_out", [0.0, 0.3])
def test_chunks_do_not_matter(held_out):
    X = rows_of_five_groups(600)
    criterion = "held_out" if held_out else "icl"
    settings = {**SETTINGS, "criterion": criterion, "held_out": held_out, "resamples": 4}
    tables = [
        GaussianMixtureSearch([2, 5], ("diag", "tied"), **settings).fit(given)
        for given in (X, da.from_array(X, chunks=(600, 2)), da.from_array(X, chunks=(170, 2)))
    ]
    for other in tables[1:]:
        np.testing.assert_allclose(other.results_[NUMBERS], tables[0].results_[NUMBERS], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(other.means_error_, tables[0].means_error_, rtol=1e-6)
    assert tables[0].results_["wins"].sum() == pytest.approx(1.0)


def test_all_resamples_share_the_reads():
    counts = []
    for resamples in (0, 1, 5):
        counting = CountingRows(rows_of_five_groups(300))
        search = GaussianMixtureSearch(5, "diag", **SETTINGS, resamples=resamples).fit(counting.as_dask((100, 2)))
        counts.append(counting.reads)
    assert counts[0] + 4 <= counts[1] <= counts[2] <= counts[0] + 2 + 20
    assert search.results_["stability"].iloc[0] > 0.9


def test_without_resamples():
    X = rows_of_five_groups(200)
    search = GaussianMixtureSearch(2, "diag", random_state=0, resamples=3).fit(X)
    assert search.weights_error_.shape == (2,)
    search.set_params(resamples=0).fit(X)
    assert search.results_[NUMBERS].isna().sum(axis=1).tolist() == [3]
    assert search.results_["refits"].tolist() == [0]
    assert not hasattr(search, "weights_error_")
    assert not hasattr(search, "means_error_")


def test_a_resample_without_rows_has_no_fit():
    X = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 0.0]])
    empty = sum(not counts_of(b, len(X)).any() for b in range(80))
    search = GaussianMixtureSearch(1, "spherical", reg_covar=1e-3, random_state=SEED, resamples=80).fit(X)
    row = search.results_.iloc[0]
    assert 0 < empty == 80 - row["refits"]
    assert np.isfinite(search.means_error_).all()
    assert row["wins"] == row["refits"] / 80


def test_a_candidate_that_failed_has_no_refits():
    X = rows_of_five_groups(20)
    search = GaussianMixtureSearch([1, 30], "diag", random_state=0, resamples=2).fit(X)
    assert search.results_["status"].tolist() == ["converged", "failed"]
    assert search.results_["refits"].tolist() == [2, 0]
    assert search.results_["wins"].tolist() == [1.0, 0.0]
    assert search.results_[["stability", "delta_error"]].isna().any(axis=1).tolist() == [False, True]


@pytest.mark.parametrize("bad", [-1, 1.5, "many"])
def test_bad_number_of_resamples(bad):
    with pytest.raises(ValueError, match="resamples"):
        GaussianMixtureSearch(2, resamples=bad).fit(rows_of_five_groups(50))


@pytest.mark.parametrize(
    ("name", "covariance_type"),
    [
        ("old_faithful", "full"),
        ("iris", "tied"),
        *slow([("old_faithful", kind) for kind in ("tied", "diag", "spherical")]),
        *slow([("iris", kind) for kind in ("full", "diag", "spherical")]),
    ],
)
def test_mclust_s_bootstrap(name, covariance_type, request):
    """Each standard error is within the error that both have, as standard deviations over so many fits."""
    X, n_resamples = request.getfixturevalue(name), 400
    table = pd.read_csv(ROOT / "tests/data/mclust_bootstrap_errors.csv")
    table = table.query(f"data == '{name}' and model == '{MCLUST_NAMES[covariance_type]}' and type == 'bs'")
    settings = {**SETTINGS, "tol": 1e-7, "max_iter": 1000, "n_init": 3}
    search = GaussianMixtureSearch(2, covariance_type, **settings, resamples=n_resamples).fit(X)
    expected = table.pivot(index="component", columns="feature", values="error")
    order = np.argsort(-search.best_estimator_.weights_)
    found = np.column_stack([search.means_error_[order], search.weights_error_[order]])
    ratio = found / expected.to_numpy()
    # of a standard deviation over B normal numbers the relative error is 1 / sqrt(2 B)
    error = np.sqrt(1.0 / (2 * n_resamples) + 1.0 / (2 * 2000))
    assert np.abs(np.log(ratio)).max() < 4 * error
    assert np.abs(np.log(ratio)).mean() < 1.5 * error


def test_columns_of_an_empty_table():
    assert set(CRITERIA) | set(NUMBERS) <= set(results_table([], "bic").columns)
