from __future__ import annotations

from pathlib import Path

import pytest
from gateway_builders import make_run, make_trajectory

from common.messages import Lease, Trajectory
from common.wire import encode
from learner.gateway.ledger import Version
from learner.gateway.run_state import RunState


@pytest.fixture
def run(tmp_path: Path):
    made = make_run(tmp_path, groups_per_step=1, group_size=2, staleness_bound=1)
    publish(made, 0)
    yield made
    made.close()


def publish(run: RunState, version: int) -> None:
    made = Version(version, "ab" * 32, version)
    run.ledger.publish(made, 0, 0)
    run.publish(made)
    run.commit()


def lease_to(run: RunState, actor: str = "actor-0") -> Lease:
    (lease,), _ = run.book.grant(actor, 1, now=0.0)
    run.commit()
    return lease


def send(run: RunState, trajectory: Trajectory, actor: str = "actor-0"):
    verdict = run.inbox.receive(actor, trajectory, encode(trajectory))
    run.commit()
    return verdict.outcome, verdict.reason


def test_a_trajectory_is_journalled_as_the_frame_that_came(run):
    trajectory = make_trajectory(lease_to(run))
    assert send(run, trajectory) == ("ok", "")
    assert run.ledger.frames([trajectory.trajectory_id]) == [encode(trajectory)]


def test_a_second_sending_is_a_duplicate(run):
    trajectory = make_trajectory(lease_to(run))
    send(run, trajectory)
    assert send(run, trajectory) == ("duplicate", "it is received")
    assert run.ledger.arrived() == 1


def test_a_duplicate_is_known_after_its_group_has_left_the_book(run):
    trajectories = [make_trajectory(lease_to(run)), make_trajectory(lease_to(run))]
    for trajectory in trajectories:
        send(run, trajectory)
    run.book.take(1)
    run.book.consume(1, [trajectory.trajectory_id for trajectory in trajectories], {})
    run.commit()
    assert send(run, trajectories[0]) == ("duplicate", "it is trained")


def test_a_second_sending_of_what_was_dropped_since_is_a_duplicate_too(tmp_path: Path):
    """Its ack got lost, and its group, without signal, was replaced meanwhile."""
    run = make_run(tmp_path, groups_per_step=1, group_size=2, refill_most=1)
    publish(run, 0)
    trajectories = [make_trajectory(lease_to(run)), make_trajectory(lease_to(run))]
    assert [send(run, trajectory) for trajectory in trajectories] == [("ok", "")] * 2
    assert send(run, trajectories[0]) == ("duplicate", "it is dropped no_signal")
    run.close()


def test_a_result_of_an_older_epoch_is_fenced(run):
    old = lease_to(run)
    run.book.expire(now=1e6)
    lease_to(run, "actor-1")
    outcome, reason = send(run, make_trajectory(old))
    assert outcome == "fenced"
    assert "dropped lapsed" in reason
    assert run.ledger.arrived() == 0


def test_a_late_result_that_nobody_else_works_on_is_taken(run):
    old = lease_to(run)
    run.book.expire(now=1e6)
    assert send(run, make_trajectory(old)) == ("ok", "")


def test_a_trajectory_beyond_the_staleness_bound_is_stale_and_its_member_lost(run):
    lease = lease_to(run)
    publish(run, 1)
    publish(run, 2)
    assert send(run, make_trajectory(lease, version=0)) == ("stale", "lag 2 above the bound 1")
    assert run.ledger.lease_state(lease.lease_id) == ("dropped", "stale")


def test_a_trajectory_of_a_version_that_never_was_is_invalid_and_its_lease_issued_again(run):
    lease = lease_to(run)
    assert send(run, make_trajectory(lease, version=9)) == ("invalid", "sampled by version 9, the newest is 0")
    assert lease_to(run).lease_id == f"{lease.group_id}.{lease.member}.1"


def test_a_lease_that_was_never_granted_is_invalid(run):
    lease = lease_to(run).model_copy(update={"lease_id": "g000077.0.0"})
    assert send(run, make_trajectory(lease)) == ("invalid", "no such lease was granted")


def test_a_lease_that_was_changed_on_the_way_is_invalid(run):
    lease = lease_to(run)
    changed = lease.model_copy(update={"task_id": "b_2" if lease.task_id != "b_2" else "a_1"})
    assert send(run, make_trajectory(changed)) == ("invalid", "its lease is not the one that was granted")


def test_anothers_lease_is_fenced_and_stays_his(run):
    lease = lease_to(run, "actor-0")
    outcome, reason = send(run, make_trajectory(lease, actor="actor-1"), actor="actor-1")
    assert (outcome, reason) == ("fenced", "leased to actor-0, leased")
    assert send(run, make_trajectory(lease)) == ("ok", "")


def test_a_returned_lease_is_issued_again(run):
    lease = lease_to(run)
    assert run.inbox.give_back("actor-1", lease.lease_id, "died").outcome == "fenced"
    assert run.inbox.give_back("actor-0", lease.lease_id, "world host died").outcome == "ok"
    assert run.inbox.give_back("actor-0", lease.lease_id, "world host died").outcome == "duplicate"
    assert lease_to(run).lease_id == f"{lease.group_id}.{lease.member}.1"
    assert run.ledger.lease_state(lease.lease_id) == ("dropped", "returned")


def test_a_lease_returned_on_leaving_is_no_failure_of_its_member(run):
    lease = lease_to(run)
    run.inbox.give_back("actor-0", lease.lease_id, "SIGTERM", failure=False)
    assert next(run.book.groups).members[lease.member].failures == 0
