"""Whether the gateway works, as it tells its parent or systemd: it takes what comes, and says what it waits for."""

from __future__ import annotations

import zmq
import zmq.asyncio

from common.notify import Notifier


class Liveness:
    """Asked from the gateway's own loop, which commits and answers: while that hangs, nobody asks."""

    def __init__(self, notifier: Notifier, actors: zmq.asyncio.Socket) -> None:
        self._notifier, self._actors = notifier, actors
        self._taken = self._taken_before = 0

    def took(self) -> None:
        """What arrived together was handled and answered."""
        self._taken += 1

    def look(self) -> None:
        """A sign of life, unless something waits in the socket and nothing was taken since the last look."""
        if not self._notifier.is_heard:
            return
        waiting = self._actors.getsockopt(zmq.EVENTS)
        assert isinstance(waiting, int)
        if not waiting & zmq.POLLIN or self._taken != self._taken_before:
            self._notifier.alive()
        self._taken_before = self._taken

    def say(self, phase: str, actors: int, waiting_for: str) -> None:
        """What a person reads in `systemctl status`."""
        waits = f", waits for {waiting_for}" if waiting_for else ""
        self._notifier.status(f"{phase} with {actors} actors{waits}")
