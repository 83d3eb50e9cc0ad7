"""Labelled arrays of xarray: which dimensions are rows and which are columns, and answers on the same grid.

A cell without any value, such as land on the grid of an ocean, is no row: it takes no part in a fit, and has no answer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from gmm_dask.arrays import is_number, is_of, plain_array
from gmm_dask.errors import UserError
from gmm_dask.families import Family, Parameters
from gmm_dask.passes.gaps.condition import Conditional, condition_chunk, condition_rows
from gmm_dask.passes.model_batch import ModelBatch
from gmm_dask.passes.predict import finite_rows, predict_chunk, predict_rows, prediction_batch
from gmm_dask.passes.row_outputs import ROW_OUTPUTS
from gmm_dask.passes.rows import Rows

# the dimensions of the columns, and of the components in answers
_COLUMN, _COMPONENT = "gmm_dask_column", "component"
# what to do about cells that lack some values
REMEDY = (
    "Cells without any value are left out; of those that lack some, fill the gaps, or mask them for all variables and "
    "coordinates of a column, as X.where(X['temp'].notnull().all('depth')) does."
)


def is_labelled(X: Any) -> bool:
    """Whether X is an array or a data set of xarray."""
    return is_of("xarray", "DataArray", X) or is_of("xarray", "Dataset", X)


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows on a grid.

    Attributes
    ----------
    array : xarray.DataArray
        The dimensions of the rows, and the columns as the last one.
    names : tuple of str
        Of the columns, such as ``temp[depth=10.0]``.
    variables : tuple of xarray.DataArray
        As they are given; each has columns.
    feature_dims : tuple of str
        The dimensions whose coordinates are columns.
    places : ndarray of shape (n_columns,)
        Where the columns of the variables, one after the other, are in the array.
    """

    array: Any
    names: tuple[str, ...]
    variables: tuple[Any, ...]
    feature_dims: tuple[str, ...]
    places: NDArray[np.intp]

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions of the rows, in their order."""
        return tuple(self.array.dims[:-1])

    @property
    def is_lazy(self) -> bool:
        """Whether the values are a Dask array."""
        return isinstance(self.array.data, da.Array)

    def rows(self, sample_weight: Any = None) -> tuple[Any, Any]:
        """Return the cells with values as rows (n_rows, n_columns), and their weights, in memory or of Dask.

        Chunks of a Dask array are read one by one, and the rows are in their order; in memory, in C order.
        """
        array = self.array if sample_weight is None else self._with_weights(sample_weight)
        n_columns = len(self.names)
        if isinstance(array.data, da.Array):
            rows = _rows_of_blocks(array.data, n_columns)
        else:
            rows = _cells(array.values, n_columns)
        if sample_weight is None:
            return rows, None
        return rows[:, :n_columns].astype(self.array.dtype), rows[:, n_columns]

    def _with_weights(self, sample_weight: Any) -> Any:
        """Return the array with the weights as one more column."""
        import xarray as xr

        if not is_of("xarray", "DataArray", sample_weight) or not set(sample_weight.dims) <= set(self.dims):
            got = getattr(sample_weight, "dims", type(sample_weight).__name__)
            raise UserError(
                f"sample_weight must be a DataArray on dimensions of the rows ({', '.join(self.dims)}), as X is one of "
                f"xarray; got {got}."
            )
        one = self.array.isel({_COLUMN: 0}, drop=True)
        if any(sample_weight.sizes[dim] != one.sizes[dim] for dim in sample_weight.dims):
            raise UserError(
                f"sample_weight has the shape {dict(sample_weight.sizes)}, and the rows have {dict(one.sizes)}."
            )
        aligned = _aligned(sample_weight, one)
        weights = plain_array(aligned.reset_coords(drop=True).astype(np.float64))
        weights = xr.DataArray(weights, dims=aligned.dims) if not is_labelled(weights) else weights
        weights = weights.broadcast_like(one.drop_vars(list(one.coords))).transpose(*self.dims)
        bare = self.array.drop_vars(list(self.array.coords))
        return _merged(xr.concat([bare, weights.drop_vars(list(weights.coords)).expand_dims(_COLUMN, -1)], _COLUMN))

    def predict(self, family: Family, parameters: Parameters, name: str, gaps: bool = False) -> Any:
        """Return a row output on the grid, lazy if the values are; fill values where a cell has none.

        Parameters
        ----------
        family : Family
        parameters : Parameters
        name : str
            A name of :data:`gmm_dask.passes.row_outputs.ROW_OUTPUTS`.
        gaps : bool
            Whether cells may lack some values.
        """
        import xarray as xr

        per_component = ROW_OUTPUTS[name].per_component
        if per_component and _COMPONENT in self.dims:
            raise UserError(
                f"X has a dimension {_COMPONENT!r}, which is that of the answer. Rename it: "
                f"X.rename({_COMPONENT}='member')."
            )
        if self.is_lazy:
            function = partial(_predict_block, batch=prediction_batch(family, parameters, gaps), name=name)
        else:
            function = partial(_predict_values, family=family, parameters=parameters, name=name, gaps=gaps)
        found = xr.apply_ufunc(
            function,
            self.array.drop_attrs(deep=False),
            input_core_dims=[[_COLUMN]],
            output_core_dims=[[_COMPONENT] if per_component else []],
            dask="parallelized",
            output_dtypes=[ROW_OUTPUTS[name].dtype],
            dask_gufunc_kwargs={"output_sizes": {_COMPONENT: parameters.n_densities}} if per_component else {},
            keep_attrs=True,  # those of coordinates
        )
        return found.rename(name).assign_attrs(long_name=ROW_OUTPUTS[name].long_name)

    def condition(self, family: Family, parameters: Parameters) -> Conditional:
        """Return the mean and the variance of each value, given those of its cell: data sets with the variables.

        A variable that lacks a dimension of the rows has it in the answer: what is missing follows from the cell.
        """
        import xarray as xr

        if self.is_lazy:
            function = partial(_condition_block, batch=prediction_batch(family, parameters, gaps=True))
        else:
            function = partial(_condition_values, family=family, parameters=parameters)
        mean, variance = xr.apply_ufunc(
            function,
            self.array.drop_attrs(deep=False),
            input_core_dims=[[_COLUMN]],
            output_core_dims=[[_COLUMN], [_COLUMN]],
            dask="parallelized",
            output_dtypes=[np.float64, np.float64],
            keep_attrs=True,  # those of coordinates
        )
        means = self._unstacked(mean)
        for one in self.variables:  # a variance has another unit
            means[one.name].attrs = dict(one.attrs)
        return Conditional(means, self._unstacked(variance))

    def _unstacked(self, columns: Any) -> Any:
        """Return columns as the variables that they are of."""
        import xarray as xr

        columns = columns.isel({_COLUMN: self.places})
        found, first = {}, 0
        for variable in self.variables:
            own = [dim for dim in self.feature_dims if dim in variable.dims]
            sizes = [variable.sizes[dim] for dim in own]
            part = columns.isel({_COLUMN: slice(first, first + math.prod(sizes))})
            first += math.prod(sizes)
            values = part.data.reshape(*part.shape[:-1], *sizes)
            coords = {**part.coords, **{dim: variable[dim] for dim in own if dim in variable.coords}}
            whole = xr.DataArray(values, coords, (*self.dims, *own))
            found[variable.name] = whole.transpose(
                *(dim for dim in self.dims if dim not in variable.dims), *variable.dims
            )
        return xr.Dataset(found)


def labelled_rows(X: Any, feature_dims: str | Sequence[str], names: Sequence[str] = ()) -> LabelledRows:
    """Read an array or a data set of xarray as rows.

    Parameters
    ----------
    X : xarray.DataArray or xarray.Dataset
        Each variable of a data set has columns; one that lacks a dimension of the rows has the same value along it.
    feature_dims : str or sequence of str
        The dimensions whose coordinates become columns. All others are rows, in the order in which variables have them.
    names : sequence of str
        Of the columns of a fit, whose order these take if they are the same: neither the order of variables nor that
        of coordinates has a meaning in xarray.

    Raises
    ------
    UserError
        If there is no such dimension, if none is left for the rows, or if a variable holds no numbers.
    """
    import xarray as xr

    features = [feature_dims] if isinstance(feature_dims, str) else list(feature_dims)
    dataset = X.to_dataset(name=X.name or "x") if is_of("xarray", "DataArray", X) else X
    variables = [dataset[name] for name in dataset.data_vars]
    known = list(dict.fromkeys(str(dim) for variable in variables for dim in variable.dims))
    if unknown := [dim for dim in features if dim not in known]:
        raise UserError(f"feature_dims: X has no dimension {unknown[0]!r}; it has {', '.join(known) or 'none'}.")
    if len(set(features)) < len(features):
        raise UserError(f"feature_dims: expected each dimension once, got {', '.join(features)}.")
    if empty := [dim for dim in features if not dataset.sizes[dim]]:
        raise UserError(f"feature_dims: the dimension {empty[0]!r} of X has no entries, so that there are no columns.")
    rows = [dim for dim in known if dim not in features]
    if not rows:
        raise UserError(
            f"feature_dims: all dimensions of X are columns ({', '.join(known) or 'none'}), and none is left for the "
            "rows."
        )
    parts, found = list[Any](), list[str]()
    for variable in variables:
        _require_numbers(variable)
        own = [dim for dim in features if dim in variable.dims]
        found += _names(variable, own)
        parts.append(_stacked(variable, own))
    parts = list(xr.broadcast(*parts, exclude=[_COLUMN]))
    array = xr.concat(parts, _COLUMN, coords="minimal", compat="override").transpose(*rows, _COLUMN)
    order = np.arange(len(found))
    if len(set(found)) == len(found) and list(names) != found and set(names) == set(found):
        order = np.array([found.index(name) for name in names])
        array, found = array.isel({_COLUMN: order}), list(names)
    return LabelledRows(_merged(array), tuple(found), tuple(variables), tuple(features), np.argsort(order))


def _require_numbers(variable: Any) -> None:
    if not is_number(variable.dtype):
        raise UserError(
            f"X must hold real numbers; its variable {variable.name!r} is one of {variable.dtype}. Choose others: "
            "X[['temp', 'salt']]."
        )
    plain_array(variable)  # raises if xarray did not decode it


def _aligned(weights: Any, rows: Any) -> Any:
    """Return weights in the order of the rows' coordinates; a dimension that lacks a coordinate on a side is as is."""
    for dim in weights.dims:
        if dim not in weights.indexes or dim not in rows.indexes:
            continue
        theirs, ours = weights.indexes[dim], rows.indexes[dim]
        if theirs.equals(ours):
            continue
        same = theirs.is_unique and ours.is_unique and len(theirs) == len(ours)
        places = theirs.get_indexer(ours) if same else np.array([-1])
        if (places < 0).any():
            raise UserError(
                f"sample_weight has other coordinates along {dim!r} than X: {_ends(theirs)}, and X has {_ends(ours)}. "
                f"Select those of X, as sample_weight.reindex({dim}=X[{dim!r}], method='nearest') does, or leave them "
                f"out to match by position: sample_weight.drop_vars({dim!r})."
            )
        weights = weights.isel({dim: places})
    return weights


