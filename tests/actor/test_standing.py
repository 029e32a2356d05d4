"""What an actor says that it waits for is so: silent learners, full spools, engines that start."""

import asyncio
from types import SimpleNamespace

from scene import live, make_worker, many
from structlog.testing import capture_logs

import actor.worker
from actor.engine import EngineFailure
from actor.standing import Standing
from common.messages import Heartbeat, LeaseRequest, Trajectory

WAITS = "the learner, silent for 63 s; 12 trajectories in the spool"


def make_standing(*, silent=0.0, running=0, said="", withheld="", doing="", spooled=12):
    leases = SimpleNamespace(waiting_for=said, withheld=withheld, running=running, ids=())
    standing = Standing(leases, lambda: silent)
    standing.outbox = SimpleNamespace(ids=("t",) * spooled, waiting_for="")
    standing.doing = doing
    return standing


def test_what_a_silent_learner_said_last_is_not_said_any_more():
    assert make_standing(said="step 3, which is under way").waiting_for == "step 3, which is under way"
    assert make_standing(said="step 3, which is under way", silent=63.2).waiting_for == WAITS


def test_an_actor_pauses_when_nothing_runs_and_the_learner_is_silent_or_the_spool_full():
    assert make_standing(silent=63.2).pause == WAITS
    assert make_standing(withheld="the spool is full").pause == "the spool is full"
    assert make_standing(silent=63.2, running=1).pause == ""
    assert make_standing(silent=63.2, doing="vLLM's engine to start").pause == ""
    # at the staleness bound the learner says so itself
    assert make_standing(said="step 3, which is under way").pause == ""


def test_a_pause_and_its_end_are_said_once_each():
    async def paused():
        silent, looked = [0.0], asyncio.Event()

        def silent_seconds():
            looked.set()
            return silent[0]

        standing = make_standing()
        standing._silent_seconds = silent_seconds
        watching = asyncio.create_task(standing.watch(0.001))
        for seconds in (0.0, 63.2, 64.2, 65.2, 0.0, 0.0):
            silent[0] = seconds
            looked.clear()
            await looked.wait()
        watching.cancel()

    with capture_logs() as logs:
        asyncio.run(paused())
    assert [entry["event"] for entry in logs] == ["actor_pauses", "actor_goes_on"]
    assert logs[0]["waiting_for"] == WAITS


def test_an_actor_that_is_given_no_lease_says_what_for_after_ten_seconds_and_every_minute():
    seconds = [0.0]
    standing = make_standing(said="step 3, which is under way")
    standing._clock = standing._idle_said._clock = lambda: seconds[0]

    def said_at(*moments):
        with capture_logs() as logs:
            for seconds[0] in moments:
                standing._look_idle(paused=False)
        return [(entry["event"], entry["waiting_for"], entry["seconds"]) for entry in logs]

    idle = "actor_idle", "step 3, which is under way"
    assert said_at(0.0, 9.9, 10.0, 40.0, 69.9, 70.0) == [(*idle, 10.0), (*idle, 70.0)]
    standing.leases.running = 1
    assert said_at(71.0) == []
    standing.leases.running = 0
    assert said_at(72.0, 81.9, 82.0) == [(*idle, 10.0)]
    standing._look_idle(paused=True)
    assert said_at(83.0, 92.0) == []


def test_with_a_silent_learner_what_is_held_is_finished_and_then_the_pause_is_said(scene, tmp_path):
    """Every lease is of the learner's: what an actor without it may do is bounded by the leases that it holds."""
    scene.leases = many(3)
    answer, there = scene.answer, asyncio.Event()

    async def away(message):
        if scene.silent_seconds and not isinstance(message, Heartbeat):
            await there.wait()
        return answer(message)

    scene.answer_later = away

    async def once_silent():
        scene.silent_seconds = 63.0

    scene.on_execute = once_silent
    worker = make_worker(scene, tmp_path)

    def paused():
        beats = [beat.waiting_for for beat in scene.of(Heartbeat)]
        told = "the learner, silent for 63 s; 3 trajectories in the spool"
        if not there.is_set() and told in beats and told in [entry.get("waiting_for") for entry in logs]:
            asked = len(scene.of(LeaseRequest))
            assert scene.of(Trajectory) == []
            assert asked == 1
            scene.silent_seconds, scene.on_execute = 0.0, None
            there.set()
        return len(scene.of(Trajectory)) == 3

    with capture_logs() as logs:
        live(worker, paused)
    assert [entry["event"] for entry in logs].count("actor_pauses") == 1


def test_a_full_spool_is_a_pause_that_is_said(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(actor.worker.Outbox, "size", 2 << 20)
    worker = make_worker(scene, tmp_path, spool_megabytes=1)
    with capture_logs() as logs:
        live(worker, lambda: any("spool is full" in beat.waiting_for for beat in scene.of(Heartbeat)[5:]))
    (pause,) = [entry for entry in logs if entry["event"] == "actor_pauses"]
    assert pause["waiting_for"] == "the spool is full: the learner acknowledges nothing"


def test_while_the_engine_starts_again_heartbeats_say_so_and_after_which_failure(scene, tmp_path):
    scene.leases = many(2)
    starting = asyncio.Event()

    async def slow_again():
        if scene.engine_starts == 2:
            await starting.wait()

    async def fail():
        raise EngineFailure("it answers nothing")

    scene.on_start, scene.on_generate = slow_again, fail
    told = "vLLM's engine to start again: 1 failures in a row, last: it answers nothing"

    def said():
        if any(beat.waiting_for == told for beat in scene.of(Heartbeat)):
            scene.on_generate = None
            starting.set()
        return starting.is_set()

    live(make_worker(scene, tmp_path), said)
