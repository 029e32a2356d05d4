"""What actors are answered, without sockets: names, connections and times come in."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from gateway_builders import make_hello, make_run, make_trajectory
from structlog.testing import capture_logs

from common.errors import UsageError
from common.log import Reminder
from common.messages import (
    Ack,
    Goodbye,
    Heartbeat,
    HeartbeatReply,
    LeaseGrant,
    LeaseRequest,
    LeaseReturn,
    Message,
    Refused,
    TaskIds,
    TaskIdsRequest,
    Unreadable,
    Welcome,
)
from common.wire import encode
from learner.gateway.ledger import Version
from learner.gateway.reception import Reception


class Desk:
    """A reception whose clock and connections the test moves."""

    def __init__(self, folder: Path, **lists: object) -> None:
        self.now = 0.0
        self.gone: set[bytes] = set()
        self.unlisted: set[str] = set()
        self.run = make_run(folder, groups_per_step=1, group_size=4, lease_seconds=60.0, **lists)
        self.publish(0)
        self.reception = Reception(
            self.run,
            heartbeat_seconds=2.0,
            silence=6.0,
            is_connected=lambda routing: routing not in self.gone,
            is_listed=lambda name: name not in self.unlisted,
            clock=lambda: self.now,
        )

    def publish(self, version: int) -> None:
        made = Version(version, f"{version:02x}" * 32, version)
        self.run.ledger.publish(made, 0, 0)
        self.run.publish(made)
        self.run.commit()

    def say(self, message: Message | bytes, name: str = "actor-0", routing: bytes = b"r0") -> Message:
        frame = message if isinstance(message, bytes) else encode(message)
        answer = self.reception.answer(name, routing, frame)
        self.run.commit()
        return answer

    def beat(self, *lease_ids: str, routing: bytes = b"r0") -> HeartbeatReply:
        reply = self.say(
            Heartbeat(policy_version=0, episodes=0, lease_ids=lease_ids, tokens_per_second=0.0, spooled=0),
            routing=routing,
        )
        assert isinstance(reply, HeartbeatReply)
        return reply

    def lease(self, count: int, routing: bytes = b"r0", name: str = "actor-0") -> list[str]:
        grant = self.say(LeaseRequest(count=count), routing=routing, name=name)
        assert isinstance(grant, LeaseGrant)
        return [lease.lease_id for lease in grant.leases]


@pytest.fixture
def desk(tmp_path: Path):
    made = Desk(tmp_path)
    yield made
    made.run.close()


def test_a_welcome_says_which_run_and_which_version(desk):
    desk.publish(1)
    welcome = desk.say(make_hello())
    assert welcome == Welcome(
        run_id=desk.run.run_id,
        policy_version=1,
        manifest_digest="01" * 32,
        heartbeat_seconds=2.0,
        credit_bytes=welcome.credit_bytes,
        tasks_digest=desk.run.tasks.digest,
    )


def test_an_actor_may_ask_for_all_task_ids_of_the_run(tmp_path):
    lists = {"evaluation": ("c_1", "a_2"), "beside": {"hard": ("d_1",)}, "dev": ("c_1", "e_1")}
    desk = Desk(tmp_path, train_tasks=("b_1", "a_2"), **lists)
    welcome = desk.say(make_hello())
    assert desk.say(TaskIdsRequest(begin=0)) == TaskIds(
        tasks_digest=welcome.tasks_digest, count=5, task_ids=("a_2", "b_1", "c_1", "d_1", "e_1")
    )
    assert desk.say(TaskIdsRequest(begin=4)).task_ids == ("e_1",)
    assert desk.say(TaskIdsRequest(begin=9)).task_ids == ()
    full = desk.reception.answer_when_full("actor-0", b"r0", encode(TaskIdsRequest(begin=3)), "disk")
    assert full.task_ids == ("d_1", "e_1")
    desk.run.close()


def test_an_actor_without_a_key_is_known_by_its_hello_while_the_disk_is_full_too(desk):
    def said(message):
        return desk.reception.answer_when_full("", b"r0", encode(message), "room on the disk")

    assert isinstance(said(make_hello()), Welcome)
    assert said(LeaseRequest(count=1)).waiting_for == "room on the disk"
    (peer,) = desk.reception.peers.present
    assert peer.name == "actor-0"


def test_a_run_of_more_tasks_than_actors_are_told_of_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("learner.gateway.run_state.MOST_TASK_IDS", 2)
    with pytest.raises(UsageError, match="have 3 tasks in all, at most 2 are allowed"):
        make_run(tmp_path, train_tasks=("a_1", "b_1"), evaluation=("b_1", "c_1"))


def test_a_connection_that_did_not_say_hello_is_asked_to(desk):
    answer = desk.say(LeaseRequest(count=1))
    assert isinstance(answer, Refused)
    assert answer.temporary
    desk.say(make_hello())
    assert isinstance(desk.say(LeaseRequest(count=1), routing=b"another connection"), Refused)


def test_acks_and_heartbeats_tell_the_current_version(desk):
    desk.say(make_hello())
    grant = desk.say(LeaseRequest(count=1))
    desk.publish(1)
    ack = desk.say(make_trajectory(grant.leases[0]))
    assert isinstance(ack, Ack)
    assert (ack.policy_version, ack.manifest_digest) == (1, "01" * 32)
    assert (desk.beat().policy_version, desk.beat().manifest_digest) == (1, "01" * 32)


def test_a_restarted_actor_keeps_its_spool_and_frees_the_rest_at_its_first_heartbeat(desk):
    desk.say(make_hello(instance="one"))
    spooled, lost = desk.lease(2)
    desk.gone.add(b"r0")
    assert isinstance(desk.say(make_hello(instance="two"), routing=b"r1"), Welcome)
    desk.beat(spooled, routing=b"r1")
    assert desk.run.book.find(spooled).state == "leased"
    assert (desk.run.book.find(lost).state, desk.run.book.find(lost).reason) == ("dropped", "unclaimed")
    assert lost.removesuffix(".0") + ".1" in desk.lease(4, routing=b"r1")


def test_leases_granted_after_a_restart_stay_though_the_first_heartbeat_was_made_before(desk):
    desk.say(make_hello(instance="one"))
    desk.gone.add(b"r0")
    desk.say(make_hello(instance="two"), routing=b"r1")
    (granted,) = desk.lease(1, routing=b"r1")
    desk.beat(routing=b"r1")
    assert desk.run.book.find(granted).state == "leased"


def test_an_actor_gets_a_lease_for_each_slot_and_for_each_trajectory_in_its_spool_and_no_more(desk):
    desk.run.book.config = desk.run.book.config.model_copy(update={"groups_per_step": 50})
    desk.say(make_hello(slots=2))
    assert len(desk.lease(2)) == 2
    refused = desk.say(LeaseRequest(count=1000))
    assert (refused.leases, refused.waiting_for) == ((), "its own slots: 2 leases are out to it")
    for spooled, granted in ((1, 1), (1, 0), (100_000, 1)):
        desk.say(Heartbeat(policy_version=0, episodes=2, tokens_per_second=0.0, spooled=spooled))
        assert len(desk.lease(1000)) == granted
    assert desk.run.book.leased("actor-0") == 4


def test_a_straggler_is_told_to_stop_and_says_how_far_it_was_and_its_late_trajectory_is_fenced(desk):
    desk.run.book.config = desk.run.book.config.model_copy(update={"straggler_share": 0.7})
    desk.say(make_hello())
    leases = desk.say(LeaseRequest(count=4)).leases
    for lease in leases[:3]:
        assert desk.say(make_trajectory(lease)).outcome == "ok"
    late = leases[3].lease_id
    assert desk.beat(late).cancelled == ()
    (group,) = desk.run.book.take(1)
    assert len(group.survivors) == 3
    desk.run.commit()
    assert desk.beat(late).cancelled == (late,)
    returned = LeaseReturn(lease_id=late, reason="cancelled by the learner", failure=False, tokens=120)
    assert desk.say(returned).outcome == "fenced"
    figures = desk.run.ledger.straggler_figures(1)
    assert (figures["cut"], figures["mean_tokens_cut"]) == (1, 120.0)
    assert desk.say(make_trajectory(leases[3], prompt=300, sampled=20)).outcome == "fenced"
    assert desk.run.ledger.straggler_figures(1)["mean_tokens_cut"] == 320.0


def test_a_goodbye_frees_all_leases_at_once(desk):
    desk.say(make_hello())
    (lease_id,) = desk.lease(1)
    desk.say(Goodbye(reason="SIGTERM"))
    assert desk.run.book.find(lease_id).reason == "actor_left"
    desk.say(make_hello("actor-1"), name="actor-1", routing=b"r1")
    assert desk.lease(1, routing=b"r1", name="actor-1") == [lease_id.removesuffix(".0") + ".1"]
    assert isinstance(desk.say(LeaseRequest(count=1)), Refused)


def test_a_heartbeat_renews_and_tells_what_to_stop(desk):
    desk.say(make_hello())
    first, second = desk.lease(2)
    desk.now = 50.0
    assert desk.beat(first).cancelled == ()
    assert [record.lease_id for record in desk.run.book.expire(now=60.0)] == [second]
    desk.lease(1)
    assert desk.beat(first, second).cancelled == (second,)


def test_an_unreadable_trajectory_is_acknowledged_as_invalid_by_its_id(desk):
    desk.say(make_hello())
    (lease_id,) = desk.lease(1)
    ack = desk.say(msgpack.packb({"kind": "trajectory", "trajectory_id": lease_id, "reward": "much"}))
    assert isinstance(ack, Ack)
    assert (ack.trajectory_id, ack.outcome) == (lease_id, "invalid")
    assert desk.run.ledger.lease_state(lease_id) == ("dropped", "invalid")


@pytest.mark.parametrize("frame", [b"", b"\xc1", msgpack.packb({"kind": "trajectory"}), msgpack.packb([1, 2])])
def test_a_frame_that_is_no_message_is_answered_so(desk, frame):
    desk.say(make_hello())
    assert isinstance(desk.say(frame), Unreadable)
    assert desk.reception.quarantine.count == 1


def test_what_only_a_learner_says_is_not_taken_from_an_actor(desk):
    desk.say(make_hello())
    welcome = Welcome(run_id="r", policy_version=9, manifest_digest="", heartbeat_seconds=1.0, credit_bytes=1 << 20)
    assert desk.say(welcome) == Unreadable(reason="Welcome is nothing that an actor says")


def test_actors_are_told_that_the_run_is_over(desk):
    desk.say(make_hello())
    assert not desk.beat().finished
    desk.run.course.end_training()
    assert desk.beat().finished
    grant = desk.say(LeaseRequest(count=1))
    assert (grant.leases, grant.waiting_for) == ((), "nothing: the run is over")


def test_waiting_is_said_at_once_and_then_every_ten_seconds():
    seconds = [100.0]
    reminder = Reminder(lambda: seconds[0])
    assert reminder.is_due()
    seconds[0] = 109.9
    assert not reminder.is_due()
    seconds[0] = 110.0
    assert reminder.is_due()
    reminder.over()
    assert reminder.is_due()


def test_leases_withheld_are_named(desk):
    desk.say(make_hello(slots=8))
    with capture_logs() as logs:
        desk.lease(4)
        desk.lease(4)
        desk.lease(4)
    withheld = [entry["waiting_for"] for entry in logs if entry["event"] == "leases_withheld"]
    assert withheld == ["1 group: g000000 (a_1) has 0 of 4 to complete"]


def test_an_actor_whose_key_is_removed_is_heard_no_longer_and_its_leases_are_free(desk):
    desk.say(make_hello())
    (lease_id,) = desk.lease(1)
    desk.unlisted.add("actor-0")
    desk.reception.dismiss_unlisted()
    assert desk.run.book.find(lease_id).reason == "key_removed"
    assert isinstance(desk.say(LeaseRequest(count=1)), Refused)
    refused = desk.say(make_hello())
    assert refused == Refused(reason="the key of actor-0 was removed from the list")
