"""An actor's life against a scripted learner, engine and worlds: what it says, when it leaves, what failures cost."""

import asyncio

import pytest
from scene import Worlds, failing_once, live, make_worker, many

import actor.process
import actor.worker
from actor.config import ActorConfig, WorldConfig
from actor.engine import EngineFailure
from actor.world_protocol import WorldFailure
from common.config import LinkConfig, RunConfig
from common.errors import RunError, UsageError
from common.messages import (
    Goodbye,
    Heartbeat,
    Hello,
    LeaseRequest,
    LeaseReturn,
    ReloadReport,
    Trajectory,
)
from common.metrics_config import MetricsConfig
from common.prompt_config import PromptConfig
from common.run_lock import only_one
from common.wire import encode


def test_leases_become_trajectories(scene, tmp_path):
    scene.leases = many(10)
    live(make_worker(scene, tmp_path), lambda: len(scene.of(Trajectory)) == 10)
    assert {t.trajectory_id for t in scene.of(Trajectory)} == {f"g1.{member}.0" for member in range(10)}
    assert {t.reward for t in scene.of(Trajectory)} == {1.0}
    assert scene.of(LeaseReturn) == []


def test_a_finished_run_is_left_politely(scene, tmp_path):
    scene.finished = True
    live(make_worker(scene, tmp_path))
    assert [goodbye.reason for goodbye in scene.of(Goodbye)] == ["the run is finished"]
    assert scene.seen[-1] == scene.of(Goodbye)[0]


def test_hello_and_heartbeats_name_the_leases_held(scene, tmp_path):
    scene.leases = many(3)
    scene.on_generate = asyncio.Event().wait
    live(make_worker(scene, tmp_path), lambda: any(len(beat.lease_ids) == 3 for beat in scene.of(Heartbeat)))
    assert scene.of(Hello)[0].lease_ids == ()
    assert scene.of(Hello)[0].slots == 4


def test_on_a_signal_leases_under_way_are_returned_and_nothing_is_graded(scene, tmp_path):
    scene.leases = many(3)
    scene.on_generate = asyncio.Event().wait
    live(make_worker(scene, tmp_path), lambda: any(beat.episodes == 3 for beat in scene.of(Heartbeat)))
    assert {returned.lease_id for returned in scene.of(LeaseReturn)} == {f"g1.{member}.0" for member in range(3)}
    assert scene.of(Trajectory) == []
    assert len(scene.of(Goodbye)) == 1


def test_a_world_that_dies_costs_its_episode_alone_and_is_no_reward(scene, tmp_path):
    scene.leases = many(4)
    scene.on_execute = failing_once(WorldFailure("the world broke down"))
    live(make_worker(scene, tmp_path), lambda: len(scene.of(Trajectory)) == 3)
    assert [returned.reason for returned in scene.of(LeaseReturn)] == ["WorldFailure: the world broke down"]


def test_a_trajectory_that_no_link_carries_costs_its_lease_alone(scene, tmp_path, monkeypatch):
    scene.leases = many(3)

    def limited(trajectory, **_):
        if trajectory.trajectory_id == "g1.1.0":
            raise ValueError("message of 70000000 bytes, allowed are 67108864")
        return encode(trajectory)

    monkeypatch.setattr("actor.outbox.encode", limited)
    live(make_worker(scene, tmp_path), lambda: len(scene.of(Trajectory)) == 2)
    assert [(returned.lease_id, returned.reason) for returned in scene.of(LeaseReturn)] == [
        ("g1.1.0", "ValueError: message of 70000000 bytes, allowed are 67108864")
    ]


def test_an_engine_that_dies_is_started_again_and_its_leases_are_returned(scene, tmp_path):
    scene.leases = many(6)
    scene.on_generate = failing_once(EngineFailure("the engine died"))
    live(make_worker(scene, tmp_path, episodes=2), lambda: len(scene.of(Trajectory)) >= 4)
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
        live(make_worker(scene, tmp_path, episodes=2))
    assert scene.engine_starts == 4
    assert len(scene.of(Goodbye)) == 1


