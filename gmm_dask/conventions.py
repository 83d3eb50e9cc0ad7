"""What stored numbers stand for, by the conventions of netCDF: packed numbers, missing values, valid ranges, dates.

The attributes are those of the NetCDF Users' Guide (appendix A, Attribute Conventions) and of the CF conventions
(sections 2.5.1, 4.4 and 8.1). Zarr and HDF5 have no such conventions of their own, and programs write these.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError

Number = int | float

PACKING = ("scale_factor", "add_offset")
MISSING = ("_FillValue", "missing_value")
VALID = ("valid_range", "valid_min", "valid_max")
# the attributes that say what a stored number stands for
CONVENTIONS = (*PACKING, *MISSING, *VALID, "_Unsigned")
# numbers that are decoded at a time, so that what is in work stays in the processor's cache
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Encoding:
    """How the values of an array are stored.

    Attributes
    ----------
    dtype : numpy dtype
        Of the values: float32 if float32 is stored and not packed, else float64.
    missing : tuple of numpy scalar
        Stored numbers that stand for a missing value.
    lowest, highest : float
        Values beyond these are missing.
    scale, offset : float
        A value is a stored number times ``scale`` plus ``offset``.
    sign : numpy dtype or None
        Of stored integers, if it is not the dtype that they are stored with: some formats lack unsigned integers.
    """

    dtype: np.dtype[Any]
    missing: tuple[Any, ...] = ()
    lowest: float = -math.inf
    highest: float = math.inf
    scale: float = 1.0
    offset: float = 0.0
    sign: np.dtype[Any] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the stored numbers are the values."""
        return self == Encoding(self.dtype)

    def decode(self, stored: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
        """Return the values of stored numbers, of the same shape; a missing value is NaN.

        Parameters
        ----------
        stored : ndarray
        dtype : dtype, optional
            float64, or the dtype of the encoding, which is the default.
        """
        dtype = self.dtype if dtype is None else dtype
        if self.is_plain:
            return np.ascontiguousarray(stored, dtype=dtype).reshape(stored.shape)
        values = np.empty(stored.shape, dtype=dtype)
        step = max(1, _BLOCK // max(1, math.prod(stored.shape[1:])))
        for start in range(0, len(stored), step):
            self._decode_into(values[start : start + step], stored[start : start + step])
        return values

    def _decode_into(self, values: NDArray[Any], stored: NDArray[Any]) -> None:
        numbers = stored if self.sign is None else stored.view(self.sign)
        values[...] = numbers
        if (self.scale, self.offset) != (1.0, 0.0):
            values *= self.scale
            values += self.offset
        if (self.lowest, self.highest) != (-math.inf, math.inf):
            np.copyto(values, np.nan, where=(values < self.lowest) | (values > self.highest))
        for missing in self.missing:
            np.copyto(values, np.nan, where=numbers == missing)


def attribute_text(attributes: Mapping[str, Any], key: str) -> str:
    """Return an attribute as text, which HDF5 has as bytes and in arrays, too; empty if it is not there, or no text."""
    found = _text(attributes.get(key))
    return found if isinstance(found, str) else ""


def date_units(attributes: Mapping[str, Any]) -> str:
    """Return the units of an array of dates, such as ``days since 1950-01-01``; empty if it holds none."""
    units = attribute_text(attributes, "units")
    return units if " since " in units.casefold() else ""


def decoded_dtype(attributes: Mapping[str, Any], stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of an array's values, without a check of its attributes."""
    packed = any(attributes.get(key) is not None for key in PACKING)
    return np.dtype(np.float32 if stored.newbyteorder("=") == np.float32 and not packed else np.float64)


def zarr_attributes(array: Any) -> Mapping[str, Any]:
    """Return the attributes of a Zarr array; xarray writes ``_FillValue`` to the field ``fill_value`` of Zarr v2."""
    attributes: Mapping[str, Any] = array.attrs
    if array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in attributes:
        return {"_FillValue": array.metadata.fill_value, **attributes}
    return attributes


def read_encoding(attributes: Mapping[str, Any], stored: np.dtype[Any], where: str) -> Encoding:
    """Return how the values of an array are stored, by its attributes.

    Parameters
    ----------
    attributes : mapping
        As they are stored: numbers, lists, NumPy arrays or text. Only :data:`CONVENTIONS` are looked at.
    stored : numpy dtype
        Of the stored numbers: integers, floating-point numbers or booleans.
    where : str
        Name of the array, for messages.

    Raises
    ------
    UserError
        If one of them is not understood.
    """
    found = _Attributes(where, {key: attributes[key] for key in CONVENTIONS if attributes.get(key) is not None})
    sign = found.sign(stored)
    numbers = stored if sign is None else sign
    scale, offset = found.finite("scale_factor", 1.0), found.finite("add_offset", 0.0)
    if scale == 0.0:
        raise found.refused("scale_factor", "a number other than 0")
    packed = Encoding(decoded_dtype(attributes, stored), scale=scale, offset=offset, sign=sign)
    lowest, highest = found.valid_range(packed, numbers)
    return replace(packed, missing=tuple(found.missing(stored, numbers)), lowest=lowest, highest=highest)


@dataclass(frozen=True)
class _Attributes:
    """Those of an array's attributes that are :data:`CONVENTIONS`."""

    where: str
    values: Mapping[str, Any]

    def refused(self, key: str, expected: str) -> UserError:
        """Return the error for an attribute that is not understood."""
        value = self.values[key]
        shown = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        return UserError(
            f"the attribute {key} of {self.where} is {shown!r}; expected {expected}. The values cannot be told from "
            "the stored numbers without it: correct it, or remove it if it does not apply."
        )

    def numbers(self, key: str, expected: str = "numbers") -> list[Number]:
        """Return the numbers of an attribute; none if it is not there."""
        try:
            return [_number(one) for one in _elements(self.values.get(key, ()))]
        except ValueError:
            raise self.refused(key, expected) from None

    def finite(self, key: str, default: float) -> float:
        """Return the finite number that an attribute is."""
        expected = "one finite number"
        found = self.numbers(key, expected) if key in self.values else [default]
        if len(found) != 1 or not math.isfinite(found[0]):
            raise self.refused(key, expected)
        return float(found[0])

    def sign(self, stored: np.dtype[Any]) -> np.dtype[Any] | None:
        """Return the dtype of stored integers, if it is not the one that they are stored with."""
        if "_Unsigned" not in self.values:
            return None
        kind = {"true": "u", "false": "i"}.get(str(_text(self.values["_Unsigned"])).casefold())
        if kind is None or stored.kind not in "iu":
            raise self.refused("_Unsigned", f"true or false, of integers; the array is one of {stored}")
        return None if kind == stored.kind else np.dtype(stored.str.replace(stored.kind, kind))

    def missing(self, stored: np.dtype[Any], numbers: np.dtype[Any]) -> Iterator[Any]:
        """Yield the numbers that stand for missing values, in the type of those that are stored."""
        for key in MISSING:
            for value in self.numbers(key):
                if math.isnan(value):  # NaN is missing as it is
                    continue
                found = _as_type(value, stored, numbers)
                if found is None:
                    raise self.refused(key, f"a number that an array of {numbers} can hold")
                yield found

    def valid_range(self, packed: Encoding, numbers: np.dtype[Any]) -> tuple[float, float]:
        """Return the ends of the valid range, as values.

        It is given in stored numbers; but in values, if integers are packed and it has decimals.
        """
        both = self._ends("valid_range", 2)
        lows, highs = [*both[:1], *self._ends("valid_min", 1)], [*both[1:], *self._ends("valid_max", 1)]
        has_decimals = any(isinstance(end, float) for end in (*lows, *highs))
        if not (numbers.kind in "iu" and has_decimals):
            lows, highs = ([_value_of(end, packed, numbers) for end in ends] for ends in (lows, highs))
            if packed.scale < 0.0:
                lows, highs = highs, lows
        return max(lows, default=-math.inf), min(highs, default=math.inf)

    def _ends(self, key: str, count: int) -> list[Number]:
        """Return the ends of the valid range that an attribute is; none if it is not there."""
        expected = "one number" if count == 1 else f"{count} numbers"
        found = self.numbers(key, expected)
        if key in self.values and (len(found) != count or any(map(math.isnan, found))):
            raise self.refused(key, expected)
        return found


def _value_of(end: Number, packed: Encoding, numbers: np.dtype[Any]) -> float:
    """Return the value that a stored number stands for; a type with fewer digits than the number has rounds it."""
    if numbers.kind == "f":
        end = float(numbers.type(end))
    elif numbers.kind == "u" and end < 0:
        end += 1 << 8 * numbers.itemsize
    return end * packed.scale + packed.offset


def _as_type(value: Number, stored: np.dtype[Any], numbers: np.dtype[Any]) -> Any:
    """Return a number as one of an array's; None if its type has no such number.

    Of integers with another sign than they are stored with, attributes may have those of either.
    """
    if numbers.kind == "f":
        with np.errstate(over="ignore"):
            found = numbers.type(value)
        return found if math.isinf(found) == math.isinf(value) else None
    if not math.isfinite(value) or value != int(value):
        return None
    if numbers.kind == "b":
        return np.bool_(value) if value in (0, 1) else None
    for dtype in (numbers, stored):
        if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            return np.array(int(value), dtype=dtype).view(numbers)[()]
    return None


def _elements(value: Any) -> list[Any]:
    """Return the elements of an attribute, which is one of them, or a list or an array."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return [value]
    return [element for one in value for element in _elements(one)]


def _number(element: Any) -> Number:
    """Return a number, which may be text: its digits, or, as xarray writes it to Zarr v3, its bytes in base64."""
    found = _text(element)
    if isinstance(found, int | float):
        return found
    if not isinstance(found, str):
        raise ValueError(f"expected a number, got {found!r}")
    for read in (int, float):
        with suppress(ValueError):
            return read(found)
    try:
        return float(struct.unpack("<d", base64.b64decode(found, validate=True))[0])
    except struct.error as error:
        raise ValueError(str(error)) from None


def _text(value: Any) -> Any:
    """Return text as ``str``; HDF5 has it as bytes, too, and in arrays of one element."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
