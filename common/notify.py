"""What a process tells whoever started it and listens: systemd's notify protocol, spoken by the sdnotify package.

    READY=1 once it works · STATUS= what it does or waits for · EXTEND_TIMEOUT_USEC= before what takes long
    WATCHDOG=1 as its work goes on · STOPPING=1 when it leaves

Listening are systemd (`Type=notify`) and the learner's parent (common/notices.py). Silent where nobody listens. Nothing
here waits: what a full socket does not take is lost, and READY=1 is therefore said again with every WATCHDOG=1.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from sdnotify import SystemdNotifier

SOCKET, WATCHDOG, WATCHED = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"  # environment variables of the protocol
LONGEST_STATUS = 500  # characters


class Notifier:
    """One process's voice. It takes the protocol's variables out of the environment: no child speaks in its name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._voice = SystemdNotifier() if os.environ.get(SOCKET) else None
        if self._voice is not None and self._voice.socket is not None:
            self._voice.socket.setblocking(False)
        self.watchdog_seconds = _watchdog_seconds() if self.is_heard else None  # None: nobody counts them
        for name in (SOCKET, WATCHDOG, WATCHED):
            os.environ.pop(name, None)
        self._ready = self._stopping = False
        self._status = ""
        self._alive_at = -float("inf")

    @property
    def is_heard(self) -> bool:
        """Whether somebody listens."""
        return self._voice is not None and self._voice.socket is not None

    def ready(self) -> None:
        """It works: what was started after it may begin. Said once, again with every sign of life."""
        if not self._ready:
            self._ready = True
            self._tell("READY=1")

    def status(self, text: str) -> None:
        """What it does or waits for, one line for a person (`systemctl status`)."""
        line = " ".join(text.split())[:LONGEST_STATUS]
        if line != self._status:
            self._status = line
            self._tell(f"STATUS={line}")

    def alive(self) -> None:
        """Its work went on, or has a good reason to wait. Cheap: said four times in the time that systemd allows."""
        now = self._clock()
        if self.watchdog_seconds is None or self._stopping or now - self._alive_at < self.watchdog_seconds / 4:
            return
        self._alive_at = now
        self._tell("WATCHDOG=1" + "\nREADY=1" * self._ready)

    def extend(self, seconds: float) -> None:
        """What comes now may take so many seconds more, from now: starting, stopping, or a long piece of work."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def stopping(self) -> None:
        """It leaves; no sign of life is expected any more."""
        if not self._stopping:
            self._stopping = True
            self._tell("STOPPING=1")

    def close(self) -> None:
        """Say nothing any more."""
        if self._voice is not None and self._voice.socket is not None:
            self._voice.socket.close()
        self._voice = None

    def _tell(self, text: str) -> None:
        if self._voice is not None:
            # sdnotify encodes as latin-1 and loses what that cannot: these characters are the bytes of UTF-8
            self._voice.notify(text.encode(errors="replace").decode("latin-1"))


def _watchdog_seconds() -> float | None:
    """How long systemd waits for a sign of life of this very process; None where it does not."""
    text = os.environ.get(WATCHDOG, "")
    mine = os.environ.get(WATCHED, "") in ("", str(os.getpid()))
    return int(text) / 1e6 if text.isdecimal() and int(text) > 0 and mine else None