def _ends(index: Any) -> str:
    return f"{_label(index.values[0])} to {_label(index.values[-1])}"


def _names(variable: Any, features: Sequence[str]) -> list[str]:
    labels = [[f"{dim}={_label(value)}" for value in variable[dim].values] for dim in features]
    return [f"{variable.name}[{','.join(one)}]" if one else str(variable.name) for one in itertools.product(*labels)]


def _label(value: Any) -> str:
    """Return a coordinate as the names of columns have it: dates in ISO 8601, durations in their largest whole unit."""
    if isinstance(value, np.timedelta64) and not np.isnat(value):
        units = (unit for unit in ("D", "h", "m", "s", "ms", "us") if not value % np.timedelta64(1, unit))
        return str(value.astype(f"m8[{next(units, 'ns')}]"))
    if isinstance(value, np.datetime64):
        text = str(np.datetime_as_string(value, unit="s"))
        return text.removesuffix("T00:00:00")
    return str(value)


def _stacked(variable: Any, features: Sequence[str]) -> Any:
    """Return a variable with its columns as the last dimension, without their coordinates."""
    values = variable.astype(variable.dtype if variable.dtype in (np.float32, np.float64) else np.float64)
    rows = [dim for dim in variable.dims if dim not in features]
    if features:
        values = _side_by_side(values.transpose(*rows, *features), features)
        return values.drop_vars([name for name in values.coords if _COLUMN in values[name].dims])
    return values.expand_dims(_COLUMN, -1)


