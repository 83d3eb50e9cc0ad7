"""Which group of a store a value is of: values are read as what the groups are, whatever format they come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# one without leading zeros, which a code has; with decimals that are zeros, as pandas writes a column with gaps
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0*)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ].+)?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}
# where an array has no booleans, they are these numbers
_AS_NUMBERS = {"1": True, "0": False}


def _whole(text: str) -> int | None:
    found = _WHOLE.fullmatch(text.strip())
    return int(found[1]) if found else None


def _boolean(text: str) -> bool | None:
    return _BOOLEANS.get(text.strip().lower())


def _boolean_or_number(text: str) -> bool | None:
    found = _boolean(text)
    return _AS_NUMBERS.get(text) if found is None else found


def _date(text: str) -> pd.Timestamp | None:
    """Return a day or a time; a day is the beginning of it, and times of other zones are the same where they are."""
    import pandas as pd

    text = text.strip()
    if not _DATE.fullmatch(text):
        return None
    try:
        return pd.Timestamp(text)
    except ValueError:
        return None


_Read = Callable[[str], Hashable | None]
# how the groups of a store are read, and how other values are then; the first that reads every group is taken
_KINDS: tuple[tuple[_Read, _Read], ...] = ((_whole, _whole), (_boolean, _boolean_or_number), (_date, _date))


@dataclass(frozen=True, eq=False)
class GroupValues:
    """Finds the group of a value among those of a store.

    Whole numbers, booleans and dates are compared by what they are: 7 and 7.0, true and True, 2026-01-01 and the
    midnight with which it begins are one group. Texts are compared letter by letter.

    Attributes
    ----------
    positions : dict
        Of each group by its text.
    by_value : dict
        Of each group by its value; empty where the groups are texts.
    read : callable or None
        Returns the value of a text, None where it is none of the kind.
    """

    positions: dict[str, int]
    by_value: dict[Hashable, int]
    read: _Read | None

    @classmethod
    def of(cls, keys: Sequence[str]) -> GroupValues:
        """Return what finds these groups: of texts that are all whole numbers, booleans or dates, by that."""
        positions = {key: i for i, key in enumerate(keys)}
        for of_group, of_value in _KINDS:
            values = [of_group(key) for key in keys]
            if None not in values and len(set(values)) == len(keys):
                return cls(positions, {value: i for i, value in enumerate(values)}, of_value)
        return cls(positions, {}, None)

    def position(self, value: Any) -> int | None:
        """Return the position of the group of a value, of any type; None if there is none."""
        text = str(value)
        found = self.positions.get(text)
        if found is not None or self.read is None:
            return found
        read = self.read(text)
        return None if read is None else self.by_value.get(read)
