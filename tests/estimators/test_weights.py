"""A row of weight 3 is three rows: fits, searches, criteria, scores, statuses."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from marks import slow
from messages import names
from mixtures import assert_same_parameters, inits_of, random_parameters, random_rows
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.score.new_rows import score


@pytest.fixture
def weighted():
    """Rows, their weights of 0 to 3, and the same as copies."""
    X = random_rows(400, 3)
    weights = np.random.RandomState(1).randint(0, 4, len(X)).astype(float)
    return X, weights, np.repeat(X, weights.astype(int), axis=0)


def started(covariance_type, **settings):
    inits = inits_of(covariance_type, random_parameters(covariance_type, 3, 3))
    return GaussianMixture(3, covariance_type=covariance_type, tol=1e-7, max_iter=2000, **inits, **settings)


@pytest.mark.parametrize("settings", [{}, {"reg_covar": "auto"}, {"accelerate": True}], ids=str)
@pytest.mark.parametrize("lazy", [False, True])
def test_a_fit_of_weights_is_one_of_copies(weighted, covariance_type, settings, lazy):
    X, weights, copies = weighted
    given = (da.from_array(X, chunks=(90, 3)), da.from_array(weights, chunks=90)) if lazy else (X, weights)
    ours = started(covariance_type, **settings).fit(given[0], sample_weight=given[1])
    theirs = started(covariance_type, **settings).fit(copies)
    assert ours.n_iter_ == theirs.n_iter_
    assert_same_parameters(ours, theirs, rtol=1e-7)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-9)


@pytest.mark.parametrize("lazy", [False, True])
def test_scores_and_criteria_of_weights_are_those_of_copies(weighted, covariance_type, lazy):
    X, weights, copies = weighted
    mixture = started(covariance_type).fit(X)
    given = (da.from_array(X, chunks=(90, 3)), da.from_array(weights, chunks=90)) if lazy else (X, weights)
    for name in ("score", "bic", "aic", "icl"):
        ours = getattr(mixture, name)(given[0], sample_weight=given[1])
        assert ours == pytest.approx(getattr(mixture, name)(copies), rel=1e-11), name
        assert ours != pytest.approx(getattr(mixture, name)(X), rel=1e-4), name


def test_a_search_of_weights_is_one_of_copies(weighted):
    """The starts are drawn from other rows, so that only candidates with one optimum must agree."""
    X, weights, copies = weighted
    settings = {"init_params": "kmeans", "tol": 1e-8, "max_iter": 2000, "random_state": 0}
    ours = GaussianMixtureSearch([1], **settings).fit(X, sample_weight=weights)
    theirs = GaussianMixtureSearch([1], **settings).fit(copies)
    for name in ("bic", "aic", "icl", "log_likelihood", "delta"):
        np.testing.assert_allclose(ours.results_[name], theirs.results_[name], rtol=1e-9, atol=1e-6, err_msg=name)
    assert ours.results_.status.tolist() == theirs.results_.status.tolist()
    assert ours.best_params_ == theirs.best_params_
    assert ours.score(X, sample_weight=weights) == pytest.approx(theirs.score(copies), rel=1e-9)
    assert ours.best_estimator_.bic(X, sample_weight=weights) == pytest.approx(ours.results_.bic.min(), rel=1e-11)


@pytest.fixture(scope="module")
def apart():
    """Three groups of rows far apart, so that three components have one optimum; whole weights, and copies."""
    random = np.random.RandomState(2)
    X = np.vstack([random_rows(150, 2, seed=i) + i * np.array([40.0, -30.0]) for i in range(3)])
    weights = random.randint(1, 4, len(X)).astype(float)
    return X, weights, np.repeat(X, weights.astype(int), axis=0)


@pytest.mark.parametrize("init_params", ["kmeans", *slow(["auto"])])
def test_a_search_of_three_groups_with_weights_is_one_of_copies(apart, init_params):
    X, weights, copies = apart
    settings = {"init_params": init_params, "n_init": 2, "tol": 1e-10, "max_iter": 3000, "random_state": 0}
    ours = GaussianMixtureSearch([3], **settings).fit(X, sample_weight=weights)
    theirs = GaussianMixtureSearch([3], **settings).fit(copies)
    for name in ("bic", "aic", "icl", "log_likelihood"):
        np.testing.assert_allclose(ours.results_[name], theirs.results_[name], rtol=1e-7, err_msg=name)
    assert ours.results_.status.tolist() == theirs.results_.status.tolist() == ["converged"] * 4
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_allclose(np.sort(ours.best_estimator_.weights_), np.sort(theirs.best_estimator_.weights_))
    assert ours.score(X, sample_weight=weights) == pytest.approx(theirs.score(copies), rel=1e-8)


def test_rows_held_out_count_by_their_weights(apart):
    """Other rows are held out of copies than of rows with weights: the mean over those that are is what is compared."""
    X, weights, _ = apart
    settings = {"held_out": 0.3, "criterion": "held_out", "init_params": "auto", "tol": 1e-8, "random_state": 0}
    ours = GaussianMixtureSearch([3], "full", **settings).fit(X, sample_weight=weights)
    twice = GaussianMixtureSearch([3], "full", **settings).fit(X, sample_weight=2.0 * weights)
    plain = GaussianMixtureSearch([3], "full", **settings).fit(X)
    [row], [doubled], [other] = (found.results_.to_dict("records") for found in (ours, twice, plain))
    assert doubled["held_out"] == pytest.approx(2.0 * row["held_out"], rel=1e-7)
    assert doubled["held_out_log_likelihood"] == pytest.approx(row["held_out_log_likelihood"], rel=1e-7)
    assert other["held_out_log_likelihood"] != pytest.approx(row["held_out_log_likelihood"], rel=1e-6)


def test_a_job_of_weights_is_one_of_copies_and_so_are_its_scores(apart, tmp_path):
    X, weights, copies = apart
    found = {}
    for name, rows, column in (("weights", X, weights), ("copies", copies, np.ones(len(copies)))):
        frame = pd.DataFrame(rows, columns=["a", "b"])
        frame.assign(w=column).to_parquet(tmp_path / f"{name}.parquet", index=False)
        data = {"source": str(tmp_path / f"{name}.parquet"), "columns": ["a", "b"]}
        values = {
            "data": data | ({"weights": "w"} if name == "weights" else {}),
            "search": {"n_components": [3], "covariance_types": ["full"], "init_params": "auto", "tol": 1e-9},
            "output": {"store": str(tmp_path / f"{name}.zarr"), "log_density": True, "report": False},
        }
        found[name] = run(JobConfig.model_validate(values))
    ours, theirs = found["weights"], found["copies"]
    assert ours.table["bic"].item() == pytest.approx(theirs.table["bic"].item(), rel=1e-7)
    assert ours.weights == pytest.approx(theirs.weights, rel=1e-6)
    assert ours.mean_log_likelihood == pytest.approx(theirs.mean_log_likelihood, rel=1e-8)
    data = str(tmp_path / "weights.parquet")
    one, other = (score(each.store, data, tmp_path / f"{name}-scores.zarr") for name, each in found.items())
    assert one.mean_log_density == pytest.approx(other.mean_log_density, rel=1e-7)
    assert sorted(one.rows.label_shares) == pytest.approx(sorted(other.rows.label_shares))
    assert not one.drift  # of its own rows, each counted once


def test_a_component_of_one_heavy_row_is_not_degenerate_by_its_rows():
    """A weight counts as so many rows: ten equal rows are a spike, one is degenerate."""
    X = np.vstack([random_rows(200, 2), [[40.0, 40.0]]])
    weights = np.ones(len(X))
    for weight, status in ((1.0, "degenerate"), (10.0, "spurious")):
        weights[-1] = weight
        search = GaussianMixtureSearch([1, 2], "full", init_params="kmeans", random_state=0).fit(
            X, sample_weight=weights
        )
        assert search.results_.status.tolist() == ["converged", status]
        assert search.best_params_["n_components"] == 1


@pytest.mark.parametrize(
    "estimator", [GaussianMixture(2), GaussianMixtureSearch([1, 2], init_params="kmeans")], ids=["mixture", "search"]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_that_add_up_to_one_are_told(estimator):
    """Each component is degenerate then: the cause is the weights, not the number of components."""
    X = np.vstack([random_rows(100, 2), random_rows(100, 2) + 50.0])
    with pytest.warns(UserWarning, match=names("weights", "add up to 1", "200 rows")):
        estimator.fit(X, sample_weight=np.full(200, 1 / 200))
    estimator.fit(X, sample_weight=np.full(200, 0.5))  # warnings are errors


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ([1.0, -7.0, -7.0], ["finite", "at least 0", "2"]),
        ([0.0] * 3, ["above 0", "zero"]),
        ([1.0, 1.0], ["(3,)", "(2,)"]),
    ],
)
def test_weights_that_are_none_are_refused(weights, parts):
    X = random_rows(3, 2)
    mixture = GaussianMixture(random_state=0).fit(X)
    for answer in (mixture.score, mixture.bic):
        with pytest.raises(ValueError, match=names("sample_weight", *parts)):
            answer(X, sample_weight=weights)