def _side_by_side(values: Any, features: Sequence[str]) -> Any:
    import xarray as xr

    if values.size:
        return values.stack({_COLUMN: features}, create_index=False)
    # xarray does not stack what is empty
    places = itertools.product(*(range(values.sizes[dim]) for dim in features))
    columns = [values.isel(dict(zip(features, place, strict=True)), drop=True) for place in places]
    return xr.concat(columns, _COLUMN).transpose(..., _COLUMN)


def _merged(array: Any) -> Any:
    """Return an array whose columns are one chunk, if it is of Dask."""
    return array.chunk({_COLUMN: -1}) if isinstance(array.data, da.Array) else array


# -- rows ----------------------------------------------------------------------------------------------------


def _rows_of_blocks(array: da.Array, n_columns: int) -> da.Array:
    """Return the rows of an array's blocks, one chunk for each, of unknown length."""
    name = f"rows-of-blocks-{tokenize(array, n_columns)}"
    places = itertools.product(*map(range, array.numblocks))
    tasks = {(name, i, 0): (_cells, (array.name, *place), n_columns) for i, place in enumerate(places)}
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[array])
    chunks = (math.nan,) * len(tasks), (array.shape[-1],)
    return da.Array(graph, name, chunks=chunks, dtype=array.dtype)


