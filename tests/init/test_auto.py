"""The search for starts on a subsample."""

from __future__ import annotations

import warnings
from functools import partial

import dask.array as da
import numpy as np
import pandas as pd
import pytest

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.em import loop
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.errors import UserError
from gmm_dask.families import DEFAULT_TYPES, FAMILIES, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.auto import run_restarts, search_states
from gmm_dask.init.budget import BUDGET, SearchBudget, Work
from gmm_dask.init.responsibilities import start_parameters
from gmm_dask.init.starts import first_states
from gmm_dask.init.subsample import Subsample
from gmm_dask.passes import data_summary as data_summary_module
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_statistics
from marks import slow
from mclust import MCLUST_NAMES, REG_COVAR
from messages import names
from mixtures import assert_identical, assert_same_parameters
from paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.fixture(scope="session")
def parallel_cigars():
    """Three groups side by side, 25 times as long as they are wide."""
    rng = np.random.RandomState(1)
    groups = [rng.normal((0, offset), (5, 0.2), (300, 2)) for offset in (0, 1.2, 2.4)]
    return np.concatenate(groups) @ rotation(0.7)


@pytest.fixture(scope="session")
def crossing_cigars():
    rng = np.random.RandomState(2)
    groups = [rng.normal(0, widths, (400, 2)) for widths in ((3, 0.25), (0.25, 3))]
    return np.concatenate(groups) @ rotation(0.4)


def auto_states(X, candidates, *, n_init=1, seed=0, weights=None):
    data_summary = summarize_rows(as_rows(X, weights), 0)
    random = lambda: np.random.RandomState(seed)  # noqa: E731
    candidates = [Candidate(*candidate) for candidate in candidates]
    return first_states(
        candidates, data_summary, init_params="auto", n_init=n_init, random_state=random, reg_covar=REG_COVAR
    )


@pytest.mark.parametrize("seed", [0, *slow(range(1, 8))])
def test_parallel_cigars_from_any_random_state(parallel_cigars, seed):
    search = GaussianMixtureSearch(range(1, 6), init_params="auto", random_state=seed).fit(parallel_cigars)
    assert search.best_params_["n_components"] == 3
    assert search.best_params_["covariance_type"] in ("full", "tied")


@pytest.mark.parametrize("seed", [0, *slow(range(1, 8))])
def test_crossing_cigars_from_any_random_state(crossing_cigars, seed):
    search = GaussianMixtureSearch(range(1, 6), init_params="auto", random_state=seed).fit(crossing_cigars)
    assert search.best_params_ == {"n_components": 2, "covariance_type": "full"}


@pytest.mark.slow
def test_a_lone_fit_finds_the_cigars(parallel_cigars, crossing_cigars):
    """Without neighbours to begin from, too; scikit-learn's start ends 0.1 a row below for the parallel ones."""
    for X, k in ((parallel_cigars, 3), (crossing_cigars, 2)):
        best = GaussianMixture(k, init_params="kmeans", n_init=50, tol=1e-6, max_iter=1000, random_state=0).fit(X)
        for seed in range(5):
            auto = GaussianMixture(k, init_params="auto", tol=1e-6, max_iter=1000, random_state=seed).fit(X)
            assert auto.score(X) > best.score(X) - 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iris", "old_faithful"])
def test_no_cell_is_short_of_mclust(name, request):
    """Unless a component of mclust's optimum is spurious, which the search passes over."""
    X = request.getfixturevalue(name)
    table = -pd.read_csv(ROOT / f"tests/data/{name}_mclust_bic.csv", index_col=0)
    settings = {"init_params": "auto", "tol": 1e-6, "max_iter": 5000, "reg_covar": REG_COVAR, "random_state": 0}
    found = GaussianMixtureSearch(range(1, 10), **settings).fit(X).results_
    short = {}
    for row in found.itertuples():
        n_parameters = FAMILIES[row.covariance_type].n_parameters(row.n_components, X.shape[1])
        bic = table.loc[row.n_components, MCLUST_NAMES[row.covariance_type]]
        mclust = (n_parameters * np.log(len(X)) - bic) / 2
        candidate = Candidate(row.covariance_type, row.n_components)
        if not row.log_likelihood >= mclust - 0.01 and not mclust_is_spurious(name, X, candidate):
            short[candidate] = mclust - row.log_likelihood
    assert not short


def mclust_is_spurious(name, X, candidate):
    """Whether the optimum next to what mclust printed has a component that does not pay."""
    table = pd.read_csv(ROOT / f"tests/data/{name}_mclust_components.csv")
    is_mine = (table["model"] == MCLUST_NAMES[candidate.covariance_type]) & (
        table["n_components"] == candidate.n_components
    )
    values = table[is_mine].to_numpy()[:, 2:].astype(np.float64)
    weights, means, matrices = values[:, 0], values[:, 1:3], values[:, [3, 4, 4, 5]].reshape(-1, 2, 2)
    covariances = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.diagonal(matrices, axis1=1, axis2=2),
        "spherical": matrices[:, 0, 0],
    }[candidate.covariance_type]
    parameters = get_family(candidate.covariance_type).parameters(weights, means, covariances)
    # mclust stops earlier, at 1e-5
    (converged,) = subsample_of(X).run([State(candidate, 0, parameters)], Settings(tol=1e-8, max_iter=5000))
    return converged.status is Status.SPURIOUS


