"""Groups of Zarr arrays with names of their dimensions, v2 and v3, as variables of a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.conventions import zarr_attributes
from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import ZARR
from pipeline.sources.base import ChunkPolicy, Source
from pipeline.sources.formats.zarr import (
    DECODED_COPIES,
    arrays_of,
    decoding,
    dimensions_of,
    dtype_of,
    filled_if_absent,
    give_back,
    open_node,
)
from pipeline.sources.grids.columns import Variables
from pipeline.sources.grids.open import open_grid
from pipeline.sources.grids.variables import Region, StoredVariable, slices
from pipeline.sources.location import Location


def open_zarr_grid(group: zarr.Group, data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open the variables of a group that the configuration names."""
    found = variables_of(group, data, location)
    if not found:
        raise UserError(
            f"data.variables: no array of {data.shown} has names of its dimensions. Write it with xarray, or with "
            "dimension_names (Zarr v3) or the attribute _ARRAY_DIMENSIONS (v2)."
        )
    metadata = [repr(group[name].metadata.to_dict()) for name in sorted(found)]
    return open_grid(found, data, location, ZARR, policy, tuple(metadata))


def find_variables(data: DataConfig, location: Location) -> Variables:
    """Return the variables of a group; none of an array."""
    with location.reading():
        node = open_node(data, location)
        return variables_of(node, data, location) if isinstance(node, zarr.Group) else {}


def variables_of(group: zarr.Group, data: DataConfig, location: Location) -> Variables:
    """Return the arrays of a group that have names of their dimensions, or none."""
    found, arrays = {}, arrays_of(group)
    coordinates = _coordinates(arrays) - {*(data.variables or data.columns or ()), data.weights}
    for name, array in arrays.items():
        dims = dimensions_of(array)
        if len(dims) == array.ndim:
            where = f"the variable {name!r} of {data.shown}"
            array = filled_if_absent(array) if name in coordinates else array
            found[name] = StoredVariable(name, dims, zarr_attributes(array), _ZarrArray(location, array), where)
    return found


def _coordinates(arrays: dict[str, zarr.Array[Any]]) -> set[str]:
    """Return the names of coordinates: xarray does not store a chunk of them that holds fill values only."""
    named = (str(array.attrs.get("coordinates", "")).split() for array in arrays.values())
    indexes = {name for name, array in arrays.items() if dimensions_of(array) == (name,)}
    return indexes.union(*named)


@dataclass(frozen=True, eq=False)
class _ZarrArray:
    """An array of a Zarr group, as :class:`pipeline.sources.grids.variables.StoredArray`."""

    location: Location
    array: zarr.Array[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def chunks(self) -> tuple[int, ...]:
        return self.array.shards or self.array.chunks

    @property
    def dtype(self) -> np.dtype[Any]:
        return dtype_of(self.array)

    def read(self, region: Region) -> NDArray[Any]:
        ranges = ", ".join(f"{span.start}:{span.stop}" for span in region)
        with decoding(self.location, self.array, f"[{ranges}]"):
            found = np.asarray(self.array[slices(region)])
        give_back(self.array)
        return found

    def read_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the storage chunks that are decoded at a time, with their copies."""
        chunks = self.array.chunks
        n_chunks = math.prod(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
        if not self.array.shards:  # of a shard, Zarr reads all chunks that it needs at once
            n_chunks = min(n_chunks, int(zarr.config.get("async.concurrency")))
        return DECODED_COPIES * n_chunks * math.prod(chunks) * self.dtype.itemsize