def _cells(values: Any, n_columns: int) -> NDArray[Any]:
    """Return the cells that have any value as rows; ``n_columns`` are those before the weights."""
    rows = _flat(values)
    found = ~np.isnan(rows[:, :n_columns]).all(axis=1)
    return rows if found.all() else rows[found]


# -- answers -------------------------------------------------------------------------------------------------


def _predict_block(values: NDArray[Any], batch: ModelBatch, name: str) -> NDArray[Any]:
    def answer(rows: NDArray[Any]) -> Any:
        return predict_chunk(finite_rows(rows, batch.gaps), batch, (name,))[name]

    return _on_cells(values, name, batch.models[0][1], answer)


def _predict_values(
    values: NDArray[Any], family: Family, parameters: Parameters, name: str, gaps: bool
) -> NDArray[Any]:
    def answer(rows: NDArray[Any]) -> Any:
        return predict_rows(Rows(finite_rows(rows, gaps), gaps=gaps), family, parameters, [name])[name]

    return _on_cells(values, name, parameters, answer)


def _condition_block(values: NDArray[Any], batch: ModelBatch) -> tuple[NDArray[Any], ...]:
    found = condition_chunk(_flat(values), batch)
    return tuple(side.reshape(values.shape) for side in found)


def _condition_values(values: NDArray[Any], family: Family, parameters: Parameters) -> tuple[NDArray[Any], ...]:
    found = condition_rows(Rows(_flat(values), gaps=True), family, parameters)
    return tuple(side.reshape(values.shape) for side in found)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """Return cells as rows."""
    return np.ascontiguousarray(values).reshape(math.prod(values.shape[:-1]), values.shape[-1])


def _on_cells(values: NDArray[Any], name: str, parameters: Parameters, answer: Any) -> NDArray[Any]:
    """Return the answers for the cells that have any value, and fill values for the others."""
    output, shape = ROW_OUTPUTS[name], values.shape[:-1]
    rows = _flat(values)
    found = ~np.isnan(rows).all(axis=1)
    filled = np.full(output.shape(len(rows), parameters.n_densities), output.fill_value, output.dtype)
    if found.any():
        try:
            filled[found] = answer(rows[found])
        except UserError as error:
            raise UserError(f"{error} {REMEDY}") from None
    return filled.reshape(*shape, *filled.shape[1:])
