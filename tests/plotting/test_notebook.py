"""What a notebook shows of estimators."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.selection.criteria import KASS_RAFTERY
from messages import names
from pages import Cells


def ours(estimator):
    """Our part of what is shown."""
    found = estimator._repr_mimebundle_()["text/html"]
    return found[found.index('<div class="gmm-dask">') :]


def without_numbers(page):
    return re.sub(r"\d+", "", page)


def test_an_unfitted_estimator_is_shown_as_scikit_learn_does():
    for estimator in (GaussianMixture(3), GaussianMixtureSearch()):
        expected = BaseEstimator._repr_mimebundle_(estimator)
        assert without_numbers(estimator._repr_html_()) == without_numbers(expected["text/html"])
        assert "gmm-dask" not in estimator._repr_html_()


def test_a_fitted_mixture_shows_its_components(iris):
    frame = pd.DataFrame(iris, columns=["a", "b", "c", "d"])
    mixture = GaussianMixture(3, random_state=0).fit(frame)
    (table,) = Cells(ours(mixture)).tables
    assert table[0] == ["component", "weight", "a", "b", "c", "d"]
    heaviest = int(np.argmax(mixture.weights_))
    assert table[1][:2] == [str(heaviest), f"{mixture.weights_[heaviest]:.1%}"]
    deviation = np.sqrt(mixture.covariances_[heaviest, 0, 0])
    assert table[1][2] == f"{mixture.means_[heaviest, 0]:.3f} ± {deviation:.3f}"
    assert re.search(names("3 components", "full", "converged", f"{mixture.n_iter_} iterations"), ours(mixture))
    assert BaseEstimator._html_repr(mixture)[:9] == mixture._repr_html_()[:9]  # scikit-learn's diagram comes first


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_much_is_cut_and_said(covariance_type):
    rows = np.random.default_rng(0).normal(size=(400, 30))
    mixture = GaussianMixture(20, covariance_type=covariance_type, random_state=0, tol=1e9)
    page = ours(mixture.fit(rows))
    (table,) = Cells(page).tables
    assert (len(table), len(table[0])) == (13, 10)
    assert re.search(names("of 20 components", "of 30 features"), page)


def test_names_are_escaped():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["<script>", "a & b"])
    page = ours(GaussianMixture().fit(frame))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_fitted_search_shows_its_best_candidates(iris):
    search = GaussianMixtureSearch([1, 2, 3], n_init=2, init_params="kmeans", random_state=0).fit(iris)
    page = ours(search)
    candidates, components = Cells(page).tables
    assert candidates[0] == ["covariance", "K", "BIC", "ΔBIC", "evidence", "iterations", "status"]
    best = search.results_.sort_values("delta").iloc[0]
    assert candidates[1][:4] == [best["covariance_type"], str(best["n_components"]), f"{best['bic']:,.2f}", "0.00"]
    assert len(candidates) == 7
    assert len(components) == 1 + search.best_params_["n_components"]
    assert KASS_RAFTERY.source in page


@pytest.mark.parametrize("values", [[1e-9, 1.0], [1e12, 1e-3], [5.0, 0.0]])
def test_any_scale_is_shown(values):
    rows = np.random.default_rng(0).normal(size=(100, 2)) * values[0] + values[1]
    page = ours(GaussianMixture(2, random_state=0, reg_covar=1e-30).fit(rows))
    assert "nan" not in page
