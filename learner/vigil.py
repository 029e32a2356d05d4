"""What the learner's parent tells systemd of its children: ready once all of them are, alive while all of them are.

    gateway ─ ready, status, signs of life ─┐
                                            ├─► Vigil ─► READY=1, STATUS=, WATCHDOG=1 ─► systemd
    trainer ─ the same, "busy until ..." ───┘

The parent's own loop proves nothing: it only watches. So it gives a sign of life only as long as each child gave one of
its own within half of systemd's time, or said before what keeps it busy and for how long. Where no systemd listens,
nobody is told anything, and the children are not either.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from common.log import get_logger
from common.notices import Notices, Told
from common.notify import Notifier

log = get_logger(__name__)


class Vigil:
    """Over the children of one parent, by their names."""

    def __init__(self, notifier: Notifier, clock: Callable[[], float] = time.monotonic) -> None:
        self._notifier, self._clock = notifier, clock
        self._notices = Notices(clock) if notifier.is_heard else None
        self._children: dict[str, Told] = {}
        self._silent: set[str] = set()
        self._extended_until = 0.0
        self._ready = False

    @property
    def patience(self) -> float | None:
        """Seconds that a child may give no sign of life."""
        seconds = self._notifier.watchdog_seconds
        return None if seconds is None else seconds / 2

    def environment(self) -> dict[str, str]:
        """What a child's environment must say, so that it speaks to this process."""
        return {} if self._notices is None else self._notices.environment(self.patience)

    def watch(self, name: str, process: int) -> None:
        """A child was started."""
        if self._notices is not None:
            self._children[name] = self._notices.listen_to(process)

    def forget(self, name: str) -> None:
        """A child ended as it should."""
        self._children.pop(name, None)

    def look(self) -> None:
        """Hear what the children say, and tell systemd what follows from it."""
        if self._notices is None:
            return
        self._notices.hear()
        now = self._clock()
        self._say_silent(now)
        told = [f"{name}: {child.status}" for name, child in self._children.items() if child.status]
        silent = [f"{name} gives no sign of life" for name in sorted(self._silent)]
        self._notifier.status("; ".join([*silent, *told]))
        self._ready = self._ready or all(child.ready for child in self._children.values())
        if self._ready:
            self._notifier.ready()
        else:
            self._extend(now)
        if not self._silent:
            self._notifier.alive()

    def stopping(self) -> None:
        """The parent ends its children."""
        self._notifier.stopping()

    def close(self) -> None:
        if self._notices is not None:
            self._notices.close()
        self._notifier.close()

    def _extend(self, now: float) -> None:
        """What a child that starts asked for, passed on once."""
        until = max((child.patience_until for child in self._children.values()), default=0.0)
        if until > max(now, self._extended_until):
            self._extended_until = until
            self._notifier.extend(until - now)

    def _say_silent(self, now: float) -> None:
        """Who was not heard for too long, said once, and again when it is heard."""
        silent = {name for name, child in self._children.items() if self._is_silent(child, now)}
        for name in sorted(silent - self._silent):
            child = self._children[name]
            log.error("child_silent", name=name, seconds=round(now - child.heard_at, 1), doing=child.status)
        for name in sorted(self._silent - silent):
            log.info("child_heard_again", name=name)
        self._silent = silent

    def _is_silent(self, child: Told, now: float) -> bool:
        if self.patience is None or not child.ready:
            return False  # before, the time that systemd gives to the start counts
        return now > max(child.heard_at + self.patience, child.patience_until)
