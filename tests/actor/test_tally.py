"""What an actor counts: episodes by how they ended, worlds while they are open, reloads, the engine's load."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from scene import failing_once, live, make_worker, many

import actor.gauges
from actor.concurrency import Concurrency, Load
from actor.engine import EngineFailure
from actor.gauges import Gauges
from actor.slots import Slots
from actor.standing import Standing
from actor.tally import CountedWorlds, Tally
from actor.world_protocol import WorldFailure
from common.measures import Split
from common.messages import LeaseReturn, ReloadReport, Trajectory
from common.pulse import Pulse


def values(worker):
    """Of a worker's measures, by name and label."""
    told = worker.gauges.look().values
    return {
        (name, *labels): one
        for name, value in told.items()
        for labels, one in (value.values if isinstance(value, Split) else {(): value}).items()
    }


def test_episodes_are_counted_by_how_they_ended(scene, tmp_path):
    scene.leases = many(4)
    scene.on_execute = failing_once(WorldFailure("it broke down"))
    worker = make_worker(scene, tmp_path)
    live(worker, lambda: len(scene.of(Trajectory)) == 3 and scene.of(LeaseReturn))
    found = values(worker)
    assert {outcome: found["loop_actor_episodes_total", outcome] for outcome in ("finished", "failed")} == {
        "finished": 3,
        "failed": 1,
    }
    assert found["loop_actor_episode_successes_total",] == 3
    assert found["loop_actor_episode_turns_total",] == sum(len(one.turns) for one in scene.of(Trajectory))
    assert found["loop_actor_worlds_opened_total",] == 4
    assert found["loop_actor_worlds_open",] == 0


def test_episodes_that_the_learner_cancels_are_told_from_those_whose_engine_dies(scene, tmp_path):
    scene.leases = many(2)
    entered = []

    async def forever():
        entered.append(1)
        if len(entered) == 2:
            scene.cancelled = ("g1.0.0",)
        await asyncio.Event().wait()

    scene.on_generate = forever
    worker = make_worker(scene, tmp_path)
    live(worker, lambda: worker._tally.episodes["cancelled"] == 1)
    assert worker._tally.episodes == {"finished": 0, "failed": 0, "cancelled": 1, "interrupted": 1}


def test_an_engine_that_dies_is_counted_and_what_it_held_is_interrupted(scene, tmp_path):
    scene.leases = many(1)
    scene.on_generate = failing_once(EngineFailure("it died"))
    worker = make_worker(scene, tmp_path)
    live(worker, lambda: scene.engine_starts == 2)
    assert values(worker)["loop_actor_engine_failures_total",] == 1
    assert worker._tally.episodes["interrupted"] == 1


def test_the_run_and_the_actor_are_labels_of_all(scene, tmp_path):
    worker = make_worker(scene, tmp_path)
    assert worker.gauges.look().labels["run"] == ""
    live(worker, lambda: worker.gauges.run_id)
    assert worker.gauges.look().labels == {"run": "run", "actor": worker._config.name}


class Breaking:
    task = SimpleNamespace(instruction="pay")

    async def close(self):
        raise WorldFailure("it would not end")


def test_a_world_is_open_until_it_is_closed_and_counted_once():
    async def play():
        tally = Tally()

        async def open_one(_task_id):
            return Breaking()

        worlds = CountedWorlds(SimpleNamespace(open=open_one), tally)
        first, second = await worlds.open("pay_1"), await worlds.open("pay_1")
        assert first.task.instruction == "pay"
        assert tally.worlds_open == 2
        for _ in range(2):
            with pytest.raises(WorldFailure):
                await first.close()
        assert tally.worlds_open == 1
        with contextlib.suppress(WorldFailure):
            await second.close()
        assert (tally.worlds_open, tally.worlds_opened) == (0, 2)

    asyncio.run(play())


def reload_report(**changes):
    whole = {"policy_version": 3, "accepted": True, "probe_difference": 1e-6, "seconds": 0.5, "pause_seconds": 0.1}
    return ReloadReport(**{**whole, **changes})


def test_reloads_are_counted_on_their_way_to_the_learner():
    tally, sent = Tally(), []

    async def send(message):
        sent.append(message)
        return message

    async def report():
        for message in (reload_report(), reload_report(accepted=False, probe_difference=-1.0, pause_seconds=0.0)):
            assert await tally.reports(send)(message) is message

    asyncio.run(report())
    assert [message.accepted for message in sent] == [True, False]
    assert tally.reloads == {"accepted": 1, "refused": 1}
    assert (tally.reload_seconds, tally.pause_seconds) == (1.0, 0.1)
    # the one that was not probed left the difference as it was
    assert tally.probe_difference == 1e-6


def test_the_engines_steps_are_summed_and_passed_on():
    tally, told = Tally(), []
    on_load = tally.loads(told.append)
    on_load(Load(0.5, 2, preempted=1, cached=10, computed=4, running=3))
    on_load(Load(0.6, 0, preempted=2, cached=1, computed=1, running=5))
    assert (tally.preempted, tally.cached, tally.computed) == (3, 11, 5)
    assert tally.load == told[1]


def make_gauges(folder, tally=None):
    standing = Standing(SimpleNamespace(waiting_for="leases", withheld="", running=1, ids=("a", "b", "c")))
    standing.slots, standing.doing = Slots(Concurrency(1, 4, 0.9)), ""
    return Gauges("actor-0", folder, standing, tally or Tally(), lambda: 0.0), standing


def test_tokens_of_an_engine_that_ended_are_not_lost(tmp_path):
    gauges, standing = make_gauges(tmp_path)
    counts = []
    for policy in (
        SimpleNamespace(version=1, sampled_tokens=100),
        None,
        SimpleNamespace(version=1, sampled_tokens=0),
        SimpleNamespace(version=2, sampled_tokens=30),
    ):
        standing.policy = policy
        counts.append(gauges.look().values["loop_actor_sampled_tokens_total"])
    assert counts == [100, 100, 100, 130]


def test_leases_are_waiting_or_running(tmp_path):
    gauges, _ = make_gauges(tmp_path)
    assert gauges.look().values["loop_actor_leases"] == Split({("waiting",): 2, ("running",): 1})
    assert gauges.look().values["loop_actor_waiting"] == 1


def test_an_actor_beats_with_its_figures_and_words_also_where_the_disk_cannot_be_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(actor.gauges, "BEAT_SECONDS", 0.001)

    async def beaten(gauges):
        """Until a beat after the disk was asked."""
        pulse, asked, told = Pulse("actor"), asyncio.Event(), asyncio.Event()
        ask, beat = gauges._ask_disk, pulse.beat

        async def ask_disk():
            await ask()
            asked.set()

        def beat_once(*said):
            beat(*said)
            if asked.is_set():
                told.set()

        gauges._ask_disk, pulse.beat = ask_disk, beat_once
        beating = asyncio.create_task(gauges.beat(pulse))
        await asked.wait()
        await told.wait()
        beating.cancel()
        return pulse

    pulse = asyncio.run(beaten(make_gauges(tmp_path)[0]))
    assert pulse.figures.values["loop_actor_disk_free_bytes"] > 0
    assert pulse.health().said["waiting_for"] == "leases"
    pulse = asyncio.run(beaten(make_gauges(tmp_path / "not made yet")[0]))
    assert pulse.figures.values["loop_actor_disk_free_bytes"] is None
