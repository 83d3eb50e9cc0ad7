"""Dates as files have them: numbers since a moment, by the CF conventions (section 4.4)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.conventions import attribute_text, date_units
from gmm_dask.errors import UserError

_SECONDS: dict[str, float] = {"second": 1, "sec": 1, "s": 1, "minute": 60, "min": 60, "hour": 3600, "hr": 3600}
_SECONDS |= {"h": 3600, "day": 86_400, "d": 86_400, "week": 604_800, "millisecond": 1e-3, "microsecond": 1e-6}
_UNITS = re.compile(r"(?P<unit>\w+?)s?\s+since\s+(?P<moment>.+)", re.IGNORECASE)
# whose dates are those of Python; of the first two since the calendar was reformed
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
_REFORM = datetime(1582, 10, 15, tzinfo=UTC)


def in_units(values: NDArray[Any], attributes: Mapping[str, Any], wanted: Mapping[str, Any]) -> NDArray[Any]:
    """Return numbers of dates in the units of others, and anything else as it is.

    Raises
    ------
    UserError
        If the units differ, and are not those of dates of the usual calendar.
    """
    units, target = date_units(attributes), date_units(wanted)
    if units == target:
        return values
    here, there = _origin(attributes), _origin(wanted)
    if here is None or there is None:
        raise UserError(
            f"data.source: a coordinate has the units {units or 'none'!r} in one file and {target or 'none'!r} in "
            "another, which cannot be converted. Write the files with the same units."
        )
    (unit, moment), (target_unit, target_moment) = here, there
    seconds = values * unit + (moment - target_moment).total_seconds()
    converted: NDArray[Any] = seconds / target_unit
    rounded = np.rint(converted)
    return rounded.astype(np.int64) if values.dtype.kind in "iu" and np.array_equal(rounded, converted) else converted


def shown_values(values: Sequence[Any] | NDArray[Any], attributes: Mapping[str, Any]) -> list[str]:
    """Return the values of a coordinate as text: dates in ISO 8601, where they can be told, else as they are."""
    known = _origin(attributes)
    if known is None or not len(values):
        return [_shown(value) for value in values]
    unit, moment = known
    seconds = np.asarray(values, dtype=np.float64) * unit + moment.timestamp()
    found = np.array(np.rint(seconds), dtype="datetime64[s]")
    whole_days = bool(np.all(found == found.astype("datetime64[D]")))
    return [str(text) for text in np.datetime_as_string(found, unit="D" if whole_days else "s")]


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str | np.generic) else repr(value)


def _origin(attributes: Mapping[str, Any]) -> tuple[float, datetime] | None:
    """Return the seconds of a unit, and the moment since which it counts; None if they are not known."""
    found = _UNITS.fullmatch(date_units(attributes).strip())
    calendar = attribute_text(attributes, "calendar") or _CALENDARS[0]
    if not found or calendar.casefold() not in _CALENDARS or found["unit"].casefold() not in _SECONDS:
        return None
    moment = re.sub(r"\s*UTC$", "", found["moment"].strip())
    moment = re.sub(r"\b(\d)\b", r"0\1", moment.partition(".")[0])  # 2000-1-1 0:0:0
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    if parsed < _REFORM and calendar.casefold() != _CALENDARS[-1]:
        return None
    return float(_SECONDS[found["unit"].casefold()]), parsed
