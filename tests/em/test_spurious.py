"""Spurious components: found from the parameters alone, and from the data; they do not win."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.em.spurious import (
    NODES,
    SLIM,
    check_components,
    check_parameters,
    is_beyond_doubt,
    quick_verdict,
    slim_components,
    slow_verdict,
)
from gmm_dask.families import FAMILIES, Parameters, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.kernels.constants import SOUND, SPURIOUS, UNDECIDED
from gmm_dask.kernels.m_step import largest_trace
from gmm_dask.kernels.narrow_components import gain_of_two
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_totals
from gmm_dask.selection.outcomes import best_outcome, evaluate_states
from messages import names
from mixtures import assert_same_parameters, random_parameters, random_rows

OWN_COVARIANCES = ("full", "diag", "spherical")


# -- from the parameters alone -----------------------------------------------------------------------------------


def mixture_of(covariance_type, rows, variances, n_features=2, apart=10.0):
    """Components of so many rows and such variances in the first direction (all directions, if spherical), apart."""
    k = len(rows)
    diagonals = np.ones((k, n_features))
    diagonals[:, : n_features if covariance_type == "spherical" else 1] = np.array(variances)[:, None]
    shapes = {"full": [np.diag(d) for d in diagonals], "diag": diagonals, "spherical": diagonals[:, 0]}
    means = apart * np.arange(k)[:, None] * np.ones(n_features)
    weights = np.array(rows) / np.sum(rows)
    return get_family(covariance_type).parameters(weights, means, np.array(shapes[covariance_type]))


def checked(covariance_type, rows, variances, reg_covar=1e-6, apart=10.0):
    parameters = mixture_of(covariance_type, rows, variances, apart=apart)
    return check_parameters(get_family(covariance_type), parameters, float(sum(rows)), reg_covar)


@pytest.mark.parametrize("covariance_type", OWN_COVARIANCES)
@pytest.mark.parametrize(
    ("rows", "variances", "expected"),
    [
        ([100, 100, 50], [1.0, 2.0, 0.5], None),
        ([1000, 1000, 14], [1.0, 2.0, 1e-5], None),  # narrow: the data have to show what it gains
        ([1000, 1000, 14], [1.0, 2.0, 1.1e-6], Status.SPURIOUS),
        ([1000, 1000, 500], [1.0, 2.0, 1.1e-6], Status.SPURIOUS),  # whatever the number of rows
        ([1000, 1000, 0.9], [1.0, 2.0, 1.0], Status.DEGENERATE),
        ([1000, 1000, 1], [1.0, 2.0, 1e-5], Status.DEGENERATE),
        ([20, 20, 20], [1.1e-6, 1.1e-6, 1.1e-6], Status.SPURIOUS),  # every component is bounded by reg_covar
    ],
)
def test_checks_of_parameters(covariance_type, rows, variances, expected):
    assert checked(covariance_type, rows, variances, apart=0.5) is expected


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("variances", [[1.0, 2.0, 1.1e-6], [1.1e-6, 1.1e-6, 1.1e-6]])
def test_groups_apart_that_share_a_value_are_groups(covariance_type, variances):
    """As rows of a fill value are, or clusters in which a column is constant; copies of one row are none."""
    assert checked(covariance_type, [200, 200, 100], variances) is None
    assert checked("spherical", [200, 200, 20], variances) is Status.SPURIOUS


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("apart", [1.0, 2.0, 20.0])
def test_planes_of_rounded_rows_are_no_groups(covariance_type, apart):
    """Values in steps of 1: planes that are one or two steps apart are of one group, those far apart are not."""
    found = checked(covariance_type, [300, 300, 300], [1 / 12, 1 / 12, 1 / 12], np.full(2, 1 / 12), apart)
    assert found is (None if apart > 10.0 else Status.SPURIOUS)


def test_two_components_gain_what_they_are_apart():
    """The closed form is that of the likelihoods over rows drawn from the two."""
    rng = np.random.default_rng(0)
    for share, apart in ((0.5, 0.0), (0.5, 3.0), (0.1, 5.0), (0.03, 14.0)):
        of_first = rng.uniform(size=200_000) < share
        x = rng.standard_normal(len(of_first)) + apart * of_first
        mixture = share * norm.pdf(x, apart) + (1.0 - share) * norm.pdf(x)
        single = norm.logpdf(x, share * apart, np.sqrt(1.0 + share * (1.0 - share) * apart**2))
        gain = gain_of_two(share, apart**2, *NODES)
        assert gain == pytest.approx(np.mean(np.log(mixture) - single), abs=0.02)


def test_tied_components_are_not_spurious():
    parameters = get_family("tied").parameters(np.array([0.9, 0.1]), np.array([[0.0, 0], [9, 9]]), np.diag([1e-4, 1.0]))
    assert check_parameters(get_family("tied"), parameters, 100.0, 1e-6) is None


def test_columns_that_are_all_but_equal_make_no_spurious_components(covariance_type):
    """In a direction in which the data do not vary, everything is narrow."""
    X = np.random.RandomState(0).standard_normal((60, 2))
    X = np.column_stack([X, X[:, 0]])
    search = GaussianMixtureSearch([1, 2], covariance_type, init_params="kmeans", random_state=0).fit(X)
    assert (search.results_["status"] == "converged").all()


def test_checks_do_not_depend_on_units():
    units = np.array([1e-3, 1e4])
    for variances in ([1.0, 2.0, 1e-5], [1.0, 2.0, 0.1]):
        parameters = mixture_of("full", [1000, 1000, 14], variances)
        family = get_family("full")
        _, scaled = family.unscaled(parameters, np.zeros(2), units)
        found = check_parameters(family, scaled, 2014.0, 1e-6 * units**2)
        assert found is check_parameters(family, parameters, 2014.0, 1e-6)


def test_what_is_beyond_doubt_is_not_spurious(covariance_type):
    """The cheap bound rules out no mixture that the whole check objects to."""
    family, reg_covar = get_family(covariance_type), np.array([1e-5])
    found = []
    for mixture in uneven_mixtures(family):
        d = mixture.means.shape[1]
        precisions = np.linalg.inv(family.full_covariances(mixture))
        trace = largest_trace(
            family.kind, len(mixture.weights), d, mixture.precisions_cholesky.ravel(), np.repeat(reg_covar, d)
        )
        assert trace == pytest.approx(1e-5 * np.trace(precisions, axis1=1, axis2=2).max(), rel=1e-6)
        beyond_doubt = is_beyond_doubt(mixture.weights, 300.0, trace)
        found.append((beyond_doubt, check_parameters(family, mixture, 300.0, reg_covar)))
    assert (True, None) in found
    assert {status for beyond_doubt, status in found if beyond_doubt} == {None}
    if covariance_type != "tied":
        assert Status.SPURIOUS in {status for _, status in found}


def test_the_quick_verdict_is_the_slow_one(covariance_type):
    """Compiled and by eigenvectors; the quick one leaves few undecided."""
    family, found = get_family(covariance_type), []
    for mixture in uneven_mixtures(family):
        quick = quick_verdict(family, mixture, 3000.0, 1e-5)
        found.append(quick)
        assert quick in (UNDECIDED, slow_verdict(family, mixture, 3000.0, 1e-5))
    assert found.count(UNDECIDED) < 50
    assert SOUND in found
    assert SPURIOUS in found or covariance_type == "tied"


def slimness_of(parameters, matrices):
    """By eigenvectors in whitened coordinates, component by component."""
    inverse = np.linalg.inv(np.linalg.cholesky(np.average(matrices, axis=0, weights=parameters.weights)))
    whitened = [inverse @ matrix @ inverse.T for matrix in matrices]
    found = []
    for matrix in whitened:
        variances, vectors = np.linalg.eigh(matrix)
        across = np.array([vectors[:, 0] @ other @ vectors[:, 0] for other in whitened])
        order = np.argsort(across)
        heavier = np.cumsum(parameters.weights[order]) >= 0.5 * parameters.weights.sum()
        found.append(variances[0] / across[order][heavier][0])
    return np.array(found)


def test_what_is_ruled_out_at_once_is_not_slim(covariance_type):
    family = get_family(covariance_type)
    for mixture in uneven_mixtures(family):
        slim = slimness_of(mixture, family.full_covariances(mixture)) < SLIM
        assert slim_components(family, mixture, np.arange(len(slim))) == np.flatnonzero(slim).tolist()


def test_a_component_without_any_width_is_spurious():
    wide, flat = np.eye(2), np.diag([1.0, 0.0])
    parameters = Parameters(np.array([0.95, 0.05]), np.array([[0.0, 0.0], [1.0, 0.0]]), np.stack([wide, flat]), None)
    assert check_parameters(get_family("full"), parameters, 200.0, 1e-6) is Status.SPURIOUS


def uneven_mixtures(family, n=200):
    """Mixtures of one to six components of few rows and many, wide and narrow."""
    rng = np.random.RandomState(0)
    for _ in range(n):
        k, d = rng.randint(1, 7), rng.randint(1, 6)
        widths = 10.0 ** rng.uniform(-2.6, 0.3, (k, d))
        turns = [np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(k)]
        full = np.stack([(turn * width**2) @ turn.T for turn, width in zip(turns, widths, strict=True)])
        covariances = {"full": full, "tied": full[0], "diag": widths**2, "spherical": widths[:, 0] ** 2}[family.name]
        yield family.parameters(rng.dirichlet(np.full(k, 0.7)) + 1e-3, rng.normal(size=(k, d)), covariances)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_component_of_rows_in_line_ends_spurious_and_another_start_of_the_candidate_wins():
    """Ten rows on a line, of 210."""
    random = np.random.RandomState(0)
    X = random.standard_normal((210, 2))
    X[:10, 0] = 0.5
    precisions = [np.eye(2), np.diag([1e6, 1.0])]
    inits = {"weights_init": [0.95, 0.05], "means_init": [[0, 0], [0.5, 0]], "precisions_init": precisions}
    narrow = GaussianMixture(2, reg_covar="auto", **inits).fit(X)
    few = int(narrow.weights_.argmin())
    assert narrow.weights_[few] * len(X) == pytest.approx(10, abs=0.5)
    assert narrow.converged_
    honest = GaussianMixture(2, random_state=0).fit(X)
    assert narrow.bic(X) < honest.bic(X) - 50
    assert check_parameters(FAMILIES["full"], narrow._model[1], 210.0, 1e-6) is Status.SPURIOUS


@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data"])
def test_no_spurious_component_wins_on_old_faithful(old_faithful, init_params):
    """Fourteen rows of equal waiting times have the smallest BIC where anything may win."""
    settings = {"n_init": 8, "tol": 1e-6, "max_iter": 5000, "reg_covar": "auto", "random_state": 0}
    search = GaussianMixtureSearch(range(1, 10), init_params=init_params, **settings).fit(old_faithful)
    row = search.results_.loc[search.results_["delta"] == 0].iloc[0]
    rows = search.best_estimator_.weights_ * len(old_faithful)
    assert rows.min() > 20
    if init_params == "kmeans":
        assert search.best_params_ == {"n_components": 3, "covariance_type": "tied"}
        assert row.bic == pytest.approx(2314.296, abs=0.01)


def test_a_sweep_of_spurious_fits_alone_warns():
    X = np.repeat(np.random.RandomState(0).standard_normal((3, 2)), 8, axis=0)
    with pytest.warns(ConvergenceWarning, match=names("winner", "spurious", "fewer components")):
        search = GaussianMixtureSearch([3], "diag", init_params="kmeans", random_state=0).fit(X)
    assert search.results_["status"].tolist() == ["spurious"]
    assert search.results_["delta"].tolist() == [0.0]
    assert search.best_params_["n_components"] == 3


def with_equal_rows():
    """200 normal rows, and five equal ones far from them."""
    return np.vstack([np.random.RandomState(0).standard_normal((200, 2)), np.full((5, 2), 30.0)])


def test_the_estimator_reports_a_spurious_component():
    """The parameters are scikit-learn's all the same."""
    X = with_equal_rows()
    with pytest.warns(ConvergenceWarning, match=names("spurious", "reg_covar")):
        mixture = GaussianMixture(2, random_state=0).fit(X)
    assert mixture.status_ == "spurious"
    assert mixture.converged_
    np.testing.assert_allclose(sorted(mixture.weights_ * len(X)), [5.0, 200.0], rtol=1e-6)
    assert GaussianMixture(1, random_state=0).fit(X).status_ == "converged"


