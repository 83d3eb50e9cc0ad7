"""The dimensions of a grid: those that are rows, and those whose coordinates are columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gmm_dask.conventions import date_units
from gmm_dask.errors import UserError
from gmm_dask.formatting import did_you_mean, listed
from pipeline.config.data import DataConfig
from pipeline.sources.base import Column
from pipeline.sources.grids.dates import shown_values
from pipeline.sources.grids.variables import Variable

Variables = Mapping[str, Variable]


@dataclass(frozen=True, eq=False)
class Layout:
    """What the dimensions of some variables are.

    Attributes
    ----------
    variables : tuple of Variable
        Those that are clustered on, then the weights.
    sizes : dict of int
        Size of each dimension of the rows, in the order of the rows.
    feature_dims : tuple of str
        The dimensions whose coordinates are columns.
    columns : tuple of Column
        Those of all variables, one after the other.
    owners : tuple of Variable
        The variable of each column.
    """

    variables: tuple[Variable, ...]
    sizes: dict[str, int]
    feature_dims: tuple[str, ...]
    columns: tuple[Column, ...]
    owners: tuple[Variable, ...]

    def features_of(self, variable: Variable) -> list[str]:
        """Return the dimensions of a variable whose coordinates are columns."""
        return [dim for dim in self.feature_dims if dim in variable.dims]


def lay_out(found: Variables, data: DataConfig) -> Layout:
    """Return the rows and columns of the variables that a configuration names.

    Raises
    ------
    UserError
        If there is no such variable or dimension, if one holds no numbers, or if their sizes differ.
    """
    chosen = [_variable(found, name, "data.variables", data) for name in data.variables or ()]
    weights = [] if data.weights is None else [_variable(found, data.weights, "data.weights", data)]
    known = dict.fromkeys(dim for variable in chosen for dim in variable.dims)
    for dim in data.feature_dims:
        if dim not in known:
            raise UserError(
                f"data.feature_dims: {listed([one.shown for one in chosen])} of {data.shown} have no dimension {dim!r}"
                f"{did_you_mean(dim, known)}. Name some of {listed(list(known))}."
            )
    sizes = _sizes(chosen + weights, data)
    rows = {dim: sizes[dim] for dim in known if dim not in data.feature_dims}
    if not rows:
        raise UserError(
            f"data.feature_dims: all dimensions of {data.shown} are columns ({', '.join(known)}), and none is left for "
            "the rows. Leave one out."
        )
    for variable in weights:
        if more := [dim for dim in variable.dims if dim not in rows]:
            raise UserError(
                f"data.weights: {variable.shown} of {data.shown} has the dimension {more[0]!r}, which is none of the "
                f"rows ({', '.join(rows)}): there is one weight for each row."
            )
    named = [(name, variable) for variable in chosen for name in _names(variable, data.feature_dims, found)]
    columns = [Column(name, variable.shown, variable.values_dtype) for name, variable in named]
    columns += [Column(variable.name, variable.shown, variable.values_dtype, offered=False) for variable in weights]
    owners = (*(variable for _, variable in named), *weights)
    return Layout((*chosen, *weights), rows, data.feature_dims, tuple(columns), owners)


def describe(found: Iterable[Variable]) -> str:
    """Return variables with their dimensions, for messages: ``temp(time, depth), salt(time, depth)``."""
    return listed([variable.shown for variable in found]) or "none"


def _variable(found: Variables, name: str, key: str, data: DataConfig) -> Variable:
    variable = found.get(name)
    if variable is None:
        raise UserError(
            f"{key}: {data.shown} has no variable {name!r}{did_you_mean(name, found)}; it has "
            f"{describe(found.values())}."
        )
    if not variable.is_numeric:
        what = f"dates ({units})" if (units := date_units(variable.attributes)) else str(variable.dtype)
        raise UserError(f"{key}: {variable.shown} of {data.shown} holds {what} and no numbers. Name others.")
    if not variable.dims:
        raise UserError(f"{key}: {name} of {data.shown} is a single number, without dimensions. Name others.")
    return variable


def _sizes(variables: Sequence[Variable], data: DataConfig) -> dict[str, int]:
    """Return the size of each dimension; raises :class:`UserError` if variables differ in one."""
    sizes: dict[str, int] = {}
    for variable in variables:
        if len(set(variable.dims)) < len(variable.dims):
            raise UserError(f"data.variables: {variable.shown} of {data.shown} has a dimension twice. Leave it out.")
        for dim, size in variable.sizes.items():
            if sizes.setdefault(dim, size) != size:
                raise UserError(
                    f"data.variables: the dimension {dim!r} of {data.shown} has {size:,} entries in {variable.name}, "
                    f"and {sizes[dim]:,} in others. Name variables of one grid."
                )
    return sizes


def _names(variable: Variable, feature_dims: Sequence[str], found: Variables) -> list[str]:
    """Return the names of a variable's columns: ``temp[depth=10.0]``; by position where there is no coordinate."""
    dims = [dim for dim in feature_dims if dim in variable.dims]
    labels = [[f"{dim}={value}" for value in _labels(dim, variable.sizes[dim], found)] for dim in dims]
    return [f"{variable.name}[{','.join(one)}]" if one else variable.name for one in itertools.product(*labels)]


def _labels(dim: str, size: int, found: Variables) -> list[str]:
    index = found.get(dim)
    if index is None or index.shape != (size,):
        return list(map(str, range(size)))
    return shown_values(index.coordinate_values(), index.attributes)
