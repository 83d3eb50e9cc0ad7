"""Counts, lists and numbers as text: what messages, notebooks, reports and the terminal share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

# the last zeros of a fraction of a second, before the zone if there is one
_ZEROS = re.compile(r"(?:\.0+|(\.\d*?[1-9])0+)(?=$|Z$|[+-]\d\d:?\d\d$)")

# of more names than this, messages show the first ones and the number of the others
MOST_NAMES = 12


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: ``1 row``, ``272 rows``, ``9 passes``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Return names with commas, the first few of many: ``a, b and 7 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def joined(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like a misspelled one, in letters of either case; None if none is close."""
    names = {one.casefold(): one for one in known}
    return next((names[one] for one in get_close_matches(name.casefold(), names, n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the closest of the known names: `` (did you mean diag?)``; empty if none is close."""
    close = closest(name, known)
    return f" (did you mean {close}?)" if close else ""


def short_time(text: str) -> str:
    """Return a time without zeros that say nothing: ``2026-01-01 00:00:00.000000`` is ``2026-01-01``."""
    text = _ZEROS.sub(r"\1", text)
    return text.removesuffix(" 00:00:00")


def capital(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def decimals(deviation: float) -> int | None:
    """Return the decimals that show a hundredth of a standard deviation; None where only powers of ten do."""
    if not 0.0 < deviation < math.inf:
        return None
    places = 2 - math.floor(math.log10(deviation))
    return max(0, places) if -6 <= places <= 6 else None


def number(value: float, places: int | None) -> str:
    """Return a number with so many decimals; None stands for four significant digits."""
    return (f"{value:.4g}" if places is None else f"{value:,.{places}f}").replace("-", "\u2212")
