"""The colours and marks that components and lines are told apart by; a number or a name always stands beside them.

Each colour has a contrast of at least 3 : 1 on white and on the dark ground of reports, as the Web Content
Accessibility Guidelines ask of graphics. Any two are at least 0.1 apart in OKLab as they are seen with protanopia and
deuteranopia (Machado, Oliveira and Fernandes 2009).
"""

from __future__ import annotations

from typing import NamedTuple

PALETTE = ("#2396f7", "#f25914", "#619d6e", "#bd68b6", "#a34f30", "#5b52d9", "#4e6a78")
MARKERS = "os^Dv<>"
# a text on a colour of at least this luminance is black, on a darker one white: its contrast is 4.5 : 1 or more
LIGHT = 0.18
BLACK, WHITE = "#010101", "#ffffff"  # black that a picture keeps on a dark page


class Style(NamedTuple):
    """How the colours of the palette are used: each time through, another one.

    Attributes
    ----------
    shape : str
        Of a badge: circle or square.
    filled : bool
        Whether the badge is filled, or has an edge in the colour.
    dashes : str
        Of lines, in matplotlib's notation.
    """

    shape: str
    filled: bool
    dashes: str


STYLES = (
    Style("circle", True, "-"),
    Style("circle", False, "--"),
    Style("square", True, ":"),
    Style("square", False, "-."),
)


def color_of(k: int) -> str:
    """The colour of component number k, or of the k-th line."""
    return PALETTE[k % len(PALETTE)]


def style_number(k: int) -> int:
    """The position in :data:`STYLES` for component number k: 28 components look different, all have their numbers."""
    return k // len(PALETTE) % len(STYLES)


def style_of(k: int) -> Style:
    """The style of component number k."""
    return STYLES[style_number(k)]


def text_color(ground: str) -> str:
    """The colour of a text on a ground, given as ``#rrggbb``."""
    return BLACK if luminance(ground) >= LIGHT else WHITE


def luminance(color: str) -> float:
    """The relative luminance of a colour ``#rrggbb``, from 0 to 1, by the Web Content Accessibility Guidelines."""
    channels = [int(color[i : i + 2], 16) / 255.0 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(part * c for part, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
