"""Frozen dataclasses as a few flat arrays, bit for bit, and back.

A dataclass is walked by the type hints of its fields, so that a field is named only where the dataclass declares it.
Values are stored by column: all items of a sequence share one column for each field, whatever the number of items, and
the columns of one dtype lie one behind the other in one array. A store of many small arrays takes a second to write;
four arrays take some milliseconds.

What a field may be: a number, a bool, text, an enum of text, an array, a dataclass or named tuple of such fields, one
of these or None, one of several dataclasses or None, and a tuple or sequence of any of these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]
# name of each column -> its dtype and its length, in the order in which they are packed
Layout = Mapping[str, tuple[str, int]]
T = TypeVar("T")

_DTYPES: Mapping[type, Any] = {bool: np.bool_, int: np.int64, float: np.float64, str: np.dtypes.StringDType()}


# -- a dataclass and its columns ---------------------------------------------------------------------------------


def to_columns(value: Any) -> dict[str, NDArray[Any]]:
    """Return the columns of a dataclass, by the path of each field, such as ``states[].parameters.means``."""
    columns: dict[str, NDArray[Any]] = {}
    _add_columns(columns, "", type(value), [value])
    return columns


def from_columns(kind: type[T], columns: Columns) -> T:
    """Return the dataclass that columns were made from; raises KeyError where it has other fields."""
    value: T
    (value,) = _values(columns, "", kind, 1)
    return value


def _add_columns(columns: dict[str, NDArray[Any]], name: str, hint: Any, values: Sequence[Any]) -> None:
    """Add the columns of one field of all items."""
    if kinds := _kinds(hint):
        # the position of each value's kind; -1 for None
        which = [kinds.index(type(value)) if value is not None else -1 for value in values]
        columns[f"{name}?"] = np.array(which, dtype=np.int64)
        for i, kind in enumerate(kinds):
            mine = [value for value, position in zip(values, which, strict=True) if position == i]
            _add_columns(columns, f"{name}<{kind.__name__}>", kind, mine)
    elif (inner := _optional(hint)) is not None:
        columns[f"{name}?"] = np.array([value is not None for value in values], dtype=bool)
        _add_columns(columns, name, inner, [value for value in values if value is not None])
    elif (hints := _fields(hint)) is not None:
        for field, of_field in hints.items():
            _add_columns(columns, f"{name}.{field}".lstrip("."), of_field, [getattr(value, field) for value in values])
    elif (item := _item(hint)) is not None:
        columns[f"{name}#"] = np.array([len(value) for value in values], dtype=np.int64)
        _add_columns(columns, f"{name}[]", item, [each for value in values for each in value])
    elif _is_array(hint):
        # arrays of the items may differ in shape and in the number of dimensions, as covariances do
        columns[f"{name}.ndim"] = np.array([value.ndim for value in values], dtype=np.int64)
        columns[f"{name}.shape"] = np.array([size for value in values for size in value.shape], dtype=np.int64)
        columns[name] = np.concatenate([np.ravel(value) for value in values]) if values else np.empty(0)
    else:
        columns[name] = np.array(list(values), dtype=_DTYPES[str if issubclass(hint, StrEnum) else hint])


def _values(columns: Columns, name: str, hint: Any, count: int) -> list[Any]:
    """Return the values of one field of ``count`` items."""
    if kinds := _kinds(hint):
        which = columns[f"{name}?"].tolist()
        found = [
            iter(_values(columns, f"{name}<{kind.__name__}>", kind, which.count(i))) for i, kind in enumerate(kinds)
        ]
        return [next(found[i]) if i >= 0 else None for i in which]
    if (inner := _optional(hint)) is not None:
        is_there = columns[f"{name}?"].tolist()
        known = iter(_values(columns, name, inner, sum(is_there)))
        return [next(known) if there else None for there in is_there]
    if (hints := _fields(hint)) is not None:
        of_fields = [_values(columns, f"{name}.{field}".lstrip("."), of, count) for field, of in hints.items()]
        return [hint(**dict(zip(hints, each, strict=True))) for each in zip(*of_fields, strict=True)]
    if (item := _item(hint)) is not None:
        lengths = columns[f"{name}#"].tolist()
        flat = _values(columns, f"{name}[]", item, sum(lengths))
        container = tuple if get_origin(hint) is tuple else list
        return [container(flat[first:end]) for first, end in _slices(lengths)]
    if _is_array(hint):
        return _arrays(columns, name)
    return [hint(value) for value in columns[name].tolist()]


def _arrays(columns: Columns, name: str) -> list[NDArray[Any]]:
    """Return the arrays of one field, each in memory of its own."""
    sizes = columns[f"{name}.shape"].tolist()
    shapes = [tuple(sizes[first:end]) for first, end in _slices(columns[f"{name}.ndim"].tolist())]
    ends = _slices([int(np.prod(shape)) for shape in shapes])
    return [columns[name][first:end].reshape(shape).copy() for shape, (first, end) in zip(shapes, ends, strict=True)]


def _slices(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return where parts of these lengths begin and end."""
    return list(pairwise(accumulate(lengths, initial=0)))


