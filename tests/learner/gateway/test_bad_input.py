"""What comes of bad input, from an actor's frame over the gateway to the trainer's `admit`, as the books count it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
from gateway_builders import make_hello, make_run, make_trajectory, the_books
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messages import (
    Ack,
    Lease,
    LeaseGrant,
    LeaseRequest,
    LeaseReturn,
    Message,
    Trajectory,
    Unreadable,
)
from common.wire import encode
from learner.gateway import books
from learner.gateway.reception import Reception
from learner.gateway.trainer_desk import TrainerDesk
from learner.gateway.trainer_port import (
    GroupRecord,
    Groups,
    NextGroups,
    Noted,
    NotYet,
    Published,
    TrainerHello,
)
from learner.trainer.advantage import score
from learner.trainer.groups import Limits, admit

VOCABULARY = 50


class Learner:
    """Reception, lease book, ledger and desk of one run, with a trainer that trains on whatever it admits."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.folder = folder
        options = {"groups_per_step": 1, "group_size": 2, "steps": 20, "staleness_bound": 1, **changes}
        self.run = make_run(folder, **options)
        self.desk = TrainerDesk(self.run)
        self.reception = Reception(
            self.run,
            heartbeat_seconds=2.0,
            silence=6.0,
            is_connected=lambda _: True,
            is_listed=lambda _: True,
            clock=lambda: 0.0,
        )
        self.tell(TrainerHello(resume=None))
        self.publish(0, [], {})
        for name in ("actor-0", "actor-1"):
            self.say(make_hello(name), name)

    def say(self, message: Message | bytes, name: str = "actor-0") -> Message:
        frame = message if isinstance(message, bytes) else encode(message)
        answer = self.reception.answer(name, name.encode(), frame)
        self.run.commit()
        return answer

    def lease(self, count: int = 1, name: str = "actor-0") -> list[Lease]:
        grant = self.say(LeaseRequest(count=count), name)
        assert isinstance(grant, LeaseGrant)
        return list(grant.leases)

    def send(self, lease: Lease, name: str = "actor-0", **changes: object) -> str:
        answer = self.say(make_trajectory(lease, actor=name, **changes), name)
        assert isinstance(answer, Ack)
        return answer.outcome

    def tell(self, message: Message) -> tuple[Message, list[bytes]]:
        answer = self.desk.answer(message)
        self.run.commit()
        return answer

    def publish(self, step: int, consumed: list[str], dropped: dict[str, str]) -> None:
        message = Published(
            policy_version=step,
            manifest_digest=f"{step:064x}",
            step=step,
            consumed=tuple(consumed),
            dropped=dropped,
        )
        assert self.tell(message)[0] == Noted()

    def step(self, policy_version: int = 0) -> list[str]:
        """One step of a trainer that stands at `policy_version`; what it trained on."""
        number = self.run.book.steps + 1
        answer, frames = self.tell(NextGroups(step=number))
        assert isinstance(answer, Groups), answer
        members = [Trajectory.model_validate(msgpack.unpackb(frame, use_list=False)) for frame in frames]
        records = [
            GroupRecord(group.group_id, group.task_id, [m for m in members if m.trajectory_id in group.trajectory_ids])
            for group in answer.groups
        ]
        limits = Limits(policy_version=policy_version, staleness_bound=1, vocabulary=VOCABULARY, context=100)
        groups, dropped = admit(records, limits)
        scored, without_signal = score(groups, "leave_one_out", 0.0)
        trained = [one.trajectory.trajectory_id for one in scored]
        self.publish(number, trained, {**dropped, **without_signal})
        return trained

    def books(self) -> books.Books:
        found = the_books(self.folder)
        assert found.balanced, found
        return found


@pytest.fixture
def learner(tmp_path: Path):
    made = Learner(tmp_path)
    yield made
    made.run.close()


