"""The tree of a pass: the same sum whatever the runs, in few tasks that keep all threads at work to the end."""

from __future__ import annotations

import heapq
from functools import reduce
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmm_dask.passes.execution.merge_tree import LONGEST, MOST_PER_THREAD, add_in_tree, cut_into_runs, parts_of

WIDTH = 8


class Sum(str):
    """How a sum was made."""

    def __add__(self, other):
        return Sum(f"({self!s} {other!s})")


def summed(n_chunks, n_threads):
    """How the chunks are added up, and how many parts each merge has."""
    merges = []

    def merge(parts):
        merges.append(len(parts))
        return range(parts[0][0].start, parts[-1][0].stop), add_in_tree(parts)

    runs = {
        run: (run, add_in_tree((range(i, i + 1), Sum(i)) for i in run)) for run in cut_into_runs(n_chunks, n_threads)
    }
    return merge(parts_of(range(n_chunks), runs, WIDTH, merge))[1], merges


def level_by_level(nodes):
    while len(nodes) > 1:
        nodes = [reduce(add, nodes[i : i + 2]) for i in range(0, len(nodes), 2)]
    return nodes[0]


@given(st.integers(1, 300), st.none() | st.integers(0, 70))
def test_neighbours_are_added_up_level_by_level(n_chunks, n_threads):
    found, merges = summed(n_chunks, n_threads)
    assert found == level_by_level([Sum(i) for i in range(n_chunks)])
    assert max(merges) <= WIDTH
    assert len(merges) == 1 or min(merges) > 1


@given(st.integers(1, 5000), st.integers(1, 300))
def test_runs_are_all_chunks_in_their_order(n_chunks, n_threads):
    runs = cut_into_runs(n_chunks, n_threads)
    assert [i for run in runs for i in run] == list(range(n_chunks))
    assert max(map(len, runs)) <= max(1, n_chunks / n_threads / LONGEST)
    assert len(runs) <= MOST_PER_THREAD * n_threads


@pytest.mark.parametrize(("per_thread", "busy"), [(100, 0.95), (37, 0.9), (10, 0.83)])
@pytest.mark.parametrize("n_threads", [1, 2, 30, 1000])
def test_few_tasks_end_together(n_threads, per_thread, busy):
    """Each thread takes the next run when it is done with one, and each chunk takes as long."""
    runs = cut_into_runs(per_thread * n_threads, n_threads)
    ends = [0] * n_threads
    for run in runs:
        heapq.heappush(ends, heapq.heappop(ends) + len(run))
    assert per_thread / max(ends) >= busy
