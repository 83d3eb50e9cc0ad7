"""The reference of the configuration in Markdown, from its JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.config.job import config_schema

Node = dict[str, Any]

_INTRODUCTION = """\
# Configuration

<!-- This page is what `gmm-dask schema --markdown` prints: do not edit it. -->

A job is one YAML 1.2 file. All keys except `data.source` have a default; an unknown key is an error.
`gmm-dask run CONFIG --set section.key=value` replaces a value for one run, and a variable such as
`GMM_DASK__SECTION__KEY=value` for all that run where it is set; `--set` takes precedence. `${NAME}` in a text is filled
in from the environment. `gmm-dask schema` prints this reference as a JSON Schema, by which editors check and complete a
file.
"""
_TYPES = {
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "`null`",
    "integer": "whole number",
    "number": "number",
    "object": "mapping",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
# parts of a description that are set as code: {name}, ${NAME}, {min: 1, max: 9}
_BRACES = re.compile(r"\$?\{(?:[^{}]|\$?\{[^{}]*\})*\}")


def config_markdown() -> str:
    """Return the reference: a table for each section, with a row per key."""
    schema = config_schema()
    sections = {name: list(_sections(node, schema["$defs"])) for name, node in schema["properties"].items()}
    parts = [_INTRODUCTION, _table({name: schema["properties"][name] for name in sections if not sections[name]}, {})]
    for name, found in sections.items():
        for section in found:
            text = schema["properties"][name].get("description") or section["description"]
            parts.append(f"## {name}\n\n{text}\n\n{_table(section['properties'], schema['$defs'], name)}")
    return "\n".join(parts)


def _sections(node: Node, definitions: dict[str, Node]) -> Iterator[Node]:
    """Yield the sections that a key of the top level may hold; none if its value is plain."""
    for choice in [node, *node.get("anyOf", []), *node.get("oneOf", [])]:
        if "$ref" in choice:
            yield definitions[_target(choice)]


def _target(node: Node) -> str:
    return str(node["$ref"]).rpartition("/")[2]


def _table(properties: dict[str, Node], definitions: dict[str, Node], section: str = "") -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, node in properties.items():
        key = f"{section}.{name}" if section else name
        default = f"`{_yaml(node['default'])}`" if "default" in node else "required"
        meaning = _BRACES.sub(lambda found: f"`{found[0]}`", node.get("description", ""))
        lines.append(f"| `{key}` | {_values(node, definitions)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _values(node: Node, definitions: dict[str, Node]) -> str:
    """Return a description of the values that a key takes."""
    if "$ref" in node:
        return _mapping(definitions[_target(node)])
    choices = node.get("anyOf") or node.get("oneOf")
    if choices:
        return ", or ".join(_values(choice, definitions) for choice in choices)
    if "enum" in node or "const" in node:
        return " or ".join(f"`{_yaml(value)}`" for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        return f"list (each {_values(node.get('items', {}), definitions)})"
    bounds = [f"{words} {_yaml(node[bound])}" for bound, words in _BOUNDS.items() if bound in node]
    return ", ".join([_TYPES.get(node.get("type", ""), "any value"), *bounds])


def _mapping(section: Node) -> str:
    """Return a small section within a value, by its defaults: ``{min: 1, max: 9}``, or by its keys if all are null."""
    if all(node.get("default") is None for node in section["properties"].values()):
        return f"mapping (keys {', '.join(f'`{name}`' for name in section['properties'])})"
    return f"`{_yaml({name: node.get('default') for name, node in section['properties'].items()})}`"


def _yaml(value: Any) -> str:
    """Return a value as it is written in a configuration, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_yaml(inner)}' for key, inner in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)