# -- what a type hint says -------------------------------------------------------------------------------------------


def _kinds(hint: Any) -> list[type]:
    """The dataclasses of ``X | Y | None``; none of another hint."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if get_origin(hint) is UnionType else []
    return kinds if len(kinds) > 1 else []


def _optional(hint: Any) -> Any:
    """The X of ``X | None``; None of another hint."""
    kinds = get_args(hint) if get_origin(hint) is UnionType else ()
    return next((kind for kind in kinds if kind is not NoneType), None)


def _fields(hint: Any) -> dict[str, Any] | None:
    """The fields of a dataclass or a named tuple with their hints; None of another hint."""
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return {field.name: hints[field.name] for field in fields(hint)}
    return get_type_hints(hint) if hasattr(hint, "_fields") else None


def _is_array(hint: Any) -> bool:
    """Whether it is ``NDArray[X]``, which from Python 3.12 on is an alias with a name of its own."""
    origin = get_origin(hint)
    return (get_origin(getattr(origin, "__value__", None)) or origin) is np.ndarray


def _item(hint: Any) -> Any:
    """The X of ``tuple[X, ...]`` and ``Sequence[X]``; None of another hint."""
    return get_args(hint)[0] if get_origin(hint) in (tuple, Sequence) else None


# -- columns and the arrays that hold them ---------------------------------------------------------------------------


def pack(columns: Columns) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[str, int]]]:
    """Return one array for each dtype, by the dtype's name, and the layout of the columns in them."""
    layout = {name: (_dtype_name(column), len(column)) for name, column in columns.items()}
    arrays = {
        dtype: np.concatenate([column for name, column in columns.items() if layout[name][0] == dtype])
        for dtype in dict.fromkeys(dtype for dtype, _ in layout.values())
    }
    return arrays, layout


def unpack(arrays: Mapping[str, NDArray[Any]], layout: Layout) -> dict[str, NDArray[Any]]:
    """Return the columns that :func:`pack` was given."""
    columns, positions = {}, dict.fromkeys(arrays, 0)
    for name, (dtype, length) in layout.items():
        first = positions[dtype]
        columns[name], positions[dtype] = arrays[dtype][first : first + length], first + length
    return columns


def digest(arrays: Mapping[str, NDArray[Any]], layout: Layout) -> str:
    """Return a hash of packed columns."""
    found = hashlib.sha256(json.dumps(layout).encode())
    for name, values in sorted(arrays.items()):
        found.update(f"{name} {len(values)}\n".encode())
        found.update("\n".join(values.tolist()).encode() if name == "text" else np.ascontiguousarray(values))
    return found.hexdigest()


def _dtype_name(column: NDArray[Any]) -> str:
    return "text" if column.dtype.kind in "TUO" else column.dtype.name