@pytest.mark.slow
def test_old_faithful_is_three_of_one_shape(old_faithful):
    """And not the spurious component of rows that are equal in one column."""
    search = GaussianMixtureSearch(range(1, 10), init_params="auto", reg_covar="auto", tol=1e-6, max_iter=1000)
    assert search.fit(old_faithful).best_params_ == {"n_components": 3, "covariance_type": "tied"}


@pytest.mark.slow
def test_each_start_is_a_search_of_its_own(iris):
    candidates = [("diag", 7), ("full", 5)]
    alone, several = auto_states(iris, candidates), auto_states(iris, candidates, n_init=4)
    for i, state in enumerate(alone):
        mine = several[4 * i : 4 * i + 4]
        np.testing.assert_array_equal(mine[0].parameters.means, state.parameters.means)
        assert not any(np.array_equal(other.parameters.means, state.parameters.means) for other in mine[1:])


def test_one_row_that_counts_leaves_nothing_to_search_for(blobs):
    weights = np.zeros(len(blobs))
    weights[3] = len(blobs)
    search = {"n_components": [1, 2], "covariance_types": ["full", "diag"], "random_state": 0}
    tables = [
        GaussianMixtureSearch(**search, init_params=init).fit(blobs, sample_weight=weights).results_
        for init in ("kmeans", "auto")
    ]
    assert tables[0]["status"].tolist() == tables[1]["status"].tolist()


def test_every_candidate_has_its_starts(blobs):
    candidates = [("tied", 3), ("full", 1), ("full", 3)]
    states = auto_states(blobs, candidates, n_init=2)
    assert [(s.covariance_type, s.n_components, s.start) for s in states] == [
        (*candidate, start) for candidate in candidates for start in range(2)
    ]
    assert all(state.status is Status.RUNNING and state.n_iter == 0 for state in states)


def test_the_same_random_state_gives_the_same_bits(iris):
    first, again = (GaussianMixture(4, init_params="auto", n_init=2, random_state=3).fit(iris) for _ in range(2))
    assert_identical(first, again)


def test_weights_are_repetitions(iris):
    """The starts differ, because the draws do; what the fits end with does not."""
    weights = np.random.RandomState(0).randint(0, 3, len(iris)).astype(float)
    settings = {"init_params": "auto", "tol": 1e-9, "max_iter": 5000, "random_state": 0}
    weighted = GaussianMixture(3, **settings).fit(iris, sample_weight=weights)
    repeated = GaussianMixture(3, **settings).fit(np.repeat(iris, weights.astype(int), axis=0))
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, abs=1e-5)


