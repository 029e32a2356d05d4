"""The listening end of the notify protocol, for a process that starts others and answers for them (`loop learner`).

A datagram socket without a name in any folder; the kernel says which process sent what, so that nobody speaks for a
child but the child itself.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from common.notify import SOCKET, WATCHDOG

CREDENTIALS = struct.Struct("3i")  # process, user, group
MOST_BYTES = 4096  # of a message


@dataclass
class Told:
    """What one child has said so far. Times are of the clock."""

    ready: bool = False
    status: str = ""
    heard_at: float = 0.0  # its last sign of life
    patience_until: float = 0.0  # it said that it will be busy until then


class Notices:
    """What children tell, by their names. `listen_to` each after its start, `hear` now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._children: dict[int, Told] = {}  # by process
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")  # the kernel chooses a name

    def environment(self, watchdog_seconds: float | None) -> dict[str, str]:
        """What a child's environment must say, so that its `Notifier` speaks here."""
        address = "@" + self._socket.getsockname()[1:].decode()
        counted = {} if watchdog_seconds is None else {WATCHDOG: str(int(watchdog_seconds * 1e6))}
        return {SOCKET: address, **counted}

    def listen_to(self, process: int) -> Told:
        """From now on what this process says counts; the same object, kept up to date by `hear`."""
        told = self._children[process] = Told(heard_at=self._clock())
        return told

    def hear(self) -> None:
        """Take in all that was said since the last call."""
        for process, text in self._waiting():
            told = self._children.get(process)
            if told is not None:
                for line in text.splitlines():
                    self._note(told, *line.partition("=")[::2])

    def close(self) -> None:
        """Hear nobody any more; who speaks is not held up."""
        self._socket.close()

    def _note(self, told: Told, name: str, value: str) -> None:
        now = self._clock()
        if name == "READY":
            told.ready, told.heard_at = True, now
        elif name == "WATCHDOG":
            told.heard_at = now
        elif name == "STATUS":
            told.status = value
        elif name == "EXTEND_TIMEOUT_USEC" and value.isdecimal():
            told.patience_until = now + int(value) / 1e6

    def _waiting(self) -> Iterator[tuple[int, str]]:
        while True:
            try:
                data, extras, _, _ = self._socket.recvmsg(MOST_BYTES, socket.CMSG_SPACE(CREDENTIALS.size))
            except BlockingIOError:
                return
            for level, kind, content in extras:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    yield CREDENTIALS.unpack(content)[0], data.decode(errors="replace")
