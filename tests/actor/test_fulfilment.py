"""One failed rollout costs one rollout: what each class of errors costs, wherever it is raised."""

import asyncio
import sqlite3

import pytest
from scene import failing_once, live, make_worker, many
from structlog.testing import capture_logs

import actor.engine_starts
import actor.outbox
from actor.engine import EngineFailure, RequestFailure
from actor.fulfilment import LEAST_FAILURES
from actor.world_protocol import UnusableTask, WorldFailure
from common.errors import RunError, UsageError
from common.messages import Goodbye, LeaseReturn, Trajectory

OF_THE_EPISODE = [
    WorldFailure("the world broke down"),
    UnusableTask("there is no such task"),
    RequestFailure("the engine refused a request"),
    ValueError("a prompt without an end"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    KeyError("answer"),
    TypeError("'NoneType' object is not iterable"),
    AssertionError("versions"),
    TimeoutError("late"),
    OSError(24, "Too many open files"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    sqlite3.OperationalError("database is locked"),
    RuntimeError("a lone \ud83d surrogate, of a policy's text"),
]
CASES = [
    *((error, "on_execute") for error in OF_THE_EPISODE),
    *((error, place) for error in OF_THE_EPISODE[:6:5] for place in ("on_open", "on_generate", "on_grade")),
]


def named(error):
    return type(error).__name__


@pytest.mark.parametrize(("error", "place"), CASES, ids=lambda value: value if isinstance(value, str) else named(value))
def test_an_episodes_error_returns_its_lease_alone_and_grades_nothing(scene, tmp_path, error, place):
    scene.leases = many(3)
    setattr(scene, place, failing_once(error))
    live(make_worker(scene, tmp_path), lambda: len(scene.of(Trajectory)) == 2 and scene.of(LeaseReturn))
    (returned,) = scene.of(LeaseReturn)
    assert returned.reason.startswith(f"{named(error)}: ")
    assert returned.failure
    done = {trajectory.trajectory_id for trajectory in scene.of(Trajectory)}
    assert {returned.lease_id, *done} == {lease.lease_id for lease in many(3)}
    assert scene.engine_starts == 1


@pytest.mark.parametrize("error", [KeyError("answer"), WorldFailure("broke down")], ids=named)
def test_a_defect_of_ours_is_logged_with_its_traceback_and_what_is_expected_without(scene, tmp_path, error):
    scene.leases = many(2)
    scene.on_execute = failing_once(error)
    with capture_logs() as logs:
        live(make_worker(scene, tmp_path), lambda: len(scene.of(Trajectory)) == 1 and scene.of(LeaseReturn))
    (entry,) = [entry for entry in logs if entry["event"] == "episode_failed"]
    assert ("exc_info" in entry) is isinstance(error, KeyError)


@pytest.mark.parametrize("error", [RunError("refused for good"), UsageError("no data root")], ids=named)
def test_what_is_the_actors_own_ends_it_with_its_line(scene, tmp_path, error):
    scene.leases = many(3)
    scene.on_execute = failing_once(error)
    with pytest.raises(type(error), match=str(error)):
        live(make_worker(scene, tmp_path))
    assert len(scene.of(Goodbye)) == 1


def test_an_engine_that_fails_costs_what_it_had_and_no_failure_of_theirs(scene, tmp_path):
    scene.leases = many(6)
    scene.on_generate = failing_once(EngineFailure("the engine died"))
    live(make_worker(scene, tmp_path, episodes=2), lambda: len(scene.of(Trajectory)) >= 4)
    assert scene.engine_starts == 2
    assert 1 <= len(scene.of(LeaseReturn)) <= 2
    assert not any(returned.failure for returned in scene.of(LeaseReturn))


def test_an_actor_whose_every_episode_fails_ends_rather_than_eat_up_the_leases_of_others(scene, tmp_path):
    scene.leases = many(100)

    async def fail():
        raise WorldFailure("no world opens")

    scene.on_open = fail
    with pytest.raises(RunError, match=rf"^{LEAST_FAILURES} episodes in a row failed, last: WorldFailure: no world"):
        live(make_worker(scene, tmp_path, episodes=2))
    assert LEAST_FAILURES <= len(scene.of(LeaseReturn)) < LEAST_FAILURES + 10
    assert len(scene.of(Goodbye)) == 1


def test_failures_between_successes_end_no_actor(scene, tmp_path):
    scene.leases = many(4 * LEAST_FAILURES)
    count = 0

    async def fail_mostly():
        nonlocal count
        count += 1
        if count % 4:
            raise WorldFailure("it broke down")

    scene.on_execute = fail_mostly
    live(make_worker(scene, tmp_path, episodes=1), lambda: len(scene.of(Trajectory)) == LEAST_FAILURES)
    assert len(scene.of(LeaseReturn)) == 3 * LEAST_FAILURES


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), sqlite3.OperationalError("disk full")])
def test_a_full_disk_costs_no_episode_it_is_waited_for(scene, tmp_path, monkeypatch, error):
    scene.leases = many(2)
    monkeypatch.setattr(actor.outbox, "ROOM_SECONDS", 0.001)
    add, left = actor.outbox.Spool.add, [error] * 5

    async def full(self, name, frame):
        if left:
            raise left.pop()
        await add(self, name, frame)

    monkeypatch.setattr(actor.outbox.Spool, "add", full)
    live(make_worker(scene, tmp_path), lambda: len(scene.of(Trajectory)) == 2)
    assert left == []
    assert scene.of(LeaseReturn) == []


def test_an_engine_that_does_not_start_again_is_tried_again_and_one_that_never_did_ends_the_actor(
    scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(actor.engine_starts, "LONGEST_WAIT", 0.001)
    scene.leases = many(6)
    scene.on_generate = failing_once(EngineFailure("the engine died"))
    scene.on_start = failing_once(RunError("no memory on the GPU"))
    with pytest.raises(RunError, match="no memory on the GPU"):
        live(make_worker(scene, tmp_path))
    assert scene.engine_starts == 1
    starts = [None, RunError("the GPU's memory is not free yet")]

    async def second_fails():
        if starts and (error := starts.pop(0)):
            raise error

    scene.on_start = second_fails
    live(make_worker(scene, tmp_path, episodes=2), lambda: len(scene.of(Trajectory)) >= 1)
    assert scene.engine_starts == 4


def test_an_engine_starts_again_though_the_learner_is_away_and_the_leases_are_returned_later(scene, tmp_path):
    scene.leases = many(2)
    scene.on_generate = failing_once(EngineFailure("the engine died"))
    answer, there = scene.answer, asyncio.Event()

    async def away(message):
        if isinstance(message, LeaseReturn):
            await there.wait()
        return answer(message)

    scene.answer_later = away

    def started_again():
        if scene.engine_starts == 2 and not there.is_set():
            assert scene.of(LeaseReturn) == []
            there.set()
        return bool(scene.of(LeaseReturn))

    live(make_worker(scene, tmp_path, episodes=2), started_again)
    assert {returned.reason for returned in scene.of(LeaseReturn)} == {"engine failure: the engine died"}
