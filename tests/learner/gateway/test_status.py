"""What the gateway says of its run: the figures, what is waited for in words, what stands still."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from gateway_builders import begun_run, make_hello, make_run, make_trajectory, publish_step, the_books

from common.config import LinkConfig
from common.messages import (
    PROTOCOL_VERSION,
    Goodbye,
    Heartbeat,
    LeaseGrant,
    LeaseRequest,
    Refused,
    Status,
    StatusRequest,
)
from common.status_messages import LoggedError
from common.wire import decode, encode
from learner.gateway.reception import Reception
from learner.gateway.status import StatusDesk
from learner.gateway.trainer_port import NextGroups, TrainerBeat, TrainingFinished
from learner.gateway.trainer_watch import TrainerWatch

INTERVAL, INTERVALS = 2.0, 3


class Scene:
    """A run with its reception and status desk, on a clock that the test moves."""

    def __init__(self, folder: Path, *, begun: bool = True, **changes: object) -> None:
        self.now = 0.0
        self.run = begun_run(folder, **changes) if begun else make_run(folder, **changes)
        self.reception = Reception(
            self.run,
            heartbeat_seconds=INTERVAL,
            silence=INTERVAL * INTERVALS,
            is_connected=lambda _: True,
            is_listed=lambda _: True,
            clock=lambda: self.now,
        )
        self.watch = TrainerWatch(INTERVAL, INTERVAL * INTERVALS, lambda: self.now)
        self.journalling = SimpleNamespace(lacking="")
        self.desk = StatusDesk(
            self.run,
            LinkConfig(heartbeat_seconds=INTERVAL, silence_intervals=INTERVALS),
            self.reception,
            SimpleNamespace(watch=self.watch, waits_for=""),
            journalling=self.journalling,
            guard=SimpleNamespace(count=2, cuts=1),
            clock=lambda: self.now,
        )
        self.reception.on_status = self.desk.answer

    def say(self, actor: str, message: object) -> object:
        """The gateway's answer, durable."""
        answer = self.reception.answer(actor, actor.encode(), encode(message))
        self.run.commit()
        return answer

    def beat(self, actor: str, **changes: object) -> None:
        values = {"policy_version": 0, "episodes": 2, "tokens_per_second": 50.0, "spooled": 0, **changes}
        held = tuple(self.run.book.leased_to(actor))
        self.say(actor, Heartbeat(**{"lease_ids": held, **values}))

    def join(self, actor: str, *, leases: int = 0, slots: int = 6, **beat: object) -> list:
        """An actor that is there, with leases."""
        self.say(actor, make_hello(actor, slots=slots))
        self.beat(actor, **beat)
        if not leases:
            return []
        grant = self.say(actor, LeaseRequest(count=leases))
        assert isinstance(grant, LeaseGrant)
        return list(grant.leases)

    def deliver(self, actor: str, lease: object, **changes: object) -> None:
        assert self.say(actor, make_trajectory(lease, actor=actor, **changes)).outcome == "ok"

    def granted_ago(self, seconds: float, actor: str) -> None:
        """Leases of an actor are so much older than they are."""
        query = "UPDATE leases SET granted_at = granted_at - ? WHERE actor = ? AND state = 'leased'"
        self.run.ledger._database.execute(query, (seconds, actor))

    def picture(self) -> Status:
        status = self.desk.picture()
        assert decode(encode(status)) == status
        return status


@pytest.fixture
def scene(tmp_path: Path):
    made = Scene(tmp_path, group_size=3, groups_per_step=2, steps=9, staleness_bound=1)
    yield made
    made.run.close()


def test_it_says_which_groups_a_step_waits_for_and_on_whom(scene):
    leases = scene.join("gpu-1", leases=3)
    scene.join("gpu-2", leases=1)
    for lease in leases[:2]:
        scene.deliver("gpu-1", lease)
    scene.granted_ago(192.0, "gpu-1")
    scene.granted_ago(30.0, "gpu-2")
    scene.watch.heard(NextGroups(step=1))
    status = scene.picture()
    first, second = (group.task_id for group in status.oldest_groups)
    assert status.waiting_for == (
        f"step 1 waits for 2 groups: task {first} has 2 of 3, oldest lease 3m12s on actor gpu-1, "
        f"task {second} has 0 of 3, oldest lease 30s on actor gpu-2"
    )
    assert (status.groups_open, status.groups_ready, status.groups_lacking, status.leased) == (2, 0, 2, 2)
    assert [(group.arrived, group.leased, group.lost) for group in status.oldest_groups] == [(2, 1, 0), (0, 1, 0)]
    assert status.stalls == ()


