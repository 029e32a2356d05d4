"""Groups that a step goes without are carried over: others take their places, and nothing of them is cut."""

from __future__ import annotations

import pytest
from gateway_builders import begun_run, make_book, make_config, make_trajectory, publish_step, tell_desk, the_books
from pydantic import ValidationError

from common.metrics import MetricsReader
from common.wire import encode
from learner.gateway.trainer_port import Groups, NextGroups, NotYet

OPTIONS = {"group_size": 3, "straggler_share": 0.5, "straggler_members": 2, "stragglers": "carry", "staleness_bound": 2}


def arrive(book, leases, version=None):
    for lease in leases:
        record = book.find(lease.lease_id)
        book.arrive(record, book.policy_version if version is None else version, reward=float(lease.member % 2))


def carried(book):
    return [(group.group_id, group.carried) for group in book.in_state("open") if group.carried]


def step_of(book, number, groups):
    """The step is made and its version published."""
    book.consume(number, [record.lease_id for group in groups for record in group.survivors], {})
    book.steps, book.policy_version = number, number


def test_a_group_that_is_not_whole_is_carried_and_another_is_drawn_in_its_place():
    book = make_book(groups_per_step=1, steps=9, **OPTIONS)
    leases, _ = book.grant("a", 9, now=0.0)
    assert book.grant("a", 3, now=0.0)[0] == [], "the bound's three groups are out"
    arrive(book, leases[:2])
    assert book.take(1).endswith("; 1 carried over besides")
    assert carried(book) == [("g000000", 1)]
    assert book.find(leases[2].lease_id).state == "leased", "nothing is cut"
    assert book.renew("a", [leases[2].lease_id], now=1.0) == []
    more, _ = book.grant("a", 9, now=0.0)
    assert {lease.group_id for lease in more} == {"g000003"}, "as many more as are carried"
    arrive(book, leases[3:6])
    (group,) = book.take(1)
    assert (group.group_id, len(group.survivors)) == ("g000001", 3), "a step is made of whole groups"
    step_of(book, 1, [group])
    arrive(book, leases[2:3])
    (group,) = book.take(2)
    assert (group.group_id, len(group.survivors)) == ("g000000", 3), "older draws first"


def test_as_many_groups_as_a_step_has_are_carried_and_then_the_rule_cuts():
    book = make_book(groups_per_step=1, steps=9, **OPTIONS)
    leases, _ = book.grant("a", 9, now=0.0)
    arrive(book, [*leases[:2], *leases[3:5]])
    assert book.take(1).endswith("1 carried over besides")
    (group,) = book.take(1)
    assert (group.group_id, len(group.survivors)) == ("g000001", 2)
    assert book.find(leases[5].lease_id).reason == "straggler"
    assert carried(book) == [("g000000", 1)]


def test_the_last_step_of_a_run_carries_nothing():
    book = make_book(groups_per_step=1, steps=1, **OPTIONS)
    leases, _ = book.grant("a", 3, now=0.0)
    arrive(book, leases[:2])
    (group,) = book.take(1)
    assert (len(group.survivors), book.find(leases[2].lease_id).reason) == (2, "straggler")


def test_at_its_last_chance_a_carried_group_is_trained_on_as_it_is():
    book = make_book(groups_per_step=1, steps=9, **OPTIONS)
    leases, _ = book.grant("a", 9, now=0.0)
    arrive(book, leases[:2])
    book.take(1)
    late = leases[2]
    for number in (1, 2):
        more, _ = book.grant("a", 9, now=0.0)
        arrive(book, [*leases[3:6], *more] if number == 1 else leases[6:9])
        groups = book.take(number)
        assert "g000000" not in [group.group_id for group in groups]
        step_of(book, number, groups)
    (group,) = book.take(3)
    assert (group.group_id, len(group.survivors)) == ("g000000", 2), "its members are two versions old: the bound"
    assert book.find(late.lease_id).reason == "straggler"


def test_what_of_a_carried_group_grew_too_old_is_dropped_as_stale_and_the_rest_is_not_waited_for():
    book = make_book(groups_per_step=1, steps=9, **OPTIONS | {"staleness_bound": 1, "straggler_members": 3})
    book.policy_version = book.steps = 1
    leases, _ = book.grant("a", 6, now=0.0)
    arrive(book, leases[:2], version=0)
    group = book.in_state("open")[0]
    book._register.carry(group, 2)
    book.policy_version = book.steps = 2
    assert isinstance(book.take(3), str)
    reasons = [record.reason for member in group.members for record in member.leases]
    assert (reasons, group.state, group.reason) == (["stale"] * 3, "dropped", "group_too_small")
    assert leases[2].lease_id in book.renew("a", [leases[2].lease_id], now=1.0), "its actor is told"


def test_carrying_needs_a_bound():
    with pytest.raises(ValidationError, match="carry needs"):
        make_config(stragglers="carry", staleness_bound=0)


def lines(folder):
    return [event for event in MetricsReader(folder / "metrics.jsonl").new() if event["event"] == "stragglers"]


def test_a_restarted_gateway_knows_what_is_carried_and_metrics_say_how_many(tmp_path):
    run = begun_run(tmp_path, groups_per_step=1, steps=9, **OPTIONS)

    def send(leases):
        for lease in leases:
            trajectory = make_trajectory(lease, reward=float(lease.member % 2), version=run.policy_version)
            assert run.inbox.receive("actor-0", trajectory, encode(trajectory)).outcome == "ok"
        run.commit()

    def made(step):
        answer = tell_desk(run, NextGroups(step=step))
        assert isinstance(answer, Groups), answer
        publish_step(run, step, [lease_id for group in answer.groups for lease_id in group.trajectory_ids])
        return [group.group_id for group in answer.groups]

    leases, _ = run.book.grant("actor-0", 9, now=0.0)
    run.commit()
    send(leases[:2])
    assert isinstance(tell_desk(run, NextGroups(step=1)), NotYet)
    run.close()
    run = begun_run(tmp_path, groups_per_step=1, steps=9, **OPTIONS)
    assert carried(run.book) == [("g000000", 1)]
    assert len(run.book.grant("actor-0", 9, now=0.0)[0]) == 3
    run.commit()
    send(leases[3:6])
    assert made(1) == ["g000001"]
    send(leases[2:3])
    assert made(2) == ["g000000"]
    assert the_books(tmp_path).balanced
    assert [(line["carried"], line["carried_in"], line["cut"]) for line in lines(tmp_path)] == [(1, 0, 0), (0, 1, 0)]
    run.close()
