"""The resolution of columns, and what repeats."""

from __future__ import annotations

import numpy as np
import pytest

from gmm_dask.passes.resolution import Resolution
from mixtures import random_rows


def test_steps_ties_and_the_most_frequent_value():
    X = random_rows(2000, 3)
    rounded = np.column_stack([X[:, 0], np.round(X[:, 1] / 0.5) * 0.5, np.where(X[:, 2] > 0.0, X[:, 2], 0.0)])
    found = Resolution.of(rounded)
    assert found.step[0] == 0.0
    assert found.step[1] == 0.5
    assert found.ties[0] == 0.0
    assert found.ties[1] > 0.99
    share = np.mean(X[:, 2] <= 0.0)
    assert found.ties[2] == found.frequent_share[2] == pytest.approx(share)
    assert found.frequent[2] == 0.0
    assert found.copies == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_rounding_errors_are_no_steps(dtype, offset):
    """A tenth, reached by sums and by products."""
    whole = np.random.default_rng(0).integers(-20, 20, 1000)
    values = np.where(np.arange(1000) % 2, whole / 10.0, whole * 0.1) + offset
    step = Resolution.of(values.astype(dtype).astype(float)[:, None]).step[0]
    assert step == pytest.approx(0.1, rel=1e-3)


def test_a_fill_value_does_not_hide_the_step():
    values = np.round(random_rows(1000, 1), 1)
    values[:30] = 9.96921e36
    found = Resolution.of(values)
    assert found.step[0] == pytest.approx(0.1)
    assert found.spread[0] < 20.0


def test_values_of_copied_rows_are_not_rounded():
    """They repeat, and have gaps of any length."""
    np.testing.assert_array_equal(Resolution.of(np.repeat(random_rows(50, 3), 4, axis=0)).step, 0.0)
    assert Resolution.of(np.array([[0.0], [1.0], [1.0], [3.0]])).step[0] == 1.0


def test_copies_of_rows_are_counted():
    X = random_rows(400, 3)
    assert Resolution.of(np.repeat(X, 5, axis=0)).copies == pytest.approx(0.8)
    whole = np.random.default_rng(0).integers(-3, 4, (5000, 3)).astype(float)
    whole[:20] *= -0.0  # minus zero is zero
    assert Resolution.of(whole).copies == 1.0 - len(np.unique(whole, axis=0)) / 5000


def test_facts_are_stored_and_come_back():
    found = Resolution.of(np.round(random_rows(50, 2), 1))
    again = Resolution.from_dict(found.to_dict())
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_no_rows_have_no_resolution():
    found = Resolution.of(np.zeros((0, 2)))
    assert found.copies == 0.0
    np.testing.assert_array_equal(found.step, [0.0, 0.0])
