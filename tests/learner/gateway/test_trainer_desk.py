"""The trainer's side of the gateway, without sockets."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateway_builders import arrive, make_run

from common.wire import decode
from learner.gateway import books
from learner.gateway.ledger import open_database
from learner.gateway.run_state import RunState
from learner.gateway.trainer_desk import TrainerDesk
from learner.gateway.trainer_port import (
    Groups,
    Impossible,
    NextGroups,
    Noted,
    NotYet,
    Published,
    Resume,
    TrainerHello,
    TrainerWelcome,
    trainer_socket,
)


@pytest.fixture
def run(tmp_path: Path):
    made = make_run(tmp_path, groups_per_step=1, group_size=2, steps=9, staleness_bound=4)
    yield made
    made.close()


def ask(run: RunState, message):
    answer, blobs = TrainerDesk(run).answer(message)
    run.commit()
    return (answer, blobs) if isinstance(answer, Groups) else answer


def publish(run: RunState, step: int, consumed=(), dropped=None, digest: str = ""):
    digest = digest or f"{step:02x}" * 32
    message = Published(
        policy_version=step, manifest_digest=digest, step=step, consumed=tuple(consumed), dropped=dropped or {}
    )
    return ask(run, message)


def begin(run: RunState) -> None:
    ask(run, TrainerHello(resume=None))
    publish(run, 0)


def step(run: RunState, number: int) -> list[str]:
    ids = arrive(run, 2)
    ask(run, NextGroups(step=number))
    assert publish(run, number, ids) == Noted()
    return ids


def state_of(run: RunState, ids) -> set[str]:
    return {run.ledger.lease_state(lease_id)[0] for lease_id in ids}


def test_a_trainer_of_a_new_run_is_welcomed_with_its_name(run):
    assert ask(run, TrainerHello(resume=None)) == TrainerWelcome(run_id=run.run_id, policy_version=-1, step=0)


def test_groups_come_as_the_frames_that_arrived(run):
    begin(run)
    assert isinstance(ask(run, NextGroups(step=1)), NotYet)
    ids = arrive(run, 2)
    answer, blobs = ask(run, NextGroups(step=1))
    assert [group.trajectory_ids for group in answer.groups] == [tuple(ids)]
    assert [decode(blob).trajectory_id for blob in blobs] == ids


def test_publishing_tells_actors_once_and_may_be_said_twice(run):
    begin(run)
    ids = arrive(run, 2)
    ask(run, NextGroups(step=1))
    run.news.clear()
    assert publish(run, 1, ids) == Noted()
    assert publish(run, 1, ids) == Noted()
    assert [news.policy_version for news in run.news] == [1]
    assert (run.policy_version, run.book.steps) == (1, 1)
    assert state_of(run, ids) == {"trained"}


def test_a_trainer_killed_before_it_saved_gets_the_same_groups_again(run):
    begin(run)
    step(run, 1)
    ids = arrive(run, 2)
    first = ask(run, NextGroups(step=2))
    ask(run, TrainerHello(resume=Resume(policy_version=1, step=1, consumed=())))
    assert state_of(run, ids) == {"received"}
    assert ask(run, NextGroups(step=2)) == first


def test_a_trainer_killed_between_saving_and_publishing_trains_nothing_twice(run):
    begin(run)
    ids = arrive(run, 2)
    ask(run, NextGroups(step=1))
    welcome = ask(run, TrainerHello(resume=Resume(policy_version=1, step=1, consumed=tuple(ids))))
    assert (welcome.policy_version, welcome.step) == (0, 1)
    assert state_of(run, ids) == {"trained"}
    assert publish(run, 1, ids) == Noted()
    assert isinstance(ask(run, NextGroups(step=2)), NotYet)


def test_steps_that_the_trainers_state_does_not_know_are_undone(run, tmp_path):
    begin(run)
    first, second, third = (step(run, number) for number in (1, 2, 3))
    welcome = ask(run, TrainerHello(resume=Resume(policy_version=1, step=1, consumed=tuple(first))))
    assert (welcome.policy_version, welcome.step) == (1, 1)
    assert state_of(run, first) == {"trained"}
    assert state_of(run, [*second, *third]) == {"received"}
    answer, _ = ask(run, NextGroups(step=2))
    assert [group.trajectory_ids for group in answer.groups] == [tuple(second)]
    database = open_database(tmp_path / "ledger.sqlite", read_only=True)
    assert books.books(database).balanced
    database.close()


def test_a_trainer_without_its_state_is_told_so(run):
    begin(run)
    step(run, 1)
    assert ask(run, TrainerHello(resume=None)) == Impossible(
        reason="the ledger stands at step 1, but the trainer brings no state of the run"
    )


def test_a_version_number_is_not_used_twice(run):
    begin(run)
    step(run, 1)
    step(run, 2)
    assert publish(run, 1) == Impossible(reason="version 1 published, current is 2")


def test_a_version_made_anew_from_the_same_state_is_announced_anew(run):
    begin(run)
    ids = step(run, 1)
    run.news.clear()
    assert publish(run, 1, ids, digest="ff" * 32) == Noted()
    assert [news.manifest_digest for news in run.news] == ["ff" * 32]
    assert state_of(run, ids) == {"trained"}


def test_groups_of_another_step_than_the_next_are_not_given(run):
    begin(run)
    assert ask(run, NextGroups(step=3)) == Impossible(reason="groups of step 3 asked for, the next is 1")


def test_the_socket_lies_in_the_run_folder_or_where_its_path_is_short_enough(tmp_path):
    assert trainer_socket(tmp_path) == tmp_path / "gateway.sock"
    deep = tmp_path / ("x" * 200)
    assert len(str(trainer_socket(deep))) < 107
    assert trainer_socket(deep) == trainer_socket(deep)
    assert trainer_socket(deep) != trainer_socket(tmp_path / ("y" * 200))