@pytest.mark.parametrize("tenths", range(0, 80, 5))
def test_an_actor_that_stands_still_is_named_after_two_of_three_heartbeat_intervals(scene, tenths):
    scene.join("gpu-2", leases=2)
    scene.watch.heard(NextGroups(step=1))
    scene.now = tenths / 10
    scene.watch.heard(NextGroups(step=1))
    status = scene.picture()
    (actor,) = status.actors
    quiet = tenths / 10
    assert actor.heard_seconds == quiet
    assert actor.state == ("silent" if quiet > 6.0 else "late" if quiet > 4.0 else "working")
    task = status.oldest_groups[0].task_id
    said = f"{quiet:.0f}s" if quiet % 1 == 0 else f"{round(quiet)}s"
    named = (f"actor gpu-2 has said nothing for {said}, 2 leases out: task {task} waits for it",)
    assert status.stalls == (named if quiet > 4.0 else ())
    assert ("has said nothing for" in status.waiting_for) == (quiet > 4.0)


def test_a_trainer_that_stands_still_is_named_with_what_it_was_at(scene):
    scene.join("gpu-1")
    scene.watch.heard(TrainerBeat(doing="forward_backward", step=41, seconds=10.0))
    assert scene.picture().waiting_for == "step 41: the trainer is in forward_backward for 10s"
    scene.now = 180.0
    scene.beat("gpu-1")
    status = scene.picture()
    told = "the trainer has said nothing for 3m00s, was in forward_backward of step 41"
    assert (status.waiting_for, status.stalls, status.trainer.state) == (told, (told,), "silent")


def test_a_trainer_that_speaks_but_takes_much_longer_than_the_last_time_is_named(scene):
    scene.join("gpu-1")
    scene.watch.heard(TrainerBeat(doing="forward_backward", step=1, seconds=0.0))
    scene.now = 20.0
    scene.watch.heard(TrainerBeat(doing="wait", step=2, seconds=0.0))
    scene.watch.heard(TrainerBeat(doing="forward_backward", step=2, seconds=0.0))
    scene.now = 121.0
    scene.beat("gpu-1")
    scene.watch.heard(TrainerBeat(doing="forward_backward", step=2, seconds=101.0))
    status = scene.picture()
    assert status.stalls == ("the trainer is in forward_backward of step 2 for 1m41s, which took 20s the last time",)


def test_a_run_that_begins_waits_for_its_first_version_then_for_its_first_actor(tmp_path):
    scene = Scene(tmp_path, begun=False)
    assert scene.picture().waiting_for == "the first policy version from the trainer, which has not been heard yet"
    scene.watch.heard(TrainerBeat(doing="load_model", step=0, seconds=30.0))
    said = "the first policy version from the trainer, which is in load_model for 30s"
    assert scene.picture().waiting_for == said
    scene.run.close()
    scene = Scene(tmp_path)
    scene.watch.heard(NextGroups(step=1))
    status = scene.picture()
    assert (status.waiting_for, status.policy_version, status.actors) == ("the first actor to connect", 0, ())
    scene.run.close()


def test_when_no_actor_is_heard_the_last_one_is_named(scene):
    scene.join("gpu-1")
    scene.now = 5.0
    scene.join("gpu-2")
    scene.now = 20.0
    scene.watch.heard(NextGroups(step=1))
    told = "an actor: none of 2 is heard; actor gpu-2 has said nothing for 15s"
    assert scene.picture().waiting_for == told
    assert [(actor.name, actor.state) for actor in scene.picture().actors] == [("gpu-1", "silent"), ("gpu-2", "silent")]


def test_an_evaluation_says_what_of_it_is_left(tmp_path):
    scene = Scene(tmp_path, evaluation=("e_1", "e_2"))
    (lease,) = scene.join("gpu-1", leases=1)
    scene.watch.heard(NextGroups(step=1))
    status = scene.picture()
    assert status.phase == "evaluate_before"
    assert status.waiting_for.startswith(
        f"the evaluation before.t0 waits for 2 tasks: task {lease.task_id} has 0 of 1, oldest lease 0."
    )
    scene.run.close()


def test_a_full_disk_is_told_and_status_is_answered_all_the_same(scene):
    scene.journalling.lacking = "room on the learner's disk: 10 bytes free, 1048576 needed"
    request = encode(StatusRequest(protocol=PROTOCOL_VERSION))
    answer = scene.reception.answer_when_full("anybody", b"r", request, scene.journalling.lacking)
    assert answer.waiting_for == answer.disk_lacking == scene.journalling.lacking
    assert answer.stalls == (f"the learner's disk is full: {scene.journalling.lacking}",)


def test_a_run_that_is_over_says_so(scene):
    scene.run.course.end_training()
    scene.watch.heard(TrainingFinished())
    status = scene.picture()
    assert (status.phase, status.trainer.state) == ("done", "finished")
    assert status.waiting_for == "the run is over: its processes are leaving"


