"""Dataclasses as flat arrays: any mix of fields comes back, to the bit, and few arrays hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from messages import names
from pipeline.store.dataclass_arrays import digest, from_columns, pack, to_columns, unpack


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Pair(NamedTuple):
    name: str
    count: int


@dataclass(frozen=True, eq=False)
class Leaf:
    values: NDArray[np.float64]
    numbers: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Item:
    pair: Pair
    color: Color
    leaf: Leaf | None
    bounds: tuple[float, ...] = ()
    is_done: bool = False


@dataclass(frozen=True, eq=False)
class Tree:
    items: Sequence[Item]
    n_rows: int
    note: str
    sizes: tuple[int, ...]


ODD = np.array([-0.0, np.inf, -np.inf, 5e-324, np.nan])
TREES = {
    "nothing": Tree([], 0, "", ()),
    "one": Tree([Item(Pair("a", 1), Color.RED, None)], 1, "\u00e4\n", (3,)),
    "shapes that differ": Tree(
        [
            Item(Pair("a", 1), Color.RED, Leaf(np.arange(24.0).reshape(2, 3, 4)), (1.0, -0.0)),
            Item(Pair("b", 2), Color.BLUE, None, (), True),
            Item(Pair("c", 3), Color.BLUE, Leaf(ODD, np.array([[1], [-2]])), (np.nan,)),
            Item(Pair("", 0), Color.RED, Leaf(np.empty((0, 2)))),
            Item(Pair("d", 4), Color.RED, Leaf(np.array(7.0))),
        ],
        2**40,
        "two\nlines",
        (1, 2, 3),
    ),
}


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    elif isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert np.float64(found).tobytes() == np.float64(expected).tobytes()
    elif hasattr(expected, "__dataclass_fields__"):
        for field in fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    else:
        assert found == expected


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_a_tree_comes_back_to_the_bit_from_four_arrays(tree):
    arrays, layout = pack(to_columns(tree))
    assert set(arrays) == {"bool", "float64", "int64", "text"}
    assert_same(from_columns(Tree, unpack(arrays, layout)), tree)


def test_arrays_have_memory_of_their_own():
    arrays, layout = pack(to_columns(TREES["shapes that differ"]))
    found = from_columns(Tree, unpack(arrays, layout))
    found.items[0].leaf.values[...] = -1.0
    assert not (arrays["float64"] == -1.0).any()


def test_the_digest_sees_each_array_and_the_layout():
    arrays, layout = pack(to_columns(TREES["shapes that differ"]))
    known = digest(arrays, layout)
    for name, values in arrays.items():
        changed = values.copy()
        changed[-1] = {"text": "x", "bool": not values[-1]}.get(name, 99)
        assert digest({**arrays, name: changed}, layout) != known
    assert digest(arrays, {**layout, "more": ("int64", 0)}) != known
    assert digest(dict(reversed(arrays.items())), layout) == known


def test_other_fields_than_those_that_were_written_are_noticed():
    @dataclass(frozen=True)
    class Before:
        n_rows: int

    with pytest.raises(KeyError, match=names(("note", "items"))):
        from_columns(Tree, to_columns(Before(1)))
