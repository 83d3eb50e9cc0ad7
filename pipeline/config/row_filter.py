"""The filter of rows, such as ``year == 2026 and depth < 700``: its grammar, and the condition that it stands for.

The grammar is a part of Python's, so that Python's parser reads it; nothing is evaluated. A condition is in negation
normal form: ``not`` is only left in the operators, as in SQL's three-valued logic, where a missing value meets no
comparison.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

Value = bool | int | float | str

# each operator with the one that holds where it does not, and with the one that holds with the sides exchanged
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_EXCHANGED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
# words of SQL and YAML for Python's constants
_CONSTANTS: dict[str, Value | None] = {"true": True, "false": False, "null": None}
_TEXT_OR_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`([^`]+)`")
_WHAT = "a condition such as year == 2026 and depth < 700"
_PARTS = (
    "a column beside a value, with ==, !=, <, <=, >, >=, 'in [1, 2]' or 'is null', joined by and, or, not; a name that "
    "is no plain word in backticks, and a text or a date in quotes"
)


@dataclass(frozen=True)
class Comparison:
    """A comparison of a column with a value; a missing value meets none."""

    column: str
    operator: str
    value: Value


@dataclass(frozen=True)
class Missing:
    """Whether a column's value is missing; ``negated``, whether it is present. NaN is a missing value."""

    column: str
    negated: bool


@dataclass(frozen=True)
class AllOf:
    """Conditions that must all hold."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """Conditions of which one must hold."""

    conditions: tuple[Condition, ...]


Condition = Comparison | Missing | AllOf | AnyOf


def columns_of(condition: Condition) -> tuple[str, ...]:
    """Return the names of a condition's columns, each once."""
    return tuple(dict.fromkeys(leaf.column for leaf in leaves_of(condition)))


def leaves_of(condition: Condition) -> Iterator[Comparison | Missing]:
    """Yield the parts of a condition that are about one column."""
    if isinstance(condition, AllOf | AnyOf):
        for part in condition.conditions:
            yield from leaves_of(part)
    else:
        yield condition


def renamed(condition: Condition, names: Mapping[str, str]) -> Condition:
    """Return a condition on the same columns under other names; those without one keep theirs."""
    if isinstance(condition, AllOf | AnyOf):
        return type(condition)(tuple(renamed(part, names) for part in condition.conditions))
    return replace(condition, column=names.get(condition.column, condition.column))


def parse_filter(text: str) -> Condition:
    """Return the condition of a filter.

    Raises
    ------
    ValueError
        If the text is no condition; the message says which part is not.
    """
    quoted: list[str] = []
    plain = _TEXT_OR_QUOTED.sub(lambda found: _placeholder(found, quoted), text.strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash in a text
            parsed = ast.parse(plain, mode="eval").body
        return _Parser(plain, tuple(quoted)).condition(parsed, negated=False)
    except SyntaxError as error:
        raise ValueError(f"expected {_WHAT}: {_PARTS} ({error.msg}, at character {error.offset})") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"expected {_WHAT}, with fewer parts in each other") from None


def check_filter(text: str) -> str:
    """Return the text of a filter, which must be one; for a key of the configuration."""
    parse_filter(text)
    return text


def _placeholder(found: re.Match[str], quoted: list[str]) -> str:
    """Replace a name in backticks by a plain word; a text in quotes stays."""
    if found[1] is None:
        return found[0]
    quoted.append(found[1])
    return f"quoted_name_{len(quoted) - 1}"


@dataclass(frozen=True)
class _Parser:
    """From Python's syntax tree to a condition."""

    text: str
    quoted: tuple[str, ...]

    def condition(self, node: ast.expr, negated: bool) -> Condition:
        """Return the condition of a node, or its negation."""
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = tuple(self.condition(value, negated) for value in values)
                return AllOf(parts) if isinstance(op, ast.And) != negated else AnyOf(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.condition(operand, not negated)
            case ast.Compare(left=left, ops=operators, comparators=right):
                sides = [left, *right]
                parts = tuple(
                    self._comparison(node, sides[i], operator, sides[i + 1], negated)
                    for i, operator in enumerate(operators)
                )
                return parts[0] if len(parts) == 1 else (AnyOf(parts) if negated else AllOf(parts))
            case ast.Name():
                return Comparison(self._column(node), "==", not negated)
            case _:
                raise self._unexpected(node)

    def _comparison(
        self, node: ast.Compare, left: ast.expr, operator: ast.cmpop, right: ast.expr, negated: bool
    ) -> Condition:
        match operator:
            case ast.In() | ast.NotIn():
                return self._membership(left, right, negated != isinstance(operator, ast.NotIn))
            case ast.Is() | ast.IsNot():
                if not self._is_column(left) or self._value(right) is not None:
                    raise self._unexpected(node)
                return Missing(self._column(left), negated != isinstance(operator, ast.IsNot))
        name = _OPERATORS[type(operator)]
        if self._is_column(right) and not self._is_column(left):
            left, right, name = right, left, _EXCHANGED[name]
        if not self._is_column(left) or self._is_column(right):
            raise self._unexpected(node)
        value = self._value(right)
        if value is None:
            raise ValueError(
                f"expected {_WHAT}, with 'is null' for missing values: none is equal to {self._source(node)}"
            )
        return Comparison(self._column(left), _OPPOSITE[name] if negated else name, value)

    def _membership(self, left: ast.expr, right: ast.expr, negated: bool) -> Condition:
        """Return ``in`` as equalities of which one holds, and ``not in`` as inequalities that all do."""
        if not self._is_column(left) or not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
            raise self._unexpected(right)
        values = [self._value(each) for each in right.elts]
        if None in values:
            raise ValueError(f"expected values in {self._source(right)}; 'is null' finds those that are missing")
        column = self._column(left)
        parts = tuple(Comparison(column, "!=" if negated else "==", v) for v in values if v is not None)
        return AllOf(parts) if negated else AnyOf(parts)

    def _is_column(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id not in _CONSTANTS

    def _column(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name) or not self._is_column(node):
            raise self._unexpected(node)
        # as it is written: Python's parser takes some characters for others, such as the micro sign for a Greek letter
        name = ast.get_source_segment(self.text, node) or node.id
        found = re.fullmatch("quoted_name_([0-9]+)", name)
        return self.quoted[int(found[1])] if found else name

    def _value(self, node: ast.expr) -> Value | None:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.Name(id=name) if name in _CONSTANTS:
                return _CONSTANTS[name]
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case _:
                raise self._unexpected(node)

    def _unexpected(self, node: ast.expr) -> ValueError:
        return ValueError(f"expected {_WHAT}: {_PARTS}; this is none: {self._source(node)}")

    def _source(self, node: ast.expr) -> str:
        found = ast.get_source_segment(self.text, node) or self.text
        for i, name in enumerate(self.quoted):
            found = re.sub(rf"\bquoted_name_{i}\b", f"`{name}`", found)
        return found