def test_a_sound_start_is_preferred_to_a_spurious_one_with_auto():
    narrow = State(Candidate("full", 2), 0, random_parameters("full", 2, 2), (9.0,), Status.SPURIOUS, converged=True)
    sound = State(Candidate("full", 2), 1, random_parameters("full", 2, 2), (1.0,), Status.CONVERGED, converged=True)
    mixture = GaussianMixture(2, n_init=2, init_params="auto")
    mixture._set_best([narrow, sound], None, Settings())
    assert mixture.status_ == "converged"
    with pytest.warns(ConvergenceWarning, match=names("spurious")):
        mixture.set_params(init_params="kmeans")._set_best([narrow, sound], None, Settings())
    assert mixture.lower_bound_ == 9.0


# -- from the data -----------------------------------------------------------------------------------------------


def outcome_of(X, covariance_type, parameters, weights=None):
    rows = as_rows(X, weights)
    state = State(
        Candidate(covariance_type, len(parameters.weights)), 0, parameters, (0.0,), Status.CONVERGED, converged=True
    )
    (outcome,) = evaluate_states(rows, summarize_rows(rows, 0), [state])
    return outcome


def beside_a_slim_one(covariance_type, share, center, width=0.1):
    """A standard normal and a slim component of such a share of the rows."""
    shapes = {"full": np.eye(2), "diag": np.ones(2), "spherical": np.array(1.0)}
    covariances = np.stack([shapes[covariance_type], width**2 * shapes[covariance_type]])
    return get_family(covariance_type).parameters(np.array([1 - share, share]), np.array([[0, 0], center]), covariances)


