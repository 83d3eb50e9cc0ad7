from __future__ import annotations

import re

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import sklearn.mixture
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask import search as search_module
from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.grid import generator_copies
from marks import slow
from messages import names
from mixtures import assert_same_parameters
from pipeline.config.job import JobConfig
from pipeline.fit.job import run

COLUMNS = [
    "n_components",
    "covariance_type",
    "noise",
    "status",
    "bic",
    "delta",
    "aic",
    "icl",
    "elbo",
    "held_out",
    "log_likelihood",
    "held_out_log_likelihood",
    "held_out_error",
    "n_parameters",
    "n_iter",
    "slim_component",
    "slim_gain",
    "slim_price",
    "start",
    "starts",
    "untrusted",
    "agreed",
    "spread",
    "agreeing",
    "refits",
    "stability",
    "wins",
    "delta_error",
]
STARTS = ("kmeans", "k-means++", "random", "random_from_data")
TYPES = ("full", "tied", "diag", "spherical")


@pytest.fixture
def states(monkeypatch):
    """The states that searches end with."""
    seen = []

    def recording(rows, data_summary, states, **options):
        outcomes = evaluate(rows, data_summary, states, **options)
        seen.extend(outcome.state for outcome in outcomes)
        return outcomes

    evaluate = search_module.evaluate_states
    monkeypatch.setattr(search_module, "evaluate_states", recording)
    return seen


def _all_trusted(states, row):
    """Whether no start of a candidate was passed over: a single fit takes the best, whatever it is."""
    own = [s for s in states if (s.covariance_type, s.n_components) == (row.covariance_type, row.n_components)]
    return all(state.status.trusted for state in own)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("init_params", "lazy"), [("kmeans", False), ("kmeans", True), *slow((start, False) for start in STARTS[1:])]
)
def test_a_cell_is_the_single_fit(dataset, init_params, lazy, states):
    _, X, _ = dataset
    settings = {"n_init": 2, "init_params": init_params, "random_state": 3, "max_iter": 40, "reg_covar": 1e-6}
    given = da.from_array(X, chunks=(97, X.shape[1])) if lazy else X
    table = GaussianMixtureSearch([1, 2, 4], **settings).fit(given).results_
    cells = {(s.covariance_type, s.n_components, s.start): s for s in states}
    single = [row for row in table.itertuples() if _all_trusted(states, row)]
    assert len(single) >= 9
    for row in single:
        alone = GaussianMixture(row.n_components, covariance_type=row.covariance_type, **settings).fit(given)
        cell = cells[row.covariance_type, row.n_components, row.start]
        assert row.n_iter == cell.n_iter == alone.n_iter_
        assert row.status == ("converged" if alone.converged_ else "max_iter")
        assert_same_parameters(cell, alone, rtol=1e-9)
        assert row.bic == pytest.approx(alone.bic(X), rel=1e-9)
        assert row.icl == pytest.approx(alone.icl(X), rel=1e-9, abs=1e-6)


def test_the_table(iris):
    search = GaussianMixtureSearch(range(1, 4), n_init=2, init_params="kmeans", random_state=0).fit(iris)
    table = search.results_
    assert list(table.columns) == COLUMNS
    assert list(zip(table.covariance_type, table.n_components, strict=True)) == [
        (t, k) for t in TYPES for k in (1, 2, 3)
    ]
    assert (table.status == "converged").all()
    np.testing.assert_allclose(table.delta, table.bic - table.bic.min())
    np.testing.assert_allclose(table.aic, -2 * table.log_likelihood + 2 * table.n_parameters)
    np.testing.assert_allclose(table.bic, -2 * table.log_likelihood + np.log(len(iris)) * table.n_parameters)
    assert (table.icl >= table.bic).all()
    assert table.start.isin([0, 1]).all()


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl"])
def test_the_winner(iris, criterion):
    search = GaussianMixtureSearch(range(1, 5), criterion=criterion, init_params="kmeans", random_state=0).fit(iris)
    row = search.results_.loc[search.results_[criterion].idxmin()]
    best = search.best_estimator_
    assert search.best_params_ == {"n_components": row.n_components, "covariance_type": row.covariance_type}
    assert row.delta == 0
    assert best.get_params().items() >= search.best_params_.items()
    assert getattr(best, criterion)(iris) == pytest.approx(row[criterion], rel=1e-9)
    refitted = clone(best).fit(iris)
    assert refitted.n_iter_ == best.n_iter_
    assert_same_parameters(best, refitted, rtol=1e-9)
    for method in ("predict", "predict_proba", "score_samples", "score"):
        np.testing.assert_array_equal(getattr(search, method)(iris), getattr(best, method)(iris))


