"""Types of keys that several sections of the configuration share."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from dask.utils import parse_bytes, parse_timedelta
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, Strict

from pipeline.config.secrets import shown

# units that people write and dask.utils.parse_timedelta does not know
_UNITS = {"min": "minutes", "mins": "minutes", "sec": "seconds", "secs": "seconds", "hr": "hours", "hrs": "hours"}


class Section(BaseModel):
    """A section of the configuration: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def __repr__(self) -> str:
        """Return the section as JSON has it, without secrets."""
        return f"{type(self).__name__}({self.model_dump(mode='json')})"

    __str__ = __repr__


def parse_duration(value: str) -> float:
    """Return the seconds of a time with its unit, such as ``30min``, ``6h`` or ``1d``."""
    text = re.sub(r"[A-Za-z]+\s*$", lambda unit: _UNITS.get(unit[0].strip().lower(), unit[0]), value)
    try:
        return float(parse_timedelta(text, default=None))
    except (KeyError, ValueError, TypeError):
        raise ValueError("expected a time with its unit, such as 30min, 6h or 1d") from None


def _seconds(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


def _amount_of_memory(value: str) -> str:
    try:
        positive = parse_bytes(value) > 0
    except ValueError:
        positive = False
    if not positive:
        raise ValueError("expected an amount of memory such as 1GiB or 500MB")
    return value


def in_utc(moment: datetime) -> datetime:
    """Return a time with its zone; one without is of UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def in_home(path: str) -> str:
    """Return a path in which ``~``, the home folder, is filled in."""
    full = os.path.expanduser(path)
    if full.partition("/")[0].startswith("~"):
        raise ValueError(f"expected ~ for the home folder, or that of a user; write ./{path} for a folder of that name")
    return full


def each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values, each of which must occur once."""
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"expected each value once; {', '.join(map(repr, repeated))} is repeated")
    return values


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values, at least one and each once."""
    if not values:
        raise ValueError("expected a list with at least one entry")
    return each_once(values)


Count = Annotated[int, Strict(), Field(ge=1)]
Whole = Annotated[int, Strict(), Field(ge=0)]
Real = Annotated[float, Strict(), Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0.0, allow_inf_nan=False)]
Share = Annotated[float, Strict(), Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Switch = Annotated[bool, Strict()]
Text = Annotated[str, Field(min_length=1)]
# its secrets are hidden in JSON, the form in which a configuration is stored, sent and shown
HiddenInJson = PlainSerializer(shown, when_used="json")
LocalPath = Annotated[Text, AfterValidator(in_home)]
Memory = Annotated[str, AfterValidator(_amount_of_memory)]
# a number of seconds, or a time with its unit
Seconds = Annotated[Positive, BeforeValidator(_seconds, json_schema_input_type=float | str)]
Delay = Annotated[
    float, Strict(), Field(ge=0.0, le=86400.0), BeforeValidator(_seconds, json_schema_input_type=float | str)
]