@pytest.mark.parametrize("covariance_type", OWN_COVARIANCES)
def test_a_slim_component_over_what_the_others_explain_is_spurious(covariance_type):
    X = np.random.RandomState(0).standard_normal((3000, 2))
    parameters = beside_a_slim_one(covariance_type, 0.01, [0.5, 0.5])
    assert slim_components(get_family(covariance_type), parameters, np.arange(2)) == [1]
    assert check_parameters(get_family(covariance_type), parameters, 3000.0, 1e-6) is None
    assert outcome_of(X, covariance_type, parameters).state.status is Status.SPURIOUS


@pytest.mark.parametrize("covariance_type", OWN_COVARIANCES)
def test_a_slim_group_that_is_there_is_trusted(covariance_type):
    """Thirty rows in the midst of 3,000, and as few as twelve that lie apart."""
    rng = np.random.RandomState(0)
    for n_rows, center, width in ((30, [0.5, 0.5], 0.02), (12, [6.0, 6.0], 0.1)):
        X = np.concatenate([rng.standard_normal((3000, 2)), rng.normal(center, width, (n_rows, 2))])
        parameters = beside_a_slim_one(covariance_type, n_rows / len(X), center, width)
        assert slim_components(get_family(covariance_type), parameters, np.arange(2)) == [1]
        assert outcome_of(X, covariance_type, parameters).state.status is Status.CONVERGED


