"""What an actor has by now, what it is at, and what it waits for: what its heartbeats say (stage 1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from actor.lease import Leases
from actor.outbox import Outbox
from actor.slots import Slots
from actor.versions import Versions
from common.last_errors import NewErrors
from common.log import Reminder, get_logger
from common.messages import Heartbeat
from common.status_messages import MOST_HEARTBEAT_ERRORS

log = get_logger(__name__)
LONGEST = 2000  # characters of what is waited for
IDLE_SECONDS, SAY_IDLE_EVERY = 10.0, 60.0


class Sampling(Protocol):
    """What is told of the policy."""

    version: int
    sampled_tokens: int


class Opening(Protocol):
    """What is told of the worlds."""

    @property
    def waiting_for(self) -> str: ...


class Standing:
    """One actor's, as it changes. `silent_seconds` gives how long the learner was not heard, 0 while it is heard."""

    def __init__(
        self,
        leases: Leases,
        silent_seconds: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.leases = leases
        self.slots: Slots | None = None
        self.outbox: Outbox | None = None
        self.versions: Versions | None = None
        self.policy: Sampling | None = None
        self.worlds: Opening | None = None
        self.doing = "the learner"  # before episodes can be rolled out; then empty
        self._silent_seconds, self._clock = silent_seconds, clock
        self._errors = NewErrors()
        self._idle_since: float | None = None  # without a lease to roll out
        self._idle_said = Reminder(clock, SAY_IDLE_EVERY)
        self._told = (clock(), 0)  # when the last heartbeat was made, and the tokens sampled by then

    @property
    def lease_ids(self) -> tuple[str, ...]:
        """Leases held: waiting, running, and spooled without an ack."""
        return (*self.leases.ids, *(self.outbox.ids if self.outbox is not None else ()))

    @property
    def version(self) -> int:
        """The policy version that is sampled with, -1 before the first."""
        return self.policy.version if self.policy is not None else -1

    @property
    def waiting_for(self) -> str:
        """In words; empty while nothing is lacking."""
        silent, sending = self._silence, self.outbox.waiting_for if self.outbox is not None else ""
        # what a learner that is not heard said last is no longer so
        said = self.leases.withheld if silent else self.leases.waiting_for
        worlds = self.worlds.waiting_for if self.worlds is not None else ""
        crowded = self.slots.waiting_for if self.slots is not None else ""
        return "; ".join(dict.fromkeys(filter(None, (self.doing, worlds, silent, sending, crowded, said))))[:LONGEST]

    @property
    def pause(self) -> str:
        """Why nothing is rolled out any more though engine and worlds are ready; empty while that is not so.

        A learner that only has nothing to roll out, as at the staleness bound, is no such reason: it says so itself.
        """
        if self.doing or self.leases.running:
            return ""
        return "; ".join(filter(None, (self._silence, self.leases.withheld)))

    async def watch(self, interval: float) -> None:
        """Until cancelled: say once that the actor pauses, for what, and for how long it was when it goes on.

        And while it is merely given nothing to roll out, every minute what for.
        """
        since: float | None = None
        while True:
            await asyncio.sleep(interval)
            pause = self.pause
            self._look_idle(paused=bool(pause))
            if pause and since is None:
                since = self._clock()
                log.warning("actor_pauses", waiting_for=pause)
            elif since is not None and not pause:
                log.info("actor_goes_on", seconds=round(self._clock() - since, 1))
                since = None

    def _look_idle(self, *, paused: bool) -> None:
        if paused or self.doing or self.leases.running or not self.leases.waiting_for:
            self._idle_since = None
            self._idle_said.over()
            return
        now = self._clock()
        if self._idle_since is None:
            self._idle_since = now
        idle = now - self._idle_since
        if idle >= IDLE_SECONDS and self._idle_said.is_due():
            log.info("actor_idle", waiting_for=self.leases.waiting_for, seconds=round(idle, 1))

    @property
    def _silence(self) -> str:
        silent = self._silent_seconds()
        if not silent:
            return ""
        spooled = len(self.outbox.ids) if self.outbox is not None else 0
        return f"the learner, silent for {silent:.0f} s; {spooled} trajectories in the spool"

    def heartbeat(self) -> Heartbeat:
        """The next one; tokens a second are those since the one before."""
        now, sampled = self._clock(), self.policy.sampled_tokens if self.policy is not None else 0
        (since, before), self._told = self._told, (now, sampled)
        return Heartbeat(
            policy_version=self.version,
            episodes=self.leases.running,
            lease_ids=self.lease_ids,
            tokens_per_second=max(0, sampled - before) / max(now - since, 1e-3),
            spooled=len(self.outbox.ids) if self.outbox is not None else 0,
            spooled_bytes=self.outbox.size if self.outbox is not None else 0,
            waiting_for=self.waiting_for,
            reads=tuple(sorted(self.versions.reads)) if self.versions is not None else (),
            errors=self._errors.take(MOST_HEARTBEAT_ERRORS),
        )