def test_an_episode_that_the_learner_cancels_ends_unsent_and_its_length_is_told(scene, tmp_path):
    scene.leases = many(2)
    scene.on_generate = asyncio.Event().wait
    worker = make_worker(scene, tmp_path)

    def cancelled():
        if any(beat.episodes == 2 for beat in scene.of(Heartbeat)):
            scene.cancelled = ("g1.0.0",)
        return scene.of(Heartbeat)[-1:] and scene.of(Heartbeat)[-1].lease_ids == ("g1.1.0",)

    live(worker, cancelled)
    cut, returned = scene.of(LeaseReturn)
    assert (cut.lease_id, cut.tokens, cut.failure) == ("g1.0.0", 3, False)
    assert (returned.lease_id, returned.tokens) == ("g1.1.0", 0)
    assert scene.of(Trajectory) == []


def test_a_cancellation_ends_an_episode_at_once_and_its_length_is_told_though_it_is_said_twice(scene, tmp_path):
    scene.leases = many(2)
    worker = make_worker(scene, tmp_path)
    begun, told = [], []

    async def stay():
        begun.append(True)
        await asyncio.Event().wait()

    scene.on_generate = stay

    def cut():
        if not told and len(begun) == 2:
            told.append(worker._leases.running)
            worker._link.on_cancelled(("g1.0.0", "unknown.0.0"))
            worker._link.on_cancelled(("g1.0.0",))
        return [answer.lease_id for answer in scene.of(LeaseReturn)] == ["g1.0.0"]

    live(worker, cut)
    cut, returned = scene.of(LeaseReturn)
    assert (cut.lease_id, cut.failure) == ("g1.0.0", False)
    assert returned.lease_id == "g1.1.0"
    assert scene.of(Trajectory) == []


def test_an_unusable_data_root_ends_the_actor_at_once_with_its_reason(scene, tmp_path):
    async def no_root():
        raise UsageError("x is not a data root")

    scene.on_worlds = no_root
    with pytest.raises(UsageError, match="x is not a data root"):
        live(make_worker(scene, tmp_path))


def test_what_an_earlier_life_left_in_the_spool_is_sent_and_named(scene, tmp_path):
    scene.leases = many(2)
    answer = scene.answer

    def silent(message):
        if isinstance(message, Trajectory):
            raise RunError("the learner is away")
        return answer(message)

    scene.answer = silent
    with pytest.raises(RunError, match="the learner is away"):
        live(make_worker(scene, tmp_path))
    scene.answer = answer
    scene.seen.clear()
    live(make_worker(scene, tmp_path), lambda: len(scene.of(Trajectory)) >= 1)
    assert {t.trajectory_id for t in scene.of(Trajectory)} <= {"g1.0.0", "g1.1.0"}


def test_a_full_spool_stops_the_asking_and_says_so(scene, tmp_path, monkeypatch):
    scene.leases = many(3)
    monkeypatch.setattr(actor.worker.Outbox, "size", 2 << 20)
    worker = make_worker(scene, tmp_path, spool_megabytes=1)
    live(worker, lambda: any("spool is full" in beat.waiting_for for beat in scene.of(Heartbeat)))
    assert scene.of(LeaseRequest) == []


def test_a_version_in_use_is_told_in_heartbeats(scene, tmp_path):
    live(make_worker(scene, tmp_path), lambda: any(beat.policy_version == 0 for beat in scene.of(Heartbeat)))
    assert scene.of(ReloadReport) == []


def test_a_second_actor_in_the_folder_of_a_first_is_refused(scene, tmp_path, monkeypatch):
    """Its spool has one writer, also when the first was stopped and wakes up again."""
    monkeypatch.setattr("common.run_lock.PATIENCE", 0.0)
    monkeypatch.setattr(actor.process, "provider_of", lambda _name: lambda _config: Worlds(scene))
    config = ActorConfig(folder=tmp_path / "actor")

    async def second():
        sections = RunConfig(folder=tmp_path), LinkConfig(), WorldConfig(), config, PromptConfig()
        await actor.process.run_actor(*sections, metrics=MetricsConfig(serve=False))

    with only_one(tmp_path / "actor" / "actor.lock"), pytest.raises(UsageError, match="another actor is at work"):
        asyncio.run(second())
    scene.finished = True
    asyncio.run(second())
    assert [goodbye.reason for goodbye in scene.of(Goodbye)] == ["the run is finished"]