def test_the_verdict_has_the_gain_and_the_price():
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.standard_normal((3000, 2)), rng.normal([6.0, 6.0], 0.1, (12, 2))])
    parameters = beside_a_slim_one("full", 12 / len(X), [6.0, 6.0])
    rows = as_rows(X)
    family, data_summary = get_family("full"), summarize_rows(rows, 0)
    (without,) = collect_totals(rows, data_summary, [(family, family.without(parameters, 1))])
    found = outcome_of(X, "full", parameters)
    assert found.verdict.component == 1
    assert found.verdict.gain == pytest.approx(found.log_likelihood - without.log_likelihood)
    n = len(X)
    assert found.verdict.price == pytest.approx(3.0 * np.log(n) + np.log(100.0 * n * (n - 1) * (n - 2) / 6.0))
    assert found.verdict.is_kept
    assert outcome_of(X, "full", random_parameters("full", 2, 2)).verdict.component == -1


def test_copies_count_once():
    """Ten rows that are there seven times each gain what ten gain."""
    rng = np.random.RandomState(0)
    once = np.concatenate([rng.standard_normal((400, 2)), rng.normal([0.5, 0.5], 0.1, (6, 2))])
    parameters = beside_a_slim_one("full", 12 / len(once), [0.5, 0.5])
    single = outcome_of(once, "full", parameters)
    seven = outcome_of(np.repeat(once, 7, axis=0), "full", parameters)
    assert seven.state.status is single.state.status is Status.SPURIOUS
    np.testing.assert_allclose(seven.verdict, single.verdict)


def test_what_is_not_slim_may_explain_nothing():
    """Too many components are for the criterion to refuse."""
    X = np.random.RandomState(0).standard_normal((3000, 2))
    parameters = beside_a_slim_one("full", 0.01, [0.5, 0.5], width=0.8)
    assert outcome_of(X, "full", parameters).state.status is Status.CONVERGED


