"""An actor's life against a scripted learner, engine and worlds: what it says, when it leaves, what failures cost."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from scripted import STOP, TASK, CharacterPrompt, letters, make_lease, turn

import actor.worker
from actor.config import ActorConfig, WorldConfig
from actor.policy import EngineFailure
from actor.world.client import Observation
from actor.world.grader import Verdict, WorldFailure
from common.checkpoint import Manifest, Probe
from common.config import LinkConfig, RunConfig
from common.errors import RunError, UsageError
from common.messages import (
    Ack,
    Goodbye,
    Heartbeat,
    HeartbeatReply,
    Hello,
    LeaseGrant,
    LeaseRequest,
    LeaseReturn,
    ReloadReport,
    Trajectory,
    Welcome,
)
from common.prompt_config import PromptConfig
from common.run_lock import only_one
from common.wire import decode, encode

DIGEST = "ab" * 32


class Scene:
    """What the scripted parts do, and what was seen of the actor."""

    def __init__(self, leases=()):
        self.leases = list(leases)
        self.seen = []
        self.finished = False
        self.cancelled = ()
        self.engine_starts = 0
        self.on_generate = self.on_execute = self.on_worlds = None

    def of(self, kind):
        return [message for message in self.seen if isinstance(message, kind)]

    def answer(self, message):
        self.seen.append(message)
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

    async def connect(self):
        self.scene.seen.append(self.hello())
        return Welcome(
            run_id="run", policy_version=0, manifest_digest=DIGEST, heartbeat_seconds=0.01, credit_bytes=1 << 20
        )

    async def request(self, message):
        await asyncio.sleep(0)
        return self.scene.answer(decode(message) if isinstance(message, bytes) else message)

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


class Policy(Scripted):
    context_tokens = 1000

    def __init__(self):
        self.version, self.sampled_tokens = -1, 0

    @staticmethod
    async def prepare(config):
        pass

    @classmethod
    async def start(cls, *arguments, **more):
        cls.scene.engine_starts += 1
        return cls()

    @asynccontextmanager
    async def episode(self):
        yield None

    async def generate(self, ids, **how):
        if self.scene.on_generate:
            await self.scene.on_generate()
        return turn(*letters("x"), STOP)

    async def score(self, ids, version):
        return [-1.0]

    async def use(self, version):
        self.version = version

    def stop(self):
        pass


class Worlds(Scripted):
    task = TASK

    @classmethod
    async def start(cls, config, python, root):
        if cls.scene.on_worlds:
            await cls.scene.on_worlds()
        return cls()

    async def open(self, task_id):
        return self

    async def execute(self, code):
        if self.scene.on_execute:
            await self.scene.on_execute()
        return Observation("done", failed=False, completed=True)

    async def grade(self):
        return Verdict(1.0, True, ("paid",), ())

    async def close(self):
        pass


class Prompt(Scripted, CharacterPrompt):
    stop_ids = (STOP,)

    @classmethod
    def load(cls, folder, config):
        return cls()


@pytest.fixture
def scene(monkeypatch, tmp_path):
    """Scripted parts in the place of the worker's own."""
    scene = Scene()

    async def fetch(self, version, digest=""):
        self._digests[version] = DIGEST
        probe = Probe(tokens=(1, 2), log_probs=(-1.0,))
        return tmp_path, Manifest(run_id="run", policy_version=version, kind="full", step=0, files={}, probe=probe)

    for name, part in (
        ("ActorLink", Link),
        ("FileLink", Files),
        ("Policy", Policy),
        ("WorldHost", Worlds),
        ("Prompt", Prompt),
    ):
        monkeypatch.setattr(actor.worker, name, type(name, (part,), {"scene": scene}))
    monkeypatch.setattr(actor.worker.Versions, "fetch", fetch)
    for name in ("actor_keys", "appworld_python", "choose_root"):
        monkeypatch.setattr(actor.worker, name, lambda *_: tmp_path)
    return scene


