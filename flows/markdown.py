"""Names in Markdown, such as that of Prefect's pages: they come with the data, and are shown as they are."""

from __future__ import annotations

import re

from pipeline.printable import printable

_MARKS = re.compile(r"([\\`*_{}\[\]()<>#|~!&])")


def as_text(text: str) -> str:
    """Return text in which nothing is a mark of Markdown or HTML."""
    return _MARKS.sub(r"\\\1", _on_one_line(text))


def as_code(text: str) -> str:
    """Return text as code, in a fence of more backticks than it holds."""
    text = _on_one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _on_one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n")
