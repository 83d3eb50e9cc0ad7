"""A configuration as text: reading YAML, applying overrides, and saying what is wrong with a key."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from gmm_dask.errors import UserError
from pipeline.config.environment import HIDDEN, literal_secrets, redacted


class _Loader(yaml.SafeLoader):
    """YAML as people write it: ``1e-5`` is a number, and a key that comes twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {name!r} comes twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


# YAML 1.1 has no 1e-5, only 1.0e-5
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; raises :class:`UserError` for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read the configuration {path}: {reason}. Give the path of a YAML file.") from None
    values = _parse(text, f"the configuration {path}")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"the configuration {path} must be a mapping of keys to values, such as 'name: my-job'; "
            f"got {_shown(values)}."
        )
    return values


def with_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Values with each ``section.key=value`` put in its place; the value is read as YAML."""
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set expects section.key=value, such as search.n_init=5; got {override!r}.")
        shown = f"{path}={HIDDEN if any(literal_secrets({path: text})) else redacted(text)}"
        values = _with_value(values, keys, _parse(text, f"the value of --set {shown}"), shown)
    return values


def _with_value(values: dict[str, Any], keys: list[str], value: Any, override: str) -> dict[str, Any]:
    if len(keys) == 1:
        return {**values, keys[0]: value}
    inner = values.get(keys[0]) or {}
    if not isinstance(inner, dict):
        raise UserError(f"--set {override}: {keys[0]} is {_shown(inner)}, which has no key {keys[1]!r} to set.")
    return {**values, keys[0]: _with_value(inner, keys[1:], value, override)}


def _parse(text: str, what: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{what} is not valid YAML: {error.problem}{where}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not valid YAML: {' '.join(str(error).split())}.") from None


def explain(error: ValidationError, path: str | Path, model: type[BaseModel]) -> UserError:
    """What is wrong with a configuration: for each key its path, what was expected and what came."""
    problems: dict[str, list[Any]] = {}
    for details in error.errors(include_url=False):
        section, keys = _locate(model, details["loc"])
        problems.setdefault(".".join(keys), []).append((section, details))
    lines = [f"  {key}: {_problem(key.split('.')[-1], found)}." for key, found in problems.items()]
    count = "an error" if len(lines) == 1 else f"{len(lines)} errors"
    return UserError("\n".join([f"the configuration {path} has {count}:", *lines]))


def _locate(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[type[BaseModel], list[str]]:
    """The section that holds a key, and the key's path, without places in a list or a union."""
    keys: list[str] = []
    for part in map(str, loc):
        keys.append(part)
        field = model.model_fields.get(part)
        inner = _section_of(field.annotation) if field else None
        if inner is None:
            break
        if len(keys) < len(loc):
            model = inner
    return model, keys


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a key's type is, or may be."""
    choices = (annotation, *get_args(annotation))
    return next((choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)), None)


def _problem(key: str, found: list[tuple[type[BaseModel], Any]]) -> str:
    """What is wrong with one key; a key that may have values of several types has an error for each."""
    section, details = found[0]
    if details["type"] == "extra_forbidden":
        return f"unknown key{_nearest(key, section)}; the keys here are {', '.join(section.model_fields)}"
    if details["type"] == "missing":
        return f"this key is required. {(section.model_fields[key].description or '').rstrip('.')}"
    expected = " or ".join(dict.fromkeys(_expected(details) for _, details in found))
    return f"expected {expected}; got {_shown(details['input'])}"


def _nearest(key: str, section: type[BaseModel]) -> str:
    close = get_close_matches(key, section.model_fields, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


_EXPECTED = {
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "int_type": "a whole number",
    "invalid_key": "a key that is text",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le:g}",
    "literal_error": "{expected}",
    "model_type": "a mapping of keys to values",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_too_short": "text that is not empty",
    "string_type": "text",
    "tuple_type": "a list",
}


def _expected(details: Any) -> str:
    template = _EXPECTED.get(details["type"])
    if template is None:
        return str(details["msg"]).removeprefix("Value error, ").removeprefix("expected ")
    return template.format(**details.get("ctx", {}))


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(redacted(value))
    return text if len(text) <= 80 else text[:77] + "..."
