"""A run in memory and in virtual time: real workers with their spools, the real gateway with its ledger, a trainer.

    play(plan): each phase sets the fates of messages, lets one thing happen, and lasts a while
    then the network is whole and nobody dies: all that is spooled must be acknowledged, and the run must go on

Who ends is started again, as a machine's supervisor would. What must hold at any time is checked after each phase.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from gateway_builders import make_keys, make_run, the_books
from light_actor import LightWorlds, light_parts
from memory_link import HARMLESS, Fate, Network, in_memory, life
from structlog.testing import capture_logs
from twin_trainer import TrainerSocket, TwinTrainer
from virtual_time import virtual_time

import actor.worker
from actor.config import ActorConfig, WorldConfig
from actor.outbox import Outbox
from common.config import LinkConfig, RunConfig
from common.errors import RunError
from common.link import ActorLink
from common.messages import Ack, LeaseReturn
from common.prompt_config import PromptConfig
from learner.gateway.ledger import open_database
from learner.gateway.reception import Reception
from learner.gateway.service import Gateway

ACTORS = ("actor-0", "actor-1")
EVENTS = ("none", "cut", "silence", "whole", "kill_actor", "kill_gateway", "kill_trainer")
LIGHT = {"seed": 1, "turn_tokens": 4, "episode_seconds": 2.0}
SETTINGS = {"steps": 1000, "groups_per_step": 1, "group_size": 3, "staleness_bound": 3, "lease_seconds": 6.0}
PORT, FILES_PORT = 1, 2
LONGEST_RECOVERY = 240.0  # seconds: a back-off may have reached 32 s on either side of a lapse


class Killed(Exception):  # noqa: N818 - it names what happened
    """The gateway's process ends here, between two instructions."""


@dataclass(frozen=True)
class Phase:
    """Fates of messages in each direction, what happens at the beginning, and how long it lasts, seconds."""

    up: tuple[Fate, ...] = ()
    down: tuple[Fate, ...] = ()
    event: str = "none"
    amount: float = 0.0
    seconds: float = 5.0


class Guardless:
    """Bounds of memory and connections need a kernel's sockets: here there are none."""

    count = cuts = 0

    def heard(self, _frames):
        return True

    def said(self, *_frames):
        pass

    def alive(self):
        pass


