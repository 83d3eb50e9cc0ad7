"""Starts with components for groups that the subsample of the search does not hold."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from gmm_dask.em.regularization import reg_covar_of
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.auto import search_states
from gmm_dask.init.budget import SearchBudget
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_totals
from gmm_dask.selection.outcomes import choose, evaluate
from marks import slow
from mixtures import N_ROWS, RARE, RARE_PLACE, two_groups, with_rare_group

# of 20,000 rows the subsample holds 500, and the comparison of the best fits 1,000
BUDGET = SearchBudget(subsample_rows=500, rows_per_mean_value=1, second_subsample=2, restarts=1, rounds=3)


def starts(X, candidates, seed=0, n_init=1, chunk_rows=None):
    rows = as_rows(X if chunk_rows is None else da.from_array(X, chunks=(chunk_rows, -1)))
    data_summary = summarize_rows(rows, seed)
    passes, told = [], []

    def open_rows():
        passes.append(len(passes))
        return rows

    states = search_states(
        [Candidate(*candidate) for candidate in candidates],
        data_summary,
        n_init,
        lambda: np.random.RandomState(seed),
        reg_covar_of("auto", data_summary),
        BUDGET,
        report=told.append,
        rows=open_rows,
    )
    return states, len(passes), told


def holds_rare_group(state):
    weights, k = state.parameters.weights, state.parameters.weights.argmin()
    return abs(weights[k] * N_ROWS - RARE) < 3 and np.allclose(state.parameters.means[k], RARE_PLACE, atol=0.7)


@pytest.mark.parametrize("seed", [0, *slow(range(1, 5))])
def test_it_is_found_and_the_other_candidates_keep_their_starts(seed):
    X = with_rare_group(seed)
    (one, two, three, diag), passes, told = starts(X, [("full", 1), ("full", 2), ("full", 3), ("diag", 3)], seed)
    assert passes == 2
    assert holds_rare_group(three)
    assert holds_rare_group(diag)
    assert not holds_rare_group(two)
    np.testing.assert_allclose(sorted(two.parameters.means[:, 0]), (0.0, 10.0), atol=0.3)
    assert one.parameters.weights == [1.0]
    assert any("least likely" in text for text in told)


def test_two_of_them_are_found_one_after_the_other():
    X = with_rare_group()
    X[:RARE] = np.random.default_rng(1).normal((20.0, -9.0), 0.7, (RARE, 2))
    states, _, _ = starts(X, [("full", k) for k in range(1, 5)])
    assert (states[-1].parameters.weights * N_ROWS < 2 * RARE).sum() == 2


@pytest.mark.parametrize("candidates", [[("full", 3)], [("full", 1), ("full", 3)]])
def test_no_other_candidate_has_one_component_less(candidates):
    *_, state = starts(with_rare_group(), candidates)[0]
    assert holds_rare_group(state)


def test_it_is_in_every_start():
    states, passes, _ = starts(with_rare_group(), [("full", 2), ("full", 3)], n_init=2)
    assert [holds_rare_group(state) for state in states] == [False, False, True, True]
    assert passes == 2  # all starts share them


def test_chunks_do_not_change_a_bit():
    X = with_rare_group()
    (_, whole), _, _ = starts(X, [("full", 2), ("full", 3)])
    (_, parts), _, _ = starts(X, [("full", 2), ("full", 3)], chunk_rows=1500)
    for name, value in whole.parameters.arrays().items():
        np.testing.assert_array_equal(value, vars(parts.parameters)[name])


def heavy_tails(rng):
    return two_groups(rng) * np.sqrt(3.0 / rng.chisquare(3, (N_ROWS, 1)))


def uniform(rng):
    return rng.uniform(size=(N_ROWS, 2))


def n_components_chosen(X, candidates, seed):
    """By BIC, of the mixtures that the fits of all rows begin with."""
    states, _, _ = starts(X, candidates, seed)
    totals = collect_totals(as_rows(X), summarize_rows(as_rows(X), 0), [state.model for state in states])
    outcomes = [evaluate(state, X.shape[1], total, len(X)) for state, total in zip(states, totals, strict=True)]
    return choose(outcomes, "bic").state.n_components


@pytest.mark.parametrize("draw", [two_groups, heavy_tails, uniform])
@pytest.mark.parametrize("seed", [0, *slow(range(1, 8))])
def test_where_there_is_none_no_more_components_are_chosen(draw, seed, monkeypatch):
    X = draw(np.random.default_rng(seed))
    candidates = [(name, k) for name in ("full", "spherical") for k in range(1, 5)]
    chosen = n_components_chosen(X, candidates, seed)
    monkeypatch.setattr("gmm_dask.init.auto.with_rare_groups", lambda found, *rest: found)
    assert chosen <= n_components_chosen(X, candidates, seed)


def test_equal_rows_are_no_fault():
    (state,), _, _ = starts(np.ones((2000, 2)), [("full", 2)])
    assert state.parameters is None or np.isfinite(state.parameters.means).all()
