"""Projections of memory, and the waves that follow from them."""

import itertools

import pytest

from gmm_dask import UserError
from gmm_dask.families import FAMILIES
from gmm_dask.memory import (
    Machine,
    Shape,
    copies_of_sums,
    model_bytes,
    plan_waves,
    projected_bytes,
    resting_bytes,
)

SHAPE = Shape(n_features=64, n_chunks=100, chunk_rows=10_000)
CANDIDATES = [(name, k) for name, k in itertools.product(FAMILIES, range(1, 11))]
MIB = 1 << 20


def test_the_bytes_of_a_model_are_those_of_its_sums():
    assert model_bytes(("spherical", 3), 8) == 8 * 3 * 10
    assert model_bytes(("tied", 3), 8) == 8 * 3 * 9
    assert model_bytes(("diag", 3), 8) == 8 * 3 * 17
    assert model_bytes(("full", 3), 8) == 8 * 3 * 45


def test_one_wave_where_there_is_memory():
    assert plan_waves(SHAPE, Machine(2, 8192 * MIB), CANDIDATES, 3) == (120,)


def machine_with(mib):
    """A machine with so many MiB for sums."""
    return Machine(2, resting_bytes(SHAPE, Machine(2, 0), CANDIDATES, 3) + mib * MIB)


@pytest.mark.parametrize("mib", [5, 20, 60, 200])
def test_waves_hold_every_fit_and_stay_under_the_limit(mib):
    machine = machine_with(mib)
    waves = plan_waves(SHAPE, machine, CANDIDATES, 3)
    assert sum(waves) == 120
    assert all(length > 0 for length in waves)
    assert projected_bytes(SHAPE, machine, CANDIDATES, 3, waves) <= machine.memory_limit


def test_less_memory_means_more_waves():
    counts = [len(plan_waves(SHAPE, machine_with(mib), CANDIDATES, 3)) for mib in (5, 20, 200)]
    assert counts[0] > counts[1] > counts[2]


def test_a_limit_that_one_fit_or_chunk_does_not_fit_is_refused_with_the_terms():
    least = resting_bytes(SHAPE, Machine(2, 0), CANDIDATES, 3)
    with pytest.raises(UserError, match=r"the memory limit is .* MiB, and .* needed: .*data\.chunk_rows"):
        plan_waves(SHAPE, Machine(2, least), CANDIDATES, 3)
    largest = max(model_bytes(c, 64) for c in CANDIDATES) * copies_of_sums(SHAPE, Machine(2, 0))
    assert sum(plan_waves(SHAPE, Machine(2, least + largest), CANDIDATES, 3)) == 120
