"""Stage 1, the actor's half: leases are asked for as slots free up, held while they are rolled out, returned politely.

    asked ─► waiting ─► running ─► gone (spooled, returned, or cancelled by the learner)

Holding is saying: every heartbeat and `Hello` names the leases held, which renews them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from common.errors import RunError
from common.log import get_logger
from common.messages import Ack, Lease, LeaseGrant, LeaseRequest, LeaseReturn, Message

log = get_logger(__name__)
GATHER_SECONDS = 0.05  # a slot that is free waits this long for others: members of a group come together
ASK_AGAIN_SECONDS = 0.25  # after a grant of fewer than asked; news of a version or an ack asks at once
REASON_CHARACTERS = 2000
TELL_SECONDS = 5.0  # for the length of an episode that was cut
CANCELLED = "cancelled by the learner"
MOST_AT_ONCE = 1000  # leases that one request may ask for


class Leases:
    """The leases of one actor. `most` is how many it may hold; it may change."""

    def __init__(self, most: int, request: Callable[[Message], Awaitable[Message]]) -> None:
        self.most = most
        self.waiting_for = ""  # the learner's words for granting fewer than asked, or why it is not asked
        self.withheld = ""  # why it is not asked, though slots are free
        self._request = request
        self._waiting: deque[Lease] = deque()
        self._running: dict[str, Lease] = {}
        self._asking = True
        self._changed = asyncio.Event()
        self._arrived = asyncio.Event()

    @property
    def ids(self) -> tuple[str, ...]:
        """Leases held, waiting and running."""
        return (*(lease.lease_id for lease in self._waiting), *self._running)

    @property
    def running(self) -> int:
        """Leases being rolled out, count."""
        return len(self._running)

    @property
    def free(self) -> int:
        """Leases that may be asked for, count; below 0 when more are held than may be now."""
        return self.most - len(self._waiting) - len(self._running)

    def stop_asking(self) -> None:
        """Take no more leases, and begin none of those that wait."""
        self._asking = False

    def news(self) -> None:
        """Something happened after which more may be granted than before."""
        self._changed.set()

    async def ask(self, may_ask: Callable[[], str]) -> None:
        """Ask for leases whenever slots are free, until `stop_asking`. `may_ask` gives a reason not to, or ""."""
        while self._asking:
            reason = may_ask()
            self.withheld = reason if self.free > 0 else ""
            if self.free <= 0 or reason:
                self.waiting_for = reason
                await self._change(None if not reason else ASK_AGAIN_SECONDS)
                continue
            if self.free < self.most:
                await asyncio.sleep(GATHER_SECONDS)
            wanted = min(max(1, self.free), MOST_AT_ONCE)
            grant = await self._request(LeaseRequest(count=wanted))
            if not isinstance(grant, LeaseGrant):
                raise RunError(f"the learner answered a lease request with {type(grant).__name__}: versions differ?")
            self._take(grant)
            if len(grant.leases) < wanted:
                await self._change(ASK_AGAIN_SECONDS)

    async def next(self) -> Lease:
        """The next lease to roll out; it counts as running. Waits for good after `stop_asking`."""
        while not self._waiting or not self._asking:
            self._arrived.clear()
            await self._arrived.wait()
        lease = self._waiting.popleft()
        self._running[lease.lease_id] = lease
        return lease

    def done(self, lease: Lease) -> None:
        """A lease's slot is free."""
        self._running.pop(lease.lease_id, None)
        self.news()

    def drop_waiting(self, lease_ids: set[str]) -> None:
        """Forget leases that the learner no longer wants and that nobody has begun."""
        self._waiting = deque(lease for lease in self._waiting if lease.lease_id not in lease_ids)
        self.news()

    async def cancelled(self, lease: Lease, tokens: int) -> None:
        """The learner wants this lease no longer: its slot is free, and how long its episode was is told if it can be.

        The learner accounts for the lengths of what it cuts (LOOP's straggler rule prefers short episodes).
        """
        self.done(lease)
        if tokens:
            message = LeaseReturn(lease_id=lease.lease_id, reason=CANCELLED, failure=False, tokens=tokens)
            with suppress(TimeoutError, RunError):
                async with asyncio.timeout(TELL_SECONDS):
                    await self._request(message)

    async def give_back(self, lease: Lease, reason: str, *, failure: bool = True) -> None:
        """Return a lease that will not be fulfilled; `failure` is the episode's own, not this actor's."""
        message = LeaseReturn(lease_id=lease.lease_id, reason=_sendable(reason), failure=failure)
        answer = await self._request(message)
        if isinstance(answer, Ack) and answer.outcome != "ok":
            log.info("lease_return_not_taken", lease=lease.lease_id, outcome=answer.outcome, reason=answer.reason)
        self.done(lease)

    async def give_back_all(self, reason: str) -> None:
        """Return all that is held; for when nothing is being rolled out any more."""
        held = [*self._waiting, *self._running.values()]
        self._running |= {lease.lease_id: lease for lease in self._waiting}
        self._waiting.clear()
        async with asyncio.TaskGroup() as group:
            for lease in held:
                group.create_task(self.give_back(lease, reason, failure=False))

    def _take(self, grant: LeaseGrant) -> None:
        self.waiting_for = grant.waiting_for
        known = set(self.ids)
        # an answer that got lost is given again: what is known already is not taken twice
        self._waiting.extend(lease for lease in grant.leases if lease.lease_id not in known)
        if self._waiting:
            self._arrived.set()

    async def _change(self, seconds: float | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass


def _sendable(reason: str) -> str:
    """As much of a text as a message takes; what no encoding takes is replaced: half a character of a policy's text."""
    return reason[:REASON_CHARACTERS].encode(errors="replace").decode()
