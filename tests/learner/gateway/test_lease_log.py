"""What becomes of a lease is said in the log, after it is on the disk and not before."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from gateway_builders import make_run, make_trajectory
from structlog.testing import capture_logs

from common.wire import encode
from learner.gateway.run_state import RunState
from learner.gateway.trainer_desk import TrainerDesk
from learner.gateway.trainer_port import NextGroups, Published, TrainerHello

FIRST, SECOND = "g000000.0.0", "g000000.1.0"


@pytest.fixture
def run(tmp_path: Path):
    made = make_run(tmp_path, groups_per_step=1, group_size=2, steps=9, staleness_bound=4)
    publish(made, 0)
    yield made
    made.close()


def publish(run: RunState, step: int, consumed=(), dropped=None) -> None:
    desk = TrainerDesk(run)
    if step == 0:
        desk.answer(TrainerHello(resume=None))
    digest = f"{step:02x}" * 32
    desk.answer(
        Published(policy_version=step, manifest_digest=digest, step=step, consumed=consumed, dropped=dropped or {})
    )
    run.commit()


def arrive(run: RunState, lease, reward: float) -> None:
    trajectory = make_trajectory(lease, reward=reward)
    assert run.inbox.receive("actor-0", trajectory, encode(trajectory)).outcome == "ok"


def said_by(run: RunState, work) -> list[dict]:
    """Of leases and groups, what one piece of work and its commit say."""
    with capture_logs() as lines:
        work()
        run.commit()
    return [line for line in lines if line["module"] == "learner.gateway.lease_log"]


def test_a_life_in_training_has_a_line_at_every_station_on_the_learner_and_one_of_them_at_info(run):
    leases, _ = run.book.grant("actor-0", 2, now=0.0)
    granted = said_by(run, lambda: None)
    journalled = said_by(run, lambda: [arrive(run, lease, float(lease.member)) for lease in leases])
    handed = said_by(run, lambda: TrainerDesk(run).answer(NextGroups(step=1)))
    trained = said_by(run, lambda: publish(run, 1, (FIRST,), {SECOND: "not_finite"}))
    mine = [
        (line["event"], line["log_level"])
        for line in (*granted, *journalled, *handed, *trained)
        if line.get("lease") == FIRST or "lease" not in line
    ]
    assert mine == [
        ("lease_granted", "debug"),
        ("group_ready", "debug"),
        ("trajectory_journalled", "debug"),
        ("group_handed", "debug"),
        ("trajectory_trained", "info"),
    ]
    assert handed[0]["step"] == 1
    assert trained[-2]["step"] == 1
    assert {"lease": SECOND, "reason": "not_finite"}.items() <= trained[-1].items()
    assert trained[-1]["event"] == "lease_dropped"
    named = ("lease", "group", "task", "actor")
    assert all(line[name] for line in (*granted, *trained) for name in named)


def test_a_lease_that_lapses_is_said_to_be_dropped_with_the_reason(run):
    run.book.grant("actor-0", 1, now=0.0)
    run.commit()
    (line,) = said_by(run, lambda: run.book.expire(1e6))
    assert (line["event"], line["reason"], line["detail"]) == ("lease_dropped", "lapsed", "actor-0 was silent")


def test_an_evaluation_says_its_label(tmp_path):
    run = make_run(tmp_path / "evaluated", evaluation=("a_1",))
    publish(run, 0)
    (lease, *_), _ = run.book.grant("actor-0", 1, now=0.0)
    run.commit()
    (line,) = said_by(run, lambda: arrive(run, lease, 1.0))
    assert (line["event"], line["label"], line["reward"]) == ("trajectory_evaluated", lease.label, 1.0)
    run.close()


def test_what_did_not_reach_the_disk_is_not_said(run, monkeypatch):
    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    run.book.grant("actor-0", 1, now=0.0)
    monkeypatch.setattr(run.ledger, "commit", full)
    with capture_logs() as lines:
        with pytest.raises(sqlite3.OperationalError):
            run.commit()
        monkeypatch.undo()
        run.go_back(0.0)
        run.commit()
    assert lines == []
