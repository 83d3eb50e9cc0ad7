"""The read of a box: each variable's part of it, decoded, and turned so that its feature dimensions are columns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.sources.base import READ_BYTES, Block, Span
from pipeline.sources.grids.boxes import Box
from pipeline.sources.grids.columns import Layout
from pipeline.sources.grids.variables import Region, Variable


@dataclass(frozen=True, eq=False)
class _Part:
    """A variable, and ranges of its feature dimensions that are read together.

    Attributes
    ----------
    variable : Variable
    features : dict of Span
        The range of each feature dimension.
    picks, fields : list of int
        Which of the columns within these ranges are taken, and where they go in a block.
    """

    variable: Variable
    features: dict[str, Span]
    picks: list[int]
    fields: list[int]

    def region(self, spans: dict[str, Span]) -> Region:
        """Return the part of the array for a range of each dimension of the rows."""
        return tuple(self.features.get(dim) or spans[dim] for dim in self.variable.dims)

    @property
    def n_features(self) -> int:
        """Columns within the ranges."""
        return math.prod(map(len, self.features.values()))


@dataclass(frozen=True, eq=False)
class GridReader:
    """Reads the rows of a box.

    Attributes
    ----------
    dims : tuple of str
        The dimensions of the rows.
    parts : tuple of _Part
    n_fields : int
    dtype : numpy dtype
        Of a block.
    """

    dims: tuple[str, ...]
    parts: tuple[_Part, ...]
    n_fields: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, layout: Layout, positions: Sequence[int], dtype: np.dtype[Any], box: Sequence[int]) -> GridReader:
        """Return the reader of the columns at these positions, in boxes of this shape."""
        sizes = dict(zip(layout.sizes, box, strict=True))
        parts: list[_Part] = []
        first = 0
        for variable in layout.variables:
            shape = [variable.sizes[dim] for dim in layout.features_of(variable)]
            wanted = {place - first: i for i, place in enumerate(positions) if 0 <= place - first < math.prod(shape)}
            first += math.prod(shape)
            parts += _parts(variable, layout.features_of(variable), wanted, sizes)
        return cls(tuple(layout.sizes), tuple(parts), len(positions), dtype)

    def read(self, piece: Box) -> Block:
        """Return the rows of a box, (n_rows, n_fields)."""
        spans = dict(zip(self.dims, piece.region, strict=True))
        block = np.empty((*map(len, piece.region), self.n_fields), dtype=self.dtype)
        for part in self.parts:
            values = part.variable.read(part.region(spans), self.dtype)
            columns = self._turned(values, part)
            for pick, field in zip(part.picks, part.fields, strict=True):
                block[..., field] = columns[..., pick]
        return block.reshape(len(piece), self.n_fields)

    def _turned(self, values: Block, part: _Part) -> Block:
        """Return values with the dimensions of the rows in order, those that the variable lacks, and the columns."""
        dims = part.variable.dims
        rows = [dim for dim in self.dims if dim in dims]
        order = [dims.index(dim) for dim in (*rows, *part.features)]
        shape = [values.shape[dims.index(dim)] if dim in dims else 1 for dim in self.dims]
        return values.transpose(order).reshape(*shape, part.n_features)

    def read_bytes(self, box: Sequence[int]) -> int:
        """What the read of a box of this shape holds beside its rows."""
        spans = {dim: Span(0, size) for dim, size in zip(self.dims, box, strict=True)}
        held = 0
        for part in self.parts:
            shape = tuple(len(span) for span in part.region(spans))
            # the values, and what is stored of them; turned, they may be copied once more
            held = max(held, part.variable.read_bytes(shape) + 2 * math.prod(shape) * self.dtype.itemsize)
        return held


def _parts(variable: Variable, features: Sequence[str], wanted: dict[int, int], box: dict[str, int]) -> Iterator[_Part]:
    """Cut the columns of a variable into parts that are read together: whole storage chunks of about READ_BYTES.

    ``wanted`` has the place in a block of each of its columns that is read, ``box`` the size of a box.
    """
    shape = [variable.sizes[dim] for dim in features]
    chunks = [min(variable.sizes[dim], variable.chunk_sizes[dim]) for dim in features]
    steps = list(chunks)
    # numbers of the storage chunks that a box lies in, at one place of the feature dimensions
    decoded = math.prod(-(-box[dim] // chunk) * chunk for dim, chunk in variable.chunk_sizes.items() if dim in box)
    for axis in reversed(range(len(steps))):
        bytes_read = decoded * math.prod(steps) * variable.dtype.itemsize
        steps[axis] = min(shape[axis], chunks[axis] * max(1, READ_BYTES // bytes_read))
    numbers = np.arange(math.prod(shape)).reshape(shape)
    cuts = [
        [Span(i, min(i + step, size)) for i in range(0, size, step)] for size, step in zip(shape, steps, strict=True)
    ]
    for ranges in itertools.product(*cuts):
        inside = numbers[tuple(slice(span.start, span.stop) for span in ranges)].ravel().tolist()
        picks = [i for i, number in enumerate(inside) if number in wanted]
        if picks:
            yield _Part(variable, dict(zip(features, ranges, strict=True)), picks, [wanted[inside[i]] for i in picks])