def test_more_rows_than_the_subsample_and_the_sample_take(blobs, monkeypatch):
    """The blobs are found from some of their rows, and the bits do not depend on how often it is done."""
    monkeypatch.setattr(data_summary_module, "SAMPLE_ROWS", 300)
    budget = SearchBudget(subsample_rows=60, rows_per_mean_value=1, second_subsample=2, whole_sample_ratio=1)
    rows = as_rows(da.from_array(blobs, chunks=(100, 2)), None)
    data_summary = summarize_rows(rows, 0)
    assert len(data_summary.sample) == 300
    ends = []
    for _ in range(2):
        start = search_states(
            [Candidate("full", 3)],
            data_summary,
            1,
            lambda: np.random.RandomState(0),
            REG_COVAR,
            budget,
            rows=lambda: rows,
        )
        collect = partial(collect_statistics, rows, data_summary)
        [end] = loop.run(
            start, collect, data_summary.total_weight, Settings(tol=1e-8, max_iter=1000, reg_covar=REG_COVAR)
        )
        ends.append(end)
    for ours, theirs in zip(*(end.parameters.arrays().values() for end in ends), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    whole = GaussianMixture(3, init_params="auto", tol=1e-8, max_iter=1000, random_state=0, reg_covar=REG_COVAR)
    assert ends[0].lower_bound == pytest.approx(whole.fit(blobs).lower_bound_, abs=1e-6)


def subsample_of(X, weights=None, seed=0, budget=BUDGET):
    """All rows as a subsample."""
    return Subsample.of(
        summarize_rows(as_rows(X, weights), 0), len(X), np.random.RandomState(seed), REG_COVAR, budget, Work(1e12)
    )


def test_where_there_is_little_to_do_a_start_is_the_best_of_two_restarts(iris):
    candidates = [Candidate("full", 2), Candidate("full", 3), Candidate("diag", 3)]
    pool = run_restarts(subsample_of(iris, seed=3), candidates, 2, np.random.RandomState(3))
    assert list(pool) == [(candidate, restart) for restart in range(2) for candidate in candidates]
    assert all(states[0].start == restart for (_, restart), states in pool.items())
    won = auto_states(iris, candidates, seed=3)
    for candidate, state in zip(candidates, won, strict=True):
        best = max((pool[candidate, restart][0] for restart in range(2)), key=lambda state: state.lower_bound)
        assert_same_parameters(state.parameters, best.parameters)


def test_a_lone_fit_borrows_from_fits_of_one_component_less_and_more(iris):
    (lone,) = auto_states(iris, [("full", 4)], seed=3)
    _, among, _ = auto_states(iris, [("full", 3), ("full", 4), ("full", 5)], seed=3)
    assert_same_parameters(lone, among)


def test_a_lone_fit_of_as_many_components_as_rows():
    (state,) = auto_states(np.arange(3.0)[:, None], [("spherical", 3)])
    np.testing.assert_allclose(np.sort(state.parameters.means[:, 0]), np.arange(3.0))


def test_less_effort_makes_fewer_rounds(iris):
    """The work is counted, not timed: the same seed gives the same starts on every machine."""
    told = {}
    for effort in (1.0, 1e-6):
        search = partial(first_states, [Candidate("full", 3)], summarize_rows(as_rows(iris), 0), init_params="auto")
        settings = {"n_init": 1, "random_state": lambda: np.random.RandomState(0), "reg_covar": REG_COVAR}
        told[effort] = []
        search(**settings, effort=effort, report=told[effort].append)
    assert any(text.startswith("round 1") for text in told[1.0])
    assert not any(text.startswith("round") for text in told[1e-6])
    assert told[1e-6]


def test_effort_is_that_of_a_search():
    with pytest.raises(UserError, match=names("start_effort", "0.5", "kmeans", "auto")):
        GaussianMixture(2, start_effort=0.5).fit(np.arange(6.0)[:, None])
    given = {"weights_init": [0.5, 0.5], "means_init": [[0.0], [5.0]], "precisions_init": [[[1.0]], [[1.0]]]}
    with pytest.raises(UserError, match=names("start_effort", "0.5")):  # which needs no start
        GaussianMixture(2, start_effort=0.5, **given).fit(np.arange(6.0)[:, None])


def test_without_the_effort_for_a_search_it_is_kmeans(iris):
    settings = {"random_state": 0, "reg_covar": 1e-3, "tol": 1e-9, "max_iter": 1000}
    auto = GaussianMixture(4, init_params="auto", start_effort=1e-9, **settings).fit(iris)
    kmeans = GaussianMixture(4, init_params="kmeans", **settings).fit(iris)
    assert auto.lower_bound_ == pytest.approx(kmeans.lower_bound_, abs=1e-6)
    searched = GaussianMixture(4, init_params="auto", **settings).fit(iris)
    assert searched.lower_bound_ > kmeans.lower_bound_ + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_it_never_ends_below_the_kmeans_start(seed, iris, covariance_type):
    settings = {"covariance_type": covariance_type, "tol": 1e-7, "max_iter": 2000, "random_state": seed}
    for k in (2, 4, 7):
        kmeans = GaussianMixture(k, init_params="kmeans", reg_covar=1e-3, **settings).fit(iris)
        auto = GaussianMixture(k, init_params="auto", reg_covar=1e-3, **settings).fit(iris)
        assert auto.lower_bound_ >= kmeans.lower_bound_ - 1e-6


@pytest.mark.parametrize("covariance_type", DEFAULT_TYPES)
def test_a_fit_assembled_from_its_components_begins_as_one_from_all_rows(covariance_type, blobs):
    weights = np.random.RandomState(0).randint(1, 4, len(blobs)).astype(float)
    fitted = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(blobs, sample_weight=weights)
    resp = fitted.predict_proba(blobs)
    assert resp.min() < BUDGET.negligible  # rows that a component does without
    subsample = subsample_of(blobs, weights)
    (together,) = subsample.states(subsample.start((Candidate(covariance_type, 3), 0), np.ascontiguousarray(resp.T)))
    expected = start_parameters(get_family(covariance_type), blobs, weights, resp, REG_COVAR)
    for name, value in expected.arrays().items():
        np.testing.assert_allclose(vars(together.parameters)[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((20, 2)),
        np.repeat([[0.0, 0.0], [5.0, 5.0]], 10, axis=0),
        np.column_stack([np.arange(30.0), np.full(30, 7.0)]),
        np.arange(3.0)[:, None],
    ],
    ids=["all equal", "two distinct", "constant column", "as many as components"],
)
def test_rows_that_hardly_differ_are_a_status(X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        search = GaussianMixtureSearch(range(1, 4), init_params="auto", random_state=0).fit(X)
    assert len(search.results_) == 12
    assert np.isfinite(search.results_["bic"][0])


def test_no_start_at_all_is_a_status():
    X = np.repeat([[0.0, 0.0], [5.0, 5.0]], 10, axis=0)
    data_summary = summarize_rows(as_rows(X), 0)
    [state] = search_states([Candidate("full", 2)], data_summary, 1, lambda: np.random.RandomState(0), 0.0)
    assert state.parameters is None
    assert state.status is Status.SINGULAR
