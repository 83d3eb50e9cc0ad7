"""Row outputs: the values that a fitted mixture gives each row, one :class:`RowOutput` each.

Whatever else has to know them derives from :data:`ROW_OUTPUTS`: the kernels' buffers, the arrays and columns of a
result store, the switches of a job's configuration, and the projection of memory. Three of them are computed by the
kernels; another one is a NumPy formula of those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class RowOutput:
    """A value that a fitted mixture gives each row, or each row and component.

    Attributes
    ----------
    name : str
        Name of the array or column.
    dtype, stored_dtype : numpy dtype
        As it is computed, and as it is stored.
    fill_value : object
        Stands for the value of a row that has none: one with missing values.
    per_component : bool
        Whether there is one value for each component: shape (n_rows, n_components) instead of (n_rows,).
    config_key, description : str, optional
        The switch ``output.<config_key>`` of a job that stores it, and what the configuration's reference says.
    stored_by_default : bool
        The switch's default.
    inputs : tuple of str
        Row outputs that it follows from; none for those that the kernels compute.
    formula : callable, optional
        Computes it from its inputs, in their order. Without one, an output that has inputs is made by the job when
        all chunks are done.
    """

    name: str
    dtype: np.dtype[Any]
    stored_dtype: np.dtype[Any]
    fill_value: Any
    per_component: bool = False
    config_key: str | None = None
    description: str = ""
    stored_by_default: bool = False
    inputs: tuple[str, ...] = ()
    formula: Callable[..., NDArray[Any]] | None = None

    def shape(self, n_rows: Any, n_components: int) -> tuple[Any, ...]:
        """Shape of its array."""
        return (n_rows, n_components) if self.per_component else (n_rows,)

    def row_bytes(self, n_components: int) -> int:
        """Bytes of one row's values as they are computed."""
        return self.dtype.itemsize * (n_components if self.per_component else 1)


_INT32, _INT64, _FLOAT64, _BOOL = map(np.dtype, (np.int32, np.int64, np.float64, np.bool_))

LABEL = RowOutput(
    name="label",
    dtype=_INT64,
    stored_dtype=_INT32,
    fill_value=-1,
    config_key="labels",
    description="Whether to store each row's component.",
    stored_by_default=True,
)
LOG_DENSITY = RowOutput(
    name="log_density",
    dtype=_FLOAT64,
    stored_dtype=_FLOAT64,
    fill_value=math.nan,
    config_key="log_density",
    description="Whether to store each row's log density.",
)
RESPONSIBILITY = RowOutput(
    name="responsibility",
    dtype=_FLOAT64,
    stored_dtype=_FLOAT64,
    fill_value=math.nan,
    per_component=True,
    config_key="responsibilities",
    description="Whether to store each row's probability of every component.",
)
# marked when all log densities are known: the threshold is a quantile of them
ANOMALY = RowOutput(name="anomaly", dtype=_BOOL, stored_dtype=_BOOL, fill_value=False, inputs=("log_density",))

# in the order of columns
ROW_OUTPUTS = {output.name: output for output in (LABEL, LOG_DENSITY, RESPONSIBILITY, ANOMALY)}
KERNEL_OUTPUTS = tuple(output for output in ROW_OUTPUTS.values() if not output.inputs)


def kernel_inputs(requested: Iterable[str]) -> tuple[str, ...]:
    """The outputs of the kernels that the requested ones are, or follow from."""
    needed = {name for one in requested for name in (ROW_OUTPUTS[one].inputs or (one,))}
    return tuple(output.name for output in KERNEL_OUTPUTS if output.name in needed)


def with_derived(computed: Mapping[str, NDArray[Any]], requested: Iterable[str]) -> Outputs:
    """The requested outputs, from those of the kernels."""
    found = {}
    for name in requested:
        formula = ROW_OUTPUTS[name].formula
        inputs = (computed[one] for one in ROW_OUTPUTS[name].inputs)
        found[name] = computed[name] if formula is None else formula(*inputs)
    return found


def empty_outputs(requested: Iterable[str], n_rows: int, n_components: int) -> Outputs:
    """Fill values of the requested outputs for some rows."""
    outputs = [ROW_OUTPUTS[name] for name in requested]
    return {one.name: np.full(one.shape(n_rows, n_components), one.fill_value, one.dtype) for one in outputs}


def row_bytes(requested: Iterable[str], n_components: int) -> int:
    """Bytes of one row's values of the requested outputs, and of those of the kernels that they follow from."""
    requested = tuple(requested)
    names = dict.fromkeys((*requested, *kernel_inputs(requested)))
    return sum(ROW_OUTPUTS[name].row_bytes(n_components) for name in names)
