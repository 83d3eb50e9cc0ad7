"""Statuses: what is found degenerate or spurious, and that it does not win; ``reg_covar="auto"``."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.em import spurious as spurious_module
from gmm_dask.em.loop import State
from gmm_dask.em.regularization import reg_covar_of
from gmm_dask.em.spurious import check_parameters
from gmm_dask.em.status import Status
from gmm_dask.families import FAMILIES, Parameters, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from mixtures import random_parameters

OWN_COVARIANCES = ("full", "diag", "spherical")


def mixture_of(covariance_type, rows, variances, n_features=2):
    """Components of so many rows and such variances in the first direction (all directions, if spherical), apart."""
    k = len(rows)
    diagonals = np.ones((k, n_features))
    diagonals[:, : n_features if covariance_type == "spherical" else 1] = np.array(variances)[:, None]
    shapes = {"full": [np.diag(d) for d in diagonals], "diag": diagonals, "spherical": diagonals[:, 0]}
    means = 10.0 * np.arange(k)[:, None] * np.ones(n_features)
    weights = np.array(rows) / np.sum(rows)
    return get_family(covariance_type).parameters(weights, means, np.array(shapes[covariance_type]))


def verdict(covariance_type, rows, variances, reg_covar=1e-6):
    parameters = mixture_of(covariance_type, rows, variances)
    return check_parameters(get_family(covariance_type), parameters, float(sum(rows)), reg_covar)


def test_every_status_has_a_cause_and_says_what_to_do():
    for status in Status:
        assert status.cause
        assert status.advice or status is Status.CONVERGED
        assert status.remedy.startswith(status.cause)
        assert status.remedy.endswith(".")


def test_what_may_win():
    assert {status for status in Status if not status.usable} == {Status.SINGULAR, Status.FAILED}
    assert {status for status in Status if not status.trusted} == {
        *(Status.SINGULAR, Status.FAILED),
        *(Status.DEGENERATE, Status.SPURIOUS),
    }


@pytest.mark.parametrize("covariance_type", OWN_COVARIANCES)
@pytest.mark.parametrize(
    ("rows", "variances", "expected"),
    [
        ([100, 100, 50], [1.0, 2.0, 0.5], None),
        ([1000, 1000, 14], [1.0, 2.0, 1e-5], Status.SPURIOUS),  # a spike
        ([1000, 1000, 14], [1.0, 2.0, 1e-2], None),  # small, but in proportion
        ([1000, 1000, 60], [1.0, 2.0, 1e-5], None),  # so many rows are no accident
        ([1000, 1000, 0.9], [1.0, 2.0, 1.0], Status.DEGENERATE),
        ([1000, 1000, 1], [1.0, 2.0, 1e-5], Status.DEGENERATE),
        ([1000, 20, 20], [1e6, 1e-2, 1e-2], Status.SPURIOUS),
        ([15, 20, 20], [1e6, 1e-2, 1e-2], None),  # a component of outliers does not make spikes of the others
        ([20, 20, 20], [1.1e-6, 1.1e-6, 1.1e-6], Status.SPURIOUS),  # every component is held open by reg_covar
    ],
)
def test_verdicts(covariance_type, rows, variances, expected):
    assert verdict(covariance_type, rows, variances) is expected


def test_tied_components_are_no_spikes():
    parameters = get_family("tied").parameters(np.array([0.9, 0.1]), np.array([[0.0, 0], [9, 9]]), np.diag([1e-4, 1.0]))
    assert check_parameters(get_family("tied"), parameters, 100.0, 1e-6) is None


def test_columns_that_are_all_but_equal_make_no_spikes(covariance_type):
    """In a direction in which the data do not vary, everything is narrow."""
    X = np.random.RandomState(0).standard_normal((60, 2))
    X = np.column_stack([X, X[:, 0]])
    search = GaussianMixtureSearch([1, 2], covariance_type, reg_covar="auto", random_state=0).fit(X)
    assert (search.results_["status"] == "converged").all()


def test_verdicts_do_not_depend_on_units():
    units = np.array([1e-3, 1e4])
    for variances in ([1.0, 2.0, 1e-5], [1.0, 2.0, 0.1]):
        parameters = mixture_of("full", [1000, 1000, 14], variances)
        family = get_family("full")
        _, scaled = family.unscaled(parameters, np.zeros(2), units)
        found = check_parameters(family, scaled, 2014.0, 1e-6 * units**2)
        assert found is check_parameters(family, parameters, 2014.0, 1e-6)


def test_components_that_are_passed_over_are_no_spikes(covariance_type, monkeypatch):
    """The cheap look at narrow components finds all that a closer one does, among mixtures with and without spikes."""
    family, passed_over = get_family(covariance_type), []
    cheap = spurious_module._may_be_narrow

    def watched(parameters, matrices, chosen):
        passed_over.append(np.count_nonzero(~cheap(parameters, matrices, chosen)))
        return cheap(parameters, matrices, chosen)

    found = {}
    for look in (watched, lambda parameters, matrices, chosen: np.ones(len(chosen), dtype=bool)):
        monkeypatch.setattr(spurious_module, "_may_be_narrow", look)
        found[look] = [check_parameters(family, mixture, 300.0, 1e-5) for mixture in uneven_mixtures(family)]
    first, second = found.values()
    assert first == second
    assert {None, Status.SPURIOUS} <= {*first}
    assert sum(passed_over) > 50


def test_a_component_without_any_width_is_a_spike():
    wide, flat = np.eye(2), np.diag([1.0, 0.0])
    parameters = Parameters(np.array([0.95, 0.05]), np.array([[0.0, 0.0], [9.0, 0.0]]), np.stack([wide, flat]), None)
    assert check_parameters(get_family("full"), parameters, 200.0, 1e-6) is Status.SPURIOUS


def uneven_mixtures(family, n=200):
    """Mixtures of one to six components of few rows and many, wide and narrow."""
    rng = np.random.RandomState(0)
    for _ in range(n):
        k, d = rng.randint(1, 7), rng.randint(1, 6)
        widths = 10.0 ** rng.uniform(-2.5, 0.3, (k, d))
        turns = [np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(k)]
        full = np.stack([(turn * width**2) @ turn.T for turn, width in zip(turns, widths, strict=True)])
        covariances = {"full": full, "tied": full[0], "diag": widths**2, "spherical": widths[:, 0] ** 2}[family.name]
        yield family.parameters(rng.dirichlet(np.full(k, 0.7)) + 1e-3, rng.normal(size=(k, d)), covariances)


@pytest.mark.filterwarnings("ignore:The best start is spurious:sklearn.exceptions.ConvergenceWarning")
def test_a_spike_ends_spurious_and_another_start_of_the_candidate_wins():
    """Ten rows on a line, of 210."""
    random = np.random.RandomState(0)
    X = random.standard_normal((210, 2))
    X[:10, 0] = 0.5
    precisions = [np.eye(2), np.diag([1e6, 1.0])]
    inits = {"weights_init": [0.95, 0.05], "means_init": [[0, 0], [0.5, 0]], "precisions_init": precisions}
    spike = GaussianMixture(2, reg_covar="auto", **inits).fit(X)
    few = int(spike.weights_.argmin())
    assert spike.weights_[few] * len(X) == pytest.approx(10, abs=0.5)
    assert spike.converged_
    honest = GaussianMixture(2, random_state=0).fit(X)
    assert spike.bic(X) < honest.bic(X) - 50
    assert check_parameters(FAMILIES["full"], spike._parameters, 210.0, 1e-6) is Status.SPURIOUS


@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data"])
def test_no_spike_wins_on_old_faithful(old_faithful, init_params):
    """Fourteen rows of equal waiting times have the smallest BIC where anything may win."""
    settings = {"n_init": 8, "tol": 1e-6, "max_iter": 5000, "reg_covar": "auto", "random_state": 0}
    search = GaussianMixtureSearch(range(1, 10), init_params=init_params, **settings).fit(old_faithful)
    row = search.results_.loc[search.results_["delta"] == 0].iloc[0]
    rows = search.best_estimator_.weights_ * len(old_faithful)
    assert rows.min() > 20
    if init_params == "kmeans":
        assert search.best_params_ == {"n_components": 3, "covariance_type": "tied"}
        assert row.bic == pytest.approx(2314.296, abs=0.01)


def test_a_sweep_of_spikes_alone_warns():
    X = np.repeat(np.random.RandomState(0).standard_normal((3, 2)), 8, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"No candidate can be trusted, and the winner is spurious: .*Ask for"):
        search = GaussianMixtureSearch([3], "diag", reg_covar="auto", random_state=0).fit(X)
    assert search.results_["status"].tolist() == ["spurious"]
    assert search.results_["delta"].tolist() == [0.0]
    assert search.best_params_["n_components"] == 3


# -- reg_covar="auto" --------------------------------------------------------------------------------------------


def test_auto_is_a_millionth_of_each_variance(iris):
    data_summary = summarize_rows(as_rows(iris), 0)
    np.testing.assert_allclose(reg_covar_of("auto", data_summary), 1e-6 * iris.var(axis=0), rtol=1e-12)
    assert reg_covar_of(1e-3, data_summary) == 1e-3


def test_auto_of_a_constant_column_follows_its_value():
    X = np.random.RandomState(0).standard_normal((50, 3))
    X[:, 1], X[:, 2] = 7.0, 0.0
    found = reg_covar_of("auto", summarize_rows(as_rows(X), 0))
    np.testing.assert_allclose(found[1:], [49e-6, 1e-6])


@pytest.mark.parametrize("name", ["full", "tied", "diag"])
def test_with_auto_a_fit_does_not_depend_on_units(iris, name):
    units = np.array([1e-4, 1.0, 1e3, 1e5])
    start = GaussianMixture(3, covariance_type=name, random_state=0, max_iter=0).fit(iris)
    precisions = {"full": np.outer(units, units), "tied": np.outer(units, units), "diag": units**2}[name]

    def fit(X, means, precisions):
        inits = {"weights_init": start.weights_ / start.weights_.sum(), "means_init": means}
        return GaussianMixture(
            3, covariance_type=name, reg_covar="auto", tol=1e-8, max_iter=500, precisions_init=precisions, **inits
        ).fit(X)

    ours = fit(iris, start.means_, start.precisions_)
    scaled = fit(iris * units, start.means_ * units, start.precisions_ / precisions)
    assert scaled.n_iter_ == ours.n_iter_
    np.testing.assert_allclose(scaled.means_ / units, ours.means_, rtol=1e-6)
    np.testing.assert_allclose(scaled.covariances_ / precisions, ours.covariances_, rtol=1e-4, atol=1e-9)


@pytest.mark.filterwarnings("ignore:The best start is spurious:sklearn.exceptions.ConvergenceWarning")
def test_auto_keeps_covariances_open(covariance_type):
    X = np.repeat(np.array([[0.0, 5.0], [1.0, 7.0]]), 20, axis=0)
    mixture = GaussianMixture(2, covariance_type=covariance_type, reg_covar="auto", random_state=0).fit(X)
    variances = get_family(covariance_type).full_covariances(mixture._parameters).diagonal(axis1=1, axis2=2)
    expected = 1e-6 * X.var(axis=0)
    if covariance_type == "spherical":
        expected = np.full(2, expected.mean())
    np.testing.assert_allclose(variances, np.broadcast_to(expected, variances.shape), rtol=1e-6)


def test_scikit_learn_gets_what_it_knows(iris):
    ours = GaussianMixture(2, reg_covar="auto", tol=1e-5, random_state=0).fit(iris)
    theirs = ours.to_sklearn()
    assert (theirs.reg_covar, theirs.tol, theirs.n_components) == (1e-6, 1e-5, 2)
    theirs.fit(iris)


# -- the estimator -------------------------------------------------------------------------------------------------


def with_equal_rows():
    """200 normal rows, and five equal ones far from them."""
    return np.vstack([np.random.RandomState(0).standard_normal((200, 2)), np.full((5, 2), 30.0)])


def test_the_estimator_tells_of_a_spike():
    """The parameters are scikit-learn's all the same."""
    X = with_equal_rows()
    with pytest.warns(ConvergenceWarning, match=r"The best start is spurious: .* is spurious: .*raise reg_covar"):
        mixture = GaussianMixture(2, random_state=0).fit(X)
    assert mixture.status_ == "spurious"
    assert mixture.converged_
    np.testing.assert_allclose(sorted(mixture.weights_ * len(X)), [5.0, 200.0], rtol=1e-6)
    assert GaussianMixture(1, random_state=0).fit(X).status_ == "converged"


def test_a_sound_start_is_kept_before_a_spike_with_auto():
    spike = State(Candidate("full", 2), 0, random_parameters("full", 2, 2), (9.0,), Status.SPURIOUS, converged=True)
    sound = State(Candidate("full", 2), 1, random_parameters("full", 2, 2), (1.0,), Status.CONVERGED, converged=True)
    mixture = GaussianMixture(2, n_init=2, init_params="auto")
    mixture._set_best([spike, sound])
    assert mixture.status_ == "converged"
    with pytest.warns(ConvergenceWarning, match="spurious"):
        mixture.set_params(init_params="kmeans")._set_best([spike, sound])
    assert mixture.lower_bound_ == 9.0
