"""Every call of a log in the code, read from its source: the event, the level, the fields.

A call is `log.LEVEL("event", name=value, **more)`. `more` may be a dictionary that the source shows: a literal, a
comprehension over a tuple of names, a variable or a function of the same file that is one. A function that passes its
own `event` and `**fields` on to a log, as `_say` does, makes each call of it a call of the log.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class LogCall:
    where: str  # file:line
    level: str
    event: str | None  # None: the source does not show it
    fields: frozenset[str]
    shows_all: bool  # whether the source shows every field
    values: tuple[ast.expr, ...] = ()


@dataclass(frozen=True)
class Forwarder:
    """A function that logs the event and the fields that it is given."""

    name: str
    level: str
    at: int  # which positional argument of a call is the event
    own: frozenset[str]  # fields that it adds


class Source:
    """One file's calls."""

    def __init__(self, text: str, name: str) -> None:
        self._tree = ast.parse(text)
        self._name = name
        self._above = {child: node for node in ast.walk(self._tree) for child in ast.iter_child_nodes(node)}
        self._functions = {node.name: node for node in ast.walk(self._tree) if isinstance(node, FUNCTIONS)}

    def calls(self) -> list[LogCall]:
        nodes = [node for node in ast.walk(self._tree) if isinstance(node, ast.Call)]
        logs = [node for node in nodes if self._level(node.func)]
        forwarders = {node: made for node in logs if (made := self._forwarder(node)) is not None}
        found = [self._call(node, self._level(node.func), 0) for node in logs if node not in forwarders]
        for one in forwarders.values():
            calls = [node for node in nodes if ast.unparse(node.func) in (one.name, f"self.{one.name}")]
            found += [self._call(node, one.level, one.at, one.own) for node in calls]
        return found

    def hidden(self) -> list[str]:
        """Uses of a log's method that are no call of it, so that nobody can tell what is logged."""
        return [
            f"{self._name}:{node.lineno}"
            for node in ast.walk(self._tree)
            if self._level(node) and getattr(self._above[node], "func", None) is not node
        ]

    @staticmethod
    def _level(node: ast.AST) -> str:
        """Of `log.warning`, "warning"; else nothing."""
        is_log = isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("log", "self._log")
        return node.attr if is_log and node.attr in LEVELS else ""

    def _call(self, node: ast.Call, level: str, at: int, own: frozenset[str] = frozenset()) -> LogCall:
        event = node.args[at] if len(node.args) > at else None
        name = event.value if isinstance(event, ast.Constant) and isinstance(event.value, str) else None
        fields, shows_all = set(own), True
        for word in node.keywords:
            names = {word.arg} if word.arg is not None else self._names(word.value, self._function_of(node))
            shows_all &= names is not None
            fields |= names or set()
        values = (*node.args[at + 1 :], *(word.value for word in node.keywords))
        return LogCall(f"{self._name}:{node.lineno}", level, name, frozenset(fields), shows_all, values)

    def _forwarder(self, node: ast.Call) -> Forwarder | None:
        function = self._function_of(node)
        if function is None or not node.args or not isinstance(node.args[0], ast.Name) or function.args.kwarg is None:
            return None
        names = [argument.arg for argument in function.args.args if argument.arg != "self"]
        splats = [word.value.id for word in node.keywords if word.arg is None and isinstance(word.value, ast.Name)]
        if node.args[0].id not in names or function.args.kwarg.arg not in splats:
            return None
        own = frozenset(word.arg for word in node.keywords if word.arg is not None)
        return Forwarder(function.name, self._level(node.func), names.index(node.args[0].id), own)

    def _function_of(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        while node in self._above:
            node = self._above[node]
            if isinstance(node, FUNCTIONS):
                return node
        return None

    def _names(self, node: ast.expr, function: ast.AST | None) -> set[str] | None:
        """The keys of a dictionary, as far as the source shows them; None where it does not."""
        match node:
            case ast.Dict():
                parts = [
                    {key.value}
                    if isinstance(key, ast.Constant)
                    else self._names(value, function)
                    if key is None
                    else None
                    for key, value in zip(node.keys, node.values, strict=True)
                ]
                return _together(parts)
            case ast.IfExp():
                return _together([self._names(node.body, function), self._names(node.orelse, function)])
            case ast.DictComp(generators=[ast.comprehension(iter=ast.Name(id=name))]):
                return self._words(name, function)
            case ast.Call(func=ast.Name(id=name)) if name in self._functions:
                made = [part.value for part in ast.walk(self._functions[name]) if isinstance(part, ast.Return)]
                return _together([self._names(value, self._functions[name]) for value in made])
            case ast.Name(id=name) if function is not None:
                return self._names_of_variable(name, function)
        return None

    def _names_of_variable(self, name: str, function: ast.AST) -> set[str] | None:
        parts: list[set[str] | None] = []
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                parts.append(self._names(node.value, function))
            set_keys = [target.slice for target in targets if isinstance(target, ast.Subscript)]
            set_keys = [key for key in set_keys if ast.unparse(self._above[key].value) == name]
            parts += [{key.value} if isinstance(key, ast.Constant) else None for key in set_keys]
        return _together(parts) if parts else None

    def _words(self, name: str, function: ast.AST | None) -> set[str] | None:
        """The strings of a tuple that a variable of the function or the file names."""
        for scope in (function, self._tree):
            for node in ast.walk(scope) if scope is not None else ():
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                    return set(ast.literal_eval(node.value)) if isinstance(node.value, ast.Tuple) else None
        return None


def _together(parts: list[set[str] | None]) -> set[str] | None:
    return None if None in parts else {name for part in parts for name in part or ()}


def sources() -> list[Source]:
    files = sorted(file for side in ("actor", "common", "learner") for file in (ROOT / side).rglob("*.py"))
    return [Source(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))) for file in files]
