"""What the gateway promises, held against random histories: actors, trainer and gateway come, go, repeat and crash.

A model of the outside world drives the real state machine with its real ledger. The gateway "crashes" by being opened
again from disk without closing; the trainer by going back to its last saved state; an actor by forgetting its leases.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from gateway_builders import TASKS, make_run, make_trajectory, the_books
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from recomputed_index import assert_filed

from common.messages import Lease, Trajectory
from common.wire import encode
from learner.gateway.draw import TaskDraw
from learner.gateway.ledger import open_database
from learner.gateway.trainer_desk import TrainerDesk
from learner.gateway.trainer_port import Groups, NextGroups, Noted, NotYet, Published, Resume, TrainerHello

ACTORS = ("actor-0", "actor-1")
REWARDS = st.sampled_from([0.0, 0.0, 0.0, 1.0])
BOUND = 1
SETTINGS = {"groups_per_step": 1, "group_size": 3, "staleness_bound": BOUND, "steps": 50, "lease_seconds": 10.0}
OPTIONS = {"refill_most": 2, "retire_after": 1, "retire_epochs": 2, "horizon_start": 2, "horizon_steps": 5}
OPTIONS |= {"straggler_share": 0.6}  # 2 of 3


class World(RuleBasedStateMachine):
    settings = SETTINGS

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 0.0
        self.open_gateway()
        self.held: dict[str, dict[str, Lease]] = {actor: {} for actor in ACTORS}
        self.sent: list[tuple[str, Trajectory]] = []
        self.acknowledged: set[str] = set()
        # the trainer's disk: its steps, each with what it trained on; and what it has handed out in memory
        self.steps: list[list[str]] = []
        self.in_hand: list[str] = []
        self.handed: dict[int, list[str]] = {}  # by step: what it was given when it was asked for last
        self.unsaid = False  # a step was saved, but the gateway was not told
        self.brought_back = 0  # groups of steps that the trainer lost, besides those that were out by then
        self.tell(TrainerHello(resume=None))
        self.publish([])

    def open_gateway(self) -> None:
        self.run = make_run(self.folder, now=self.now, **self.settings)
        # the process crashes here, not the machine: waiting for the disk would only cost time
        self.run.ledger._database.execute("PRAGMA synchronous=OFF")

    def teardown(self) -> None:
        self.run.close()
        shutil.rmtree(self.folder)

    def tell(self, message: object) -> object:
        answer, _ = TrainerDesk(self.run).answer(message)
        self.run.commit()
        return answer

    def publish(self, passed_over: list[str]) -> None:
        step = len(self.steps)
        consumed = tuple(self.steps[-1]) if self.steps else ()
        dropped = dict.fromkeys(passed_over, "no_signal")
        answer = self.tell(
            Published(
                policy_version=step,
                manifest_digest=f"{step:064x}",
                step=step,
                consumed=consumed,
                dropped=dropped,
            )
        )
        assert answer == Noted()
        self.unsaid = False

    # --- actors

    @rule(actor=st.sampled_from(ACTORS), count=st.integers(1, 7))
    def lease(self, actor: str, count: int) -> None:
        leases, waiting_for = self.run.book.grant(actor, count, self.now)
        self.run.commit()
        assert bool(waiting_for) == (len(leases) < count)
        self.held[actor] |= {lease.lease_id: lease for lease in leases}

    @rule(actor=st.sampled_from(ACTORS), choice=st.integers(0, 99), age=st.integers(0, 3), reward=REWARDS)
    def finish(self, actor: str, choice: int, age: int, reward: float) -> None:
        """An episode ends; its tokens may be older than its lease asked for."""
        if self.held[actor]:
            lease = self.held[actor].pop(sorted(self.held[actor])[choice % len(self.held[actor])])
            version = max(0, self.run.policy_version - age)
            self.send(actor, make_trajectory(lease, actor=actor, version=version, reward=reward))

    @rule(
        actor=st.sampled_from(ACTORS),
        fates=st.lists(st.sampled_from("0001rk"), min_size=2, max_size=8),
        rewards=st.lists(REWARDS, min_size=8, max_size=8),
    )
    def work(self, actor: str, fates: list[str], rewards: list[float]) -> None:
        """Episodes end one after the other: with tokens of some age, returned, or kept for later."""
        self.lease(actor, len(fates))
        for fate, reward, lease_id in zip(fates, rewards, list(self.held[actor]), strict=False):
            if fate == "r":
                self.held[actor].pop(lease_id)
                self.run.inbox.give_back(actor, lease_id, "world host died")
                self.run.commit()
            elif fate != "k":
                version = max(0, self.run.policy_version - int(fate))
                lease = self.held[actor].pop(lease_id)
                self.send(actor, make_trajectory(lease, actor=actor, version=version, reward=reward))

    @precondition(lambda self: self.sent)
    @rule(choice=st.integers(0, 99))
    def send_again(self, choice: int) -> None:
        actor, trajectory = self.sent[choice % len(self.sent)]
        before = self.run.ledger.arrived()
        outcome = self.send(actor, trajectory)
        if trajectory.trajectory_id in self.acknowledged and outcome != "ok":
            assert self.run.ledger.arrived() == before

    def send(self, actor: str, trajectory: Trajectory) -> str:
        self.sent.append((actor, trajectory))
        verdict = self.run.inbox.receive(actor, trajectory, encode(trajectory))
        self.run.commit()
        if verdict.outcome == "ok":
            assert trajectory.trajectory_id not in self.acknowledged, "taken twice"
            self.acknowledged.add(trajectory.trajectory_id)
        return verdict.outcome

    @rule(actor=st.sampled_from(ACTORS), choice=st.integers(0, 99), failure=st.booleans())
    def give_back(self, actor: str, choice: int, failure: bool) -> None:
        if self.held[actor]:
            lease_id = sorted(self.held[actor])[choice % len(self.held[actor])]
            self.held[actor].pop(lease_id)
            self.run.inbox.give_back(actor, lease_id, "world host died", failure=failure)
            self.run.commit()

    @rule(actor=st.sampled_from(ACTORS))
    def heartbeat(self, actor: str) -> None:
        for lease_id in self.run.book.renew(actor, list(self.held[actor]), self.now):
            self.held[actor].pop(lease_id)

    @rule(actor=st.sampled_from(ACTORS), forgets=st.booleans())
    def actor_restarts(self, actor: str, forgets: bool) -> None:
        if forgets:
            self.held[actor].clear()
        unclaimed = set(self.run.book.leased_to(actor)) - set(self.held[actor])
        self.run.book.release(unclaimed, "unclaimed")
        self.run.commit()

    @rule(seconds=st.floats(0.0, 11.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.run.book.expire(self.now)
        self.run.commit()

    # --- trainer

    @precondition(lambda self: not self.unsaid)
    @rule()
    def ask_for_groups(self) -> None:
        answer = self.tell(NextGroups(step=len(self.steps) + 1))
        if isinstance(answer, NotYet):
            assert not self.in_hand
            assert answer.reason
            return
        assert isinstance(answer, Groups)
        assert len(answer.groups) == self.settings["groups_per_step"]
        for group in answer.groups:
            assert 2 <= len(group.trajectory_ids) <= self.settings["group_size"]
        ids = [lease_id for group in answer.groups for lease_id in group.trajectory_ids]
        assert self.handed.get(len(self.steps) + 1, ids) == ids, "asked again, it must be the same"
        self.in_hand = self.handed[len(self.steps) + 1] = ids

    @precondition(lambda self: not self.unsaid)
    @rule(
        fates=st.lists(st.sampled_from("00000011rk"), min_size=3, max_size=3),
        rewards=st.lists(REWARDS, min_size=8, max_size=8),
        passed_over=st.integers(0, 2),
    )
    def a_step_without_trouble(self, fates: list[str], rewards: list[float], passed_over: int) -> None:
        for turn in range(4):
            if not self.in_hand:
                self.work(ACTORS[0], fates, rewards[turn:] + rewards[:turn])
                self.ask_for_groups()
        if self.in_hand:
            self.make_step(passed_over, crash=False)

    @precondition(lambda self: self.in_hand)
    @rule(passed_over=st.integers(0, 3), crash=st.booleans())
    def make_step(self, passed_over: int, crash: bool) -> None:
        """A step is saved; then the gateway is told, or the trainer dies before."""
        consumed, rest = self.in_hand[passed_over:], self.in_hand[:passed_over]
        versions = dict(open_rows(self.folder, "SELECT trajectory_id, oldest_version FROM trajectories"))
        assert all(len(self.steps) - versions[lease_id] <= BOUND for lease_id in consumed), "older than the bound"
        self.steps.append(consumed)
        self.in_hand = []
        self.unsaid = True
        if not crash:
            self.publish(rest)

    @rule(lost=st.integers(0, 2))
    def trainer_restarts(self, lost: int) -> None:
        """From its newest state, or from an older one when newer ones were damaged."""
        self.steps = self.steps[: max(1, len(self.steps) - lost)] if self.steps else []
        self.in_hand = []
        if not self.steps and self.run.book.steps:
            return
        step = len(self.steps)
        resume = Resume(policy_version=step, step=step, consumed=tuple(self.steps[-1])) if self.steps else None
        live = len(list(self.run.book.groups))
        self.tell(TrainerHello(resume=resume))
        self.brought_back += max(0, len(list(self.run.book.groups)) - live)
        self.publish([])

    # --- gateway

    @rule()
    def gateway_crashes(self) -> None:
        self.run.ledger._database.rollback()
        self.run.close()
        self.open_gateway()

    # --- what holds at any time

    @invariant()
    def the_books_balance(self) -> None:
        found = the_books(self.folder)
        assert found.balanced, found

    @invariant()
    def the_index_says_what_a_walk_finds(self) -> None:
        assert_filed(self.run.book)

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        held = {row[0] for row in open_rows(self.folder, "SELECT trajectory_id FROM trajectories")}
        assert self.acknowledged <= held

    @invariant()
    def nothing_is_trained_twice(self) -> None:
        trained = [lease_id for step in self.steps for lease_id in step]
        assert len(trained) == len(set(trained))
        assert set(trained) <= self.acknowledged
        in_ledger = {row[0] for row in open_rows(self.folder, "SELECT lease_id FROM leases WHERE state = 'trained'")}
        unsaid = set(self.steps[-1]) if self.unsaid else set()
        assert in_ledger == set(trained) - unsaid


def open_rows(folder: Path, query: str) -> list[tuple]:
    database = open_database(folder / "ledger.sqlite", read_only=True)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


class WorldWithOptions(World):
    """The same, with groups replaced, tasks left out, and a horizon that grows; all of it from four tasks."""

    settings = SETTINGS | OPTIONS

    @rule()
    def gateway_crashes(self) -> None:
        """The next draws are those that it would have made."""
        before = self.run.book
        super().gateway_crashes()
        after = self.run.book
        assert after.history.draws() == before.history.draws()
        assert after.draw.next_number(after.history) == before.draw.next_number(before.history)
        assert after.draw.left_out_now(after.history) == before.draw.left_out_now(before.history)

    @invariant()
    def no_task_is_drawn_twice_in_an_epoch(self) -> None:
        drawn = [(d.number // len(TASKS), d.task_id) for d in self.run.book.history.draws()]
        assert len(drawn) == len(set(drawn))
        places = TaskDraw(TASKS, 1, self.run.book.config)
        assert all(places.task(d.number) == d.task_id for d in self.run.book.history.draws())

    @invariant()
    def no_more_is_out_than_the_staleness_bound_allows(self) -> None:
        live = sum(group.purpose == "train" for group in self.run.book.groups)
        assert live <= SETTINGS["groups_per_step"] * (BOUND + 1) + self.brought_back

    @invariant()
    def no_step_replaces_more_groups_than_it_may(self) -> None:
        query = "SELECT step, COUNT(*) FROM groups WHERE reason = 'no_signal' GROUP BY step"
        assert all(count <= OPTIONS["refill_most"] for _, count in open_rows(self.folder, query))

    @invariant()
    def enough_tasks_remain_for_a_step(self) -> None:
        left_out = self.run.book.draw.left_out_now(self.run.book.history)
        assert len(TASKS) - len(left_out) >= SETTINGS["groups_per_step"]

    @invariant()
    def a_groups_leases_are_sampled_alike(self) -> None:
        for group in self.run.book.groups:
            turns = {record.lease.sampling.max_turns for member in group.members for record in member.leases}
            assert turns <= {group.sampling.max_turns}
            assert 2 <= group.sampling.max_turns <= 7


class WorldThatCarries(World):
    """Groups that a step goes without go on, and nobody waits for ever."""

    settings = SETTINGS | {"straggler_share": 0.6, "stragglers": "carry", "groups_per_step": 2}

    @rule()
    def gateway_crashes(self) -> None:
        """It knows what is carried."""
        before = [(group.group_id, group.carried) for group in self.run.book.groups]
        super().gateway_crashes()
        assert [(group.group_id, group.carried) for group in self.run.book.groups] == before

    @invariant()
    def no_more_is_out_than_the_bound_allows_and_what_is_carried(self) -> None:
        live = sum(group.purpose == "train" for group in self.run.book.groups)
        assert live <= 2 * (BOUND + 2) + self.brought_back
        assert (
            sum(group.state == "open" and group.carried > 0 for group in self.run.book.groups) <= 2 + self.brought_back
        )

    @precondition(lambda self: not self.unsaid and not self.in_hand and len(self.steps) < SETTINGS["steps"])
    @rule()
    def what_is_out_ends_and_the_step_has_its_groups(self) -> None:
        """However things stand: every episode under way ends, further ones begin and end, and a step is handed out."""
        for _ in range(20):
            for actor in ACTORS:
                self.actor_restarts(actor, forgets=False)
                self.lease(actor, 20)
                for number, lease_id in enumerate(sorted(self.held[actor])):
                    lease = self.held[actor].pop(lease_id)
                    self.send(
                        actor, make_trajectory(lease, actor=actor, version=self.run.policy_version, reward=number % 2)
                    )
            self.ask_for_groups()
            if self.in_hand:
                return
        raise AssertionError(self.run.book.missing_groups())


for machine in (World, WorldWithOptions, WorldThatCarries):
    machine.TestCase.settings = settings(
        max_examples=25, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
    )
test_the_promises_hold_in_any_history = World.TestCase
test_they_hold_with_groups_replaced_and_tasks_left_out = WorldWithOptions.TestCase
test_they_hold_with_groups_carried_over = WorldThatCarries.TestCase
