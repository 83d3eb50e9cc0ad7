"""Boxes: the chunks of rows that lie on a grid, whole storage chunks where that is possible."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.sources.base import cut
from pipeline.sources.grids.variables import Region, Variable


@dataclass(frozen=True)
class Box:
    """A part of a grid; its rows are numbered in C order.

    Attributes
    ----------
    region : tuple of Span
        The range of each dimension of the rows.
    """

    region: Region

    def __len__(self) -> int:
        return math.prod(map(len, self.region))


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid that rows lie on.

    Attributes
    ----------
    dims : tuple of str
        The dimensions of the rows, in their order.
    shape : tuple of int
    box : tuple of int
        Shape of a chunk; at the ends of the grid chunks are smaller.
    coordinates : tuple of Variable
        Variables that say where the rows lie: the index of a dimension, or one of several dimensions.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    box: tuple[int, ...]
    coordinates: tuple[Variable, ...] = ()

    def box_of(self, coordinate: Variable) -> tuple[int, ...]:
        """Return the shape of a chunk in the dimensions of a coordinate."""
        sizes = dict(zip(self.dims, self.box, strict=True))
        return tuple(sizes[dim] for dim in coordinate.dims)

    def boxes(self) -> Iterator[Box]:
        """Yield the chunks in their order, which is the order of the rows."""
        axes = [list(cut(size, step)) for size, step in zip(self.shape, self.box, strict=True)]
        yield from map(Box, itertools.product(*axes))


def choose_box(shape: Sequence[int], storage: Sequence[int], wanted: int, most: int) -> tuple[int, ...]:
    """Return the shape of the boxes that a grid is cut into.

    Parameters
    ----------
    shape : sequence of int
        Of the grid.
    storage : sequence of int
        Shape of a storage chunk.
    wanted : int
        Rows of a box: whole storage chunks of so many rows together, the last dimensions first, so that the rows of
        consecutive boxes are in C order where a box has room for all of the last dimensions.
    most : int
        Rows at which a larger storage chunk is cut, along the first dimensions.
    """
    box = [max(1, min(size, step)) for size, step in zip(shape, storage, strict=True)]
    for axis in range(len(box)):
        parts = math.ceil(math.prod(box) / most)
        box[axis] = math.ceil(box[axis] / min(parts, box[axis]))
    for axis in reversed(range(len(box))):
        times = wanted // math.prod(box)
        box[axis] = max(box[axis], min(shape[axis], box[axis] * times))
        if box[axis] < shape[axis]:
            break
    return tuple(box)


def storage_chunk(sizes: Sequence[tuple[int, int]]) -> int:
    """Return the chunk of a dimension whose size and chunk each variable has: their least common multiple.

    Where that is more than four times the largest of them, it is the largest.
    """
    chunks = [min(chunk, size) for size, chunk in sizes]
    common = math.lcm(*chunks)
    return common if common <= 4 * max(chunks) else max(chunks)
