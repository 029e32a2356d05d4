"""What an actor tells systemd: that it works, what it does or waits for, and signs of life while its work goes on.

    waits    for the learner, a version, its files      another machine's matter: as long as the event loop lives
    takes    an engine, worlds to start                 so many seconds, each with a bound of its own
    works    rolls out episodes                         as long as they move: tokens, leases, the spool, the version

At work a look counts when something has moved since the one before, or when there is nothing to move: no lease, files
under way, no room on the disk, a host of worlds that died and starts again. A request, a cell, a verdict that hangs is
ended by its own limit of time, so what stands still for longer than all of these together hangs for good, although the
event loop lives.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable

from actor.config import ActorConfig, WorldConfig
from actor.standing import Standing
from common.notify import Notifier

LOOK_SECONDS = 1.0
WAITING_SECONDS = 60.0  # asked for, again and again, while it waits for the learner
WORLDS_SECONDS = 3600.0  # AppWorld's virtualenv and a world, where they lack
MARGIN_SECONDS = 60.0
UNTIL_FOUND = 30.0  # seconds; within these a learner that lives is found again


def longest_stillness(world: WorldConfig, actor: ActorConfig) -> float:
    """Seconds within which every part of an episode is over, or ended by its limit: then something has moved."""
    of_a_world = world.open_seconds + world.cell_seconds + world.grade_seconds
    return of_a_world + actor.engine.request_seconds + UNTIL_FOUND


class Telling:
    """One actor's. `stillness` is in seconds."""

    def __init__(
        self,
        notifier: Notifier,
        standing: Standing,
        stillness: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notifier, self._standing, self._stillness, self._clock = notifier, standing, stillness, clock
        self._until = math.inf  # what is under way may last
        self._extended_until = -math.inf  # by `waits`
        self._works = False
        self._last: Hashable = ()
        self._moved_at = clock()

    def waits(self) -> None:
        """For another machine."""
        self._works, self._until = False, math.inf

    def takes(self, seconds: float) -> None:
        """What begins now is over within so many seconds."""
        self._works, self._until = False, self._clock() + seconds + MARGIN_SECONDS
        self._extended_until = -math.inf
        self._notifier.extend(seconds + MARGIN_SECONDS)

    def works(self) -> None:
        """Welcomed, the engine started and probed, worlds warm: episodes are rolled out from now on."""
        self._works, self._moved_at = True, self._clock()
        self._notifier.ready()

    def leaves(self, *, finished: bool) -> None:
        """It goes. `finished`: since there is no more to do, which is no failure, however early it is."""
        if finished:
            self._notifier.ready()
        self._notifier.status(f"leaves; {self._standing.waiting_for}".rstrip("; "))
        self._notifier.stopping()

    async def tell(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """One look at what there is to tell."""
        standing, now = self._standing, self._clock()
        at_work = f"rolls out {standing.leases.running} episodes on version {standing.version}"
        waits = f"waits for {standing.waiting_for}" if standing.waiting_for else ""
        self._notifier.status("; ".join(filter(None, (at_work if self._works else "", waits))))
        if not self._works:
            if self._until == math.inf and self._extended_until - now < WAITING_SECONDS / 2:
                self._extended_until = now + WAITING_SECONDS
                self._notifier.extend(WAITING_SECONDS)
            if now < self._until:
                self._notifier.alive()
            return
        if self._moved() or self._rests():
            self._moved_at = now
        if now - self._moved_at < self._stillness:
            self._notifier.alive()

    def _moved(self) -> bool:
        standing = self._standing
        sampled = standing.policy.sampled_tokens if standing.policy is not None else 0
        before, self._last = self._last, (sampled, standing.version, standing.lease_ids)
        return self._last != before

    def _rests(self) -> bool:
        """Nothing is to be expected here: no lease, a version under way, a full disk, worlds that warm up again.

        How long each of these may last is bounded where it is done.
        """
        standing = self._standing
        fetches = standing.versions is not None and standing.versions.is_fetching
        full = standing.outbox is not None and standing.outbox.waits_for_room
        warms = standing.worlds is not None and standing.worlds.waiting_for != ""
        return standing.leases.running == 0 or fetches or full or warms
