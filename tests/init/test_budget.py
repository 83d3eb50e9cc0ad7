"""How much the search for starts tries, and what memory that takes."""

from __future__ import annotations

from dataclasses import replace

from gmm_dask.families.candidate import Candidate
from gmm_dask.init.budget import BUDGET, Work, pass_work
from gmm_dask.memory import Machine, Shape, starting_bytes

SMALL = [Candidate("tied", 2), Candidate("tied", 3)]


def test_the_work_of_a_pass_is_what_it_adds_up():
    assert pass_work([Candidate("spherical", 3)], 10, 8) == 10 * 3 * 10
    assert pass_work([Candidate("full", 3), Candidate("diag", 1)], 10, 8) == 10 * (3 * 45 + 17)


def test_two_restarts_where_they_are_little_work_and_room_for_both():
    assert BUDGET.n_restarts(SMALL, 2000, 64) == 2
    assert BUDGET.n_restarts([Candidate("full", 3)], 2000, 64) == 1
    few, many = (BUDGET.search_bytes(SMALL, n_rows, 64, 1, 2) for n_rows in (2_000, 200_000))
    assert few > many  # the second restart's fits


def test_a_search_of_many_columns_takes_more_effort_than_the_usual():
    wide, grid = [Candidate("full", 2)], [Candidate("full", k) for k in range(1, 9)]
    assert BUDGET.affords_search(wide, 3000, 300)
    assert not BUDGET.affords_search(wide, 3000, 2000)
    assert BUDGET.affords_search(wide, 3000, 2000, effort=20.0)
    assert BUDGET.affords_search(grid, 10**6, 50)


def test_large_candidates_are_not_accelerated():
    assert BUDGET.is_accelerated(Candidate("tied", 2), 8)
    assert not BUDGET.is_accelerated(Candidate("full", 200), 64)


def test_memory_is_projected_for_the_search():
    shape = Shape(n_features=64, n_chunks=100, chunk_rows=20)
    plain, searched = (
        starting_bytes(replace(shape, search_effort=effort), Machine(1, 0), SMALL, 1) for effort in (0.0, 1.0)
    )
    assert plain < searched
    assert searched > BUDGET.search_bytes(SMALL, 2000, 64, 1, 2)


def test_the_subsample_has_rows_for_the_shapes_of_components_up_to_a_bound():
    assert BUDGET.n_rows(SMALL, 2) == BUDGET.subsample_rows
    assert BUDGET.n_rows([Candidate("diag", 20)], 50) == BUDGET.rows_per_mean_value * 20 * 50
    many = [Candidate("diag", 200)]
    assert pass_work(many, BUDGET.n_rows(many, 16), 16) <= BUDGET.pass_numbers


def test_long_runs_take_a_tenth_of_the_work_that_is_left():
    candidates, shape = [Candidate("full", 2)], (1000, 3)
    work = Work(1000 * pass_work(candidates, *shape))
    assert BUDGET.long_run(candidates, shape, work).max_iter == 100
    work.spend(candidates[0], shape, 990)
    assert BUDGET.long_run(candidates, shape, work).max_iter == BUDGET.short_run
    assert not work.is_done
    work.spend(candidates[0], shape, 10)
    assert work.is_done
