"""Evaluation of the dev list while training goes on: what is issued beside what, what counts, what a kill leaves."""

from __future__ import annotations

from pathlib import Path

from gateway_builders import begun_run, make_hello, make_reception, make_run, make_trajectory, publish_step, the_books

from common.messages import Lease
from common.metrics import MetricsReader
from common.wire import encode
from learner.gateway.run_state import RunState

DEV = ("d_1", "d_2", "d_3")
OPTIONS = {"dev": DEV, "dev_every": 2, "groups_per_step": 1, "group_size": 2, "steps": 6, "staleness_bound": 1}


def lease(run: RunState, count: int) -> list[Lease]:
    leases, _ = run.book.grant("actor-0", count, now=0.0)
    run.commit()
    return leases


def finish(run: RunState, leases: list[Lease], *, version: int | None = None, reward: float = 1.0) -> None:
    for one in leases:
        trajectory = make_trajectory(one, version=version, reward=reward)
        assert run.inbox.receive("actor-0", trajectory, encode(trajectory)).outcome == "ok"
    run.commit()


def train(run: RunState, step: int) -> None:
    """One step: its group is rolled out, taken and made."""
    while isinstance(taken := run.book.take(step), str):
        (one,) = lease(run, 1)
        if one.purpose == "train":
            finish(run, [one])
    ids = [record.lease_id for group in taken for record in group.survivors]
    publish_step(run, step, ids)


def events(folder: Path, kind: str) -> list[dict]:
    return [event for event in MetricsReader(folder / "metrics.jsonl").new() if event["event"] == kind]


def kinds(leases: list[Lease]) -> list[str]:
    return [one.label or one.purpose for one in leases]


def test_every_so_many_versions_the_dev_list_is_evaluated_beside_training(tmp_path):
    run = begun_run(tmp_path, **OPTIONS)
    train(run, 1)
    first = lease(run, 1)
    assert kinds(first) == ["train"]
    finish(run, first)
    train(run, 2)
    (dev, other) = lease(run, 2)
    assert kinds([dev, other]) == ["dev.v2", "train"]
    finish(run, [other])
    assert (dev.purpose, dev.minimum_version, dev.sampling.temperature) == ("evaluate", 2, 0.0)
    train(run, 3)  # the evaluation is not done: the trainer gets its groups all the same
    finish(run, [dev], version=3)
    assert events(tmp_path, "evaluation") == []
    for _ in range(2):
        (dev,) = [one for one in lease(run, 1) if one.label]
        finish(run, [dev], reward=0.5)
    (told,) = events(tmp_path, "evaluation")
    assert (told["label"], told["asked_version"], told["policy_version"], told["newest_version"]) == ("dev.v2", 2, 2, 3)
    assert (told["tasks"], told["lost"], told["tgc"]) == (3, 0, round(1 / 3, 6))
    run.close()


def test_an_episode_by_an_older_version_than_asked_for_is_refused(tmp_path):
    run = begun_run(tmp_path, **OPTIONS)
    train(run, 1)
    train(run, 2)
    (dev,) = lease(run, 1)
    old = make_trajectory(dev, version=1)
    verdict = run.inbox.receive("actor-0", old, encode(old))
    assert (verdict.outcome, verdict.reason) == ("invalid", "sampled by version 1, its lease asks for 2")
    run.close()


def test_dev_episodes_use_their_share_of_the_slots_and_no_more(tmp_path):
    run = begun_run(tmp_path, **{**OPTIONS, "groups_per_step": 8, "dev": tuple(f"d_{n}" for n in range(9)), "steps": 9})
    reception = make_reception(run)
    reception.answer("actor-0", b"c0", encode(make_hello(slots=12)))
    publish_step(run, 1)
    publish_step(run, 2)
    leases = lease(run, 12)
    assert kinds(leases) == ["dev.v2"] * 3 + ["train"] * 9  # a quarter of 12
    assert kinds(lease(run, 2)) == ["train"] * 2
    finish(run, leases[:1])
    assert kinds(lease(run, 2)) == ["dev.v2", "train"]
    run.close()


def test_one_that_is_not_done_when_the_next_is_due_makes_that_one_fall_out_and_says_so(tmp_path):
    run = begun_run(tmp_path, **OPTIONS)
    for step in range(1, 5):
        train(run, step)
    assert [(one["label"], one["waiting_for"]) for one in events(tmp_path, "evaluation_skipped")] == [
        ("dev.v4", "dev.v2")
    ]
    run.close()


def test_a_killed_gateway_goes_on_with_the_evaluation_where_it_was(tmp_path):
    run = begun_run(tmp_path, **OPTIONS)
    train(run, 1)
    train(run, 2)
    (dev,) = lease(run, 1)
    finish(run, [dev])
    for _ in range(2):
        run.ledger.close()  # as a kill leaves it: nothing is said, nothing is saved
        run = make_run(tmp_path, **OPTIONS)
        (dev,) = lease(run, 1)
        assert dev.label == "dev.v2"
        finish(run, [dev])
    run.close()
    make_run(tmp_path, **OPTIONS).close()
    (told,) = events(tmp_path, "evaluation")
    assert (told["label"], told["tasks"], told["tgc"]) == ("dev.v2", 3, 1.0)


def test_a_version_that_is_published_anew_is_not_evaluated_again(tmp_path):
    run = begun_run(tmp_path, **{**OPTIONS, "dev": ("d_1",)})
    train(run, 1)
    train(run, 2)
    finish(run, lease(run, 1))
    publish_step(run, 2)
    run.commit()
    assert [one["label"] for one in events(tmp_path, "evaluation")] == ["dev.v2"]
    assert events(tmp_path, "evaluation_skipped") == []
    assert "dev.v2" not in kinds(lease(run, 4))
    run.close()


def test_dev_episodes_are_never_trained_on_and_the_books_balance_to_the_end(tmp_path):
    run = begun_run(tmp_path, **OPTIONS)
    for step in range(1, 3):
        train(run, step)
    (dev,) = lease(run, 1)
    assert dev.label == "dev.v2"
    run.course.end_training()
    run.commit()
    assert not run.finished  # the dev list's last episodes are waited for
    finish(run, [dev, *lease(run, 9)])
    assert run.finished
    run.close()
    books = the_books(tmp_path)
    assert (books.balanced, books.evaluated, books.trained) == (True, 3, 4)
