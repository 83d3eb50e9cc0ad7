"""PyArrow's columns as blocks of floating-point numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.sources.base import Block, Column


def arrow_column(field: pa.Field) -> Column:
    """A column of a PyArrow schema; booleans count as 0 and 1."""
    kind = field.type
    if pa.types.is_boolean(kind):
        return Column(field.name, str(kind), np.dtype(np.bool_))
    if pa.types.is_decimal(kind):
        return Column(field.name, str(kind), np.dtype(np.float64))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return Column(field.name, str(kind), np.dtype(kind.to_pandas_dtype()))
    return Column(field.name, str(kind), None)


def table_block(table: pa.Table, fields: Sequence[str], dtype: np.dtype[Any]) -> Block:
    """The named columns as an array (n_rows, n_fields); a missing value is NaN."""
    block = np.empty((table.num_rows, len(fields)), dtype=dtype)
    for i, name in enumerate(fields):
        block[:, i] = _numbers(table.column(name), dtype)
    return block


def _numbers(column: pa.ChunkedArray, dtype: np.dtype[Any]) -> Block:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    # unsafe in PyArrow's sense: an integer beyond 2^53 is rounded
    numbers: Block = column.cast(pa.from_numpy_dtype(dtype), safe=False).to_numpy()
    return numbers