def test_a_generator_is_cloned_for_each_candidate(iris):
    generator = np.random.RandomState(4)
    settings = {"n_init": 3, "init_params": "random", "reg_covar": 1e-6}
    together = GaussianMixtureSearch([2, 3], random_state=generator, **settings).fit(iris).results_
    alone = GaussianMixtureSearch([3], random_state=generator, **settings).fit(iris).results_
    pd.testing.assert_frame_equal(
        together[together.n_components == 3].reset_index(drop=True), alone, rtol=1e-12, check_exact=False
    )


def test_a_singular_candidate_is_a_row():
    X = np.repeat([[0.0, 0.0], [1.0, 0.5], [3.0, 4.0]], 20, axis=0)
    search = GaussianMixtureSearch([1, 3], "full", init_params="kmeans", reg_covar=0, random_state=0).fit(X)
    fitted, singular = search.results_.to_dict("records")
    assert fitted["status"] == "converged"
    assert singular["status"] == "singular"
    assert np.isnan([singular[name] for name in ("bic", "delta", "aic", "icl", "log_likelihood")]).all()
    assert search.best_params_["n_components"] == 1


def test_candidates_without_repeats(iris):
    search = GaussianMixtureSearch([2, 2, 1], ["diag", "diag"], init_params="kmeans", random_state=0).fit(iris)
    assert list(search.results_.n_components) == [2, 1]
    one = GaussianMixtureSearch(2, "diag", init_params="kmeans", random_state=0).fit(iris)
    assert one.best_params_ == {"n_components": 2, "covariance_type": "diag"}


def test_weights_count_as_copies(iris):
    """From equal starts the criteria are those of the rows copied, and n is the sum of the weights."""
    weights = np.random.RandomState(0).randint(0, 3, len(iris))
    settings = {"n_components": 1, "init_params": "kmeans", "random_state": 0}
    copies = GaussianMixtureSearch(**settings).fit(np.repeat(iris, weights, axis=0)).results_
    weighted = GaussianMixtureSearch(**settings).fit(iris, sample_weight=weights).results_
    pd.testing.assert_frame_equal(weighted, copies, rtol=1e-9)


def test_feature_names_reach_the_winner(iris):
    frame = pd.DataFrame(iris, columns=list("abcd"))
    search = GaussianMixtureSearch([1, 2], init_params="kmeans", random_state=0).fit(frame)
    assert list(search.best_estimator_.feature_names_in_) == list(search.feature_names_in_) == list("abcd")
    search.predict(frame)


def test_verbose_says_what_is_fitted_how_it_ends_and_what_won(iris, capsys):
    settings = {"init_params": "kmeans", "n_init": 2, "random_state": 0}
    silent = GaussianMixtureSearch([1, 2], "diag", **settings).fit(iris)
    assert capsys.readouterr().out == ""
    search = GaussianMixtureSearch([1, 2], "diag", verbose=1, verbose_interval=2, **settings).fit(iris)
    lines = capsys.readouterr().out.splitlines()
    assert re.match(names("2 candidates", "4 starts", "kmeans"), lines[0])
    assert "Iteration 2: " in lines[1]
    assert re.match(names("4 starts", "4 converged"), lines[-2])
    assert re.match(names("diag-k2", "BIC", f"{search.bic(iris):.2f}"), lines[-1])
    pd.testing.assert_frame_equal(search.results_, silent.results_, rtol=1e-9)
    GaussianMixtureSearch([1, 2], "diag", verbose=2, **settings).fit(iris)
    ends = [line for line in capsys.readouterr().out.splitlines() if "lower bound" in line]
    assert {line.partition(":")[0] for line in ends} == {f"diag-k{k}, start {i}" for k in (1, 2) for i in (0, 1)}


