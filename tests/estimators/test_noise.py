"""A uniform component for rows that belong to none: mclust's, in every method of the estimators."""

from __future__ import annotations

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

import naive
from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError, match_components, merge_components
from gmm_dask.families import FAMILIES, get_family
from gmm_dask.init.responsibilities import statistics_of
from gmm_dask.passes import model_batch as batch_module
from marks import slow
from messages import names
from mixtures import assert_identical, assert_same_parameters, inits_of
from paths import ROOT

TIGHT = {"reg_covar": 0.0, "tol": 1e-13, "max_iter": 20_000}


@pytest.fixture(scope="module")
def noisy():
    """Rows of three groups and noise, with the components that they were drawn from and those of a start; -1 is noise.

    See tests/data/mclust_noise.R.
    """
    table = pd.read_csv(ROOT / "tests/data/noise.csv")
    return table[["x0", "x1"]].to_numpy(), table["component"].to_numpy() - 1, table["start"].to_numpy() - 1


def start_of(covariance_type, X, labels):
    """What an M-step makes of labels, as the arguments that start a fit from it."""
    family, resp = get_family(covariance_type), (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
    found = family.maximise(statistics_of(family, X, None, resp), 0.0)
    share = np.mean(labels < 0)
    return {**inits_of(covariance_type, found), "weights_init": np.append(found.weights * (1.0 - share), share)}


def clusters(n_rows=2000, n_features=2, share=0.05, seed=0):
    """Rows of three groups and a share of noise, with their components."""
    random = np.random.default_rng(seed)
    means = random.uniform(-10, 10, (3, n_features))
    labels = random.choice([-1, 0, 1, 2], n_rows, p=[share, *[(1 - share) / 3] * 3])
    noise = random.uniform(-15, 15, (n_rows, n_features))
    return np.where(labels[:, None] < 0, noise, means[labels] + random.normal(size=(n_rows, n_features))), labels


def f1_of_noise(found, true):
    return 2.0 * np.sum((found == -1) & (true == -1)) / (np.sum(found == -1) + np.sum(true == -1))


# -- mclust ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_ends_where_mclust_ends(noisy, covariance_type):
    X, _, start = noisy
    table = pd.read_csv(ROOT / "tests/data/noise_mclust.csv")
    table = table[table["model"] == get_family(covariance_type).structure].reset_index(drop=True)
    settings = {"covariance_type": covariance_type, "noise": True, **TIGHT, **start_of(covariance_type, X, start)}
    ours = GaussianMixture(3, **settings).fit(X)
    # mclust's MM iterations of VVE end a little below the maximum, where its covariances are off by 1e-4
    atol, below = (2e-4, 2e-6) if covariance_type == "VVE" else (1e-6, 1e-7)
    assert np.log(ours.noise_volume_) == pytest.approx(table["log_volume"][0], rel=1e-11)
    np.testing.assert_allclose(np.append(ours.weights_, ours.noise_weight_), table["weight"], rtol=0, atol=atol)
    np.testing.assert_allclose(ours.means_, table.loc[:2, ["mean0", "mean1"]], rtol=0, atol=atol)
    matrices = get_family(covariance_type).full_covariances(ours._model[1])
    np.testing.assert_allclose(matrices[:, [0, 0, 1], [0, 1, 1]], table.loc[:2, ["c00", "c01", "c11"]], atol=atol)
    log_likelihood = ours.score(X) * len(X)
    assert log_likelihood == pytest.approx(table["log_likelihood"][0], abs=below)
    assert log_likelihood >= table["log_likelihood"][0] - 1e-7
    # mclust counts the volume as a parameter, too
    n_parameters = table["n_parameters"][0] - 1
    assert ours.bic(X) == pytest.approx(n_parameters * np.log(len(X)) - 2.0 * log_likelihood)
    assert ours.icl(X) == pytest.approx(ours.bic(X) - 2.0 * table["log_top"][0], abs=20.0 * atol)


# -- steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_kappa", [1e7, -1.0], ids=["feature map", "centred"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_walks_the_path_of_loops(noisy, covariance_type, max_kappa, monkeypatch):
    monkeypatch.setattr(batch_module, "MAX_KAPPA", max_kappa)
    X, _, labels = noisy
    start = start_of(covariance_type, X, labels)
    settings = {"covariance_type": covariance_type, "noise": 50.0, "tol": 0, "max_iter": 6, **start}
    ours = GaussianMixture(3, **settings).fit(X)
    given = get_family(covariance_type).from_precisions(start["precisions_init"])[0]
    first = get_family(covariance_type).parameters(start["weights_init"][:-1], start["means_init"], given)
    model = naive.model_of(covariance_type, first)._replace(noise=(start["weights_init"][-1], np.log(50.0)))
    expected, bounds = naive.run_em(covariance_type, X, model, 6, reg_covar=1e-6)
    np.testing.assert_allclose(ours.lower_bounds_, bounds, rtol=1e-11)
    assert_same_parameters(ours, expected, rtol=1e-9)
    assert ours.noise_weight_ == pytest.approx(expected.noise.weight, rel=1e-10)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("accelerate", [False, True])
def test_the_likelihood_never_falls_and_dask_gives_the_same(covariance_type, dtype, accelerate):
    X, _ = clusters(seed=1)
    X, rounding = X.astype(dtype), 1e-12 if dtype == np.float64 else 1e-5
    tol = 1e-7 if dtype == np.float64 else 1e-5
    settings = {"covariance_type": covariance_type, "noise": True, "tol": tol, "reg_covar": 0, "random_state": 0}
    in_memory = GaussianMixture(3, accelerate=accelerate, **settings).fit(X)
    lazy = GaussianMixture(3, accelerate=accelerate, **settings).fit(da.from_array(X, chunks=(300, -1)))
    assert (np.diff(in_memory.lower_bounds_) >= -rounding).all()
    assert_same_parameters(lazy, in_memory, rtol=1e-8 if dtype == np.float64 else 1e-3)
    assert lazy.noise_weight_ == pytest.approx(in_memory.noise_weight_, rel=1e-3)


def test_weighted_rows_count_as_often(noisy):
    X, _, start = noisy
    times = np.random.default_rng(0).integers(0, 3, len(X))
    # the box is that of all rows, also of those that do not count
    settings = {"noise": 100.0, **TIGHT, **start_of("full", X, start)}
    weighted = GaussianMixture(3, **settings).fit(X, sample_weight=times)
    repeated = GaussianMixture(3, **settings).fit(np.repeat(X, times, axis=0))
    assert_same_parameters(weighted, repeated, rtol=1e-6)
    assert weighted.noise_weight_ == pytest.approx(repeated.noise_weight_, rel=1e-6)


# -- the box ---------------------------------------------------------------------------------------------------


def test_the_box_is_the_smaller_one():
    random = np.random.default_rng(0)
    straight = random.uniform(size=(500, 2)) * [4.0, 1.0]
    turned = straight @ np.array([[3.0, 4.0], [-4.0, 3.0]]) / 5.0 + 100.0
    volumes = [GaussianMixture(1, noise=True, random_state=0).fit(X).noise_volume_ for X in (straight, turned)]
    assert volumes[0] == pytest.approx(np.prod(np.ptp(straight, axis=0)))
    assert volumes[1] < 0.7 * np.prod(np.ptp(turned, axis=0))
    lazy = GaussianMixture(1, noise=True, random_state=0).fit(da.from_array(turned, chunks=(100, -1)))
    assert lazy.noise_volume_ == pytest.approx(volumes[1], rel=1e-12)


def test_rows_of_no_weight_are_outside_the_box():
    X = np.random.default_rng(0).normal(size=(300, 2))
    far = np.vstack([X, [[1e6, -1e6]]])
    expected = GaussianMixture(1, noise=True, random_state=0).fit(X)
    found = GaussianMixture(1, noise=True, random_state=0).fit(far, sample_weight=np.append(np.ones(300), 0.0))
    assert found.noise_volume_ == pytest.approx(expected.noise_volume_, rel=1e-9)


@pytest.mark.parametrize(("scale", "volume"), [(1e6, np.inf), (1e-3, 0.0)])
def test_a_volume_beyond_the_range_of_numbers(scale, volume):
    X = np.random.default_rng(0).normal(0.0, scale, (400, 150))
    mixture = GaussianMixture(1, covariance_type="diag", noise=True, reg_covar=0.0).fit(X)
    assert mixture.noise_volume_ == volume
    assert np.isfinite(mixture.score_samples(X)).all()


def test_noise_that_takes_all_rows(noisy):
    with pytest.warns(ConvergenceWarning, match=names("all_noise", "volume is too small", "box around the rows")):
        mixture = GaussianMixture(2, noise=1e-2, random_state=0).fit(noisy[0])
    assert (mixture.status_, set(mixture.predict(noisy[0]))) == ("all_noise", {-1})


def test_rows_whose_squares_overflow_are_noise(noisy):
    mixture = GaussianMixture(3, noise=True, random_state=0).fit(noisy[0])
    far = np.array([[1e200, -1e200], [-1e308, 1e308], [1e9, 1e9]])
    for X in (far, da.from_array(far, chunks=(2, -1))):
        np.testing.assert_array_equal(mixture.predict(X), [-1, -1, -1])
        np.testing.assert_array_equal(mixture.predict_proba(X), [[0.0, 0.0, 0.0, 1.0]] * 3)
        expected = np.log(mixture.noise_weight_ / mixture.noise_volume_)
        np.testing.assert_allclose(mixture.score_samples(X), [expected] * 3, rtol=1e-12)


def test_rows_of_the_noise_are_drawn_from_its_box():
    random = np.random.default_rng(0)
    turned = random.uniform(size=(500, 2)) * [9.0, 1.0] @ np.array([[3.0, 4.0], [-4.0, 3.0]]) / 5.0
    mixture = GaussianMixture(1, noise=True, random_state=0, max_iter=300).fit(turned)
    X, y = mixture.sample(4000)
    assert np.mean(y == -1) == pytest.approx(mixture.noise_weight_, abs=0.03)
    np.testing.assert_array_equal(np.flatnonzero(y == -1), np.arange(np.sum(y >= 0), len(y)))
    corner, edges = mixture.noise_box_[0], mixture.noise_box_[1:]
    inside = (X[y == -1] - corner) @ np.linalg.inv(edges)
    assert ((inside >= 0.0) & (inside <= 1.0)).all()
    np.testing.assert_allclose([inside.min(), inside.max()], [0.0, 1.0], atol=0.01)
    assert abs(np.linalg.det(edges)) == pytest.approx(mixture.noise_volume_)


def test_a_volume_may_be_given(noisy):
    mixture = GaussianMixture(3, noise=1000.0, random_state=0).fit(noisy[0])
    assert mixture.noise_volume_ == pytest.approx(1000.0)
    assert abs(np.linalg.det(mixture.noise_box_[1:])) == pytest.approx(1000.0)


def test_columns_that_depend_on_each_other_have_the_box_along_the_columns():
    x = np.random.default_rng(0).normal(size=200)
    mixture = GaussianMixture(1, noise=True, random_state=0).fit(np.column_stack([x, 2.0 * x]))
    assert mixture.noise_volume_ == pytest.approx(2.0 * np.ptp(x) ** 2)


# -- answers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(noisy):
    return GaussianMixture(3, noise=True, random_state=0).fit(noisy[0])


def test_answers_have_the_noise_last(fitted, noisy):
    X = noisy[0]
    gaussians = zip(fitted.means_, map(naive.cholesky, fitted.covariances_), strict=True)
    densities = [[naive.log_density(row, mean, lower) for row in X.tolist()] for mean, lower in gaussians]
    logs = np.log(fitted.weights_) + np.array(densities).T
    logs = np.column_stack([logs, np.full(len(X), np.log(fitted.noise_weight_ / fitted.noise_volume_))])
    np.testing.assert_allclose(fitted.score_samples(X), logsumexp(logs, axis=1), rtol=1e-10)
    resp = fitted.predict_proba(X)
    np.testing.assert_allclose(resp, np.exp(logs - logsumexp(logs, axis=1, keepdims=True)), atol=1e-10)
    labels = fitted.predict(X)
    np.testing.assert_array_equal(labels, np.array([0, 1, 2, -1])[resp.argmax(axis=1)])
    assert (labels == -1).any()
    assert fitted.weights_.sum() + fitted.noise_weight_ == pytest.approx(1.0)


def test_frames_name_the_column_of_the_noise(noisy):
    frame = pd.DataFrame(noisy[0], columns=["a", "b"])
    fitted = GaussianMixture(3, noise=True, random_state=0).fit(frame)
    resp = fitted.predict_proba(frame)
    assert list(resp) == ["responsibility_0", "responsibility_1", "responsibility_2", "responsibility_noise"]
    lazy = fitted.predict_proba(dd.from_pandas(frame, npartitions=3))
    pd.testing.assert_frame_equal(lazy.compute(), resp)


def test_components_of_two_mixtures_match_beside_their_noise(fitted, noisy):
    X = noisy[0]
    plain = GaussianMixture(3, random_state=0, means_init=fitted.means_[::-1]).fit(X[fitted.predict(X) >= 0])
    for rows in (None, X):
        matching = match_components(fitted, plain, rows)
        assert [(pair.a, pair.b) for pair in matching.pairs] == [(0, 2), (1, 1), (2, 0)]
    assert match_components(fitted, fitted, X).changed == 0.0
    tree = merge_components(fitted, X)
    np.testing.assert_array_equal(tree.labels(fitted.predict_proba(X), 3), fitted.predict(X))


# -- choosing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "n_features"), [(0, 2), *slow([(1, 3), (2, 4), (3, 2), (4, 3), (5, 5)])])
def test_a_search_finds_the_groups_and_their_noise(seed, n_features):
    X, true = clusters(n_features=n_features, seed=seed)
    settings = {"noise": [False, True], "random_state": 0, "start_effort": 0.2}
    search = GaussianMixtureSearch(range(1, 6), ["full", "spherical"], **settings).fit(X)
    assert search.best_params_["n_components"] == 3
    assert search.best_params_["noise"] is True
    assert search.best_estimator_.noise is True
    assert f1_of_noise(search.predict(X), true) > 0.8
    assert set(search.results_["noise"]) == {False, True}
    one = search.results_.query("noise and n_components == 3 and covariance_type == 'full'").iloc[0]
    assert one["n_parameters"] == get_family("full").n_parameters(3, n_features) + 1


def test_rows_without_noise_are_described_without():
    X, _ = clusters(n_rows=900, share=0.0)
    search = GaussianMixtureSearch([2, 3, 4], "spherical", noise=[False, True], random_state=0).fit(X)
    assert search.best_params_ == {"n_components": 3, "covariance_type": "spherical", "noise": False}
    assert not hasattr(search.best_estimator_, "noise_weight_")
    assert search.best_estimator_.noise is False


def test_a_search_out_of_memory_is_the_same_search():
    X, _ = clusters(n_rows=800)
    settings = {"noise": [False, True], "random_state": 0, "held_out": 0.2, "resamples": 3, "extend": True}
    settings["start_effort"] = 0.1
    whole = GaussianMixtureSearch([1, 2], ["tied", "spherical"], **settings).fit(X)
    lazy = GaussianMixtureSearch([1, 2], ["tied", "spherical"], **settings).fit(da.from_array(X, chunks=(150, -1)))
    names = ["bic", "icl", "held_out", "stability", "wins"]
    assert whole.best_params_ == lazy.best_params_
    np.testing.assert_allclose(lazy.results_[names], whole.results_[names], rtol=1e-6)
    assert set(whole.results_["n_components"]) == {1, 2, 3, 4}


def test_a_wide_group_beside_a_dense_one_is_no_noise():
    random = np.random.default_rng(0)
    dense, wide = random.normal(size=(600, 2)) * 0.1, random.normal(size=(300, 2)) * 2.0 + 12.0
    noise = random.uniform(-5, 20, (40, 2))
    X, true = np.concatenate([dense, wide, noise]), np.repeat([0, 1, -1], [600, 300, 40])
    mixture = GaussianMixture(2, noise=True, random_state=0).fit(X)
    assert f1_of_noise(mixture.predict(X), true) > 0.8


def test_a_candidate_of_too_many_components_fails_alone():
    X, _ = clusters(n_rows=60)
    search = GaussianMixtureSearch([1, 70], "spherical", noise=[False, True], random_state=0).fit(X)
    table = search.results_.set_index(["n_components", "noise"])
    assert (table.loc[70, "status"] == "failed").all()
    assert (table.loc[1, "status"] == "converged").all()
    assert GaussianMixture(1, noise=True, random_state=0).fit(X[:10]).status_ == "converged"


@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data"])
def test_all_starts_begin_beside_the_noise(init_params):
    X, true = clusters()
    mixture = GaussianMixture(3, noise=True, init_params=init_params, n_init=5, random_state=0).fit(X)
    assert f1_of_noise(mixture.predict(X), true) > 0.8


# -- next to other settings ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_warm_start_goes_on(noisy):
    X = noisy[0]
    settings = {"noise": True, "random_state": 0, "tol": 0, "warm_start": True}
    whole = GaussianMixture(3, max_iter=8, **settings)
    halves = GaussianMixture(3, max_iter=4, **settings)
    whole.fit(X)
    halves.fit(X).fit(X)
    np.testing.assert_array_equal(halves.means_, whole.means_)
    assert halves.noise_weight_ == whole.noise_weight_
    with pytest.raises(UserError, match="noise"):
        halves.set_params(noise=False).fit(X)


def test_an_earlier_fit_leaves_no_noise(noisy):
    mixture = GaussianMixture(3, noise=True, random_state=0).fit(noisy[0])
    mixture.set_params(noise=False).fit(noisy[0])
    assert not hasattr(mixture, "noise_weight_")
    assert mixture.predict_proba(noisy[0]).shape == (len(noisy[0]), 3)


def test_chunks_give_the_same_bits_in_any_number_of_threads(noisy):
    import dask

    X = da.from_array(noisy[0], chunks=(40, -1))
    settings = {"noise": True, "random_state": 0, "covariance_type": "tied"}
    fits = []
    for n_threads in (1, 4):
        with dask.config.set(scheduler="threads", num_workers=n_threads):
            fits.append(GaussianMixture(3, **settings).fit(X))
    assert_identical(*fits)
    assert fits[0].noise_weight_ == fits[1].noise_weight_


def test_a_component_that_takes_all_rows_leaves_the_noise_none():
    """Noise of no weight has no density, and harms nothing."""
    X = np.random.default_rng(0).normal(size=(300, 1))
    mixture = GaussianMixture(1, noise=1e100, random_state=0, weights_init=[1.0, 0.0]).fit(X)
    assert mixture.noise_weight_ == 0.0
    assert mixture.score(X) == pytest.approx(GaussianMixture(1).fit(X).score(X))


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, -1.0, "yes", [True, "no"]])
def test_what_is_no_noise_is_refused(noise):
    with pytest.raises(ValueError, match="noise"):
        GaussianMixture(1, noise=noise).fit([[0.0], [1.0]])
    with pytest.raises(ValueError, match="noise"):
        GaussianMixtureSearch(1, noise=noise).fit([[0.0], [1.0]])


def test_a_constant_column_has_no_box():
    with pytest.raises(UserError, match="column 1"):
        GaussianMixture(1, noise=True).fit([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    frame = pd.DataFrame({"a": [0.0, 1.0, 2.0], "still": 5.0})
    with pytest.raises(UserError, match="'still'"):
        GaussianMixtureSearch(1, noise=True).fit(frame)


def test_the_weight_of_the_noise_is_given_last(noisy):
    with pytest.raises(UserError, match=r"\(4,\).*noise"):
        GaussianMixture(3, noise=True, weights_init=[0.5, 0.3, 0.2]).fit(noisy[0])


def test_scikit_learn_has_no_noise(fitted):
    with pytest.raises(UserError, match="noise"):
        fitted.to_sklearn()
