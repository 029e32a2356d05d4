"""The lease book's index: held against a walk over everything after each event of any history."""

from __future__ import annotations

import sys

from gateway_builders import make_book
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from recomputed_index import assert_filed

from learner.gateway.evaluation import EvaluationTask

ACTORS = ("a", "b", "c")
ACTOR, COUNT = st.sampled_from(ACTORS), st.integers(1, 9)
OPTIONS = {"groups_per_step": 2, "group_size": 3, "staleness_bound": 1, "steps": 40, "lease_seconds": 10.0}
OPTIONS |= {"most_failures": 2, "refill_most": 1, "straggler_share": 0.7, "straggler_members": 2}


class AnyHistory(RuleBasedStateMachine):
    """A book alone: leases granted, renewed, lost, filled; steps taken, made, undone; evaluations in between."""

    def __init__(self) -> None:
        super().__init__()
        self.book = make_book(**OPTIONS)
        self.book.online_most = 2
        self.now = 0.0
        self.evaluations = 0
        self.made: list = []  # groups of each step

    def some_lease(self, choice: int):
        out = sorted(self.book._index.out)
        return self.book.find(out[choice % len(out)]) if out else None

    @rule(actor=ACTOR, count=COUNT)
    def grant(self, actor, count):
        before = self.book.leased(actor)
        leases, waiting_for = self.book.grant(actor, count, self.now)
        assert self.book.leased(actor) == before + len(leases)
        assert self.book._index.count_out("online") <= self.book.online_most
        assert bool(waiting_for) == (len(leases) < count)

    @rule(choice=st.integers(0, 99), age=st.integers(0, 2), reward=st.sampled_from([0.0, 1.0]))
    def arrive(self, choice, age, reward):
        if record := self.some_lease(choice):
            self.book.arrive(record, max(0, self.book.policy_version - age), reward)

    @rule(count=COUNT, rewards=st.lists(st.sampled_from([0.0, 1.0]), min_size=9, max_size=9))
    def arrive_many(self, count, rewards):
        for reward in rewards[:count]:
            self.arrive(0, 0, reward)

    @rule(choice=st.integers(0, 99), failure=st.booleans())
    def give_back(self, choice, failure):
        if record := self.some_lease(choice):
            self.book.give_back(record, "world host died", failure=failure)

    @rule(choice=st.integers(0, 99), reason=st.sampled_from(["stale", "invalid"]))
    def reject(self, choice, reason):
        if record := self.some_lease(choice):
            self.book.reject(record, reason, "")

    @rule(actor=ACTOR)
    def leave(self, actor):
        assert len(self.book.release(self.book.leased_to(actor), "actor_left")) >= 0
        assert self.book.leased(actor) == 0

    @rule(actor=ACTOR)
    def renew(self, actor):
        assert self.book.renew(actor, self.book.leased_to(actor), self.now) == []

    @rule(seconds=st.floats(0.0, 11.0))
    def time_passes(self, seconds):
        self.now += seconds
        due = {record.lease_id for record in self.book._index.out.values() if record.expires_at <= self.now}
        assert {record.lease_id for record in self.book.expire(self.now)} == due

    @rule(wait=st.floats(0.0, 20.0))
    def gateway_stands_still(self, wait):
        self.now += wait
        self.book.extend_all(self.now)
        assert self.book.expire(self.now) == []

    @rule(tasks=st.integers(1, 3), online=st.booleans())
    def evaluate(self, tasks, online):
        self.evaluations += 1
        label = f"dev.v{self.evaluations}" if online else f"e{self.evaluations}.t1"
        self.book.add_evaluation([EvaluationTask(label, f"t_{i}", 1.0, 2) for i in range(tasks)], 0, None)

    @rule(passed_over=st.integers(0, 2))
    def make_step(self, passed_over):
        taken = self.book.take(self.book.steps + 1)
        if isinstance(taken, str):
            return
        step = self.book.steps + 1
        ids = [record.lease_id for group in taken for record in group.survivors]
        self.book.consume(step, ids[passed_over:], dict.fromkeys(ids[:passed_over], "no_signal"))
        self.made.append(taken)
        self.book.steps = self.book.policy_version = step

    @rule(lost=st.integers(0, 1))
    def trainer_restarts(self, lost):
        kept = max(0, len(self.made) - lost)
        undone = [group for groups in self.made[kept:] for group in groups]
        self.made = self.made[:kept]
        self.book.resume(kept, (), {}, undone)
        self.book.policy_version = kept

    @invariant()
    def the_index_says_what_a_walk_finds(self):
        assert_filed(self.book)


AnyHistory.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_the_index_is_what_a_walk_finds_after_any_history = AnyHistory.TestCase


def test_a_place_is_leased_in_the_order_of_draws_however_it_became_free():
    book = make_book(groups_per_step=2, group_size=3)
    first = book.grant("a", 3, now=0.0)[0]
    book.grant("a", 2, now=0.0)
    book.release([first[2].lease_id], "actor_left")
    book.release([first[0].lease_id], "actor_left")
    assert [lease.lease_id for lease in book.grant("b", 3, now=0.0)[0]] == ["g000000.0.1", "g000000.2.1", "g000001.2.0"]


def test_evaluations_are_leased_before_training_that_was_drawn_before():
    book = make_book(groups_per_step=2, group_size=2)
    (lease,) = book.grant("a", 1, now=0.0)[0]
    book.add_evaluation([EvaluationTask("after.t0", task, 0.0, 1) for task in ("e_2", "e_1")], 0, None)
    assert [one.lease_id for one in book.grant("a", 3, now=0.0)[0]] == [
        "after.t0.e_2.0.0",
        "after.t0.e_1.0.0",
        f"{lease.group_id}.1.0",
    ]


def test_what_a_lease_costs_does_not_grow_with_the_leases_out():
    """Counted in calls, which no neighbour on the machine changes."""
    assert calls_of_a_lease(groups=400) <= calls_of_a_lease(groups=20) + 5


def calls_of_a_lease(*, groups: int) -> int:
    """Python calls of granting, renewing and filling one lease while `groups` groups of 6 are out, one an actor."""
    book = make_book(groups_per_step=groups, group_size=6, tasks=[f"t_{i}" for i in range(groups)])
    for number in range(groups):
        book.grant(f"actor-{number}", 6 if number < groups - 1 else 5, now=0.0)
    book.take_changes()
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        ((lease,), _) = book.grant("actor-0", 1, now=1.0)
        book.renew("actor-0", [lease.lease_id], now=2.0)
        book.expire(now=3.0)
        book.arrive(book.find(lease.lease_id), 0, 0.5)
        book.take(1)
        book.take_changes()
    finally:
        sys.setprofile(None)
    return calls
