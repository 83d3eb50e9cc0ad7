"""The filter of rows on PyArrow's tables: its types, the rows that pass, and what statistics rule out before a read."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset, parquet

from gmm_dask.errors import UserError
from gmm_dask.formatting import counted, did_you_mean
from pipeline.config.fields import in_utc
from pipeline.config.row_filter import AllOf, AnyOf, Comparison, Condition, Missing, Value, columns_of, leaves_of
from pipeline.sources.formats.hive import Constants

_OPERATORS = {"==": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
# of a whole number beside one with decimals: the nearest whole number that means the same
_ROUNDED = {"<": math.ceil, "<=": math.floor, ">": math.floor, ">=": math.ceil}


# -- types ---------------------------------------------------------------------------------------------------


def require_columns(condition: Condition, schema: pa.Schema, path: str) -> None:
    """Check that a filter is about columns of a schema, with values of their types.

    Raises
    ------
    UserError
        That names the column, its type and the value.
    """
    for leaf in leaves_of(condition):
        if schema.names.count(leaf.column) != 1:
            count = schema.names.count(leaf.column)
            hint = "" if count else did_you_mean(leaf.column, schema.names)
            raise UserError(
                f"data.filter: {path} has {counted(count, 'column') if count else 'no column'} {leaf.column!r}{hint}; "
                f"its columns are {', '.join(schema.names)}."
            )
        kind = schema.field(leaf.column).type
        if isinstance(leaf, Comparison) and not _can_compare(kind, leaf):
            raise UserError(
                f"data.filter: the column {leaf.column!r} of {path} has the type {kind}, which is compared with "
                f"{_expected(kind)}; got {leaf.operator} {leaf.value!r}."
            )


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _can_compare(kind: pa.DataType, leaf: Comparison) -> bool:
    kind, value = _value_type(kind), leaf.value
    if pa.types.is_boolean(kind):
        return isinstance(value, bool) and leaf.operator in ("==", "!=")
    if _is_number(kind):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if _is_time(kind):
        return isinstance(value, str) and _moment(value) is not None
    return _is_text(kind) and isinstance(value, str)


def _expected(kind: pa.DataType) -> str:
    kind = _value_type(kind)
    if pa.types.is_boolean(kind):
        return "true or false, with == or !="
    if _is_number(kind):
        return "a number"
    if _is_time(kind):
        return "a date or a time in quotes, such as '2026-03-01' or '2026-03-01T12:00'"
    return "a text in quotes" if _is_text(kind) else "no value: only with 'is null'"


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


# -- expressions ---------------------------------------------------------------------------------------------


def expression(condition: Condition, schema: pa.Schema, *, of_statistics: bool = False) -> pc.Expression:
    """Return a condition as an expression on tables of a schema.

    ``of_statistics`` leaves out what the statistics of a file do not tell: they count missing values without NaN.
    """
    match condition:
        case AllOf(conditions=parts) | AnyOf(conditions=parts):
            joined = and_ if isinstance(condition, AllOf) else or_
            return reduce(joined, (expression(part, schema, of_statistics=of_statistics) for part in parts))
        case Missing(column=name, negated=negated):
            if negated:
                return pc.field(name).is_valid()
            if of_statistics and pa.types.is_floating(schema.field(name).type):
                return pc.scalar(True)
            return pc.field(name).is_null()
        case Comparison(column=name):
            if of_statistics and pa.types.is_float16(schema.field(name).type):  # PyArrow does not compare them
                return pc.scalar(True)
            return _comparison(condition, _value_type(schema.field(name).type))


def _comparison(leaf: Comparison, kind: pa.DataType) -> pc.Expression:
    field, operator, value = pc.field(leaf.column), leaf.operator, leaf.value
    if pa.types.is_integer(kind) and isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        if operator not in _ROUNDED:
            return field.is_valid() if operator == "!=" else pc.scalar(False)
        value = _ROUNDED[operator](value)
    side = _side(value, kind)
    if side:  # all that is present is below, or above
        met = {"!=", "<", "<="} if side > 0 else {"!=", ">", ">="}
        return field.is_valid() if operator in met else pc.scalar(False)
    compared: pc.Expression = _OPERATORS[operator](field, _scalar(value, kind))
    return compared


def _side(value: Value, kind: pa.DataType) -> int:
    """Return 1 if a value is above all that its column's type can hold, -1 if it is below, else 0."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        number: int | float = 1000 * _microseconds(datetime.fromisoformat(str(value)))
    elif (pa.types.is_integer(kind) or pa.types.is_decimal(kind)) and isinstance(value, int | float):
        number = value
    else:
        return 0
    lowest, highest = _limits(kind)
    return int(number > highest) - int(number < lowest)


