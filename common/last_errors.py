"""The last warnings and errors of this process, kept in memory for who asks how it does (`loop status`).

log.warning(...) ─► `remember`, on the log's way ─► ring ─► the gateway's Status; heartbeats of actors and trainer
                                    child forked from it ─► `tell_parent` ─► that one's ring
"""

from __future__ import annotations

import datetime as dt
import json
from collections import deque
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from socket import socket

    from common.status_messages import LoggedError

KEPT = 20
LEVELS = ("warning", "error", "critical")
# said of every line, or beside it already; a traceback is for the log alone
LEFT_OUT = frozenset({"timestamp", "level", "event", "module", "process", "run", "exception"})
MOST_NAME, MOST_TOLD = 100, 300  # characters

_last: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT)  # numbered, oldest first
_count = 0  # of all so far
_children: tuple[socket, socket] | None = None  # where they are heard, and where they speak; a packet each
_is_child = False


def remember(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of the log: keeps what is a warning or worse, and passes everything on as it is."""
    if event.get("level") in LEVELS:
        told = ", ".join(f"{name}: {value}" for name, value in event.items() if name not in LEFT_OUT)
        kept = {
            "at": _seconds(event.get("timestamp")),
            "level": event["level"],
            "source": _sendable(event.get("process") or "process", MOST_NAME),
            "event": _sendable(event.get("event", ""), MOST_NAME),
            "told": _sendable(told, MOST_TOLD),
        }
        if _is_child and _children is not None:
            with suppress(OSError):  # the parent has gone, or has more than it reads: the log has it
                _children[1].send(json.dumps(kept).encode())
        _keep(kept)
    return event


def hear_children() -> None:
    """Before a fork: what the child logs after its `tell_parent` is kept here too."""
    import socket  # noqa: PLC0415 - the log is imported by every command's `--help`

    global _children  # noqa: PLW0603 - a process has one log
    if _children is None:
        _children = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in _children:
            end.setblocking(False)


def tell_parent() -> None:
    """In a forked child: what is logged from now on, by it and by what it forks, is kept by the parent as well."""
    global _is_child  # noqa: PLW0603 - a process has one log
    _is_child = True


def _listen() -> None:
    """What children have told since the last look."""
    while _children is not None and not _is_child:
        try:
            _keep(json.loads(_children[0].recv(1 << 16)))
        except OSError:
            return


def _keep(kept: dict[str, Any]) -> None:
    global _count  # noqa: PLW0603 - a process has one log
    _count += 1
    _last.append((_count, kept))


def last_errors() -> tuple[LoggedError, ...]:
    """Oldest first."""
    _listen()
    return _as_messages(kept for _, kept in list(_last))


class NewErrors:
    """What was logged since it was asked last, from when it is made on."""

    def __init__(self) -> None:
        self._seen = _count

    def take(self, most: int) -> tuple[LoggedError, ...]:
        """The newest of them, oldest first; what `most` leaves out is told no more."""
        _listen()
        seen, self._seen = self._seen, _count
        new = [kept for _, kept in takewhile(lambda pair: pair[0] > seen, reversed(list(_last)))]
        return _as_messages(reversed(new[:most]))


def _as_messages(kept: Iterable[dict[str, Any]]) -> tuple[LoggedError, ...]:
    # imported when used: the log is imported by every command's `--help`
    from common.status_messages import LoggedError  # noqa: PLC0415

    return tuple(LoggedError(**fields) for fields in kept)


def _seconds(stamp: object) -> float:
    try:
        return dt.datetime.fromisoformat(str(stamp)).timestamp()
    except ValueError:
        return dt.datetime.now(dt.UTC).timestamp()


def _sendable(value: object, most: int) -> str:
    """One line that every encoding takes."""
    return " ".join(str(value).split())[:most].encode(errors="replace").decode()