def test_verbose_says_what_a_search_for_starts_does(blobs, capsys):
    settings = {"init_params": "auto", "start_effort": 0.05, "random_state": 0}
    GaussianMixtureSearch([2], "spherical", verbose=2, **settings).fit(blobs)
    assert "  clusterings of 600 rows" in "".join(capsys.readouterr().out.splitlines(keepends=True))


def test_a_search_chooses_as_a_job_does(old_faithful, tmp_path):
    """With the defaults of both."""
    settings = {"n_components": [2, 3], "covariance_types": ["full", "tied"]}
    np.save(tmp_path / "rows.npy", old_faithful)
    values = {"data": {"source": str(tmp_path / "rows.npy")}, "search": settings}
    output = {"store": str(tmp_path / "night.zarr"), "report": False}
    job = run(JobConfig.model_validate({**values, "output": output}))
    search = GaussianMixtureSearch(**settings, random_state=job.config["search"]["random_state"]).fit(old_faithful)
    assert Candidate.parse(job.best) == Candidate(**search.best_params_)
    np.testing.assert_allclose(job.table["bic"], search.results_["bic"], rtol=1e-9)


@pytest.mark.slow
def test_a_search_and_a_job_find_the_same_winner_of_the_whole_grid(old_faithful):
    search = GaussianMixtureSearch(random_state=0).fit(old_faithful)
    assert search.best_params_ == {"n_components": 3, "covariance_type": "tied"}


def test_the_winner_as_scikit_learns(iris):
    search = GaussianMixtureSearch([2, 3], "full", init_params="kmeans", random_state=0)
    with pytest.raises(NotFittedError):
        search.to_sklearn()
    theirs = search.fit(iris).to_sklearn()
    assert type(theirs) is sklearn.mixture.GaussianMixture
    np.testing.assert_array_equal(theirs.predict(iris), search.predict(iris))
    assert theirs.bic(iris) == pytest.approx(search.bic(iris), rel=1e-9)


def test_a_search_has_the_methods_of_a_mixture():
    """Public methods of scikit-learn's mixture, and ours."""
    theirs = {name for name in dir(sklearn.mixture.GaussianMixture) if not name.startswith("_")}
    ours = {name for name in dir(GaussianMixture) if not name.startswith("_")} - {"from_sklearn", "set_fitted"}
    assert theirs | ours <= set(dir(GaussianMixtureSearch))


def test_unfitted(iris):
    with pytest.raises(NotFittedError):
        GaussianMixtureSearch().predict(iris)


# scikit-learn's checks that do not apply, with the reason
NOT_APPLICABLE = {
    "check_parameters_default_constructible": "n_components defaults to a range, which the check does not allow",
}


@pytest.mark.slow
def test_scikit_learns_checks():
    results = check_estimator(
        GaussianMixtureSearch([1, 2], init_params="kmeans"),
        expected_failed_checks=NOT_APPLICABLE,
        on_skip=None,
        on_fail=None,
    )
    statuses = {result["check_name"]: result["status"] for result in results}
    assert {name for name, status in statuses.items() if status == "xfail"} == set(NOT_APPLICABLE)
    assert {name for name, status in statuses.items() if status == "skipped"} <= {"check_array_api_input"}
    assert set(statuses.values()) <= {"passed", "skipped", "xfail"}


def test_without_a_random_state_each_search_draws_anew_and_its_candidates_alike():
    first, second = generator_copies(None), generator_copies(None)
    assert first().randint(2**31 - 1) == first().randint(2**31 - 1)
    assert first().randint(2**31 - 1) != second().randint(2**31 - 1)
