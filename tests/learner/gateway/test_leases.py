from __future__ import annotations

import pytest
from gateway_builders import make_book

from learner.gateway.evaluation import EvaluationTask
from learner.gateway.leases import LeaseBook


def arrive_all(book: LeaseBook, actor: str = "a", count: int = 100) -> list[str]:
    leases, _ = book.grant(actor, count, now=0.0)
    for lease in leases:
        record = book.find(lease.lease_id)
        assert record is not None
        book.arrive(record, oldest_version=book.policy_version, reward=0.5)
    return [lease.lease_id for lease in leases]


def drop_member(book: LeaseBook, lease_id: str) -> None:
    group_id, member, epoch = lease_id.split(".")
    while (record := book.find(f"{group_id}.{member}.{epoch}")) is not None:
        book.give_back(record, "world host died", failure=True)
        book.grant("a", 1, now=0.0)
        epoch = str(int(epoch) + 1)


def test_a_group_is_leased_member_by_member_under_one_identity():
    book = make_book(groups_per_step=2, group_size=2)
    leases, waiting = book.grant("a", 3, now=0.0)
    assert [lease.lease_id for lease in leases] == ["g000000.0.0", "g000000.1.0", "g000001.0.0"]
    assert leases[0].task_id == leases[1].task_id
    assert waiting == ""


def test_no_more_groups_are_out_than_the_staleness_bound_allows():
    book = make_book(groups_per_step=2, group_size=2, staleness_bound=0)
    leases, waiting = book.grant("a", 100, now=0.0)
    assert len(leases) == 2 * 2
    assert waiting == "2 groups: g000000 (a_1) has 0 of 2, g000001 (b_1) has 0 of 2 to complete"
    assert len(make_book(groups_per_step=2, group_size=2, staleness_bound=1).grant("a", 100, now=0.0)[0]) == 8


def test_no_more_groups_are_drawn_than_the_run_has_steps_for():
    book = make_book(groups_per_step=2, group_size=2, staleness_bound=7, steps=3)
    assert len(book.grant("a", 100, now=0.0)[0]) == 3 * 2 * 2


def test_nothing_is_leased_before_the_first_version():
    assert make_book(version=-1).grant("a", 1, now=0.0) == ([], "the first policy version")


def test_a_lease_that_expires_is_issued_again():
    book = make_book(lease_seconds=60.0)
    (lease,), _ = book.grant("a", 1, now=0.0)
    assert book.expire(now=59.9) == []
    assert [record.lease_id for record in book.expire(now=60.0)] == [lease.lease_id]
    (again,), _ = book.grant("b", 1, now=60.0)
    assert (again.group_id, again.member, again.epoch) == (lease.group_id, lease.member, 1)


def test_a_renewed_lease_does_not_expire():
    book = make_book(lease_seconds=60.0)
    (lease,), _ = book.grant("a", 1, now=0.0)
    assert book.renew("a", [lease.lease_id], now=50.0) == []
    assert book.expire(now=100.0) == []
    assert len(book.expire(now=110.0)) == 1


def test_a_lease_is_renewed_by_its_holder_alone():
    book = make_book(lease_seconds=60.0)
    (lease,), _ = book.grant("a", 1, now=0.0)
    book.renew("b", [lease.lease_id], now=50.0)
    assert len(book.expire(now=60.0)) == 1


def test_a_late_result_is_wanted_until_its_member_is_leased_again():
    book = make_book()
    (lease,), _ = book.grant("a", 1, now=0.0)
    (record,) = book.expire(now=1000.0)
    assert book.may_arrive(record)
    assert book.renew("a", [lease.lease_id], now=1000.0) == []
    book.grant("b", 1, now=1000.0)
    assert not book.may_arrive(record)
    assert book.renew("a", [lease.lease_id], now=1000.0) == [lease.lease_id]


def test_a_member_is_dropped_after_three_failures_and_its_group_closes_with_the_survivors():
    book = make_book(groups_per_step=1, group_size=3, most_failures=3)
    leases, _ = book.grant("a", 3, now=0.0)
    for lease in leases[:2]:
        record = book.find(lease.lease_id)
        assert record is not None
        book.arrive(record, oldest_version=0, reward=0.5)
    drop_member(book, leases[2].lease_id)
    (group,) = book.in_state("ready")
    assert [record.lease_id for record in group.survivors] == [lease.lease_id for lease in leases[:2]]
    assert group.members[2].failures == 3


