"""`loop tail --expression`: a condition over the fields of a line, `seconds > 2 and event == "step_made"`. Pure.

Python's parser reads it, a list of what is allowed turns it into functions; nothing is ever evaluated as Python. A name
is a field, `seconds.wait` or `seconds["wait"]` a field within a field. What a line does not have is None, and what
cannot be compared is not so: a line never fails an expression otherwise than by not passing it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.errors import UsageError

Fields = Mapping[str, Any]
Value = Callable[[Fields], Any]

MOST_CHARACTERS = 2000
PLAIN = re.compile(r"[A-Za-z0-9_.:@-]+")  # what JSON never writes otherwise than as it is
WORDS = {"true": True, "false": False, "null": None}  # as JSON has them; Python's own work too
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.eq,
    ast.IsNot: operator.ne,
    ast.In: lambda one, many: one in many,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Expression:
    """A condition that a line's fields pass or not.

    Attributes:
        words: each of them stands in every line that passes, as a JSON string; found out before a line is parsed.

    Raises:
        UsageError: it is no condition, or has more in it than fields, values, comparisons and arithmetic.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MOST_CHARACTERS:
            raise UsageError(f"--expression: {len(text)} characters, at most {MOST_CHARACTERS} are read")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            self._value = _value(tree)
        except _NotAllowedError as error:
            raise UsageError(f"--expression {text!r}: {error}; see loop tail --help") from None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            said = error.msg if isinstance(error, SyntaxError) else "it cannot be read"
            raise UsageError(
                f'--expression {text!r}: {said}; write for example: seconds > 2 and level == "error"'
            ) from None
        self.words = tuple(_words(tree))

    def passes(self, fields: Fields) -> bool:
        return bool(self._value(fields))


class _NotAllowedError(Exception):
    pass


def _value(node: ast.expr) -> Value:  # noqa: PLR0911 - one a kind
    match node:
        case ast.Constant(value=str() | int() | float() | None as constant):  # bool is an int
            return lambda _: constant
        case ast.Name(id=name) if name in WORDS:
            word = WORDS[name]
            return lambda _: word
        case ast.Name(id=name):
            return lambda fields: fields.get(name)
        case ast.Attribute(value=inner, attr=name):
            return _part(_value(inner), name)
        case ast.Subscript(value=inner, slice=ast.Constant(value=str() | int() as key)):
            return _part(_value(inner), key)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            values = [_value(part) for part in parts]
            return lambda fields: tuple(value(fields) for value in values)
        case _:
            return _combined(node)


def _combined(node: ast.expr) -> Value:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            every = [_value(part) for part in parts]
            return lambda fields: all(part(fields) for part in every)
        case ast.BoolOp(values=parts):
            some = [_value(part) for part in parts]
            return lambda fields: any(part(fields) for part in some)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _value(operand)
            return lambda fields: not inner(fields)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _calculated(operator.sub, lambda _: 0, _value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return _calculated(ARITHMETIC[type(op)], _value(left), _value(right))
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _compared(_value(left), ops, [_value(other) for other in others])
        case _:
            what = " ".join(ast.unparse(node).split())[:60]
            raise _NotAllowedError(f"'{what}' is none of fields, values, comparisons, and, or, not, + - * /")


def _part(inner: Value, key: str | int) -> Value:
    """An entry of an object or of an array, never an attribute of anything of Python's."""

    def value(fields: Fields) -> Any:
        whole = inner(fields)
        if isinstance(whole, dict):
            return whole.get(key)
        if isinstance(whole, list) and isinstance(key, int) and -len(whole) <= key < len(whole):
            return whole[key]
        return None

    return value


def _calculated(operation: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    """Of numbers alone: text times a number may be as long as memory."""

    def value(fields: Fields) -> Any:
        one, other = left(fields), right(fields)
        if not isinstance(one, int | float) or not isinstance(other, int | float):
            return None
        try:
            return operation(one, other)
        except ArithmeticError:
            return None

    return value


def _compared(left: Value, ops: Sequence[ast.cmpop], others: Sequence[Value]) -> Value:
    """A chain, as Python reads it: 1 < x < 3."""
    steps = [(*_comparison(op), other) for op, other in zip(ops, others, strict=True)]

    def value(fields: Fields) -> bool:
        one = left(fields)
        for compare, wanted, other in steps:
            second = other(fields)
            try:
                holds = bool(compare(one, second))
            except TypeError:  # text against a number, or something that the line does not have
                holds = False
            if holds is not wanted:
                return False
            one = second
        return True

    return value


def _comparison(op: ast.cmpop) -> tuple[Callable[[Any, Any], Any], bool]:
    """What compares, and what it must say."""
    return (COMPARISONS[ast.In], False) if isinstance(op, ast.NotIn) else (COMPARISONS[type(op)], True)


def _words(node: ast.expr) -> list[str]:
    """Plain text that a field must equal, where nothing but `and` stands above it."""
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return [word for part in parts for word in _words(part)]
        case ast.Compare(left=ast.Name(), ops=[ast.Eq()], comparators=[ast.Constant(value=str() as word)]):
            return [word] if PLAIN.fullmatch(word) else []
        case _:
            return []
