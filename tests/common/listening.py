"""The other end of the notify protocol in tests: a real datagram socket, in the place of systemd."""

from __future__ import annotations

import select
import socket
import time
from pathlib import Path

PATIENCE = 60.0  # seconds, on a busy machine


class Listener:
    """What a process says, datagram by datagram, each as its lines."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.address)
        self.heard: list[list[str]] = []

    def environment(self, watchdog_seconds: float | None = None) -> dict[str, str]:
        """As systemd sets it for a service."""
        counted = {} if watchdog_seconds is None else {"WATCHDOG_USEC": str(int(watchdog_seconds * 1e6))}
        return {"NOTIFY_SOCKET": self.address, **counted}

    def take(self) -> list[list[str]]:
        """All that was said since the last call."""
        new = []
        while self._ready(0.0):
            new.append(self._socket.recv(4096).decode().splitlines())
        self.heard += new
        return new

    def lines(self) -> list[str]:
        """All lines ever heard, in order."""
        self.take()
        return [line for message in self.heard for line in message]

    def until(self, line: str, *, since: int = 0) -> int:
        """Wait for a line that begins so, at or after a place among `lines`; its place."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for place, said in enumerate(self.lines()[since:], since):
                if said.startswith(line):
                    return place
            left = deadline - time.monotonic()
            assert left > 0, f"nobody said {line}: {self.lines()[since:]}"
            self._ready(left)

    def _ready(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        self._socket.close()
