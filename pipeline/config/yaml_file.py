"""A configuration as text: reading YAML, applying overrides, and reporting what is wrong with a key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from gmm_dask.errors import UserError
from gmm_dask.formatting import closest, did_you_mean
from pipeline.config.secrets import HIDDEN, shown_at, shown_text

# a file whose aliases expand to more nodes is refused: nested aliases multiply ("billion laughs"), and every later
# step walks the values. A hundred thousand column names still pass.
MOST_NODES = 200_000

# GMM_DASK__SEARCH__TOL is search.tol
VARIABLE_PREFIX = "GMM_DASK__"
# what a message begins with that is about a key
_KEY = re.compile(r"([a-z_]+(?:\.[a-z_]+)+)(?!:\d)\b")

# in errors of YAML: a secret that begins with * or ! is read as the name of an alias or a tag
_NAME_OF_VALUE = re.compile(r"(alias|tag) '(?!tag:yaml\.org,2002:python/)[^']*'")


@dataclass(frozen=True)
class Document:
    """The values of a configuration, and where each came from.

    Attributes
    ----------
    values : dict
        Of a file; a value of any kind of an override.
    origins : dict of str to str
        ``"job.yaml:3"``, ``"--set"`` or the name of a variable, by the key's path such as ``search.tol``.
    """

    values: Any
    origins: dict[str, str] = field(default_factory=dict)

    def with_overrides(self, overrides: Iterable[str]) -> Document:
        """Return the document with each ``section.key=value`` applied; a value is read as YAML."""
        return self.with_values(parse_overrides(overrides), "--set")

    def with_environment(self, environment: Mapping[str, str]) -> Document:
        """Return the document with each variable ``GMM_DASK__SECTION__KEY`` applied; a value is read as YAML."""
        document = self
        for name in sorted(environment):
            if not name.startswith(VARIABLE_PREFIX):
                continue
            key = ".".join(name.removeprefix(VARIABLE_PREFIX).lower().split("__"))
            if not all(key.split(".")):
                raise UserError(
                    f"the environment variable {name} names no key of the configuration: expected "
                    f"{VARIABLE_PREFIX}SECTION__KEY, such as {VARIABLE_PREFIX}SEARCH__TOL."
                )
            value = _parse(environment[name], f"the value of {name}={_shown_override(key, environment[name])}").values
            document = document.with_values({key: value}, name)
        return document

    def with_values(self, replaced: Mapping[str, Any], origin: str) -> Document:
        """Return the document with other values at the paths of some keys, in their order."""
        values, origins = self.values, self.origins
        for key, value in replaced.items():
            values = _with_value(values, key, value, origin)
            origins = {name: of for name, of in origins.items() if not f"{name}.".startswith(f"{key}.")}
            origins |= {key: origin} if origin else {}
        return Document(values, origins)

    def origin(self, key: str) -> str:
        """Return where a key, or the nearest one that encloses it or lies in it, stands; empty if that is not known."""
        inside = next((origin for name, origin in self.origins.items() if name.startswith(f"{key}.")), "")
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key.rpartition(".")[0]
        return inside


def located(message: str, origins: Mapping[str, str]) -> str:
    """Return an error's message that begins with a key, after the place of the key in a file, or its variable."""
    found = _KEY.match(message)
    origin = Document(None, dict(origins)).origin(found[1]) if found else ""
    return f"{origin}: {message}" if origin not in ("", "--set") else message


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Parse texts ``section.key=value``: the values by the paths of their keys, the last one of each path."""
    found: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        key = path.strip()
        if not equals or not all(key.split(".")):
            raise UserError(f"--set expects section.key=value, such as search.n_init=5; got {override!r}.")
        found.pop(key, None)  # so that it comes after what was set since
        found[key] = _parse(text, f"the value of --set {path}={_shown_override(key, text)}").values
    return found


def _shown_override(key: str, text: str) -> str:
    return HIDDEN if "{" in text else shown_text(str(shown_at(key, text)))  # a mapping may hold any key


def read_document(path: Path) -> Document:
    """Read a YAML file that holds a mapping; raises :class:`UserError` for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read the configuration {path}: {reason}. Give the path of a YAML file.") from None
    document = _parse(text, f"the configuration {path}", str(path))
    if document.values is None:
        return Document({})
    if not isinstance(document.values, dict):
        raise UserError(
            f"the configuration {path} must be a mapping of keys to values, such as 'name: my-job'; "
            f"got {_shown('', document.values)}."
        )
    return document


