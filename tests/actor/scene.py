"""The parts that a worker talks to, scripted: what they do is the test's, what they saw of the actor is kept."""

import asyncio
from contextlib import asynccontextmanager

from scripted import STOP, TASK, CharacterPrompt, letters, make_lease, turn

import actor.worker
from actor.config import ActorConfig, WorldConfig
from actor.probe import Score
from actor.world.client import Observation
from actor.world.grader import Verdict
from actor.world_protocol import UnusableTask
from common.checkpoint import Manifest, Probe
from common.config import LinkConfig, RunConfig
from common.messages import (
    Ack,
    HeartbeatReply,
    LeaseGrant,
    LeaseRequest,
    LeaseReturn,
    TaskIdsRequest,
    Trajectory,
    Welcome,
)
from common.prompt_config import PromptConfig
from common.task_ids import TaskList
from common.wire import decode

DIGEST = "ab" * 32


class Scene:
    """What the scripted parts do, and what was seen of the actor."""

    def __init__(self, leases=()):
        self.leases = list(leases)
        self.seen = []
        self.finished = False
        self.cancelled = ()
        self.engine_starts = 0
        self.on_start = self.on_generate = self.on_execute = self.on_worlds = self.on_check = None
        self.on_open = self.on_grade = self.answer_later = None
        self.says = lambda _ids: turn(*letters("x"), STOP)
        self.task_list = TaskList(["pay_1", "pay_2"])
        self.checked = []
        self.unusable = set()
        self.silent_seconds = 0.0

    def of(self, kind):
        return [message for message in self.seen if isinstance(message, kind)]

    def answer(self, message):
        self.seen.append(message)
        if isinstance(message, TaskIdsRequest):
            return self.task_list.page(message.begin)
        if isinstance(message, LeaseRequest):
            granted, self.leases = self.leases[: message.count], self.leases[message.count :]
            return LeaseGrant(leases=tuple(granted), waiting_for="" if granted else "nothing left")
        if isinstance(message, Trajectory | LeaseReturn):
            name = message.trajectory_id if isinstance(message, Trajectory) else message.lease_id
            return Ack(trajectory_id=name, outcome="ok", policy_version=0, manifest_digest=DIGEST, credit_bytes=1 << 20)
        return HeartbeatReply(
            policy_version=0,
            manifest_digest=DIGEST,
            cancelled=self.cancelled,
            finished=self.finished,
            credit_bytes=1 << 20,
        )


class Scripted:
    """A part of the worker's; `scene` is the test's."""

    scene: Scene


class Link(Scripted):
    def __init__(self, config, keys, hello):
        self.hello = hello

    @property
    def silent_seconds(self):
        return self.scene.silent_seconds

    async def connect(self):
        self.scene.seen.append(self.hello())
        return self.welcome

    @property
    def welcome(self):
        return Welcome(
            run_id="run",
            policy_version=0,
            manifest_digest=DIGEST,
            heartbeat_seconds=0.01,
            credit_bytes=1 << 20,
            tasks_digest=self.scene.task_list.digest,
        )

    async def request(self, message):
        await asyncio.sleep(0)
        message = decode(message) if isinstance(message, bytes) else message
        return await self.scene.answer_later(message) if self.scene.answer_later else self.scene.answer(message)

    async def announcements(self):
        await asyncio.Event().wait()
        yield

    async def close(self):
        pass


class Files(Scripted):
    def __init__(self, config, keys):
        pass

    async def close(self):
        pass


class Engine:
    @staticmethod
    async def prepare(config):
        pass


class Policy(Scripted):
    context_tokens = 1000

    def __init__(self):
        self.version, self.sampled_tokens = -1, 0

    @classmethod
    async def start(cls, *arguments, **more):
        cls.scene.engine_starts += 1
        if cls.scene.on_start:
            await cls.scene.on_start()
        return cls()

    @asynccontextmanager
    async def episode(self):
        yield None

    async def generate(self, ids, **how):
        if self.scene.on_generate:
            await self.scene.on_generate()
        return self.scene.says(ids)

    async def score(self, ids, version):
        return [Score([-1.0])]

    async def use(self, version):
        self.version = version

    def stop(self):
        pass


class Worlds(Scripted):
    task = TASK
    waiting_for = ""

    def __init__(self, scene):
        self.scene = scene

    def check(self, task_ids):
        self.scene.checked.append(list(task_ids))
        if self.scene.on_check:
            self.scene.on_check(task_ids)

    async def start(self):
        if self.scene.on_worlds:
            await self.scene.on_worlds()

    async def open(self, task_id):
        if task_id in self.scene.unusable:
            raise UnusableTask(f"there is no task {task_id}")
        if self.scene.on_open:
            await self.scene.on_open()
        return self

    async def execute(self, code):
        if self.scene.on_execute:
            await self.scene.on_execute()
        return Observation("done", failed=False, completed=True)

    async def grade(self):
        if self.scene.on_grade:
            await self.scene.on_grade()
        return Verdict(1.0, True, ("paid",), ())

    async def close(self):
        pass


class Prompt(Scripted, CharacterPrompt):
    stop_ids = (STOP,)

    @classmethod
    def load(cls, folder, config):
        return cls()


def put_in_place(monkeypatch, tmp_path):
    """Scripted parts in the place of the worker's own."""
    scene = Scene()

    async def fetch(self, version, digest=""):
        self._digests[version] = DIGEST
        probe = Probe(tokens=(1, 2), log_probs=(-1.0,))
        return tmp_path, Manifest(run_id="run", policy_version=version, kind="full", step=0, files={}, probe=probe)

    for name, part in (
        ("ActorLink", Link),
        ("FileLink", Files),
        ("Engine", Engine),
        ("Policy", Policy),
        ("Prompt", Prompt),
    ):
        monkeypatch.setattr(actor.worker, name, type(name, (part,), {"scene": scene}))
    monkeypatch.setattr(actor.worker.Versions, "fetch", fetch)
    monkeypatch.setattr(actor.worker, "actor_keys", lambda *_: tmp_path)
    return scene


def make_worker(scene, tmp_path, episodes=4, provider=None, **settings):
    settings = {"drain_seconds": 0.0, "flush_seconds": 1.0, **settings}
    config = ActorConfig(episodes=episodes, folder=tmp_path / "actor", **settings)
    return actor.worker.Worker(
        RunConfig(folder=tmp_path),
        LinkConfig(),
        WorldConfig(),
        config,
        PromptConfig(),
        provider=provider or (lambda _: Worlds(scene)),
    )


def live(worker, until=lambda: False, reason="signal"):
    """Run until the actor leaves by itself or `until` holds; then stop it."""

    async def main():
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(20):
            while not running.done() and not until():  # noqa: ASYNC110 - what is waited for are plain lists
                await asyncio.sleep(0.001)
            if not running.done():
                worker.stop(reason)
            await running

    asyncio.run(main())


def failing_once(error):
    """What a part does when it fails at its first call alone."""
    failures = [error]

    async def fail_once():
        if failures:
            raise failures.pop()

    return fail_once


def many(count):
    return [make_lease(f"g1.{member}.0") for member in range(count)]