def make_worker(tmp_path, episodes=4, **settings):
    config = ActorConfig(episodes=episodes, folder=tmp_path / "actor", drain_seconds=0.0, flush_seconds=1.0, **settings)
    return actor.worker.Worker(RunConfig(folder=tmp_path), LinkConfig(), WorldConfig(), config, PromptConfig())


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


def many(count):
    return [make_lease(f"g1.{member}.0") for member in range(count)]


def test_leases_become_trajectories(scene, tmp_path):
    scene.leases = many(10)
    live(make_worker(tmp_path), lambda: len(scene.of(Trajectory)) == 10)
    assert {t.trajectory_id for t in scene.of(Trajectory)} == {f"g1.{member}.0" for member in range(10)}
    assert {t.reward for t in scene.of(Trajectory)} == {1.0}
    assert scene.of(LeaseReturn) == []


def test_a_finished_run_is_left_politely(scene, tmp_path):
    scene.finished = True
    live(make_worker(tmp_path))
    assert [goodbye.reason for goodbye in scene.of(Goodbye)] == ["the run is finished"]
    assert scene.seen[-1] == scene.of(Goodbye)[0]


def test_hello_and_heartbeats_name_the_leases_held(scene, tmp_path):
    scene.leases = many(3)
    scene.on_generate = asyncio.Event().wait
    live(make_worker(tmp_path), lambda: any(len(beat.lease_ids) == 3 for beat in scene.of(Heartbeat)))
    assert scene.of(Hello)[0].lease_ids == ()
    assert scene.of(Hello)[0].slots == 4


def test_on_a_signal_leases_under_way_are_returned_and_nothing_is_graded(scene, tmp_path):
    scene.leases = many(3)
    scene.on_generate = asyncio.Event().wait
    live(make_worker(tmp_path), lambda: any(beat.episodes == 3 for beat in scene.of(Heartbeat)))
    assert {returned.lease_id for returned in scene.of(LeaseReturn)} == {f"g1.{member}.0" for member in range(3)}
    assert scene.of(Trajectory) == []
    assert len(scene.of(Goodbye)) == 1


def test_a_world_that_dies_costs_its_episode_alone_and_is_no_reward(scene, tmp_path):
    scene.leases = many(4)
    failures = [WorldFailure("the world broke down")]

    async def fail_once():
        if failures:
            raise failures.pop()

    scene.on_execute = fail_once
    live(make_worker(tmp_path), lambda: len(scene.of(Trajectory)) == 3)
    assert [returned.reason for returned in scene.of(LeaseReturn)] == ["WorldFailure: the world broke down"]


def test_a_trajectory_that_no_link_carries_costs_its_lease_alone(scene, tmp_path, monkeypatch):
    scene.leases = many(3)

    def limited(trajectory, **_):
        if trajectory.trajectory_id == "g1.1.0":
            raise ValueError("message of 70000000 bytes, allowed are 67108864")
        return encode(trajectory)

    monkeypatch.setattr("actor.outbox.encode", limited)
    live(make_worker(tmp_path), lambda: len(scene.of(Trajectory)) == 2)
    assert [(returned.lease_id, returned.reason) for returned in scene.of(LeaseReturn)] == [
        ("g1.1.0", "ValueError: message of 70000000 bytes, allowed are 67108864")
    ]


def test_an_engine_that_dies_is_started_again_and_its_leases_are_returned(scene, tmp_path):
    scene.leases = many(6)
    failures = [EngineFailure("the engine died")]

    async def fail_once():
        if failures:
            raise failures.pop()

    scene.on_generate = fail_once
    live(make_worker(tmp_path, episodes=2), lambda: len(scene.of(Trajectory)) >= 4)
    assert scene.engine_starts == 2
    assert all("the engine died" in returned.reason for returned in scene.of(LeaseReturn))
    names = [t.trajectory_id for t in scene.of(Trajectory)] + [r.lease_id for r in scene.of(LeaseReturn)]
    assert sorted(names) == sorted(lease.lease_id for lease in many(6))