def to_yaml(values: Any) -> str:
    """Return values as YAML text, lists of plain values on one line."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = None, 60
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def _with_value(values: dict[str, Any], key: str, value: Any, origin: str, within: str = "") -> dict[str, Any]:
    name, _, rest = key.partition(".")
    if not rest:
        return {**values, name: value}
    inner = values.get(name) or {}
    if not isinstance(inner, dict):
        raise _has_no_keys(f"{within}{name}", inner, rest, value, origin)
    return {**values, name: _with_value(inner, rest, value, origin, f"{within}{name}.")}


def _has_no_keys(key: str, found: Any, rest: str, value: Any, origin: str) -> UserError:
    """Return the error of a key within a list or a plain value, which says how to set the whole."""
    wholes = ["[A, B, ...]" if isinstance(found, list) else "VALUE"]
    if isinstance(found, list) and re.fullmatch("[a-z_]+", rest):
        wholes.append(f"{{{rest}: {_shown(f'{key}.{rest}', value)}}}")
    setting = f"--set '{key}=" if origin in ("", "--set") else f"{VARIABLE_PREFIX}{key.upper().replace('.', '__')}='"
    ways = " or ".join(f"{setting}{whole}'" for whole in wholes)
    kind = "a list" if isinstance(found, list) else "a plain value"
    return UserError(
        f"{f'{origin} {key}.{rest}'.strip()}: {key} is {_shown(key, found)}, {kind} without keys that could be set. "
        f"Set the whole: {ways}."
    )


# -- YAML --------------------------------------------------------------------------------------------------------


def _parse(text: str, what: str, path: str = "") -> Document:
    """Return any YAML value, read as YAML 1.2; only plain data, as tags construct no objects.

    The lines of keys are those of the file ``path``.
    """
    try:
        yaml = YAML(typ="safe", pure=True)
        node = yaml.compose(text)
        within = node is None or _n_nodes(node, {}) <= MOST_NODES
        value = yaml.constructor.construct_document(node) if within and node is not None else None
    except MarkedYAMLError as error:
        problem, mark = str(error.problem), error.problem_mark
        if isinstance(error, DuplicateKeyError):
            problem = problem.partition(" with value ")[0]  # the values may be secrets
        problem = _NAME_OF_VALUE.sub(r"\1", problem)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{what} is not valid YAML: {problem}{where}.") from None
    except RecursionError:
        raise UserError(f"{what} is not usable: its values are nested too deeply.") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{what} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not within:
        raise UserError(f"{what} has aliases (*name) that expand to too many values. Write the values out.")
    return Document(value, dict(_lines(node, path)) if isinstance(node, MappingNode) else {})


def _n_nodes(node: Node, known: dict[int, float]) -> float:
    """Return the number of nodes once aliases are expanded; infinite for a node that contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # what it is while its own children are counted
        known[id(node)] = 1 + sum(_n_nodes(child, known) for child in _children(node))
    return known[id(node)]


def _children(node: Node) -> list[Node]:
    if isinstance(node, ScalarNode):
        return []
    return [child for pair in node.value for child in pair] if isinstance(node, MappingNode) else node.value


def _lines(node: Node, path: str, parent: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key with the file and the line that it stands on."""
    if isinstance(node, MappingNode):
        for name, value in node.value:
            key = f"{parent}{name.value}"
            yield key, f"{path}:{name.start_mark.line + 1}"
            yield from _lines(value, path, f"{key}.")


# -- errors ------------------------------------------------------------------------------------------------------


def explain(error: ValidationError, path: str | Path, model: type[BaseModel], document: Document) -> UserError:
    """Return the error that names each wrong key, its line, what was expected and what came."""
    problems: dict[str, list[Any]] = {}
    for details in error.errors(include_url=False):
        section, keys = _locate(model, details["loc"])
        problems.setdefault(".".join(keys), []).append((section, details))
    lines = [
        f"  {f'{origin}: ' if (origin := document.origin(key)) else ''}{key}: {_problem(key, found)}."
        for key, found in problems.items()
    ]
    count = "an error" if len(lines) == 1 else f"{len(lines)} errors"
    return UserError("\n".join([f"the configuration {path} has {count}:", *lines]))


def _locate(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[type[BaseModel], list[str]]:
    """The section that holds a key, and the key's path, without places in a list of values or a union."""
    keys: list[str] = []
    for part in loc:
        keys.append(str(part))
        if isinstance(part, int):  # a place in a list of sections
            continue
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


def _problem(path: str, found: list[tuple[type[BaseModel], Any]]) -> str:
    """What is wrong with one key; a key that may have values of several types has an error for each."""
    key, (section, details) = path.rpartition(".")[2], found[0]
    if details["type"] == "extra_forbidden":
        return f"unknown key{_nearest(key, section)}; the keys here are {', '.join(section.model_fields)}"
    if details["type"] == "missing":
        return f"this key is required. {(section.model_fields[key].description or '').rstrip('.')}"
    expected = " or ".join(dict.fromkeys(_expected(details) for _, details in found))
    return f"expected {expected}; got {_shown(path, details['input'])}{_nearest_choice(found)}"


def _nearest_choice(found: list[tuple[type[BaseModel], Any]]) -> str:
    """Suggest one of the texts that a key may be."""
    for _, details in found:
        if details["type"] == "literal_error" and isinstance(details["input"], str):
            return did_you_mean(details["input"], _QUOTED.findall(details["ctx"]["expected"]))
    return ""


def _nearest(key: str, section: type[BaseModel]) -> str:
    """Suggest a key of the section, or one below it, as for a section that was forgotten."""
    inner = {
        name: f"{outer}.{name}"
        for outer, field in section.model_fields.items()
        if (of := _section_of(field.annotation))
        for name in of.model_fields
    }
    known = inner | {name: name for name in section.model_fields}
    close = closest(key, known)
    return f" (did you mean {known[close]}?)" if close else ""


# a choice, in pydantic's list of them
_QUOTED = re.compile("'([^']*)'")

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping of names to values",
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
    if details["type"] == "string_type" and isinstance(details["input"], bool | int | float):
        return "text, which is written in quotes where it reads as a number, true or false"
    template = _EXPECTED.get(details["type"])
    if template is None:
        return str(details["msg"]).removeprefix("Value error, ").removeprefix("expected ")
    return template.format(**details.get("ctx", {}))


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "nothing"
    text = shown_text(repr(shown_at(key, value)))
    return text if len(text) <= 80 else text[:77] + "..."
