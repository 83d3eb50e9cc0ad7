"""Row outputs: the values that a fitted mixture gives each row, one :class:`RowOutput` each.

Whatever else has to know them derives from :data:`ROW_OUTPUTS`: the kernels' buffers, the arrays and columns of a
result store, the switches of a job's configuration, and the projection of memory. Three of them are computed by the
kernels; a job makes the others from those.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class RowOutput:
    """A value that a fitted mixture gives each row, or each row and component, or each row and feature.

    Attributes
    ----------
    name : str
        Name of the array or column.
    dtype, stored_dtype : numpy dtype
        As it is computed, and as it is stored.
    fill_value : object
        Stands for the value of a row that has none: one with missing values.
    long_name : str
        What it is, as data sets with attributes say it.
    fill_value_beside_noise : object, optional
        The same of a mixture with noise, where ``fill_value`` is the noise's.
    per_component : bool
        Whether there is one value for each component: shape (n_rows, n_components) instead of (n_rows,).
    per_feature : bool
        Whether there is one value for each feature: shape (n_rows, n_features).
    copies : int
        How many arrays of its size are held while it is computed.
    config_key, description : str, optional
        The switch ``output.<config_key>`` of a job that stores it, and what the configuration's reference says.
    stored_by_default : bool
        The switch's default.
    inputs : tuple of str
        Outputs of the kernels that the job makes it from; none for those of the kernels themselves.
    """

    name: str
    dtype: np.dtype[Any]
    stored_dtype: np.dtype[Any]
    fill_value: Any
    long_name: str
    per_component: bool = False
    config_key: str | None = None
    description: str = ""
    stored_by_default: bool = False
    inputs: tuple[str, ...] = ()
    fill_value_beside_noise: Any = None
    per_feature: bool = False
    copies: int = 1

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions of its array after those of the rows."""
        return ("component",) * self.per_component + ("feature",) * self.per_feature

    def missing(self, noise: bool) -> Any:
        """What stands for the value of a row that has none, for a mixture with or without noise."""
        special = noise and self.fill_value_beside_noise is not None
        return self.fill_value_beside_noise if special else self.fill_value

    def shape(self, n_rows: Any, n_densities: int, n_features: int = 0) -> tuple[Any, ...]:
        """Shape of its array, for a mixture of so many components, the noise among them, and of so many features."""
        sizes = {"component": n_densities, "feature": n_features}
        return (n_rows, *(sizes[dimension] for dimension in self.dimensions))

    def columns(self, components: Iterable[int], noise: bool = False) -> list[str]:
        """Names of its columns in a table: its own, or one for each component by its number, and the noise's."""
        numbers = [*components, "noise"] if noise else components
        return [f"{self.name}_{k}" for k in numbers] if self.per_component else [self.name]

    def row_bytes(self, n_components: int, n_features: int) -> int:
        """Bytes of one row's values as they are computed."""
        n_values: int = math.prod(self.shape(1, n_components, n_features))
        return self.copies * self.dtype.itemsize * n_values


_INT32, _INT64, _FLOAT64, _BOOL = map(np.dtype, (np.int32, np.int64, np.float64, np.bool_))

# of a row that belongs to the noise, and beside noise of one that has no label; without noise that is -1, too
NOISE_LABEL, LEFT_OUT_LABEL = -1, -2

LABEL = RowOutput(
    name="label",
    dtype=_INT64,
    stored_dtype=_INT32,
    fill_value=-1,
    long_name="number of the most probable component",
    config_key="labels",
    description="Whether to store each row's component: -1 of rows that are left out, and with search.noise -1 of rows "
    "of the noise and -2 of those that are left out.",
    stored_by_default=True,
    fill_value_beside_noise=LEFT_OUT_LABEL,
)
LOG_DENSITY = RowOutput(
    name="log_density",
    dtype=_FLOAT64,
    stored_dtype=_FLOAT64,
    fill_value=math.nan,
    long_name="log density of the mixture",
    config_key="log_density",
    description="Whether to store each row's log density.",
)
RESPONSIBILITY = RowOutput(
    name="responsibility",
    dtype=_FLOAT64,
    stored_dtype=_FLOAT64,
    fill_value=math.nan,
    long_name="probability of each component",
    per_component=True,
    config_key="responsibilities",
    description="Whether to store each row's probability of every component, and of the noise, which is the last.",
)
# the most probable of the clusters that the job's components are merged into, which the job knows
CLUSTER = RowOutput(
    name="cluster",
    dtype=_INT64,
    stored_dtype=_INT32,
    fill_value=-1,
    long_name="number of the most probable cluster of components",
    inputs=("responsibility",),
    fill_value_beside_noise=LEFT_OUT_LABEL,
)
# told by the job's model, of rows whose gaps take part in the fit
IMPUTED = RowOutput(
    name="imputed",
    dtype=_FLOAT64,
    stored_dtype=_FLOAT64,
    fill_value=math.nan,
    long_name="value, or where it is missing its expectation given the others of the row",
    config_key="imputed",
    description="Whether to store each row's columns with their gaps filled: a value that is missing is its "
    "expectation, given those that the row has, and the others are as in the data. Behind a step of data.transform "
    "that is not linear, such as log, it is the value whose transform is expected (of one component, its median and "
    "not its mean). Rows that are left out, such as those without any value, are NaN. With data.missing: likelihood "
    "only.",
    inputs=("responsibility",),
    per_feature=True,
    copies=2,  # the incomplete rows, their means and their variances
)
# marked when all log densities are known: the threshold is a quantile of them
ANOMALY = RowOutput(
    name="anomaly",
    dtype=_BOOL,
    stored_dtype=_BOOL,
    fill_value=False,
    long_name="whether the log density is below the threshold",
    inputs=("log_density",),
)

# in the order of columns
ROW_OUTPUTS = {output.name: output for output in (LABEL, CLUSTER, LOG_DENSITY, RESPONSIBILITY, IMPUTED, ANOMALY)}
KERNEL_OUTPUTS = tuple(output for output in ROW_OUTPUTS.values() if not output.inputs)


def kernel_inputs(requested: Iterable[str]) -> tuple[str, ...]:
    """The outputs of the kernels that the requested ones are, or follow from."""
    needed = {name for one in requested for name in (ROW_OUTPUTS[one].inputs or (one,))}
    return tuple(output.name for output in KERNEL_OUTPUTS if output.name in needed)


def empty_outputs(requested: Iterable[str], n_rows: int, n_densities: int, noise: bool, n_features: int = 0) -> Outputs:
    """Fill values of the requested outputs for some rows, and a mixture of so many densities, the noise among them."""
    outputs = [ROW_OUTPUTS[name] for name in requested]
    return {
        one.name: np.full(one.shape(n_rows, n_densities, n_features), one.missing(noise), one.dtype) for one in outputs
    }


def row_bytes(requested: Iterable[str], n_components: int, n_features: int) -> int:
    """Bytes of one row's values of the requested outputs, and of those of the kernels that they follow from."""
    requested = tuple(requested)
    names = dict.fromkeys((*requested, *kernel_inputs(requested)))
    return sum(ROW_OUTPUTS[name].row_bytes(n_components, n_features) for name in names)