def test_actors_are_told_with_rates_versions_and_what_they_wait_for(scene):
    leases = scene.join("gpu-1", leases=3)
    for lease in leases:
        scene.deliver("gpu-1", lease)
    beat = {"waiting_for": "room on the spool's disk", "spooled": 4, "spooled_bytes": 9000, "episodes": 0}
    scene.join("gpu-2", **beat)
    scene.join("gpu-3", policy_version=-1, episodes=0, waiting_for="vLLM's engine to start")
    scene.join("gpu-4")
    scene.say("gpu-4", Goodbye(reason="SIGTERM"))
    publish_step(scene.run, 1)
    status = scene.picture()
    shown = {actor.name: actor for actor in status.actors}
    states = [(actor.name, actor.state, actor.lag) for actor in status.actors]
    assert states == [("gpu-3", "starting", -1), ("gpu-2", "waiting", 1), ("gpu-1", "working", 1), ("gpu-4", "left", 1)]
    assert (shown["gpu-1"].tokens_per_second, shown["gpu-1"].episodes_per_minute) == (50.0, 3.0)
    assert (shown["gpu-2"].waiting_for, shown["gpu-2"].spooled_bytes) == ("room on the spool's disk", 9000)
    assert (status.spooled, status.spooled_bytes, status.tokens_per_second) == (4, 9000, 150.0)
    assert (status.actors_known, status.actors_live, status.episodes_done, status.episodes_per_minute) == (3, 3, 3, 3.0)
    scene.now = 61.0
    assert scene.picture().episodes_per_minute == 0.0


def test_lags_are_those_of_what_the_last_step_trained_on(scene):
    early = scene.join("gpu-1", leases=3)
    publish_step(scene.run, 1)
    late = scene.join("gpu-2", leases=3)
    for lease in early:
        scene.deliver("gpu-1", lease, reward=0.25 + 0.25 * lease.member)
    for lease in late:
        scene.deliver("gpu-2", lease, reward=0.25 + 0.25 * lease.member)
    groups = scene.run.book.take(2)
    ids = [record.lease_id for group in groups for record in group.survivors]
    publish_step(scene.run, 2, consumed=ids)
    status = scene.picture()
    assert [(one.lag, one.trajectories) for one in status.trained_lags] == [(0, 3), (1, 3)]
    assert (status.policy_version, status.step, status.steps) == (2, 2, 9)


def test_the_books_are_those_of_the_ledger(scene, tmp_path):
    leases = scene.join("gpu-1", leases=4)
    scene.deliver("gpu-1", leases[0])
    scene.say("gpu-1", Goodbye(reason="SIGTERM"))
    told, found = scene.picture().books, the_books(tmp_path)
    assert (told.issued, told.trained, told.evaluated) == (found.issued, found.trained, found.evaluated) == (4, 0, 0)
    assert {one.name: one.count for one in told.dropped} == found.dropped == {"actor_left": 3}
    assert {one.name: one.count for one in told.pending} == found.pending == {"received": 1}
    assert told.balanced


def test_errors_that_actors_and_the_trainer_report_are_told_under_their_own_names(scene, monkeypatch):
    monkeypatch.setattr("learner.gateway.status.last_errors", tuple)  # of this process: other tests'
    scene.join("gpu-1")
    own = {"level": "error", "event": "engine_failed", "told": "reason: CUDA"}
    error = LoggedError(at=5.0, source="the-learner-itself", **own)
    scene.beat("gpu-1", errors=(error,))
    scene.beat("gpu-1", errors=(error,))
    words = LoggedError(at=7.0, level="warning", source="gpu-1", event="step_refused", told="step: 4")
    scene.watch.heard(TrainerBeat(doing="wait", step=4, seconds=0.0, errors=(words,)))
    found = [(e.at, e.source, e.event) for e in scene.picture().errors]
    assert found == [(5.0, "gpu-1", "engine_failed"), (7.0, "trainer", "step_refused")]


def test_who_speaks_another_protocol_is_told_so(scene):
    answer = scene.say("anybody", StatusRequest(protocol=PROTOCOL_VERSION + 1))
    assert isinstance(answer, Refused)
    assert answer.reason.startswith(f"protocol {PROTOCOL_VERSION + 1} there, {PROTOCOL_VERSION} here")


def test_asking_changes_nothing(scene):
    scene.join("gpu-1", leases=2)
    before = scene.run.ledger.look("SELECT * FROM leases"), scene.run.ledger.look("SELECT * FROM story")
    status = scene.say("stranger", StatusRequest(protocol=PROTOCOL_VERSION))
    assert isinstance(status, Status)
    assert (scene.run.ledger.look("SELECT * FROM leases"), scene.run.ledger.look("SELECT * FROM story")) == before
    assert scene.reception.peers.named("stranger") is None