def test_a_weight_counts_as_so_many_rows():
    rng = np.random.RandomState(0)
    X, w = rng.standard_normal((400, 2)), rng.randint(1, 4, 400)
    X[:8] = rng.normal([2.5, 2.5], 0.05, (8, 2))
    repeated = np.repeat(X, w, axis=0)
    for center, expected in (([2.5, 2.5], Status.CONVERGED), ([0.5, -0.5], Status.SPURIOUS)):
        parameters = beside_a_slim_one("full", w[:8].sum() / w.sum(), center)
        for outcome in (outcome_of(X, "full", parameters, w.astype(float)), outcome_of(repeated, "full", parameters)):
            assert outcome.state.status is expected


def test_a_check_costs_no_pass_of_its_own(iris):
    rows = as_rows(iris)
    data_summary, calls = summarize_rows(rows, 0), []

    def evaluate(models):
        calls.append(len(models))
        return collect_totals(rows, data_summary, models)

    mixture = GaussianMixture(4, random_state=0).fit(iris)
    narrow = State(Candidate("full", 4), 0, mixture._model[1], (0.0,), Status.CONVERGED)
    states = [narrow, State(Candidate("tied", 1), 0, random_parameters("tied", 1, 4), (0.0,), Status.CONVERGED)]
    checked_states, totals, _ = check_components(states, evaluate, float(len(iris)))
    assert len(calls) == 1
    assert len(checked_states) == len(totals) == 2
    assert totals[0].log_likelihood == pytest.approx(mixture.score(iris) * len(iris))


def test_one_component_is_never_too_many(covariance_type):
    X = np.column_stack([np.random.RandomState(0).standard_normal(50), np.zeros(50)])
    search = GaussianMixtureSearch([1], covariance_type, init_params="kmeans").fit(X)
    assert search.results_["status"].tolist() == ["converged"]


def test_larger_mixtures_do_not_win_by_copies():
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.standard_normal((100, 2)), rng.normal([8.0, 0.0], 1.0, (100, 2))])
    settings = {"n_init": 3, "init_params": "kmeans", "random_state": 0, "tol": 1e-6, "max_iter": 500}
    search = GaussianMixtureSearch(range(1, 7), ["full", "diag"], **settings).fit(np.repeat(X, 6, axis=0))
    assert search.best_params_["n_components"] == 2
    assert search.results_.query("n_components > 2")["status"].isin(["spurious"]).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_start_without_a_spurious_component_is_taken_instead():
    """One start has a spurious component, the other has none: the lower likelihood wins."""
    rng = np.random.RandomState(3)
    X = np.concatenate([rng.standard_normal((600, 2)), rng.normal([3, 3], 1, (600, 2))])
    rows = as_rows(X)
    data_summary = summarize_rows(rows, 0)
    slim = beside_a_slim_one("full", 0.01, [0.5, 0.5])
    plain = GaussianMixture(2, random_state=0).fit(X)
    states = [
        State(Candidate("full", 2), 0, slim, (0.0,), Status.CONVERGED, converged=True),
        State(Candidate("full", 2), 1, plain._model[1], (plain.lower_bound_,), Status.CONVERGED, converged=True),
    ]
    outcomes = evaluate_states(rows, data_summary, states)
    assert [outcome.state.status for outcome in outcomes] == [Status.SPURIOUS, Status.CONVERGED]
    assert best_outcome(outcomes).state.start == 1


@pytest.mark.slow
def test_a_search_over_too_many_components_ends_without_spurious_components():
    """Two overlapping groups, up to five components: every cell that is trusted has no spurious component."""
    rng = np.random.RandomState(5)
    X = np.concatenate([rng.standard_normal((1000, 2)), rng.normal([2, 0], [1, 0.5], (1000, 2))])
    settings = {"init_params": "auto", "tol": 1e-6, "max_iter": 500, "random_state": 0}
    search = GaussianMixtureSearch(range(1, 6), **settings).fit(X)
    assert search.results_["delta"].notna().mean() > 0.9
    assert search.best_params_["n_components"] == 2


# -- mixtures without one, and of parts --------------------------------------------------------------------------


def test_a_mixture_without_a_component(covariance_type):
    X, family = random_rows(200, 2), get_family(covariance_type)
    parameters = random_parameters(covariance_type, 3, 2)
    without = family.without(parameters, 1)
    kept = parameters.weights[[0, 2]]
    np.testing.assert_allclose(without.weights, kept / kept.sum())
    covariances = parameters.covariances if covariance_type == "tied" else parameters.covariances[[0, 2]]
    expected = family.parameters(kept / kept.sum(), parameters.means[[0, 2]], covariances)
    assert_same_parameters(without, expected)
    assert np.isfinite(outcome_of(X, covariance_type, without).log_likelihood)
