"""Values of rows that lie on a grid: arrays of its dimensions, with the coordinates of the data.

A chunk of the data is a box of the grid and one Zarr chunk of each array, so that no two tasks write the same one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.passes.row_outputs import ANOMALY, LOG_DENSITY, ROW_OUTPUTS
from pipeline.sources.base import Span, cut
from pipeline.sources.grids.boxes import Box, Grid
from pipeline.sources.grids.dates import shown_values
from pipeline.sources.grids.variables import Variable, slices
from pipeline.store.arrays import COMPRESSOR, get, open_root, writing
from pipeline.store.attributes import Totals
from pipeline.store.places import StorePath
from pipeline.store.rows.zarr import Array, RowPlan, Values, ZarrRows, array_of


class GridRows(ZarrRows):
    """Values of rows as arrays of the group ``rows`` of a store, on the grid of the data."""

    def __init__(self, path: StorePath, plan: RowPlan, grid: Grid) -> None:
        super().__init__(path, plan)
        self._grid = grid
        self._boxes = list(grid.boxes())

    def _create_arrays(self, group: zarr.Group, edges: zarr.Group) -> None:
        for name in self.plan.names:
            self._create_array(group, name)
        for coordinate in self._grid.coordinates:
            copy_coordinate(group, coordinate, self._grid.box_of(coordinate))

    def _create_array(self, group: zarr.Group, name: str) -> zarr.Array[Any]:
        output, tail = ROW_OUTPUTS[name], self._tail(name)
        several = [one.name for one in self._grid.coordinates if one.dims != (one.name,)]
        group.create_array(
            name,
            shape=(*self._grid.shape, *tail),
            chunks=(*self._grid.box, *tail),
            dtype=output.stored_dtype,
            fill_value=output.missing(self.plan.noise),
            dimension_names=(*self._grid.dims, *output.dimensions),
            attributes={"long_name": output.long_name, **({"coordinates": " ".join(several)} if several else {})},
            compressors=COMPRESSOR,
            overwrite=True,
        )
        return array_of(group, name)

    def _tail(self, name: str) -> tuple[int, ...]:
        """The shape of the values of one row."""
        return self.plan.shape(name, 1)[1:]

    def write(self, number: int, values: Values, totals: Totals) -> None:
        """Write one chunk of data; see :class:`RowWriter`."""
        group, box = self._group("r+"), self._boxes[number]
        with writing(self.place):
            for name in self.plan.names:
                answers = values[name].astype(ROW_OUTPUTS[name].stored_dtype, copy=False)
                array_of(group, name)[slices(box.region)] = answers.reshape(*map(len, box.region), *self._tail(name))
            self._place.sync_files(self._files_of(box))
            array_of(group, "unfinished/totals")[number] = totals.to_array()

    def _files_of(self, box: Box) -> set[str]:
        """The files of a chunk of data, and their folders; none where it has no rows."""
        if not len(box):
            return set()
        rows, found = PurePosixPath("rows"), set[str]()
        place = [str(span.start // size) for span, size in zip(box.region, self._grid.box, strict=True)]
        for name in self.plan.names:
            file = rows.joinpath(name, "c", *place, *("0" for _ in self._tail(name)))
            found |= {str(file), *(str(folder) for folder in file.parents if folder.is_relative_to(rows))}
        return found

    def join(self) -> None:
        """Nothing is left to put together; see :class:`RowWriter`."""

    def log_density(self, number: int) -> Array:
        """Log densities of a chunk of data; see :class:`RowWriter`."""
        stored = array_of(self._whole_group(), LOG_DENSITY.name)
        return np.asarray(stored[slices(self._boxes[number].region)]).ravel()

    def mark(self, threshold: float) -> int:
        """Write the array ``anomaly``, Zarr chunk by Zarr chunk; see :class:`RowWriter`."""
        group, stored, marked = self._group("r+"), self._whole_group(), 0
        with writing(self.place):
            target = self._create_array(group, ANOMALY.name)
            for box in self._boxes:
                under = np.asarray(array_of(stored, LOG_DENSITY.name)[slices(box.region)]) < threshold
                target[slices(box.region)] = under
                marked += int(np.count_nonzero(under))
        return marked


def copy_coordinate(group: zarr.Group, coordinate: Variable, chunks: Sequence[int]) -> None:
    """Write a coordinate as the data have it, with its attributes; one of several dimensions part by part."""
    if len(coordinate.shape) == 1:
        values = coordinate.coordinate_values()
        array = _create(group, coordinate, values.dtype, coordinate.shape)
        array[...] = values
        return
    array = _create(group, coordinate, coordinate.values_dtype, tuple(chunks))
    for region in _parts(coordinate.shape, chunks):
        array[slices(region)] = coordinate.read(region, coordinate.values_dtype)


def _create(group: zarr.Group, coordinate: Variable, dtype: np.dtype[Any], chunks: tuple[int, ...]) -> zarr.Array[Any]:
    group.create_array(
        coordinate.name,
        shape=coordinate.shape,
        chunks=tuple(max(1, size) for size in chunks),
        dtype=dtype,
        dimension_names=coordinate.dims,
        attributes=coordinate.public_attributes,
        compressors=COMPRESSOR,
    )
    return array_of(group, coordinate.name)


def _parts(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[tuple[Span, ...]]:
    yield from itertools.product(*(list(cut(size, step)) for size, step in zip(shape, chunks, strict=True)))


# -- reading -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StoredGrid:
    """The grid of the row outputs of a store.

    Attributes
    ----------
    sizes : dict of int
        Size of each dimension of the rows, in their order.
    group : zarr.Group
        The arrays.
    """

    sizes: dict[str, int]
    group: zarr.Group

    def attributes_of(self, dim: str) -> dict[str, Any]:
        """Return the attributes of a dimension's coordinate; empty if it has none."""
        return dict(self.group[dim].attrs.asdict()) if self._has_index(dim) else {}

    def values_of(self, dim: str) -> NDArray[Any]:
        """Return the coordinate of a dimension; the positions where there is none."""
        if not self._has_index(dim):
            return np.arange(self.sizes[dim])
        return get(self.group, dim, shape=(self.sizes[dim],))

    def texts_of(self, dim: str) -> list[str]:
        """Return the coordinate of a dimension as text: dates in ISO 8601."""
        return shown_values(self.values_of(dim), self.attributes_of(dim))

    def coordinates_of(self, position: int) -> dict[str, str]:
        """Return the coordinates of a row, given its position in C order."""
        places = np.unravel_index(position, tuple(self.sizes.values()))
        return {dim: self.texts_of(dim)[int(place)] for dim, place in zip(self.sizes, places, strict=True)}

    def _has_index(self, dim: str) -> bool:
        return dim in self.group and _dimensions(self.group, dim) == (dim,)


def read_grid(path: StorePath) -> StoredGrid | None:
    """Return the grid of a store's row outputs; None if there are none, or rows that lie on none."""
    root = open_root(path)
    if "rows" not in root:
        return None
    group = cast(zarr.Group, root["rows"])
    outputs = [name for name, output in ROW_OUTPUTS.items() if name in group and not output.dimensions]
    if not outputs or (dims := _dimensions(group, outputs[0])) == ("row",):
        return None
    return StoredGrid(dict(zip(dims, array_of(group, outputs[0]).shape, strict=True)), group)


def _dimensions(group: zarr.Group, name: str) -> tuple[str, ...]:
    return tuple(map(str, cast(Any, group[name]).metadata.dimension_names))
