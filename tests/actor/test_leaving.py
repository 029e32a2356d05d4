"""Draining: no lease is begun, what runs gets its time and is spooled, or is returned; and it is said for what."""

import asyncio
from contextlib import suppress

import pytest
from scene import live, make_worker, many
from structlog.testing import capture_logs

from actor import leaving
from actor.engine import EngineFailure
from actor.leaving import end_episodes
from common.messages import Goodbye, Heartbeat, LeaseGrant, LeaseRequest, LeaseReturn, Trajectory


def drains(scene, tmp_path, **settings):
    return make_worker(scene, tmp_path, drain_seconds=10.0, **settings)


def three_run(scene):
    return lambda: any(beat.episodes == 3 for beat in scene.of(Heartbeat))


def test_episodes_that_end_within_the_grace_are_sent_and_not_returned(scene, tmp_path):
    scene.leases = many(3)
    worker = drains(scene, tmp_path)
    scene.on_generate = worker._stopping.wait
    with capture_logs() as logs:
        live(worker, three_run(scene))
    assert len(scene.of(Trajectory)) == 3
    assert scene.of(LeaseReturn) == []
    assert [goodbye.reason for goodbye in scene.of(Goodbye)] == ["signal"]
    assert {entry["waiting_for"] for entry in logs if entry["event"] == "draining"} == {"3 episodes to end"}


def test_leases_that_arrive_while_draining_are_returned_not_begun(scene, tmp_path):
    scene.leases = many(3)
    worker = drains(scene, tmp_path)
    answer = scene.answer

    async def late(message):
        if isinstance(message, LeaseRequest) and scene.of(LeaseGrant):
            await worker._stopping.wait()
        found = answer(message)
        if isinstance(found, LeaseGrant):
            scene.seen.append(found)
            scene.leases = [lease.model_copy(update={"lease_id": f"g2.{lease.member}.0"}) for lease in many(1)]
        return found

    scene.answer_later = late
    scene.on_generate = worker._stopping.wait
    live(worker, three_run(scene))
    assert {trajectory.trajectory_id for trajectory in scene.of(Trajectory)} == {lease.lease_id for lease in many(3)}
    assert {returned.lease_id for returned in scene.of(LeaseReturn)} <= {"g2.0.0"}


def test_an_engine_that_dies_while_draining_is_not_started_again(scene, tmp_path):
    scene.leases = many(3)
    worker = drains(scene, tmp_path)

    async def die():
        await worker._stopping.wait()
        raise EngineFailure("the engine died")

    scene.on_generate = die
    live(worker, three_run(scene))
    assert scene.engine_starts == 1
    assert {returned.lease_id for returned in scene.of(LeaseReturn)} == {lease.lease_id for lease in many(3)}
    assert not any(returned.failure for returned in scene.of(LeaseReturn))
    assert len(scene.of(Goodbye)) == 1


@pytest.mark.parametrize("part", ["on_start", "on_worlds"])
def test_an_actor_that_is_still_starting_leaves_at_once(scene, tmp_path, part):
    started = asyncio.Event()

    async def for_ever():
        started.set()
        await asyncio.Event().wait()

    setattr(scene, part, for_ever)
    live(drains(scene, tmp_path), started.is_set)
    assert [goodbye.reason for goodbye in scene.of(Goodbye)] == ["signal"]


def test_what_does_not_end_holds_up_nobody(scene, tmp_path, monkeypatch):
    """An engine that is stuck, whose adapter cannot even be removed."""
    scene.leases = many(1)
    started = asyncio.Event()
    monkeypatch.setattr("actor.worker.CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(leaving, "RETURN_SECONDS", 0.1)

    async def deaf():
        started.set()
        for _ in range(2):  # it is cancelled as an episode, and with all that the worker does
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    scene.on_generate = deaf
    with capture_logs() as logs:
        live(make_worker(scene, tmp_path), started.is_set)
    assert "left_unfinished" in [entry["event"] for entry in logs]
    assert len(scene.of(Goodbye)) == 1


def test_a_drain_says_every_few_seconds_for_how_many_episodes_it_waits(monkeypatch):
    monkeypatch.setattr(leaving, "SAY_EVERY", 0.01)

    async def drain():
        ends = [asyncio.Event() for _ in range(3)]
        episodes = {str(number): asyncio.create_task(end.wait()) for number, end in enumerate(ends)}
        draining = asyncio.create_task(end_episodes(episodes, 20.0))
        for end in ends:
            await asyncio.sleep(0.05)
            end.set()
        await draining
        assert not any(task.cancelled() for task in episodes.values())

    with capture_logs() as logs:
        asyncio.run(drain())
    said = [entry["waiting_for"] for entry in logs if entry["event"] == "draining"]
    assert list(dict.fromkeys(said)) == ["3 episodes to end", "2 episodes to end", "1 episodes to end"]
    assert said.count("3 episodes to end") > 1


def test_after_the_grace_what_runs_is_cancelled():
    async def drain():
        task = asyncio.create_task(asyncio.Event().wait())
        await end_episodes({"a": task}, 0.01)
        return task.cancelled()

    assert asyncio.run(drain())