def test_an_engine_that_dies_again_and_again_ends_the_actor(scene, tmp_path):
    scene.leases = many(20)

    async def fail():
        raise EngineFailure("the engine died")

    scene.on_generate = fail
    with pytest.raises(RunError, match="failed 4 times"):
        live(make_worker(tmp_path, episodes=2))
    assert scene.engine_starts == 4
    assert len(scene.of(Goodbye)) == 1


def test_an_episode_that_the_learner_cancels_ends_unsent_and_its_length_is_told(scene, tmp_path):
    scene.leases = many(2)
    scene.on_generate = asyncio.Event().wait
    worker = make_worker(tmp_path)

    def cancelled():
        if any(beat.episodes == 2 for beat in scene.of(Heartbeat)):
            scene.cancelled = ("g1.0.0",)
        return scene.of(Heartbeat)[-1:] and scene.of(Heartbeat)[-1].lease_ids == ("g1.1.0",)

    live(worker, cancelled)
    cut, returned = scene.of(LeaseReturn)
    assert (cut.lease_id, cut.tokens, cut.failure) == ("g1.0.0", 3, False)
    assert (returned.lease_id, returned.tokens) == ("g1.1.0", 0)
    assert scene.of(Trajectory) == []


def test_an_unusable_data_root_ends_the_actor_at_once_with_its_reason(scene, tmp_path):
    async def no_root():
        raise UsageError("x is not a data root")

    scene.on_worlds = no_root
    with pytest.raises(UsageError, match="x is not a data root"):
        live(make_worker(tmp_path))


def test_what_an_earlier_life_left_in_the_spool_is_sent_and_named(scene, tmp_path):
    scene.leases = many(2)
    answer = scene.answer

    def silent(message):
        if isinstance(message, Trajectory):
            raise RunError("the learner is away")
        return answer(message)

    scene.answer = silent
    with pytest.raises(RunError, match="the learner is away"):
        live(make_worker(tmp_path))
    scene.answer = answer
    scene.seen.clear()
    live(make_worker(tmp_path), lambda: len(scene.of(Trajectory)) >= 1)
    assert {t.trajectory_id for t in scene.of(Trajectory)} <= {"g1.0.0", "g1.1.0"}


def test_a_full_spool_stops_the_asking_and_says_so(scene, tmp_path, monkeypatch):
    scene.leases = many(3)
    monkeypatch.setattr(actor.worker.Outbox, "size", 2 << 20)
    worker = make_worker(tmp_path, spool_megabytes=1)
    live(worker, lambda: any("spool is full" in beat.waiting_for for beat in scene.of(Heartbeat)))
    assert scene.of(LeaseRequest) == []


def test_a_version_in_use_is_told_in_heartbeats(scene, tmp_path):
    live(make_worker(tmp_path), lambda: any(beat.policy_version == 0 for beat in scene.of(Heartbeat)))
    assert scene.of(ReloadReport) == []


def test_a_second_actor_in_the_folder_of_a_first_is_refused(scene, tmp_path, monkeypatch):
    """Its spool has one writer, also when the first was stopped and wakes up again."""
    monkeypatch.setattr("common.run_lock.PATIENCE", 0.0)
    config = ActorConfig(folder=tmp_path / "actor")

    async def second():
        await actor.worker.run_actor(RunConfig(folder=tmp_path), LinkConfig(), WorldConfig(), config, PromptConfig())

    with only_one(tmp_path / "actor" / "actor.lock"), pytest.raises(UsageError, match="another actor is at work"):
        asyncio.run(second())
    scene.finished = True
    asyncio.run(second())
    assert [goodbye.reason for goodbye in scene.of(Goodbye)] == ["the run is finished"]