def spoilt(lease: Lease, **fields: object) -> bytes:
    """The frame of a trajectory with other fields than it may have."""
    return msgpack.packb(msgpack.unpackb(encode(make_trajectory(lease))) | fields)


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def check_that_it_is_invalid_and_issued_again(learner: Learner, **fields: object) -> None:
    """Refused by its id; another actor has its lease at once, and the step is made of what that one sends."""
    spoiled, other = learner.lease(2)
    ack = learner.say(spoilt(spoiled, **fields))
    assert isinstance(ack, Ack)
    assert (ack.trajectory_id, ack.outcome) == (spoiled.lease_id, "invalid")
    assert learner.books().dropped == {"invalid": 1}
    (again, *_) = learner.lease(1, "actor-1")
    assert (again.group_id, again.member, again.epoch) == (spoiled.group_id, spoiled.member, 1)
    assert [learner.send(again, "actor-1", reward=1.0), learner.send(other, reward=0.0)] == ["ok", "ok"]
    assert sorted(learner.step()) == sorted([again.lease_id, other.lease_id])
    found = learner.books()
    assert (found.issued, found.trained, found.dropped, found.pending) == (3, 2, {"invalid": 1}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_log_probs_that_are_not_finite_are_counted_as_invalid(learner: Learner, value: float):
    check_that_it_is_invalid_and_issued_again(learner, log_prob_bytes=floats(0, 0, 0, -0.5, value))


@pytest.mark.parametrize(
    "fields",
    [
        {"sampled_bytes": bytes([0, 0, 0, 1])},
        {"sampled_bytes": bytes([0, 0, 0, 1, 1, 1])},
        {"sampled_bytes": b""},
        {"sampled_bytes": bytes(5)},
        {"sampled_bytes": bytes([0, 0, 0, 1, 2])},
        {"token_bytes": bytes(19)},
        {"log_prob_bytes": bytes(16)},
        {"version_bytes": b""},
        {"turn_bytes": bytes(7)},
        {"turn_bytes": np.array([5, -(2**31), -1, -1], "<i4").tobytes()},
    ],
    ids=lambda fields: f"{next(iter(fields))}-{len(next(iter(fields.values())))}",
)
def test_masks_and_arrays_of_the_wrong_length_are_counted_as_invalid(learner: Learner, fields: dict[str, bytes]):
    check_that_it_is_invalid_and_issued_again(learner, **fields)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_reward_that_is_none_is_counted_as_invalid(learner: Learner, reward: float):
    check_that_it_is_invalid_and_issued_again(learner, reward=reward)


@pytest.mark.parametrize("version", [1, 2**31 - 1])
def test_a_version_from_the_future_is_counted_as_invalid(learner: Learner, version: int):
    future = np.array([-1, -1, -1, version, version], "<i4").tobytes()
    check_that_it_is_invalid_and_issued_again(learner, version_bytes=future)


def test_a_version_that_the_trainer_does_not_know_is_passed_over_as_from_the_future(learner: Learner):
    """The gateway knows that the version was; a trainer back at an older state does not."""
    for version, trainers in ((0, 0), (1, 0)):
        for reward, lease in zip((0.0, 1.0), learner.lease(2), strict=True):
            assert learner.send(lease, version=version, reward=reward) == "ok"
        trained = learner.step(policy_version=trainers)
    assert trained == []
    found = learner.books()
    assert (found.issued, found.trained, found.dropped, found.pending) == (4, 2, {"future_version": 2}, {})


def test_a_token_beyond_the_vocabulary_is_passed_over_and_its_sibling_has_no_baseline(learner: Learner):
    beyond, sibling = learner.lease(2)
    tokens = np.array([0, 1, 2, VOCABULARY, 4], "<i4").tobytes()
    ack = learner.say(spoilt(beyond, token_bytes=tokens))
    assert isinstance(ack, Ack)
    assert ack.outcome == "ok", "the gateway knows no vocabulary"
    learner.send(sibling, reward=1.0)
    assert learner.step() == []
    found = learner.books()
    assert (found.issued, found.trained, found.dropped) == (2, 0, {"alone": 1, "invalid_token": 1})
    for reward, lease in zip((0.0, 1.0), learner.lease(2), strict=True):
        learner.send(lease, reward=reward)
    assert len(learner.step(policy_version=1)) == 2, "the run goes on"


def test_a_group_that_every_actor_fails_is_dropped_empty_and_another_is_drawn(learner: Learner):
    for _ in range(3):
        for lease in learner.lease(2):
            answer = learner.say(spoilt(lease, log_prob_bytes=floats(0, 0, 0, float("nan"), 0)))
            assert isinstance(answer, Ack)
    assert isinstance(learner.tell(NextGroups(step=1))[0], NotYet)
    assert learner.books().dropped == {"invalid": 6}
    (after, *_) = learner.lease(1)
    assert (after.group_id, after.epoch) == ("g000001", 0)


def test_a_group_with_one_survivor_has_no_baseline_and_is_counted_as_too_small(learner: Learner):
    kept, lost = learner.lease(2)
    learner.send(kept)
    for _ in range(3):
        answer = learner.say(LeaseReturn(lease_id=lost.lease_id, reason="world host died"))
        assert isinstance(answer, Ack)
        (lost,) = learner.lease(1)
    assert lost.group_id == "g000001"
    assert learner.books().dropped == {"group_too_small": 1, "returned": 3}


@pytest.mark.parametrize(("refill_most", "trained"), [(0, 0), (1, 2)])
def test_rewards_that_are_all_equal_are_counted_as_without_signal(tmp_path: Path, refill_most: int, trained: int):
    """At the trainer, or, where they are replaced, at the gateway: the same word."""
    learner = Learner(tmp_path, refill_most=refill_most)
    for lease in learner.lease(2):
        assert learner.send(lease, reward=0.75) == "ok"
    if refill_most:
        for reward, lease in zip((0.0, 1.0), learner.lease(2), strict=True):
            learner.send(lease, reward=reward)
    assert len(learner.step()) == trained
    found = learner.books()
    assert (found.trained, found.dropped, found.pending) == (trained, {"no_signal": 2}, {})
    learner.run.close()


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_frame_cut_short_names_no_lease_and_drops_none(learner: Learner, cut: int):
    """Its actor, told so, returns the lease."""
    (lease,) = learner.lease(1)
    assert isinstance(learner.say(encode(make_trajectory(lease))[:cut]), Unreadable)
    assert learner.reception.quarantine.count == 1
    assert learner.books().pending == {"leased": 1}
    answer = learner.say(LeaseReturn(lease_id=lease.lease_id, reason="its trajectory cannot be read"))
    assert isinstance(answer, Ack)
    assert learner.books().dropped == {"returned": 1}
    assert learner.lease(1)[0].epoch == 1


def test_bad_input_of_one_actor_costs_another_nothing(learner: Learner):
    (lease,) = learner.lease(1)
    answer = learner.say(spoilt(lease, reward=2.0), "actor-1")
    assert isinstance(answer, Ack)
    assert answer.outcome == "invalid"
    assert learner.books().pending == {"leased": 1}
    assert learner.send(lease) == "ok"


ARRAYS = ("token_bytes", "sampled_bytes", "log_prob_bytes", "version_bytes", "turn_bytes")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ARRAYS), st.binary(max_size=24)), min_size=1, max_size=12))
def test_whatever_an_array_holds_it_is_answered_and_the_books_balance(spoiled: list[tuple[str, bytes]]):
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(Path(folder), group_size=4, most_failures=2)
        learner.run.ledger._database.execute("PRAGMA synchronous=OFF")
        for name, content in spoiled:
            (lease,) = learner.lease(1)
            answer = learner.say(spoilt(lease, **{name: content}))
            assert isinstance(answer, Ack)
            assert answer.outcome in ("ok", "invalid")
            learner.books()
        learner.run.close()
