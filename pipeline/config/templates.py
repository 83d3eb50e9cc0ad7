"""Paths with the date when a run began: ``results/nightly-{started:%Y-%m-%d}.zarr``."""

from __future__ import annotations

import glob
import re
import string
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

_PLACEHOLDERS = "{name}, and {started:%Y-%m-%d} in any such form, as its only placeholders"
_OBJECTS = re.compile(r"(s3|gs|az)://[^/@?#]+/[^/@?#][^@?#]*")
_DIRECTIVE = re.compile(r"%[A-Za-z]")
_SOMETIME = datetime(2026, 11, 23, 14, 5, 9)


def check_template(value: str) -> str:
    """Return a path whose placeholders are known; raises :class:`ValueError` for any other."""
    try:
        fields = [field for field in _fields(value) if field[1] is not None]
    except ValueError as error:
        raise ValueError(f"expected a path with {_PLACEHOLDERS}; {error}") from None
    dates = [spec for _, name, spec in fields if name == "started"]
    if len(dates) > 1 or any(name not in ("name", "started") or (name == "name" and spec) for _, name, spec in fields):
        raise ValueError(f"expected a path with {_PLACEHOLDERS}, {{started}} once")
    if dates:
        _check_format(dates[0])
    if "://" in value and not _OBJECTS.fullmatch(value):
        raise ValueError(
            "expected a path on a local disk, or the URL of a folder in a bucket (s3://, gs:// or az://), such as "
            "s3://bucket/results/{name}.zarr, without a user, a password or parameters: credentials come from the "
            "environment"
        )
    return value


def _check_format(spec: str) -> None:
    """Raise unless a date survives formatting and parsing: the date of a store is read from its path."""
    try:
        again = datetime.strptime(_SOMETIME.strftime(spec), spec)
    except ValueError:
        again = None
    if again is None or again.date() != _SOMETIME.date():
        raise ValueError("expected {started:...} to write the whole date, such as {started:%Y-%m-%d} or %Y%m%dT%H%M")


def _fields(template: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield each text, with the placeholder after it and its format."""
    for text, name, spec, conversion in string.Formatter().parse(template):
        if conversion is not None:
            raise ValueError(f"!{conversion} is not known here")
        yield text, name, spec or ""


def with_name(template: str, name: str) -> str:
    """Fill in ``{name}``; the result is a template if the path has a date, and a plain path otherwise."""
    if not is_dated(template):
        return template.format(name=name)
    return "".join(
        _escaped(text) + (f"{{started:{spec}}}" if field == "started" else name if field == "name" else "")
        for text, field, spec in _fields(template)
    )


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def is_dated(template: str) -> bool:
    """Whether a path has a placeholder for the date."""
    try:
        return any(name == "started" for _, name, _ in _fields(template))
    except ValueError:  # a plain path with a brace in it
        return False


def at(template: str, moment: datetime) -> str:
    """Return the path of a run that began at a moment."""
    return template.format(started=moment)


def _existing(pattern: str) -> Iterator[str]:
    return (path for path in glob.glob(pattern) if not Path(path).is_symlink())


def dated_paths(template: str, matching: Callable[[str], Iterable[str]] = _existing) -> list[tuple[datetime, str]]:
    """Return the existing paths of a template with their dates, the newest first.

    Parameters
    ----------
    template : str
    matching : callable
        Returns the paths that a pattern of :mod:`glob` matches, by default of this machine, without links.
    """
    pattern = "".join(glob.escape(text) + _DIRECTIVE.sub("*", spec) for text, _, spec in _fields(template))
    form = "".join(text.replace("%", "%%") + spec for text, _, spec in _fields(template))
    found = []
    for path in matching(pattern):
        try:
            found.append((datetime.strptime(path, form), path))
        except ValueError:
            continue
    return sorted(found, reverse=True)


def latest(template: str) -> str:
    """Return the path of the link to the newest result: ``latest`` instead of the date."""
    return "".join(text + ("latest" if field == "started" else "") for text, field, _ in _fields(template))
