"""A grid that is widened until the winner lies inside."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from gmm_dask import GaussianMixtureSearch
from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.grid import GridExtension, extend_grid, further_counts
from messages import names
from mixtures import rows_of_five_groups


def candidates(*counts, name="full"):
    return [Candidate(name, k) for k in counts]


# -- where a grid goes on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "k", "more"),
    [
        ([2, 3], 3, [4]),
        (list(range(1, 10)), 9, [10, 11, 12, 13]),
        ([2, 4, 6, 8], 8, [10, 12]),
        ([2, 4, 8, 16], 16, [24, 32]),
        ([5, 6, 7, 8], 5, [3, 4]),
        ([5, 10], 5, [1]),  # its stride leads below one
        ([4], 4, [3, 5]),
        ([1], 1, [2]),
        ([1, 2, 3], 2, []),
    ],
)
def test_a_grid_goes_on_in_the_stride_of_its_end(counts, k, more):
    assert further_counts(counts, k, most=1000) == more


def test_no_more_components_than_rows():
    assert further_counts(list(range(1, 10)), 9, most=11) == [10, 11]
    found = extend_grid(candidates(5, 6), Candidate("full", 6), True, 6)
    assert not found.candidates
    assert "6 rows" in found.stopped


def test_a_winner_inside_or_of_one_component_needs_no_wider_grid():
    grid = [*candidates(1, 2, 3), *candidates(1, 2, 3, name="tied")]
    assert extend_grid(grid, Candidate("full", 2), True, 100) == GridExtension()
    assert extend_grid(grid, Candidate("full", 1), True, 100) == GridExtension()
    assert extend_grid(grid, Candidate("tied", 3), True, 100).candidates == [
        *candidates(4),
        *candidates(4, name="tied"),
    ]


def test_a_winner_that_is_not_trusted_widens_nothing():
    found = extend_grid(candidates(2, 3), Candidate("full", 3), False, 100)
    assert not found.candidates
    assert "trusted" in found.stopped


# -- the search --------------------------------------------------------------------------------------------------

SETTINGS = {"covariance_types": ("full", "diag"), "init_params": "kmeans", "random_state": 0, "n_init": 3}
SETTINGS |= {"tol": 1e-6, "max_iter": 1000}


@pytest.mark.parametrize("asked", [range(2, 4), range(7, 10)])
def test_a_search_ends_as_if_the_wide_grid_had_been_asked_for(asked):
    X = rows_of_five_groups()
    found = GaussianMixtureSearch(asked, extend=True, **SETTINGS).fit(X)
    assert found.best_params_["n_components"] == 5
    counts = sorted(set(found.results_["n_components"]))
    assert counts[0] < 5 < counts[-1]
    assert set(asked) < set(counts)
    whole = GaussianMixtureSearch(counts, **SETTINGS).fit(X)
    pd.testing.assert_frame_equal(found.results_, whole.results_, rtol=1e-9)
    np.testing.assert_allclose(found.best_estimator_.means_, whole.best_estimator_.means_, rtol=1e-9)


def test_without_it_the_grid_stays_and_the_remark_names_it():
    found = GaussianMixtureSearch(range(2, 4), **SETTINGS).fit(rows_of_five_groups())
    assert set(found.results_["n_components"]) == {2, 3}
    assert any("extend: true" in remark for remark in found.remarks_)


def test_only_new_candidates_are_fitted(monkeypatch):
    fitted = []
    fit = GaussianMixtureSearch._fit

    def spy(self, *arguments):
        fitted.append(arguments[-1])
        return fit(self, *arguments)

    monkeypatch.setattr(GaussianMixtureSearch, "_fit", spy)
    GaussianMixtureSearch(range(2, 4), "diag", extend=True, init_params="kmeans", random_state=0, n_init=3).fit(
        rows_of_five_groups()
    )
    assert fitted[:3] == [candidates(*counts, name="diag") for counts in [(2, 3), (4,), (5,)]]
    every = [candidate for candidates in fitted for candidate in candidates]
    assert len(set(every)) == len(every)


def test_it_ends_where_nothing_more_can_be_trusted():
    """Two pairs of rows: more components than pairs hold one row or less."""
    X = np.array([[0.0], [0.1], [9.0], [9.1]])
    found = GaussianMixtureSearch(
        [1, 2], "spherical", extend=True, init_params="kmeans", random_state=0, reg_covar=1e-9
    ).fit(X)
    assert found.best_params_["n_components"] == 2
    assert list(found.results_["n_components"]) == [1, 2, 3]
    assert any(re.match(names("more than 2 components", "trusted"), remark) for remark in found.remarks_)
