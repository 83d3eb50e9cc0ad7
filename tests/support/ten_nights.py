"""Ten nights of data: a group grows, two cross in size, one vanishes and one is new; and what each result must say."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from pipeline import store
from pipeline.compare import compare_stores

GROUPS = {"a": (0.0, 0.0), "b": (9.0, 0.0), "c": (0.0, 9.0), "d": (9.0, 9.0), "e": (18.0, 4.0)}
NIGHTS = 10


def shares(night):
    """Of ten nights: a grows, b and c cross in size, d vanishes after the fifth, and e is new from the eighth on."""
    t = night / 9
    found = {"a": 0.2 + 0.2 * t, "b": 0.4 - 0.25 * t, "c": 0.2 + 0.15 * t, "d": 0.12, "e": 0.15}
    found = {name: share for name, share in found.items() if (name != "d" or night < 5) and (name != "e" or night >= 7)}
    return {name: share / sum(found.values()) for name, share in found.items()}


def rows_of_night(of_groups, seed, n_rows=1000):
    """Rows of groups, in these shares, and the group of each row."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(list(of_groups), n_rows, p=list(of_groups.values()))
    return np.array([GROUPS[one] for one in groups]) + rng.normal(size=(n_rows, 2)), groups


def numbers_of(result, groups):
    """The number that most rows of each group have as their label."""
    labels = np.asarray(zarr.open_group(result.store, mode="r")["rows/label"][...])
    return {str(one): int(np.bincount(labels[groups == one]).argmax()) for one in np.unique(groups)}


class KnownGroups:
    """The groups that were seen so far, by the numbers of their components; each night's result is checked."""

    def __init__(self):
        self.numbers, self._before = {}, None

    def check(self, night, result, groups):
        """Check numbers, names and the difference to the night before; the first night's components are given names."""
        found = numbers_of(result, groups)
        assert result.best_model.numbers == tuple(sorted(found.values()))
        new = {name: number for name, number in found.items() if name not in self.numbers}
        assert found == {name: self.numbers[name] for name in found if name in self.numbers} | new
        self.numbers |= new
        assert result.identity.next_number == len(self.numbers)
        if self._before is None:
            for name, number in found.items():
                store.name_component(result.store, number, f"group {name}")
        else:
            assert result.identity.new == tuple(sorted(new.values()))
            assert result.names == {found[name]: f"group {name}" for name in found if name != "e"}
            self._check_difference(night, result.store)
        self._before = result.store

    def _check_difference(self, night, path):
        """The difference to the night before has each group once, with its name and its weights."""
        there, here = ({self.numbers[name]: share for name, share in shares(n).items()} for n in (night - 1, night))
        found = compare_stores(self._before, path)
        assert {(one.a, one.b) for one in found.components} == {
            (number if number in there else None, number if number in here else None) for number in there | here
        }
        for one in found.components:
            assert one.weight_a == (None if one.a is None else pytest.approx(there[one.a], abs=0.05))
            assert one.weight_b == (None if one.b is None else pytest.approx(here[one.b], abs=0.05))
            name = next((f"group {name}" for name in "abcd" if self.numbers[name] in (one.a, one.b)), None)
            assert one.name == name
        new = sum(share for number, share in here.items() if number not in there)
        assert found.agreement == pytest.approx(1.0 - new, abs=0.05)