def test_a_group_with_one_survivor_is_dropped_whole_and_another_is_drawn():
    book = make_book(groups_per_step=1, group_size=2, most_failures=1)
    first, second = book.grant("a", 2, now=0.0)[0]
    record, lost = book.find(first.lease_id), book.find(second.lease_id)
    assert record is not None
    assert lost is not None
    book.arrive(record, oldest_version=0, reward=0.5)
    book.give_back(lost, "world host died", failure=True)
    assert (record.state, record.reason) == ("dropped", "group_too_small")
    assert list(book.groups) == []
    assert book.grant("a", 1, now=0.0)[0][0].group_id == "g000001"


def test_what_is_released_is_issued_again_without_a_failure():
    book = make_book()
    kept, lost = book.grant("a", 2, now=0.0)[0]
    assert book.leased_to("a") == [kept.lease_id, lost.lease_id]
    assert book.release([lost.lease_id], "unclaimed") == [lost.lease_id]
    (again,), _ = book.grant("b", 1, now=0.0)
    assert (again.member, again.epoch) == (lost.member, 1)
    group = next(book.groups)
    assert group.members[lost.member].failures == 0
    assert group.members[kept.member].leases[-1].state == "leased"


def test_groups_are_taken_when_there_are_enough_and_again_the_same():
    book = make_book(groups_per_step=2, group_size=2)
    assert book.take(1) == "2 groups"
    arrive_all(book, count=3)
    assert book.take(1) == "1 group: g000001 (b_1) has 1 of 2"
    arrive_all(book)
    taken = book.take(1)
    assert [group.group_id for group in taken] == ["g000000", "g000001"]
    assert book.take(1) == taken


def test_what_a_step_trained_on_and_passed_over_leaves_the_book():
    book = make_book(groups_per_step=1, group_size=3)
    ids = arrive_all(book)
    (group,) = book.take(1)
    book.consume(1, ids[:1], {ids[1]: "zero_advantage"})
    assert [(record.state, record.reason) for record in (m.leases[0] for m in group.members)] == [
        ("trained", ""),
        ("dropped", "zero_advantage"),
        ("dropped", "not_trained"),
    ]
    assert (group.state, group.step) == ("trained", 1)
    assert list(book.groups) == []


def test_what_is_older_than_the_staleness_bound_is_dropped_before_training():
    book = make_book(groups_per_step=1, group_size=3, staleness_bound=1, version=3)
    leases, _ = book.grant("a", 3, now=0.0)
    records = [book.find(lease.lease_id) for lease in leases]
    for record, version in zip(records, (3, 2, 1), strict=True):
        assert record is not None
        book.arrive(record, oldest_version=version, reward=0.5)
    taken = book.take(4)
    assert not isinstance(taken, str)
    assert [record.oldest_version for record in taken[0].survivors] == [3, 2]
    assert (records[2].state, records[2].reason) == ("dropped", "stale")


def test_a_group_whose_members_are_all_stale_is_dropped_and_another_is_drawn():
    book = make_book(groups_per_step=1, group_size=2, staleness_bound=0)
    arrive_all(book)
    book.policy_version = 1
    assert book.take(2) == "1 group"
    assert book.grant("a", 1, now=0.0)[0][0].group_id == "g000001"


def test_training_waits_for_the_evaluation_before_it():
    book = make_book(groups_per_step=1, group_size=2)
    book.add_evaluation([EvaluationTask("before.t0", "e_1", 0.0, 1)], 0, None)
    leases, _ = book.grant("a", 3, now=0.0)
    assert [lease.purpose for lease in leases] == ["evaluate", "train", "train"]
    for lease in leases[1:]:
        record = book.find(lease.lease_id)
        assert record is not None
        book.arrive(record, oldest_version=0, reward=0.5)
    assert book.take(1) == "the evaluation before.t0: 1 tasks of it are not done"
    record = book.find(leases[0].lease_id)
    assert record is not None
    book.arrive(record, oldest_version=0, reward=0.5)
    assert record.state == "evaluated"
    assert [group.group_id for group in book.take(1)] == ["g000000"]


def test_evaluations_are_sampled_as_they_say():
    book = make_book(max_turns=7)
    book.add_evaluation([EvaluationTask("after.t0", "e_1", 0.0, 1)], 3, max_turns=50)
    (lease,), _ = book.grant("a", 1, now=0.0)
    assert (lease.sampling.temperature, lease.sampling.max_turns) == (0.0, 50)
    assert (lease.label, lease.minimum_version) == ("after.t0", 3)


