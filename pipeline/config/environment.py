"""Variables of the environment in a configuration, ``${NAME}``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gmm_dask.errors import UserError

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def fill_in(value: Any, key: str) -> Any:
    """Return a value with each ``${NAME}`` of its strings filled in; ``key`` is the configuration's, for messages.

    Raises
    ------
    UserError
        If a variable is not set.
    """
    if isinstance(value, str):
        return VARIABLE.sub(lambda match: _variable(match.group(1), key), value)
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


def filled_in_where_set(text: str) -> str:
    """Return a text with each ``${NAME}`` filled in; without those that are not set."""
    return VARIABLE.sub(lambda match: os.environ.get(match.group(1), ""), text)


def variables_in(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each variable in a value, but for those that are not set."""
    for text in _strings(value):
        yield from ((name, os.environ[name]) for name in VARIABLE.findall(text) if name in os.environ)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
