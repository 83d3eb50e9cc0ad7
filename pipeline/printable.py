"""Texts as they may be shown: names that come with the data may hold characters that command a terminal."""

from __future__ import annotations

import unicodedata

from pipeline.config.secrets import shown_text

# categories of Unicode: control, format, surrogate, private use, line and paragraph separators
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def printable(text: str) -> str:
    """Return text with the characters escaped that would move a cursor, hide text or turn its direction.

    Lines stay: messages may have several. In URLs, what may be a secret is hidden.
    """
    text = shown_text(text)
    if text.isprintable():
        return text
    return "".join(_escaped(one) if unicodedata.category(one) in _UNPRINTABLE and one != "\n" else one for one in text)


def _escaped(character: str) -> str:
    """Return a character as Python writes it, such as ``\\x1b``."""
    return character.encode("unicode_escape").decode()