def test_what_a_restarted_trainer_did_not_consume_is_ready_again():
    book = make_book(groups_per_step=1, group_size=2, staleness_bound=1)
    arrive_all(book, count=2)
    (group,) = book.take(1)
    book.resume(0, (), {}, ())
    assert group.state == "ready"
    assert {record.state for record in group.survivors} == {"received"}
    assert book.take(1) == [group]


def test_what_a_restarted_trainer_says_it_consumed_is_trained_once():
    book = make_book(groups_per_step=1, group_size=2, staleness_bound=1)
    ids = arrive_all(book, count=2)
    (group,) = book.take(1)
    book.resume(1, ids, {}, ())
    assert group.state == "trained"
    assert book.take(2) == "1 group"


def test_steps_that_the_trainer_lost_are_undone():
    book = make_book(groups_per_step=1, group_size=2, staleness_bound=1)
    ids = arrive_all(book, count=2)
    (group,) = book.take(1)
    book.consume(1, ids[:1], {ids[1]: "zero_advantage"})
    book.resume(0, (), {}, [group])
    assert [record.state for record in group.survivors] == ["received", "received"]
    assert book.take(1) == [group]


def test_a_step_made_again_gets_the_groups_it_had_whatever_became_ready_since():
    book = make_book(groups_per_step=1, group_size=2, staleness_bound=2)
    first, second = book.grant("a", 2, now=0.0)[0], book.grant("a", 2, now=0.0)[0]

    def arrive(leases):
        for lease in leases:
            book.arrive(book.find(lease.lease_id), oldest_version=0, reward=0.5)

    arrive(second)
    assert [group.group_id for group in book.take(1)] == ["g000001"]
    arrive(first)
    book.resume(0, (), {}, ())
    assert [group.group_id for group in book.take(1)] == ["g000001"]
    book.consume(1, [lease.lease_id for lease in second], {})
    assert [group.group_id for group in book.take(2)] == ["g000000"]


def test_undone_steps_are_made_again_from_their_own_groups_in_order():
    book = make_book(groups_per_step=2, group_size=2, staleness_bound=3, steps=9)
    arrive_all(book)
    taken = {}
    for step in (1, 2, 3):
        taken[step] = book.take(step)
        ids = [record.lease_id for group in taken[step] for record in group.survivors]
        book.consume(step, ids, {})
    # in whatever order the ledger gives them
    book.resume(1, (), {}, [*taken[3], *reversed(taken[2])])
    for step in (2, 3):
        assert book.take(step) == taken[step]
        book.consume(step, [record.lease_id for group in taken[step] for record in group.survivors], {})
    assert [group.group_id for group in book.take(4)] == ["g000006", "g000007"]


def test_what_a_restarted_trainer_says_it_passed_over_is_not_handed_out_again():
    book = make_book(groups_per_step=1, group_size=2, staleness_bound=1)
    ids = arrive_all(book, count=2)
    (group,) = book.take(1)
    book.resume(1, (), dict.fromkeys(ids, "no_signal"), ())
    assert (group.state, {record.reason for member in group.members for record in member.leases}) == (
        "dropped",
        {"no_signal"},
    )
    assert book.take(2) == "1 group"


def test_the_end_of_training_drops_what_is_under_way():
    book = make_book()
    (lease,), _ = book.grant("a", 1, now=0.0)
    book.end_training()
    assert book.renew("a", [lease.lease_id], now=0.0) == [lease.lease_id]
    assert book.grant("a", 1, now=0.0)[0] == []


def test_changes_are_told_once():
    book = make_book()
    book.grant("a", 1, now=0.0)
    groups, leases = book.take_changes()
    assert ([group.group_id for group in groups], [record.lease_id for record in leases]) == (
        ["g000000"],
        ["g000000.0.0"],
    )
    assert book.take_changes() == ([], [])


@pytest.mark.parametrize("count", [1, 7])
def test_no_member_is_out_twice(count):
    book = make_book(groups_per_step=3, group_size=4, staleness_bound=1)
    seen = set()
    for turn in range(40):
        for lease in book.grant(f"actor-{turn % 3}", count, now=float(turn))[0]:
            place = (lease.group_id, lease.member)
            assert place not in seen
            seen.add(place)
    assert len(seen) == 3 * 4 * 2


def test_a_group_is_drawn_when_its_first_member_is_asked_for_and_not_before():
    book = make_book(groups_per_step=4, group_size=2)
    book.grant("a", 2, now=0.0)
    assert book.history.next_number == 1
    book.grant("a", 1, now=0.0)
    assert book.history.next_number == 2
