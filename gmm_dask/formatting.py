"""Counts, lists and numbers as text: what messages, notebooks, reports and the terminal share."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
