"""A run at any scale on a simulated clock: the learner's real admission and the actor's real leases, nothing else real.

    Leases (actor) ── LeaseRequest ──► LeaseBook.grant            real: who gets which lease, and what waits for what
    Episode on a simulated Engine ──► Inbox.receive ─► LeaseBook  real: staleness, duplicates, groups
    simulated trainer ── take / consume ──► LeaseBook             real: straggler rule, order of groups
    heartbeats ── LeaseBook.renew ──► cancelled episodes          real: what is no longer wanted

A step takes the trainer `train_seconds`, publishing included; then every actor has the version's files after
`fetch_seconds`, during which it samples on, and its engine pauses for `pause_seconds` to swap (in flight: episodes go
on). As in an actor, an episode begins when the engine has the version that its lease asks for. What a ledger would keep
is kept in memory and proves that the books balance.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from simulated_engines import Engine, Episode, Speed, Workload
from virtual_time import virtual_time

import actor.lease
from actor.lease import Leases
from common.messages import Ack, LeaseGrant, LeaseRequest, LeaseReturn
from learner.gateway.draw import RolloutConfig, TaskDraw
from learner.gateway.inbox import Inbox
from learner.gateway.leases import LeaseBook
from learner.gateway.records import STRAGGLER

TASKS = tuple(f"task_{number}" for number in range(72))  # as many as the paper trains on
HEARTBEAT_SECONDS = 2.0
ASK_AGAIN_SECONDS = 5.0  # news of a version or of an own trajectory asks at once anyway; less only costs computing


@dataclass(frozen=True)
class Schedule:
    """One run. The defaults are the paper's step of 40 x 6 and its straggler rule."""

    engines: int = 4
    staleness_bound: int = 1
    straggler_share: float = 0.9
    groups_per_step: int = 40
    group_size: int = 6
    train_seconds: float = 300.0
    fetch_seconds: float = 5.0
    pause_seconds: float = 1.0
    steps: int = 16  # measured
    warm_up: int = 8  # steps before
    speed: Speed = field(default_factory=Speed)
    workload: Workload = field(default_factory=Workload)

    @property
    def engines_alone(self):
        """The same engines and work where nobody waits for anything: nothing bounds what is out, training is free."""
        free = {"train_seconds": 0.0, "fetch_seconds": 0.0, "pause_seconds": 0.0}
        return replace(self, staleness_bound=1_000_000, straggler_share=1.0, **free)


class MemoryLedger:
    """In the ledger's place: what became of each lease."""

    def __init__(self):
        self.states = {}  # by lease: state and reason
        self.lengths = {}  # tokens of each trajectory
        self.cut = {}  # tokens of stragglers, by lease
        self.version = 0

    def highest_version_ever(self):
        return self.version

    def journal(self, trajectory, _frame):
        self.lengths[trajectory.trajectory_id] = len(trajectory.sampled_bytes)

    def tell(self, *_told):
        pass

    def note_straggler(self, lease_id, _actor, tokens):
        if self.states[lease_id] == ("dropped", STRAGGLER):
            self.cut[lease_id] = tokens
            return True
        return False

    def lease_state(self, lease_id):
        return self.states.get(lease_id)

    def has_arrived(self, lease_id):
        return lease_id in self.lengths

    def save(self, _groups, leases):
        for record in leases:
            self.states[record.lease_id] = (record.state, record.reason)


@dataclass(frozen=True)
class Step:
    """A step that was published: when, after how long a wait, on what; and sums since the beginning."""

    at: float
    waited: float  # seconds that the trainer had no groups
    trajectories: int
    tokens_by_lag: Counter
    trajectories_by_lag: Counter  # of their oldest tokens
    tokens: float  # sampled since the beginning
    slot_seconds: float  # with an episode under way since the beginning


class Run:
    """The state of one simulated run."""

    def __init__(self, schedule):
        self.schedule = schedule
        config = RolloutConfig(
            steps=1_000_000,  # a run's last steps admit less; this is about its middle
            groups_per_step=schedule.groups_per_step,
            group_size=schedule.group_size,
            staleness_bound=schedule.staleness_bound,
            straggler_share=schedule.straggler_share,
            lease_seconds=60.0,
            train_tasks=Path("train.txt"),
        )
        self.loop = asyncio.get_running_loop()
        self.book = LeaseBook(config, TaskDraw(TASKS, schedule.workload.seed, config))
        self.book.policy_version, self.book.training = 0, True
        self.ledger = MemoryLedger()
        self.inbox = Inbox(self.book, self.ledger)
        self.arrived = asyncio.Event()
        self.actors = [SimulatedActor(self, f"actor-{number}") for number in range(schedule.engines)]
        self.steps = []
        self.episodes = {}  # finished and not trained on, by lease

    def keep(self):
        """What a commit does."""
        self.ledger.save(*self.book.take_changes())

    async def train(self):
        """Step by step: take groups, train, publish."""
        schedule = self.schedule
        for step in range(1, schedule.warm_up + schedule.steps + 1):
            since = self.loop.time()
            while isinstance(groups := self.book.take(step), str):
                self.keep()
                self.arrived.clear()
                await self.arrived.wait()
            self.keep()
            began = self.loop.time()
            await asyncio.sleep(schedule.train_seconds)
            records = [record for group in groups for record in group.survivors]
            self.book.consume(step, [record.lease_id for record in records], {})
            self.book.policy_version = self.book.steps = self.ledger.version = step
            self.keep()
            self.steps.append(self._step(step, began - since, records))
            for one in self.actors:
                one.heard(step)

    def _step(self, step, waited, records):
        by_lag = Counter()
        for record in records:
            for version, tokens in self.episodes.pop(record.lease_id).versions.items():
                by_lag[step - 1 - version] += tokens
        return Step(
            at=self.loop.time(),
            waited=waited,
            trajectories=len(records),
            tokens_by_lag=by_lag,
            trajectories_by_lag=Counter(step - 1 - record.oldest_version for record in records),
            tokens=sum(one.engine.sampled_by_now() for one in self.actors),
            slot_seconds=sum(one.slot_seconds() for one in self.actors),
        )


