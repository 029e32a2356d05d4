"""Whether the learner is heard (stage 4): its silence is said when it lasts too long, and its return with how long.

On the monotonic clock: a wall clock that jumps makes nobody silent. That this process itself stood still is told apart:
what was said meanwhile lies in the socket, unread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from common.log import get_logger

log = get_logger(__name__)
STOOD_STILL = 1.0  # seconds by which a pause was longer than planned: the process was stopped, or starved


class Silence:
    """Of one learner, as an actor hears it. `heard` at every message; `watch` beside."""

    def __init__(self, learner: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._learner, self._clock = learner, clock
        self._heard_at = clock()
        self._silent = False

    def heard(self) -> None:
        """A message arrived."""
        now = self._clock()
        if self._silent:
            self._silent = False
            log.info("learner_heard_again", learner=self._learner, seconds=round(now - self._heard_at, 1))
        self._heard_at = now

    @property
    def seconds(self) -> float:
        """How long it has not been heard, once that is too long; 0 before."""
        return self._clock() - self._heard_at if self._silent else 0.0

    async def watch(self, interval: float, intervals: int) -> None:
        """Until cancelled: say when nothing was heard for so many heartbeat intervals of so many seconds."""
        while True:
            before = self._clock()
            await asyncio.sleep(interval / 2)
            self.look(before, interval, intervals)

    def look(self, before: float, interval: float, intervals: int) -> None:
        """One look, half an interval after `before` if this process ran meanwhile."""
        now = self._clock()
        paused = now - before
        if paused > interval / 2 + max(STOOD_STILL, interval):
            log.warning("actor_was_stopped", seconds=round(paused, 1))
            self._heard_at = max(self._heard_at, now)
        elif not self._silent and now - self._heard_at > interval * intervals:
            self._silent = True
            log.warning("learner_silent", learner=self._learner, seconds=round(now - self._heard_at, 1))
