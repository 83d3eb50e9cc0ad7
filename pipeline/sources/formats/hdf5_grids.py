"""Variables of HDF5 and netCDF-4 files: on a grid, or of one dimension, each a column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import HDF5
from pipeline.sources.base import ChunkPolicy, Source, numeric_dtype, select_columns, stored_column
from pipeline.sources.formats.hdf5 import CACHE_BYTES, datasets_of, opened_hdf5, require_own_values
from pipeline.sources.grids.columns import Variables, describe
from pipeline.sources.grids.joined import join_files
from pipeline.sources.grids.open import open_grid
from pipeline.sources.grids.variables import Region, StoredVariable, Variable, shape_of, slices
from pipeline.sources.location import Location, matches

# the dimension of columns that have no name of it
_ROW = "row"


def open_hdf5_grid(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open the variables that the configuration names, of one file or of several that a glob matches."""
    if data.dataset is not None:
        raise UserError(
            f"data.dataset: expected none beside data.variables; got {data.dataset}. Variables of a group within the "
            "file have its path before their names, such as group/temp."
        )
    found = find_variables(data, location)
    if not any(variable.dims for variable in found.values()):
        raise UserError(
            f"data.variables: no dataset of {data.shown} has names of its dimensions. Write the file as netCDF-4, or "
            "attach dimension scales (h5py: dataset.dims[i].attach_scale)."
        )
    versions = tuple((path, location.at(path).version()) for path in _paths(location))
    return open_grid(found, data, location, HDF5, policy, versions)


def find_variables(data: DataConfig, location: Location) -> Variables:
    """Return the variables of a file, or of the files that a glob matches, joined along a dimension."""
    places = [location.at(path) if location.is_glob else location for path in _paths(location)]
    return join_files([place.source for place in places], [_variables_of(place, data) for place in places], data)


def _paths(location: Location) -> list[str]:
    return matches(location) if location.is_glob else [location.path]


def columns_of(data: DataConfig, location: Location) -> Variables:
    """Return the variables of a file that are columns: those of one dimension, if all that have numbers are so.

    Empty if there are others, or less than two.
    """
    found = _variables_of(location, data, nameless=_ROW)
    numbers = [variable for variable in found.values() if numeric_dtype(variable.dtype) and variable.shape]
    offered = [variable for variable in numbers if variable.dims != (variable.name,)]
    if len(offered) < 2 or any(len(variable.shape) > 1 for variable in offered):
        return {}
    return {variable.name: variable for variable in found.values() if len(variable.shape) == 1}


def open_columns(found: Variables, data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open variables of one dimension as columns of rows."""
    columns = [
        replace(stored_column(name, one.dtype, one.attributes), offered=one.dims != (name,))
        for name, one in found.items()
    ]
    selection = select_columns(columns, data)
    chosen = [found[name] for name in selection.fields]
    if len({(variable.dims, variable.shape) for variable in chosen}) > 1:
        sizes = ", ".join(f"{variable.shown} {variable.shape[0]:,}" for variable in chosen)
        raise UserError(
            f"data.source: the variables of {data.shown} do not lie along one dimension: {sizes}. List those that do "
            "in data.columns."
        )
    data = data.model_copy(update={"variables": selection.columns})
    identity = (location.version(),)
    return open_grid(found, data, location, HDF5, policy, identity, on_grid=False, notes=selection.notes)


def describe_file(data: DataConfig, location: Location) -> str:
    """Return the variables of a file with their dimensions, for messages."""
    return describe([one for one in _variables_of(location, data).values() if one.dims != (one.name,)])


def _variables_of(location: Location, data: DataConfig, nameless: str = "") -> Variables:
    """Return the datasets of a file that have names of their dimensions, or none.

    ``nameless`` is the dimension of those of one dimension that have no name of it.
    """
    needed = {*(data.variables or data.columns or ()), data.weights}
    found: dict[str, Variable] = {}
    with opened_hdf5(location) as file:
        for name in datasets_of(file):
            dataset = file[name]
            if dataset.shape is None or dataset.dtype.names:
                continue
            dims = _dimensions(dataset)
            if not all(dims):
                if not (nameless and dataset.ndim == 1):
                    continue
                dims = (nameless,)
            if name in needed or dataset.is_scale:
                require_own_values(dataset, location)
            array = _Hdf5Array(
                location, name, dataset.shape, tuple(dataset.chunks or (1,) * dataset.ndim), dataset.dtype
            )
            where = f"the variable {name!r} of {location.source}"
            found[name] = StoredVariable(name, dims, _attributes(dataset), array, where)
    return found


def _dimensions(dataset: Any) -> tuple[str, ...]:
    """Return the names of a dataset's dimensions, which are those of the scales that are attached to them."""
    if dataset.is_scale and dataset.ndim == 1:
        return (dataset.name.strip("/"),)
    names = [dimension[0].name if len(dimension) else dimension.label for dimension in dataset.dims]
    return tuple(name.strip("/") for name in names)


def _attributes(dataset: Any) -> Mapping[str, Any]:
    hidden = {"REFERENCE_LIST", "DIMENSION_LIST"}
    return {key: dataset.attrs[key] for key in dataset.attrs if key not in hidden}


@dataclass(frozen=True, eq=False)
class _Hdf5Array:
    """A dataset of a file, as :class:`pipeline.sources.grids.variables.StoredArray`.

    The file is opened for each read: an open one cannot be sent to other processes, and does not notice changes.
    """

    location: Location
    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, region: Region) -> NDArray[Any]:
        with opened_hdf5(self.location) as file:
            dataset = file.get(self.name)
            if dataset is None or dataset.shape != self.shape:
                raise UserError(
                    f"data.source: {self.location.source} was changed while it was read. Run the job again."
                )
            require_own_values(dataset, self.location)
            found: NDArray[Any] = np.asarray(dataset[slices(region)]).reshape(shape_of(region))
        return found

    def read_bytes(self, shape: tuple[int, ...]) -> int:
        """A storage chunk as it is stored and decoded, and what is left of the one before; HDF5's own cache."""
        return CACHE_BYTES + 3 * math.prod(self.chunks) * self.dtype.itemsize
