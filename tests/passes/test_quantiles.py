"""The sketch of the densities: exact merging, and an error that is known."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmm_dask.passes import quantiles
from gmm_dask.passes.quantiles import find_threshold, sketch_values

NUMBERS = st.lists(st.floats(allow_nan=False, width=64), max_size=40)


def assert_same(a, b):
    assert a.shift == b.shift
    np.testing.assert_array_equal(a.bins, b.bins)
    np.testing.assert_array_equal(a.counts, b.counts)


@given(st.lists(NUMBERS, min_size=1, max_size=6), st.randoms(use_true_random=False), st.integers(2, 30))
def test_any_chunks_in_any_order_give_the_same_sketch(chunks, random, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiles, "MOST_BINS", most)
        whole = sketch_values(np.concatenate([np.array(chunk, dtype=float) for chunk in chunks]))
        parts = [sketch_values(np.array(chunk, dtype=float)) for chunk in chunks]
        assert_same(reduce(add, parts), whole)
        while len(parts) > 1:
            a, b = (parts.pop(random.randrange(len(parts))) for _ in range(2))
            parts.append(a + b)
        assert_same(parts[0], whole)
        assert len(whole.bins) <= most


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60), st.floats(0.001, 0.5))
def test_few_numbers_are_answered_exactly(numbers, quantile):
    values = np.array(numbers)
    found = find_threshold(sketch_values(values), quantile)
    assert found.below == np.count_nonzero(values < found.value)
    assert found.total == len(values)
    every = [np.count_nonzero(values < value) for value in values]  # the ranks that there are
    assert abs(found.below - quantile * len(values)) == min(abs(rank - quantile * len(values)) for rank in every)


@pytest.mark.parametrize("shift", [0.0, -1e5, 30.0])
def test_the_error_is_known_and_small(shift):
    values = shift - np.random.default_rng(0).gamma(4.0, size=400_000)
    sketch = reduce(add, [sketch_values(part) for part in np.split(values, 16)])
    assert sketch.shift > 0
    for quantile in (1e-4, 1e-3, 0.01, 0.3):
        found = find_threshold(sketch, quantile)
        assert found.below == np.count_nonzero(values < found.value)
        assert found.rank_error(quantile) == abs(found.below / len(values) - quantile)
        assert found.rank_error(quantile) < 1e-5 + 1e-3 * quantile


def test_what_is_no_number_is_not_counted():
    found = find_threshold(sketch_values(np.array([np.nan, 2.0, -np.inf, 1.0, -0.0, 0.0])), 0.4)
    assert (found.value, found.below, found.total) == (0.0, 1, 5)
    assert find_threshold(sketch_values(np.array([np.nan])), 0.1).total == 0
    assert np.isfinite(find_threshold(sketch_values(np.full(3, -np.inf)), 0.1).value)
