"""Files of one grid, joined along a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.sources.grids.columns import Variables
from pipeline.sources.grids.dates import in_units
from pipeline.sources.grids.variables import JoinedVariable, Variable


def join_files(paths: Sequence[str], files: Sequence[Variables], data: DataConfig) -> Variables:
    """Return the variables of several files, joined along the dimension in whose coordinate the files differ.

    The files are in the order of that coordinate, descending if it descends in each of them. Variables without the
    dimension are those of the first file.

    Parameters
    ----------
    paths : sequence of str
        Of the files, for messages.
    files : sequence of mapping
        The variables of each file, by their names.
    data : DataConfig

    Raises
    ------
    UserError
        If a file lacks a variable of the first one that is needed, or has it on another grid, or a coordinate of
        another file, or if the coordinate ascends in one file and descends in another.
    """
    if len(files) == 1:
        return files[0]
    _require_variables(paths, files, data)
    dim = _dimension(files, data)
    coordinates = [_in_units_of(file[dim], files[0][dim]) for file in files]
    _require_apart(paths, coordinates, files[0][dim], data)
    descending = _descends(paths, coordinates, dim, data)
    order = sorted(
        range(len(files)),
        key=lambda i: coordinates[i][0] if len(coordinates[i]) else -np.inf,
        reverse=descending,
    )
    files = [files[i] for i in order]
    return {
        name: JoinedVariable.along(dim, [file[name] for file in files]) if dim in first.dims else first
        for name, first in files[0].items()
        if dim not in first.dims or all(name in file and file[name].dims == first.dims for file in files)
    }


def _require_variables(paths: Sequence[str], files: Sequence[Variables], data: DataConfig) -> None:
    for name in filter(None, (*(data.variables or ()), data.weights)):
        for path, file in zip(paths, files, strict=True):
            if name in files[0] and (name not in file or file[name].dims != files[0][name].dims):
                what = f"has it as {file[name].shown}" if name in file else "lacks it"
                raise UserError(
                    f"data.source: the files of {data.shown} differ: the first one has the variable "
                    f"{files[0][name].shown}, and {path} {what}. Leave that file out."
                )


def _dimension(files: Sequence[Variables], data: DataConfig) -> str:
    """Return the dimension in whose coordinate the files differ; raises :class:`UserError` if it is not one."""
    known = [files[0][name] for name in data.variables or () if name in files[0]]
    dims = dict.fromkeys(dim for variable in known for dim in variable.dims)
    differing = [dim for dim in dims if any(not _same(files[0].get(dim), file.get(dim)) for file in files[1:])]
    if len(differing) != 1:
        what = f"several dimensions ({', '.join(differing)})" if differing else "no dimension"
        raise UserError(
            f"data.source: the files of {data.shown} differ in the coordinate of {what}; expected one, along which "
            "they are joined. Name files of one grid, each with its own part of one dimension, such as time."
        )
    if differing[0] in data.feature_dims:
        raise UserError(
            f"data.feature_dims: the files of {data.shown} are joined along {differing[0]!r}, which is to be columns. "
            "Write the variables of a row into one file."
        )
    if any(differing[0] not in file for file in files):
        raise UserError(
            f"data.source: a file of {data.shown} has no coordinate {differing[0]!r}, by which files are joined. "
            "Write the coordinate to each of them."
        )
    return differing[0]


def _descends(paths: Sequence[str], coordinates: Sequence[NDArray[Any]], dim: str, data: DataConfig) -> bool:
    """Whether the coordinate descends within the files that have several values of it."""
    ascending, descending = (
        [path for path, one in zip(paths, coordinates, strict=True) if len(one) > 1 and (one[0] > one[-1]) == down]
        for down in (False, True)
    )
    if ascending and descending:
        raise UserError(
            f"data.source: the files of {data.shown} are joined along {dim!r}, whose coordinate ascends in "
            f"{ascending[0]} and descends in {descending[0]}. Write it in one direction, as "
            f"xarray.open_dataset(PATH).sortby({dim!r}) has it."
        )
    return bool(descending)


def _same(a: Variable | None, b: Variable | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.array_equal(a.coordinate_values(), _in_units_of(b, a)))


def _in_units_of(variable: Variable, other: Variable) -> NDArray[Any]:
    return in_units(variable.coordinate_values(), variable.attributes, other.attributes)


def _require_apart(
    paths: Sequence[str], coordinates: Sequence[NDArray[Any]], first: Variable, data: DataConfig
) -> None:
    """Raise :class:`UserError` if a coordinate is in two files: its rows would count twice."""
    values = np.concatenate(coordinates)
    order, file = np.argsort(values, kind="stable"), np.repeat(np.arange(len(paths)), list(map(len, coordinates)))
    values, file = values[order], file[order]
    twice = np.flatnonzero((values[1:] == values[:-1]) & (file[1:] != file[:-1]))
    if len(twice):
        at = int(twice[0])
        units = first.attributes.get("units", "")
        raise UserError(
            f"data.source: the files of {data.shown} overlap: {paths[file[at]]} and {paths[file[at + 1]]} both have "
            f"{first.name} {values[at]} {units}".rstrip()
            + f", of {len(twice):,} that two files have. Their rows would count twice: name files that do not overlap."
        )
