"""Stages 1 to 4, wired for one lease: rolled out and spooled, or returned. One failure costs one lease.

    lease ─► world ─► its minimum version ─► slot ─► episode ─► trajectory ─► spool
                                       └─ what went wrong, by class ─┐
        WorldFailure, RequestFailure, ValueError    the lease is returned, never graded
        any other Exception: a defect of ours       the same, with its traceback in the log
        EngineFailure                               raised: the engine is started again, all its leases are returned
        RunError, UsageError                        raised: they are of the actor, which ends with that line

An actor whose every episode fails would take leases away from those that can fulfil them: it ends, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from actor.engine import EngineFailure, RequestFailure
from actor.episode import Episode, run_episode
from actor.lease import Leases
from actor.outbox import Outbox
from actor.policy import Policy
from actor.slots import Slots
from actor.tally import Tally
from actor.trajectory import trajectory_of
from actor.world_protocol import WorldFailure, Worlds
from common.errors import RunError, UsageError
from common.log import about, get_logger
from common.messages import Lease
from common.prompt import Prompt

log = get_logger(__name__)
FAILED_ROUNDS = 4  # as many episodes as there are slots, so many times, fail in a row: then something else is wrong
LEAST_FAILURES = 16  # fewer in a row end no actor, however few slots it has


@dataclass
class FailedInARow:
    """Episodes that failed since the last one that did not; lives as long as the actor."""

    slots: int
    count: int = 0

    def one_more(self, error: Exception) -> None:
        """Raises RunError when it is one too many."""
        self.count += 1
        if self.count >= max(LEAST_FAILURES, FAILED_ROUNDS * self.slots):
            raise RunError(
                f"{self.count} episodes in a row failed, last: {type(error).__name__}: {error}; the log has all of them"
            )


@dataclass(frozen=True)
class Fulfilment:
    """What leases are fulfilled with, as long as one engine lives."""

    name: str  # the actor's
    leases: Leases
    outbox: Outbox
    policy: Policy
    worlds: Worlds
    prompt: Prompt
    slots: Slots
    at_least: Callable[[int], Awaitable[None]]  # waits until the policy samples with a version or a newer one
    unwanted: Collection[str]  # leases that the learner cancelled
    failed: FailedInARow
    on_finished: Callable[[], None]
    tally: Tally

    async def fulfil(self, lease: Lease) -> None:
        """A trajectory in the spool, or the lease returned.

        Raises:
            EngineFailure: the engine is dead or stuck; the lease is held still.
            RunError: this actor cannot go on.
        """
        with about(lease=lease.lease_id, group=lease.group_id, task=lease.task_id):
            await self._fulfil(lease)

    async def _fulfil(self, lease: Lease) -> None:
        begun: list[Episode] = []
        try:
            episode = await run_episode(
                lease,
                self.policy,
                self.worlds,
                self.prompt,
                self.policy.context_tokens,
                on_begin=begun.append,
                slot=partial(self._slot, lease),
            )
            await self.outbox.add(trajectory_of(episode, self.name))
        except asyncio.CancelledError:
            await self._end_cancelled(lease, begun)
            raise
        except (EngineFailure, RunError, UsageError):
            self.tally.ended("interrupted")
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this episode's alone
            await self._give_back(lease, error)
            return
        self.failed.count = 0
        self.on_finished()
        self.tally.finished(episode)
        log.info(
            "episode_finished",
            lease=lease.lease_id,
            group=lease.group_id,
            trajectory=lease.lease_id,
            task=lease.task_id,
            policy_version=max((version for turn in episode.turns for version in turn.versions), default=-1),
            reward=episode.reward,
            turns=len(episode.turns),
            tokens=len(episode.ids),
            tags=episode.tags,
            seconds=round(episode.seconds, 3),
            engine_seconds=round(episode.engine_seconds, 3),
            world_seconds=round(episode.world_seconds, 3),
        )
        self.leases.done(lease)

    @asynccontextmanager
    async def _slot(self, lease: Lease) -> AsyncIterator[None]:
        """An episode's place among those that sample, once the policy is what its lease asks for."""
        await self.at_least(lease.minimum_version)
        async with self.slots.one():
            named = {"lease": lease.lease_id, "group": lease.group_id, "task": lease.task_id}
            log.debug("episode_began", **named, policy_version=self.policy.version)
            yield

    async def _end_cancelled(self, lease: Lease, begun: list[Episode]) -> None:
        unwanted = lease.lease_id in self.unwanted
        self.tally.ended("cancelled" if unwanted else "interrupted")
        if lease.lease_id in self.outbox.ids:
            self.leases.done(lease)
        elif unwanted:
            await self.leases.cancelled(lease, sum(len(episode.ids) for episode in begun))

    async def _give_back(self, lease: Lease, error: Exception) -> None:
        self.tally.ended("failed")
        known = isinstance(error, WorldFailure | RequestFailure | ValueError)
        reason = f"{type(error).__name__}: {error}"
        log.warning(
            "episode_failed",
            lease=lease.lease_id,
            task=lease.task_id,
            reason=reason,
            **({} if known else {"exc_info": error}),
        )
        await self.leases.give_back(lease, reason)
        self.failed.one_more(error)