class SimulatedActor:
    """Real leases, a simulated engine."""

    def __init__(self, run, name):
        self._run, self.name = run, name
        slots = run.schedule.speed.slots
        self._leases = Leases(slots, self._request)
        self.engine = Engine(run.schedule.speed, 0)
        self._episodes = {}
        self._newest = 0
        self._reloaded = asyncio.Event()
        self._news = asyncio.Event()
        self._running, self._since = 0.0, run.loop.time()

    def slot_seconds(self):
        """Seconds of slots in which an episode was under way, so far."""
        now = self._run.loop.time()
        self._running += (now - self._since) * len(self._episodes)
        self._since = now
        return self._running

    async def live(self):
        """All that an actor does at a time."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._leases.ask(lambda: ""))
            group.create_task(self._reload())
            group.create_task(self._heartbeats())
            while True:
                self._begin(await self._leases.next(), group)

    def heard(self, version):
        """An announcement."""
        self._newest = version
        self._news.set()
        self._leases.news()

    def _begin(self, lease, group):
        if lease.minimum_version <= self.engine.version:
            self._start(lease)
        else:
            group.create_task(self._begin_later(lease))

    async def _begin_later(self, lease):
        while self.engine.version < lease.minimum_version:
            self._reloaded.clear()
            await self._reloaded.wait()
        self._start(lease)

    def _start(self, lease):
        self.slot_seconds()
        self._episodes[lease.lease_id] = Episode(lease, self.engine, self._run.schedule.workload, self._finished)

    async def _reload(self):
        while True:
            while self._newest == self.engine.version:
                self._news.clear()
                await self._news.wait()
            version = self._newest
            await asyncio.sleep(self._run.schedule.fetch_seconds)
            await self.engine.swap(version, self._run.schedule.pause_seconds)
            self._reloaded.set()

    async def _heartbeats(self):
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            unwanted = set(self._run.book.renew(self.name, self._leases.ids, self._run.loop.time()))
            self._leases.drop_waiting(unwanted)
            for lease_id in sorted(unwanted & self._episodes.keys()):
                self.slot_seconds()
                episode = self._episodes.pop(lease_id)
                episode.cancel()
                await self._leases.cancelled(episode.lease, episode.tokens)

    def _finished(self, episode):
        self.slot_seconds()
        lease = episode.lease
        del self._episodes[lease.lease_id]
        versions = sorted(episode.versions)
        self._run.episodes[lease.lease_id] = episode
        trajectory = SimpleNamespace(
            trajectory_id=lease.lease_id,
            lease=lease,
            actor=self.name,
            versions=np.array(versions),
            oldest_version=versions[0],
            reward=episode.reward,
            sampled_bytes=bytes(episode.tokens),
        )
        self._run.inbox.receive(self.name, trajectory, b"")
        self._run.keep()
        self._run.arrived.set()
        self._leases.done(lease)

    async def _request(self, message):
        book, now = self._run.book, self._run.loop.time()
        if isinstance(message, LeaseRequest):
            leases, waiting_for = book.grant(self.name, message.count, now)
            self._run.keep()
            return LeaseGrant(leases=tuple(leases), waiting_for=waiting_for)
        assert isinstance(message, LeaseReturn), message
        verdict = self._run.inbox.give_back(
            self.name, message.lease_id, message.reason, failure=message.failure, tokens=message.tokens
        )
        self._run.keep()
        words = {"policy_version": book.policy_version, "manifest_digest": "", "credit_bytes": 1 << 30}
        return Ack(trajectory_id=message.lease_id, outcome=verdict.outcome, reason=verdict.reason, **words)


async def _play(schedule):
    run = Run(schedule)
    actors = [asyncio.create_task(one.live()) for one in run.actors]
    trainer = asyncio.create_task(run.train())
    await asyncio.wait([trainer, *actors], return_when=asyncio.FIRST_COMPLETED)
    for task in (trainer, *actors):
        task.cancel()
    for ended in await asyncio.gather(trainer, *actors, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    return run


def simulated(schedule):
    """The run of a schedule, played to its end."""
    with virtual_time() as loop, patch.object(actor.lease, "ASK_AGAIN_SECONDS", ASK_AGAIN_SECONDS):
        return loop.run_until_complete(_play(schedule))
