"""Variables of the environment in a configuration, ``${NAME}``, and secrets, which are never shown or stored.

A secret is written as ``${NAME}`` only. It is filled in when the data are opened, and messages show ``${NAME}``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gmm_dask.errors import UserError

HIDDEN = "***"

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_KEY = re.compile(
    r"secret|token|passw|credential|authorization|cookie|signature|connection_string|(^|[_-])(key|sas|sig|auth|pwd)($|[_-])",
    re.IGNORECASE,
)
# values that file systems accept instead of a secret
_HARMLESS = frozenset({"", "anon", "google_default", "cloud", "browser", "cache"})
# user:password@ of a URL, and signatures in its query
_SECRET_IN_URL = re.compile(
    r"(?P<before>://[^/@:]*:)[^/@]+(?=@)|(?P<name>[?&][^=&]*(?:sig|signature|token|key|credential)[^=&]*=)[^&]+",
    re.IGNORECASE,
)


def fill_in(value: Any, key: str) -> Any:
    """Return a value with each ``${NAME}`` of its strings filled in; ``key`` is the configuration's, for messages.

    Raises
    ------
    UserError
        If a variable is not set.
    """
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match.group(1), key), value)
    if isinstance(value, Mapping):
        return {name: fill_in(inner, f"{key}.{name}" if key else str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [fill_in(inner, key) for inner in value]
    return value


def _variable(name: str, key: str) -> str:
    if name not in os.environ:
        raise UserError(
            f"{key}: the environment variable {name} is not set, but the configuration refers to it as ${{{name}}}. "
            f"Set it: export {name}=..."
        )
    return os.environ[name]


def hide(text: str, *origins: Any) -> str:
    """Return text with ``${NAME}`` instead of the values of the variables that occur in ``origins``."""
    names = {name for origin in origins for string in _strings(origin) for name in _VARIABLE.findall(string)}
    values = {os.environ.get(name, ""): f"${{{name}}}" for name in names}
    for value in sorted(filter(None, values), key=len, reverse=True):
        text = text.replace(value, values[value])
    return text


def literal_secrets(value: Any, key: str = "") -> Iterator[str]:
    """Yield the keys under which a secret is written out, where ``${NAME}`` is expected."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            path = f"{key}.{name}" if key else str(name)
            if _SECRET_KEY.search(str(name)) and _is_written_out(inner):
                yield path
            else:
                yield from literal_secrets(inner, path)


def _is_written_out(value: Any) -> bool:
    if isinstance(value, str):
        return value not in _HARMLESS and not _VARIABLE.search(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def has_secret(url: str) -> bool:
    """Whether a URL contains a password or a signature that is written out."""
    return any(not _VARIABLE.search(match.group()) for match in _SECRET_IN_URL.finditer(url))


def without_secrets(value: Any) -> Any:
    """Return options or a URL; raises :class:`ValueError` if a secret is written out in it."""
    if isinstance(value, str) and has_secret(value):
        raise ValueError("expected a URL without a password or a signature; write ${NAME}, and set NAME outside")
    written = list(literal_secrets(value))
    if written:
        raise ValueError(f"expected ${{NAME}}, a variable of the environment, for the secret {written[0]}")
    return value


def redacted(value: Any) -> Any:
    """Return a value as it may be printed, with ``***`` for everything that looks like a secret."""
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if _SECRET_KEY.search(str(name)) and _is_written_out(inner) else redacted(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    return _SECRET_IN_URL.sub(_hidden, value) if isinstance(value, str) else value


def _hidden(match: re.Match[str]) -> str:
    return match.group() if _VARIABLE.search(match.group()) else (match["before"] or match["name"]) + HIDDEN


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
