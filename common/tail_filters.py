"""`loop tail`: which lines are shown. A line that cannot pass is turned away by its bytes, not parsed. Pure."""

from __future__ import annotations

import datetime as dt
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.errors import UsageError
from common.tail_expression import PLAIN, Expression
from common.tail_lines import Fields, key_of

LEVELS = ("debug", "info", "warning", "error", "critical")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# what an option looks at: one of these fields, or an entry of one that is a list
LOOKED_AT = {
    "event": ("event",),
    "actor": ("actor", "actors"),
    "process": ("process",),
    "task": ("task", "tasks"),
    "policy_version": ("policy_version", "version"),
    "lease": ("lease", "trajectory", "leases", "trajectories"),
}


@dataclass(frozen=True)
class Filter:
    """What a line must have.

    Attributes:
        needles: of each tuple, one is in every line that passes.
        tests: what its fields must be, once it is parsed.
        since: as `time_of` gives it; nothing older is shown. Empty: no bound.
    """

    needles: Sequence[tuple[bytes, ...]] = ()
    tests: Sequence[Callable[[Fields], bool]] = field(default_factory=list)
    since: bytes = b""

    def may_pass(self, lines: list[bytes]) -> list[bytes]:
        """Those that are worth parsing."""
        for needles in self.needles:
            if len(needles) == 1:
                one = needles[0]
                lines = [line for line in lines if one in line]
            else:
                lines = [line for line in lines if any(needle in line for needle in needles)]
        return lines

    def passes(self, fields: Fields) -> bool:
        return all(test(fields) for test in self.tests)


def filter_of(
    wanted: dict[str, Sequence[str]], *, level: str = "", expressions: Sequence[str] = (), since: bytes = b""
) -> Filter:
    """The filter that options ask for. `wanted`: names and globs by a key of `LOOKED_AT`, or by "group".

    Raises UsageError: no such level, no expression.
    """
    needles: list[tuple[bytes, ...]] = []
    tests: list[Callable[[Fields], bool]] = []
    for option, given in wanted.items():
        names = [name for word in given for name in word.split(",") if name]
        if not names:
            continue
        tests.append(_group(names) if option == "group" else _one_of(LOOKED_AT[option], names))
        parts = [_needle(name, is_number=option == "policy_version", is_open=option == "group") for name in names]
        if all(parts):
            needles.append(tuple(parts))
    if level:
        least = _level(level)
        tests.append(_at_least(least))
        if least > LEVELS.index("info"):  # a line without a level counts as info
            needles.append(tuple(f'"{name}"'.encode() for name in LEVELS[least:]))
    for text in expressions:
        expression = Expression(text)
        tests.append(expression.passes)
        needles += [(f'"{word}"'.encode(),) for word in expression.words]
    return Filter(needles, tests, since)


def group_of(trajectory: str) -> str:
    """The group in a lease's or trajectory's id, which is group, member and epoch; empty: it names none."""
    parts = trajectory.rsplit(".", 2)
    return parts[0] if len(parts) == 3 else ""


def moment_of(text: str, now: dt.datetime) -> bytes:
    """What `--since` means, as `time_of` gives it: 90s, 10m, 2h, 1d before now; or a moment in ISO 8601, UTC.

    Raises UsageError: neither.
    """
    try:
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text):
            return key_of(now - dt.timedelta(seconds=float(found[1]) * UNITS[found[2]]))
        moment = dt.datetime.fromisoformat(text)
        return key_of(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
    except (ValueError, OverflowError):
        raise UsageError(f"--since {text}: give 90s, 10m, 2h or 1d ago, or a moment as 2026-11-23T04:00") from None


def _level(name: str) -> int:
    if name.lower() not in LEVELS:
        raise UsageError(f"--level {name}: known are {', '.join(LEVELS)}")
    return LEVELS.index(name.lower())


def _at_least(least: int) -> Callable[[Fields], bool]:
    enough = frozenset(LEVELS[least:])
    return lambda fields: str(fields.get("level", "info")).lower() in enough


def _one_of(looked_at: Sequence[str], names: Iterable[str]) -> Callable[[Fields], bool]:
    matches = _matcher(names)

    def test(fields: Fields) -> bool:
        for name in looked_at:
            value = fields.get(name)
            if value is None:
                continue
            if any(map(matches, value)) if type(value) is list else matches(value):
                return True
        return False

    return test


def _group(names: Iterable[str]) -> Callable[[Fields], bool]:
    """A line names its group itself, or in the id of its lease or trajectory."""
    matches = _matcher(names)

    def test(fields: Fields) -> bool:
        named = (fields.get("group"), *(group_of(str(fields.get(name, ""))) for name in ("lease", "trajectory")))
        return any(value is not None and matches(value) for value in named)

    return test


def _matcher(names: Iterable[str]) -> Callable[[Any], bool]:
    exact = frozenset(name for name in names if not _is_glob(name))
    globs = [re.compile(fnmatch.translate(name)) for name in names if _is_glob(name)]

    def matches(value: Any) -> bool:
        text = value if type(value) is str else str(value)
        return text in exact or any(glob.match(text) for glob in globs)

    return matches


def _is_glob(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _needle(name: str, *, is_number: bool, is_open: bool) -> bytes:
    """Bytes that a line with this name has; empty: nothing is certain."""
    if PLAIN.fullmatch(name):
        if is_number:
            return name.encode()
        return f'"{name}'.encode() + (b"" if is_open else b'"')
    begin = re.split(r"[*?\[]", name, maxsplit=1)[0]
    quote = "" if is_number else '"'
    return f"{quote}{begin}".encode() if begin and PLAIN.fullmatch(begin) else b""