class Twin:
    """One run. `damage` may replace a part of the gateway's by a worse one, for the controls."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, damage=None) -> None:
        self.folder, self.loop, self._damage = folder, loop, damage
        self.network = Network()
        self.escaped: list[str] = []  # exceptions that should not have been
        self.link = LinkConfig(
            port=PORT, files_port=FILES_PORT, keys=folder / "keys", heartbeat_seconds=1.0, silence_intervals=3
        )
        self.spooled: set[str] = set()
        self.acknowledged: set[str] = set()  # with `ok`, as the actors heard it
        self.answered: set[str] = set()  # whatever the ack said
        self.trainer = TwinTrainer(folder / "run", self.escaped)
        self.gateway_kills = 0
        self.misled: list[str] = []  # actors that ended because of a spoiled message, and why
        self.gateway: Gateway | None = None
        self._counted_before = 0  # unreadable frames, by gateways that were killed
        self._workers: list[actor.worker.Worker] = []
        self._lives: dict[str, tuple[str, asyncio.Task]] = {}
        self._commits_left: tuple[int, str] | None = None
        loop.set_exception_handler(lambda _loop, context: self.escaped.append(str(context)))

    # --- the gateway

    async def keep_gateway(self) -> None:
        while True:
            run = make_run(self.folder / "run", now=self.loop.time(), **SETTINGS)
            if self._damage is not None:
                self._damage(run)
            run.commit = self._killing(run.commit)
            far = [self.network.bind(port) for port in (PORT, FILES_PORT)]
            self.trainer.socket = TrainerSocket()
            ports = {"actors": far[0], "files": far[1], "trainer": self.trainer.socket}
            ports |= {"port": PORT, "files_port": FILES_PORT, "listed": None, "guard": Guardless()}
            ports["gate"] = self.loop.create_task(asyncio.Event().wait())
            self.gateway = Gateway(run, self.link, SimpleNamespace(**ports))
            try:
                await self.gateway.serve()
                self.escaped.append("the gateway ended")
            except Killed:
                self.gateway_kills += 1
            finally:
                self.gateway._blobs.close()  # as the end of a process does
                self._counted_before, self.gateway = self.counted(), None
                with suppress(sqlite3.Error):
                    run.ledger._database.rollback()
                run.close()
                for port in (PORT, FILES_PORT):
                    self.network.unbind(port)
            await asyncio.sleep(0.7)

    def counted(self) -> int:
        """Unreadable frames that gateways counted."""
        return self._counted_before + (self.gateway.reception.quarantine.count if self.gateway else 0)

    def kill_gateway(self, amount: float) -> None:
        """At one of the next commits: before it, or after it and before anybody is told."""
        self._commits_left = (int(amount * 8), "before" if int(amount * 16) % 2 else "after")

    def _killing(self, commit):
        def killing_commit() -> None:
            left, when = self._commits_left or (1, "")
            if self._commits_left and not left and when == "before":
                self._commits_left = None
                raise Killed
            commit()
            if self._commits_left and not left:
                self._commits_left = None
                raise Killed
            self._commits_left = (left - 1, when) if self._commits_left else None

        return killing_commit

    # --- the actors

    async def keep_actor(self, name: str) -> None:
        config = ActorConfig(name=name, folder=self.folder / name, episodes=3, drain_seconds=0.0, flush_seconds=1.0)
        while True:
            worker = actor.worker.Worker(
                RunConfig(folder=self.folder), self.link, WorldConfig(), config, PromptConfig(), provider=LightWorlds
            )
            self._workers.append(worker)
            worker._instance = f"{name}-{self.loop.time():.3f}"  # drawn by chance otherwise
            life.set(worker._instance)
            task = self.loop.create_task(worker.run())
            self._lives[name] = (worker._instance, task)
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                self._judge_end(name, error)
            await asyncio.sleep(1.0)

    def kill_actor(self, name: str) -> None:
        """It says nothing more; what is on its disk stays."""
        killed, task = self._lives[name]
        self.network.kill(killed)
        task.cancel()

    def _judge_end(self, name: str, error: BaseException) -> None:
        """A message that was changed on its way and is still one may mislead an actor; without that it never ends."""
        causes = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
        spoiled = any(count and kind not in HARMLESS for kind, count in self.network.seen.items())
        if not spoiled or not all(isinstance(cause, RunError) for cause in causes):
            self.escaped.append(f"{name}: {error!r}")
        self.misled.append(repr(causes))

    # --- what happens, and what must hold

    async def play(self, plan: Sequence[Phase]) -> None:
        """The plan, then the recovery. Nothing that was begun here outlives it."""
        keepers = [self.keep_gateway(), self.trainer.keep(), *map(self.keep_actor, ACTORS)]
        tasks = [self.loop.create_task(self._kept(keeper)) for keeper in keepers]
        try:
            await asyncio.sleep(1.0)
            for phase in plan:
                self._begin(phase)
                await asyncio.sleep(phase.seconds)
                self.check()
            self.network.heal()
            await self._recover()
            self.check()
            # a gateway that was killed had not read everything
            came, counted = self.network.seen["unreadable up"], self.counted()
            assert counted <= came if self.gateway_kills else counted == came, f"{counted} of {came} counted"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for name in ACTORS:
                self.kill_actor(name)
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for worker in self._workers:  # who was cancelled amid its leaving did not come to this
                worker._link._context.destroy(linger=0)
                worker._files._context.destroy(linger=0)

    async def _kept(self, keeper) -> None:
        try:
            await keeper
        except Exception as error:
            self.escaped.append(repr(error))
            raise

    def _begin(self, phase: Phase) -> None:
        self.network.fates = {"up": list(phase.up), "down": list(phase.down)}
        match phase.event:
            case "cut":
                self.network.cut_all()
            case "silence":
                self.network.silent = True
            case "whole":
                self.network.heal()
            case "kill_actor":
                self.kill_actor(ACTORS[int(phase.amount * 2) % 2])
            case "kill_gateway":
                self.kill_gateway(phase.amount)
            case "kill_trainer":
                self.trainer.kill()

    async def _recover(self) -> None:
        """What is spooled is acknowledged and steps are made, without a hand from outside."""
        wanted, deadline = len(self.trainer.steps) + 3, self.loop.time() + LONGEST_RECOVERY
        waited_for = set(self.waiting_in_spools())
        while len(self.trainer.steps) < wanted or self.trainer.unsaid or waited_for:
            await asyncio.sleep(1.0)
            waited_for &= set(self.waiting_in_spools())
            where = f"step {len(self.trainer.steps)} of {wanted}, without an ack {waited_for}"
            assert self.loop.time() < deadline, f"the run does not go on: {where}; {self.escaped}"

    def waiting_in_spools(self) -> list[str]:
        found = []
        for file in self.folder.glob("*/spool.sqlite"):
            with sqlite3.connect(file) as database:
                found += [row[0] for row in database.execute("SELECT trajectory_id FROM spool")]
            database.close()
        return found

    def check(self) -> None:
        """What holds at any time."""
        assert not self.escaped, self.escaped
        books = the_books(self.folder / "run")
        assert books.balanced, books
        database = open_database(self.folder / "run" / "ledger.sqlite", read_only=True)
        held = {row[0] for row in database.execute("SELECT trajectory_id FROM trajectories")}
        settled = {row[0] for row in database.execute("SELECT lease_id FROM leases WHERE state = 'trained'")}
        database.close()
        assert self.acknowledged <= held, f"acknowledged and lost: {self.acknowledged - held}"
        counts = Counter(lease_id for step in self.trainer.steps for lease_id in step)
        twice = [lease_id for lease_id, count in counts.items() if count > 1]
        assert not twice, f"trained twice: {twice}"
        assert set(counts) <= held
        unsaid = set(self.trainer.steps[-1]) if self.trainer.unsaid else set()
        assert set(counts) - unsaid <= settled <= set(counts)
        gone = self.spooled - set(self.waiting_in_spools())
        assert gone <= self.answered, f"left the spool without an ack: {gone - self.answered}"


def play(plan: Sequence[Phase], damage=None) -> Twin:
    """The whole run of a plan, in a folder of its own, which is gone afterwards."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="twin-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        make_keys(folder / "keys", *ACTORS)
        with virtual_time() as loop, ExitStack() as stack:
            twin = Twin(folder, loop, damage)
            logs = stack.enter_context(capture_logs())
            stack.enter_context(in_memory(twin.network))
            for replacement in _replacements(twin, loop):
                stack.enter_context(replacement)
            loop.run_until_complete(twin.play(plan))
            twin.logs = logs
        return twin
    finally:
        shutil.rmtree(folder)


def _replacements(twin: Twin, loop: asyncio.AbstractEventLoop):
    """Light parts for engine and worlds; what actors saw is noted; nothing is left to chance or to the clock."""

    class SeenLink(ActorLink):
        async def request(self, message):
            answer = await super().request(message)
            if isinstance(answer, Ack):
                twin.answered.add(answer.trajectory_id)
                if answer.outcome == "ok" and not isinstance(message, LeaseReturn):
                    twin.acknowledged.add(answer.trajectory_id)
            return answer

    class SeenOutbox(Outbox):
        async def add(self, trajectory):
            await super().add(trajectory)
            twin.spooled.add(trajectory.trajectory_id)

    parts = light_parts(SeenLink, SeenOutbox)
    yield from (patch.object(actor.worker, name, part) for name, part in parts.items())
    yield patch.dict(os.environ, {"LIGHT": json.dumps(LIGHT)})
    yield patch.dict(Reception.__init__.__kwdefaults__, {"clock": loop.time})
    yield patch("learner.gateway.run_state._new_run_id", lambda _folder: "run-1")
    yield patch("random.SystemRandom", lambda: SimpleNamespace(uniform=lambda low, high: (low + high) / 2))
