"""The course of a run: what is issued when, and what an evaluation that lost tasks amounts to."""

from __future__ import annotations

from pathlib import Path

from gateway_builders import make_run, make_trajectory

from common.messages import Lease
from common.metrics import MetricsReader
from common.wire import encode
from learner.gateway.ledger import Version
from learner.gateway.run_state import RunState


def begin(folder: Path, *, evaluation=("e_1", "e_2"), **changes) -> RunState:
    run = make_run(folder, evaluation=evaluation, groups_per_step=1, group_size=2, steps=1, **changes)
    publish(run, 0)
    return run


def publish(run: RunState, version: int) -> None:
    made = Version(version, "ab" * 32, version)
    run.ledger.publish(made, 0, 0)
    run.publish(made)
    run.commit()


def lease(run: RunState, count: int) -> list[Lease]:
    leases, _ = run.book.grant("actor-0", count, now=0.0)
    run.commit()
    return leases


def finish(run: RunState, leases: list[Lease], reward: float = 1.0) -> None:
    for one in leases:
        trajectory = make_trajectory(one, reward=reward)
        assert run.inbox.receive("actor-0", trajectory, encode(trajectory)).outcome == "ok"
    run.commit()


def events(folder: Path, kind: str) -> list[dict]:
    return [event for event in MetricsReader(folder / "metrics.jsonl").new() if event["event"] == kind]


def test_evaluations_go_before_training_and_training_before_the_last_evaluation(tmp_path):
    run = begin(tmp_path)
    leases = lease(run, 9)
    assert [(one.purpose, one.label) for one in leases] == [("evaluate", "before.t0")] * 2 + [("train", "")] * 2
    finish(run, leases)
    taken = run.book.take(1)
    run.book.consume(1, [record.lease_id for group in taken for record in group.survivors], {})
    publish(run, 1)
    assert lease(run, 9) == []
    run.course.end_training()
    run.commit()
    after = lease(run, 9)
    assert [(one.label, one.minimum_version) for one in after] == [("after.t0", 1)] * 2
    finish(run, after)
    assert run.finished
    assert [event["name"] for event in events(tmp_path, "phase")] == [
        "evaluate_before",
        "train",
        "evaluate_after",
        "done",
    ]
    run.close()


def test_an_episode_of_the_last_evaluation_by_an_older_version_is_refused(tmp_path):
    run = begin(tmp_path)
    finish(run, lease(run, 4))
    run.book.take(1)
    publish(run, 1)
    run.course.end_training()
    run.commit()
    (one,) = lease(run, 1)
    old = make_trajectory(one, version=0)
    verdict = run.inbox.receive("actor-0", old, encode(old))
    assert (verdict.outcome, verdict.reason) == ("invalid", "sampled by version 0, its lease asks for 1")
    run.close()


def test_a_task_that_cannot_be_rolled_out_is_counted_as_lost(tmp_path):
    run = begin(tmp_path, most_failures=1)
    first, second = lease(run, 2)
    finish(run, [first])
    run.inbox.give_back("actor-0", second.lease_id, "world host died")
    run.commit()
    (event,) = events(tmp_path, "evaluation")
    assert (event["label"], event["tasks"], event["lost"], event["tgc"]) == ("before.t0", 1, 1, 1.0)
    run.close()


def test_a_list_beside_is_evaluated_before_and_after_and_told_apart(tmp_path):
    run = begin(tmp_path, evaluation=("e_1",), beside={"hard": ("h_1", "h_2")})
    before = lease(run, 3)
    assert [(one.label, one.task_id) for one in before] == [
        ("before.t0", "e_1"),
        ("before.t0.hard", "h_1"),
        ("before.t0.hard", "h_2"),
    ]
    finish(run, before[:1])
    finish(run, before[1:], reward=0.5)
    run.course.end_training()
    run.commit()
    finish(run, lease(run, 9))
    assert run.finished
    told = [(event["label"], event["tasks"], event["lost"], event["tgc"]) for event in events(tmp_path, "evaluation")]
    assert told == [
        ("before.t0", 1, 0, 1.0),
        ("before.t0.hard", 2, 0, 0.0),
        ("after.t0", 1, 0, 1.0),
        ("after.t0.hard", 2, 0, 1.0),
    ]
    run.close()


def test_a_restart_goes_on_in_the_phase_and_concludes_each_evaluation_once(tmp_path):
    run = begin(tmp_path)
    leases = lease(run, 2)
    finish(run, leases[:1])
    run.close()
    run = make_run(tmp_path, evaluation=("e_1", "e_2"), groups_per_step=1, group_size=2, steps=1)
    finish(run, leases[1:])
    run.close()
    make_run(tmp_path, evaluation=("e_1", "e_2"), groups_per_step=1, group_size=2, steps=1).close()
    assert [event["label"] for event in events(tmp_path, "evaluation")] == ["before.t0"]
    assert [event["name"] for event in events(tmp_path, "phase")] == [
        "evaluate_before",
        "evaluate_before",
        "train",
        "train",
    ]


def test_a_run_without_evaluations_trains_and_is_done(tmp_path):
    run = begin(tmp_path, evaluation=())
    run.course.end_training()
    run.course.end_training()
    assert [event["name"] for event in events(tmp_path, "phase")] == ["train", "done"]
    run.close()
