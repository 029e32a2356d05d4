"""The straggler rule: what is cut, when, what it leaves alone, and what is told of lengths."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from gateway_builders import (
    begun_run,
    make_book,
    make_config,
    make_trajectory,
    publish_step,
    tell_desk,
    the_books,
)
from pydantic import ValidationError

from common.messages import Lease
from common.metrics import MetricsReader
from common.wire import encode
from learner.gateway.evaluation import EvaluationTask
from learner.gateway.inbox import Verdict
from learner.gateway.leases import LeaseBook
from learner.gateway.run_state import RunState
from learner.gateway.trainer_port import Groups, NextGroups, NotYet, Resume, TrainerHello


def arrive(book: LeaseBook, leases: Iterable[Lease], *, rewards: tuple[float, ...] = (0.0, 1.0)) -> None:
    for lease in leases:
        record = book.find(lease.lease_id)
        assert record is not None
        book.arrive(record, oldest_version=book.policy_version, reward=rewards[lease.member % len(rewards)])


def states(book_or_group, lease: Lease) -> tuple[str, str]:
    record = next(
        record for member in book_or_group.members for record in member.leases if record.lease_id == lease.lease_id
    )
    return record.state, record.reason


@pytest.mark.parametrize(
    ("arrived", "closes"),
    [
        pytest.param((6, 6, 6), True, id="all"),
        pytest.param((6, 6, 5), True, id="17 of 18"),
        pytest.param((6, 5, 5), False, id="16 of 18 are less than 90 %"),
        pytest.param((6, 6, 3), False, id="a group has 3 of 6"),
    ],
)
def test_a_step_waits_for_nine_in_ten_of_all_members_and_four_in_six_of_each_group(arrived, closes):
    book = make_book(groups_per_step=3, group_size=6, straggler_share=0.9)
    leases, _ = book.grant("a", 18, now=0.0)
    for number, count in enumerate(arrived):
        arrive(book, leases[6 * number : 6 * number + count])
    taken = book.take(1)
    assert (not isinstance(taken, str)) == closes
    if closes:
        assert [len(group.survivors) for group in taken] == list(arrived)


def test_nine_in_ten_of_all_are_not_enough_where_one_group_has_too_few():
    book = make_book(groups_per_step=10, group_size=6, straggler_share=0.9)
    leases, _ = book.grant("a", 60, now=0.0)
    arrive(book, leases[:57])
    assert book.take(1) == "1 group: g000009 (b_2) has 3 of 6"
    arrive(book, leases[57:58])
    assert [len(group.survivors) for group in book.take(1)] == [6] * 9 + [4]


def test_what_is_cut_is_dropped_as_straggler_and_its_actor_is_told_to_stop():
    book = make_book(groups_per_step=1, group_size=6, straggler_share=0.5)
    leases, _ = book.grant("a", 6, now=0.0)
    arrive(book, leases[:4])
    assert book.renew("a", [lease.lease_id for lease in leases[4:]], now=1.0) == []
    (group,) = book.take(1)
    assert [states(group, lease) for lease in leases[4:]] == [("dropped", "straggler")] * 2
    assert book.renew("a", [lease.lease_id for lease in leases], now=1.0) == [lease.lease_id for lease in leases[4:]]
    assert book.leased() == 0


def test_nothing_is_cut_before_the_trainer_asks_or_with_a_share_of_one():
    for share, cut in ((0.5, True), (1.0, False)):
        book = make_book(groups_per_step=1, group_size=6, straggler_share=share)
        leases, _ = book.grant("a", 6, now=0.0)
        arrive(book, leases[:5])
        assert book.leased() == 1
        assert isinstance(book.take(1), list) == cut
        assert book.leased() == (0 if cut else 1)


def test_ready_groups_come_first_then_open_ones_by_draw():
    book = make_book(groups_per_step=2, group_size=4, staleness_bound=1, straggler_share=0.7)
    leases, _ = book.grant("a", 16, now=0.0)
    arrive(book, [*leases[:3], *leases[4:7], *leases[12:16]])
    assert [group.group_id for group in book.take(1)] == ["g000000", "g000003"]
    assert [group.group_id for group in book.in_state("open")] == ["g000001", "g000002"], "the rest is let be"


def test_members_that_are_lost_are_no_stragglers():
    book = make_book(groups_per_step=1, group_size=6, straggler_share=0.8, most_failures=1)
    leases, _ = book.grant("a", 6, now=0.0)
    book.give_back(book.find(leases[5].lease_id), "world host died", failure=True)
    arrive(book, leases[:4])
    (group,) = book.take(1)
    assert [states(group, lease)[1] for lease in leases[4:]] == ["straggler", "returned"]


def test_a_place_that_nobody_holds_is_closed_as_well_and_not_leased_again():
    book = make_book(groups_per_step=1, group_size=6, straggler_share=0.6)
    leases, _ = book.grant("a", 5, now=0.0)
    arrive(book, leases[:4])
    book.release([leases[4].lease_id], "actor_left")
    (group,) = book.take(1)
    assert len(group.survivors) == 4
    assert book.grant("b", 6, now=0.0)[0] == []


def test_evaluations_are_never_cut():
    book = make_book(groups_per_step=1, group_size=6, straggler_share=0.5)
    book.add_evaluation([EvaluationTask("before.t1", "e_1", 1.0, 6)], 0, None)
    leases, _ = book.grant("a", 6, now=0.0)
    arrive(book, leases[:5])
    assert book.take(1) == "the evaluation before.t1: 1 tasks of it are not done"
    assert book.find(leases[5].lease_id).state == "leased"


def test_a_group_that_will_be_replaced_is_closed_by_itself_and_the_others_keep_their_time():
    book = make_book(groups_per_step=2, group_size=6, straggler_share=0.6, refill_most=1)
    leases, _ = book.grant("a", 12, now=0.0)
    arrive(book, leases[:4], rewards=(1.0,))
    arrive(book, leases[6:10])
    assert book.take(1) == "2 groups: g000001 (b_1) has 4 of 6; 1 without signal were replaced, 1 may be"
    assert [group.group_id for group in book.in_state("open")] == ["g000001"]
    assert book.find(leases[10].lease_id).state == "leased"
    again, _ = book.grant("a", 6, now=0.0)
    assert {lease.group_id for lease in again} == {"g000002"}
    arrive(book, again[:4], rewards=(1.0,))
    assert [group.group_id for group in book.take(1)] == ["g000001", "g000002"], "replacements are spent"


def test_members_too_old_to_be_trained_on_are_not_counted_as_in():
    options = {"staleness_bound": 1, "straggler_share": 0.5, "straggler_members": 2}
    book = make_book(groups_per_step=1, group_size=6, version=3, **options)
    leases, _ = book.grant("a", 6, now=0.0)
    arrive(book, leases[:2])
    book.policy_version = 5
    arrive(book, leases[2:4])
    assert book.take(1) == "1 group: g000000 (a_1) has 4 of 6", "two of the four are too old"
    arrive(book, leases[4:5])
    (group,) = book.take(1)
    assert [states(group, lease)[1] for lease in leases] == ["stale", "stale", "", "", "", "straggler"]


def outrun(*, arrived: int, version: int, bound: int = 1, **changes: object) -> tuple[LeaseBook, list[Lease]]:
    """A book whose first group has `arrived` of 6 in, from version 0; others are complete: the step has its groups."""
    options = {"groups_per_step": 1, "group_size": 6, "staleness_bound": bound, "straggler_share": 0.9, **changes}
    book = make_book(**options)
    leases, _ = book.grant("a", 12, now=0.0)
    arrive(book, leases[:arrived])
    book.policy_version = version
    arrive(book, leases[6:])
    return book, leases


def test_a_group_that_has_enough_goes_into_the_last_step_that_may_have_it():
    book, leases = outrun(arrived=5, version=1)
    (group,) = book.take(2)
    assert (group.group_id, len(group.survivors)) == ("g000000", 5)
    assert states(group, leases[5]) == ("dropped", "straggler")
    assert [ready.group_id for ready in book.in_state("ready")] == ["g000001"], "younger, it keeps for the next step"


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ({"arrived": 5, "version": 0}, "it may come into a later step"),
        ({"arrived": 3, "version": 1}, "it has not enough"),
        ({"arrived": 5, "version": 1, "straggler_share": 1.0}, "the rule is off"),
        ({"arrived": 5, "version": 1, "straggler_members": 6}, "it may not be cut"),
    ],
)
def test_otherwise_a_group_that_others_have_outrun_is_let_be(case, why):
    book, leases = outrun(**case)
    (group,) = book.take(book.policy_version + 1)
    assert group.group_id == "g000001", why
    assert states(next(iter(book.in_state("open"))), leases[5]) == ("leased", ""), why


def test_a_group_is_not_closed_to_save_fewer_than_it_waits_for():
    book = make_book(groups_per_step=1, group_size=6, staleness_bound=1, straggler_share=0.9)
    leases, _ = book.grant("a", 12, now=0.0)
    arrive(book, leases[:1])
    book.policy_version = 1
    arrive(book, leases[1:4])
    arrive(book, leases[6:])
    (group,) = book.take(2)
    assert group.group_id == "g000001", "one of its four would be too old at the next step, and two are awaited"


@pytest.mark.parametrize(("size", "least"), [(2, 2), (3, 2), (4, 3), (6, 4), (8, 6)])
def test_two_thirds_of_a_group_stay_unless_said_otherwise_and_never_fewer_than_two(size, least):
    assert make_config(group_size=size).least_members == least
    assert make_config(group_size=size, straggler_members=2).least_members == 2


@pytest.mark.parametrize(
    "wrong", [{"straggler_share": 0.0}, {"straggler_share": 1.1}, {"straggler_members": 1}, {"straggler_members": 3}]
)
def test_a_rule_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError, match="straggler"):
        make_config(group_size=2, **wrong)


# --- with the ledger


def begin(folder: Path, *, share: float = 0.5) -> RunState:
    return begun_run(folder, groups_per_step=1, group_size=3, straggler_share=share, straggler_members=2)


def send(run: RunState, lease: Lease, *, reward: float = 0.5, sampled: int = 2) -> Verdict:
    trajectory = make_trajectory(lease, reward=reward, version=run.policy_version, sampled=sampled)
    verdict = run.inbox.receive("actor-0", trajectory, encode(trajectory))
    run.commit()
    return verdict


def handed(run: RunState, step: int) -> list[str]:
    answer = tell_desk(run, NextGroups(step=step))
    assert isinstance(answer, Groups), answer
    return [lease_id for group in answer.groups for lease_id in group.trajectory_ids]


def lease_all(run: RunState) -> list[Lease]:
    leases, _ = run.book.grant("actor-0", 3, now=0.0)
    run.commit()
    return leases


def lines(folder: Path) -> list[dict]:
    return [event for event in MetricsReader(folder / "metrics.jsonl").new() if event["event"] == "stragglers"]


def test_a_stragglers_late_trajectory_is_fenced_and_its_length_is_kept(tmp_path):
    run = begin(tmp_path)
    first, second, late = lease_all(run)
    assert isinstance(tell_desk(run, NextGroups(step=1)), NotYet)
    assert send(run, first, sampled=2).outcome == send(run, second, sampled=4).outcome == "ok"
    assert handed(run, 1) == [first.lease_id, second.lease_id]
    assert the_books(tmp_path).dropped == {"straggler": 1}
    assert send(run, late, sampled=10) == Verdict("fenced", "leased to actor-0, dropped straggler")
    publish_step(run, 1, [first.lease_id, second.lease_id])
    assert send(run, late, sampled=10) == Verdict("fenced", "dropped: straggler"), "its group left the book"
    found = the_books(tmp_path)
    assert found.balanced, found
    assert (found.trained, found.dropped) == (2, {"straggler": 1})
    (line,) = lines(tmp_path)
    assert (line["step"], line["kept"], line["mean_tokens_kept"]) == (1, 2, 6.0)
    assert (line["cut"], line["cut_of_known_length"], line["mean_tokens_cut"]) == (1, 1, 13.0)
    run.close()


def test_how_far_a_cancelled_episode_had_come_is_kept_until_its_whole_length_is_known(tmp_path):
    run = begin(tmp_path)
    for step in (1, 2):
        first, second, late = lease_all(run)
        send(run, first)
        send(run, second)
        ids = handed(run, step)
        if step == 1:
            told = run.inbox.give_back("actor-0", late.lease_id, "cancelled", failure=False, tokens=7)
            assert told == Verdict("fenced", "its group was closed without it")
            run.inbox.give_back("actor-1", late.lease_id, "not theirs", failure=False, tokens=99)
        publish_step(run, step, ids)
        if step == 1:
            send(run, late, sampled=20)
    first_line, second_line = lines(tmp_path)
    assert (first_line["cut_of_known_length"], first_line["mean_tokens_cut"]) == (1, 7.0)
    assert (second_line["cut"], second_line["cut_of_known_length"], second_line["mean_tokens_cut"]) == (1, 0, None)
    in_sum = [second_line[f"{name}_in_sum"] for name in ("cut", "cut_of_known_length", "mean_tokens_cut")]
    assert in_sum == [2, 1, 23.0], "what came after its step's line stands in the sums of later ones"
    run.close()


def test_a_step_made_again_gets_the_survivors_it_had(tmp_path):
    run = begin(tmp_path)
    first, second, late = lease_all(run)
    send(run, first)
    send(run, second)
    ids = handed(run, 1)
    run.close()
    run = begin(tmp_path)
    assert handed(run, 1) == ids, "a restarted gateway"
    tell_desk(run, TrainerHello(resume=None))
    assert send(run, late).outcome == "fenced"
    assert handed(run, 1) == ids, "a restarted trainer"
    publish_step(run, 1, ids)
    tell_desk(run, TrainerHello(resume=Resume(policy_version=0, step=0, consumed=())))
    assert send(run, late).outcome == "fenced"
    assert handed(run, 1) == ids, "a trainer that lost the step"
    publish_step(run, 1, ids)
    assert the_books(tmp_path).balanced
    run.close()


def test_without_the_rule_nothing_is_told_of_it(tmp_path):
    run = begin(tmp_path, share=1.0)
    leases = lease_all(run)
    for lease in leases:
        send(run, lease)
    publish_step(run, 1, handed(run, 1))
    assert lines(tmp_path) == []
    run.close()