def _microseconds(moment: datetime) -> int:
    """Return a time since 1970, of UTC where it has no zone."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return (in_utc(moment) - epoch) // timedelta(microseconds=1)


def _limits(kind: pa.DataType) -> tuple[int, int]:
    if pa.types.is_decimal(kind):
        beyond: int = 10 ** (kind.precision - kind.scale)
        return -beyond, beyond
    if pa.types.is_unsigned_integer(kind):
        return 0, 2**kind.bit_width - 1
    return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1


def _scalar(value: Value, kind: pa.DataType) -> pa.Scalar:
    """Return a value in the type of its column; a time without a zone is one of UTC where the column has a zone."""
    if pa.types.is_decimal(kind):
        return pa.scalar(Decimal(str(value)))
    if pa.types.is_integer(kind):
        return pa.scalar(int(value), kind)
    if pa.types.is_floating(kind):
        return pa.scalar(float(str(value)), kind)  # of its digits: a whole number beyond all floats is infinite
    if _is_time(kind):
        moment = _moment(str(value))
        assert moment is not None
        return _time_scalar(moment, kind)
    return pa.scalar(value, kind)


def _time_scalar(moment: datetime, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_date(kind):
        # a date beside a time of day: compared as times
        whole = moment.time() == datetime.min.time() and moment.tzinfo is None
        return pa.scalar(date(moment.year, moment.month, moment.day), kind) if whole else pa.scalar(moment)
    return pa.scalar(_microseconds(moment), pa.timestamp("us", kind.tz))


# -- rows, files and row groups ------------------------------------------------------------------------------


def passing(table: pa.Table, condition: Condition) -> pa.Table:
    """Return the rows of a table that meet a condition."""
    values = pa.table({name: _without_nan(table.column(name)) for name in columns_of(condition)})
    passes = expression(condition, values.schema)
    # forty times faster than Table.filter with an expression (65,536 rows)
    mask = dataset.dataset(values).scanner(columns={"passes": passes}, use_threads=False).to_table()
    return table.filter(mask["passes"])


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return column
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def given(condition: Condition, constants: Constants) -> Condition | bool:
    """Return what is left of a condition where some columns have one value; True or False where nothing is.

    Columns that are not among the constants are left.
    """
    row = pa.table({name: pa.array([value.as_py()], value.type) for name, value in constants})
    return _given(condition, row)


def _given(condition: Condition, row: pa.Table) -> Condition | bool:
    if isinstance(condition, Comparison | Missing):
        if condition.column not in row.column_names:
            return condition
        return bool(passing(row, condition).num_rows)
    decisive = isinstance(condition, AnyOf)  # one part that has this value decides
    parts = [_given(part, row) for part in condition.conditions]
    if any(part is decisive for part in parts):
        return decisive
    left = tuple(part for part in parts if not isinstance(part, bool))
    return type(condition)(left) if left else not decisive


def row_groups(condition: Condition, metadata: parquet.FileMetaData) -> tuple[int, ...]:
    """Return the row groups of a file that may have rows which pass, by the statistics in its footer."""
    footer = pa.BufferOutputStream()
    metadata.write_metadata_file(footer)
    fragment = dataset.ParquetFileFormat().make_fragment(footer.getvalue())
    schema = metadata.schema.to_arrow_schema()
    left = fragment.subset(filter=expression(condition, schema, of_statistics=True), schema=schema).row_groups
    return tuple(group.id for group in left)
