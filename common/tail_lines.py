"""`loop tail`: one line of a log, read and shown. Bytes in, text out; what is no log line is shown with a mark."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import msgspec

Fields = dict[str, Any]

KEY = len("2026-11-23T04:00:00.000000Z")
HEAD = b'{"timestamp": "'  # how our lines begin
STAMP = b'"timestamp"'
COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
IN_FRONT = frozenset(("timestamp", "time", "level", "event", "process", "module", "run"))
BELOW = frozenset(("exception", "traceback", "stack"))  # of several lines, shown under theirs
SPECIAL = IN_FRONT | BELOW | {"actor"}
FOREIGN, BROKEN = "|", "~"  # marks: text of something else, a line of JSON that is cut or damaged
MOST_KEPT = 4096  # of what is kept in order not to be made again


class _Object(msgspec.Struct):
    """Any JSON object: its fields are passed over."""


_decode = msgspec.json.Decoder().decode
_pass_over = msgspec.json.Decoder(_Object).decode
_encode = msgspec.json.Encoder().encode


def parse(line: bytes) -> Fields | None:
    """The fields of a log line; None: it is no JSON object."""
    try:
        found = _decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        if not line.startswith(b"{"):
            return None
        try:
            found = json.loads(line)  # NaN and Infinity, which Python writes and reads
        except (ValueError, RecursionError):
            return None
    return found if type(found) is dict else None


def is_object(line: bytes) -> bool:
    """Whether `parse` would give fields; faster."""
    try:
        _pass_over(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return line.startswith(b"{") and parse(line) is not None
    return True


def time_of(line: bytes) -> bytes:
    """When a line was written, as text that sorts by time: ISO 8601 in UTC with microseconds; empty: it does not say.

    Found without parsing where the line is one of ours.
    """
    if line.startswith(HEAD):
        key = line[len(HEAD) : len(HEAD) + KEY]
        if key.endswith(b"Z") and key[19:20] == b".":
            return key
    elif not line.startswith(b"{"):
        return b""
    else:
        at = line.find(STAMP)
        key = line[at + 14 : at + 14 + KEY] if at >= 0 and line[at + 11 : at + 14] == b': "' else b""
        if key.endswith(b"Z") and key[19:20] == b".":
            return key
    fields = parse(line)
    return b"" if fields is None else _time_in(fields)


def _time_in(fields: Mapping[str, Any]) -> bytes:
    """The same for other forms: another precision or offset, or `time` in seconds since 1970 as in metrics.jsonl."""
    said = fields.get("timestamp", fields.get("time"))
    try:
        if isinstance(said, str):
            moment = dt.datetime.fromisoformat(said)
            return key_of(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
        if isinstance(said, int | float):
            return key_of(dt.datetime.fromtimestamp(said, dt.UTC))
    except (ValueError, OverflowError, OSError):
        pass
    return b""


def key_of(moment: dt.datetime) -> bytes:
    """A moment as `time_of` gives it."""
    return f"{moment.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%S.%f}Z".encode()


class Form:
    """How a line is shown to a person: when, level, who, event, then its fields. Times are UTC, as in the log.

    Our own escape codes: a library that lays out each line would take longer than all else.
    """

    def __init__(self, *, colours: bool) -> None:
        self._dim, self._bold, self._plain = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if colours else ("", "", "")
        self._levels = {
            level: f"\x1b[{code}m{level:<8}\x1b[0m" if colours else f"{level:<8}" for level, code in COLOURS.items()
        }
        self._fronts: dict[tuple[Any, ...], tuple[str, str]] = {}  # what most lines share, made once
        self._labels: dict[str, str] = {}

    def text(self, fields: Fields) -> str:
        """One line, and more below it where the fields hold a traceback."""
        get = fields.get
        named = (get("level", ""), get("process", ""), get("actor"), get("event", ""))
        try:
            front, who = self._fronts[named]
        except (KeyError, TypeError):  # new, or of a kind that no name is
            front, who = self._front(*named)
        parts = [f"{self._dim}{_shown_time(fields)}{self._plain}", front]
        below, labels = [], self._labels
        for name, value in fields.items():
            if name in SPECIAL:
                if name in BELOW:
                    below.append(str(value))
                if name != "actor" or value == who:
                    continue
            kind = type(value)
            if kind is str and " " not in value and value and value.isprintable():
                shown = value
            elif kind is int:
                shown = str(value)
            else:
                shown = _shown(value)
            parts.append((labels.get(name) or self._label(name)) + shown)
        line = " ".join(parts).rstrip()
        for text in below:
            line += "".join(f"\n    {self._dim}{_printable(row)}{self._plain}" for row in text.splitlines())
        return line

    def _front(self, level: Any, process: Any, actor: Any, event: Any) -> tuple[str, str]:
        """Level, who and event in their columns; and who."""
        who = str(actor) if actor and str(process).startswith("actor") else str(process)  # an actor by its name
        shown_level = self._levels.get(str(level)) or f"{_printable(str(level)):<8}"
        shown_event = f"{self._bold}{_printable(str(event)):<24}{self._plain}"
        found = f"{shown_level} {_printable(who):<12} {shown_event}", who
        if len(self._fronts) < MOST_KEPT and all(
            isinstance(name, str | None) for name in (level, process, actor, event)
        ):
            self._fronts[level, process, actor, event] = found
        return found

    def _label(self, name: str) -> str:
        label = f"{self._dim}{_printable(name)}={self._plain}"
        if len(self._labels) < MOST_KEPT:
            self._labels[name] = label
        return label

    def foreign(self, line: bytes) -> str:
        """A line that is no log line, as it is behind a mark; nothing in it reaches the terminal but text."""
        mark = BROKEN if line.lstrip().startswith(b"{") else FOREIGN
        return f"{self._dim}{mark} {_printable(line.decode(errors='replace'))}{self._plain}"


def _shown_time(fields: Fields) -> str:
    said = fields.get("timestamp")
    if type(said) is str and len(said) == KEY and said[19] == "." and said.isascii() and said.isprintable():
        return f"{said[:10]} {said[11:23]}"
    key = _time_in(fields).decode()
    return f"{key[:10]} {key[11:23]}" if key else " " * 23


def _shown(value: Any) -> str:
    if type(value) is float:
        return f"{value:.6g}" if abs(value) < 1e6 else repr(value)
    if value is None or value is True or value is False:
        return str(value).lower()
    try:
        text: str = _encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return _printable(text)


def _printable(text: str) -> str:
    """Without what would move the cursor, change colours or end the line: a log may hold a model's text."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one == "\t" else one.encode("unicode_escape", "replace").decode() for one in text
    )
