"""Stages 1 and 5: which leases are out, which groups are whole. A pure state machine: time comes in, changes go out.

Every state changes in the register and nowhere else; the ledger stores what `take_changes` gives before anyone is told.
A group's identity is fixed when its first lease is granted, so grouping is counting.
Times are seconds on the gateway's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from common.messages import Lease
from learner.gateway.awaited import missing_groups
from learner.gateway.draw import RolloutConfig, TaskDraw
from learner.gateway.evaluation import EvaluationTask
from learner.gateway.history import History
from learner.gateway.index import LANES
from learner.gateway.open_groups import group_of_draw, group_of_evaluation, lease_of
from learner.gateway.records import NO_SIGNAL, STRAGGLER, Group, GroupState, LeaseRecord
from learner.gateway.register import Register
from learner.gateway.stragglers import is_hopeless, stragglers_of, to_carry, to_close

NOT_THE_TRAINERS = frozenset(
    {"stale", "group_too_small", "run_over", STRAGGLER}
)  # reasons that a trainer's restart leaves standing
Outcome = Literal["ok", "duplicate", "stale", "invalid", "fenced"]


@dataclass(frozen=True)
class Verdict:
    """What became of a trajectory or a returned lease, as its `Ack` tells it."""

    outcome: Outcome
    reason: str = ""


class LeaseBook:
    """Live groups and their leases. What is trained, evaluated or dropped leaves it; the ledger remembers."""

    def __init__(
        self, config: RolloutConfig, draw: TaskDraw, groups: Iterable[Group] = (), history: History | None = None
    ) -> None:
        self.config = config
        self.draw = draw
        self.history = history or History()
        self._register = Register(groups, self.history, config.most_failures)
        self._index = self._register.index
        self.policy_version = -1
        self.steps = 0  # made
        self.training = False  # whether training groups may be drawn
        self.online_most = 1  # leases of online evaluations that may be out beside training, count

    # --- what stands in the book

    @property
    def groups(self) -> Iterator[Group]:
        """Live groups in the order of their draw, evaluations before the training that follows them."""
        return iter(self._index.all_in_order())

    @property
    def has_drawn(self) -> bool:
        """Whether any task was drawn for training."""
        return self.history.next_number > 0

    def find(self, lease_id: str) -> LeaseRecord | None:
        """A lease of a live group."""
        found = self._register.leases.get(lease_id)
        return found[1] if found else None

    def in_state(self, state: GroupState) -> list[Group]:
        return [group for lane in LANES for group in self._index.in_order(lane, state)]

    def ready(self) -> int:
        """Groups that the trainer may have, count."""
        return self._index.count("train", "ready")

    def leased(self, actor: str | None = None) -> int:
        """Leases out, to one actor or to all, count."""
        return len(self._index.out) if actor is None else self._index.count_held_by(actor)

    def evaluations(self) -> set[str]:
        """Labels of the evaluations that are under way."""
        return self._index.labels

    def evaluations_left(self) -> int:
        """Groups of evaluations that are under way, those beside training not counted."""
        return self._index.count("evaluate")

    def take_changes(self) -> tuple[list[Group], list[LeaseRecord]]:
        """What changed since the last call, for the ledger."""
        return self._register.take_changes()

    # --- granting

    def add_evaluation(self, tasks: Sequence[EvaluationTask], minimum_version: int, max_turns: int | None) -> None:
        """Groups of an evaluation; its leases go before those of training."""
        self._register.add(*(group_of_evaluation(self.config, task, minimum_version, max_turns) for task in tasks))

    def grant(self, actor: str, count: int, now: float) -> tuple[list[Lease], str]:
        """Up to `count` leases, and what is waited for when there are fewer."""
        if self.policy_version < 0:
            return [], "the first policy version"
        leases: list[Lease] = []
        while len(leases) < count and (place := self._free_place()) is not None:
            leases.append(self._lease(*place, actor, now).lease)
        return leases, "" if len(leases) == count else self.waits_for()

    def _free_place(self) -> tuple[Group, int] | None:
        """The place to lease next: of an evaluation, of the oldest group that has one, or of a new draw."""
        place = self._index.first_free("evaluate")
        if place is None and (not self.training or self._index.count_out("online") < self.online_most):
            place = self._index.first_free("online")
        if place is None and self.training:
            place = self._index.first_free("train")
            if place is None and self._index.count("train") < self._most_outstanding():
                return self._draw_group(), 0
        return place

    def _draw_group(self) -> Group:
        number = self.draw.next_number(self.history)
        group = group_of_draw(self.config, number, self.draw.task(number), self.steps)
        self._register.add(group)
        return group

    def _lease(self, group: Group, index: int, actor: str, now: float) -> LeaseRecord:
        lease = lease_of(self.config, group, index, self.policy_version)
        record = LeaseRecord(lease, actor, self.policy_version, expires_at=now + self.config.lease_seconds)
        self._register.grant(group, record)
        return record

    def _most_outstanding(self) -> int:
        """Admission: a group drawn now is trained on at most `staleness_bound` versions later, or is the run's last.

        What is carried over takes nobody's place.
        """
        config = self.config
        carried = len(self._index.carried()) if config.stragglers == "carry" and config.steps > self.steps else 0
        return config.groups_per_step * min(config.staleness_bound + 1, config.steps - self.steps) + carried

    def waits_for(self) -> str:
        """What is waited for before more can be leased, in words."""
        if not self.training:
            return "the evaluation's last episodes" if self._index.labels else "the trainer"
        left = self.config.steps - self.steps
        if left <= 0:
            return "the end of training"
        if self._index.count("train", "handed"):
            return f"step {self.steps + 1}, which is under way"
        missing = self.missing_groups()
        return f"{missing} to complete" if missing else f"the trainer to take the groups of step {self.steps + 1}"

    # --- what happens to a lease

    def renew(self, actor: str, lease_ids: Iterable[str], now: float) -> list[str]:
        """Renew what an actor holds; what of it is no longer wanted."""
        unwanted = []
        for lease_id in lease_ids:
            record = self.find(lease_id)
            if record is not None and record.actor == actor and record.state == "leased":
                record.expires_at = now + self.config.lease_seconds
            elif record is None or (record.state == "dropped" and not self._is_last_hope(record)):
                unwanted.append(lease_id)
        return unwanted

    def extend_all(self, now: float) -> None:
        """Every lease starts its time anew: after a restart of the gateway."""
        for record in self._index.out.values():
            record.expires_at = now + self.config.lease_seconds

    def leased_to(self, actor: str) -> list[str]:
        """Leases that an actor has not fulfilled yet."""
        return [record.lease_id for record in self._index.held_by(actor)]

    def release(self, lease_ids: Iterable[str], reason: str) -> list[str]:
        """Drop leases that are out because their actor left, or came back without them: no failure of theirs."""
        found = [self.find(lease_id) for lease_id in lease_ids]
        gone = [record for record in found if record is not None and record.state == "leased"]
        for record in gone:
            self._drop(record, reason)
        return [record.lease_id for record in gone]

    def give_back(self, record: LeaseRecord, detail: str, *, failure: bool) -> None:
        """A lease came back unfulfilled: its member is leased again, or lost when it failed too often."""
        self._drop(record, "returned", detail, failure=failure)

    def reject(self, record: LeaseRecord, reason: str, detail: str) -> None:
        """A lease's trajectory cannot be used: `stale` loses the member, anything else counts as a failure."""
        self._drop(record, reason, detail, failure=reason != "stale")

    def expire(self, now: float) -> list[LeaseRecord]:
        """Leases that nobody renewed in time lapse."""
        lapsed = self._index.expired(now)
        for record in lapsed:
            self._drop(record, "lapsed", f"{record.actor} was silent", failure=True)
        return lapsed

    def may_arrive(self, record: LeaseRecord) -> bool:
        """Whether this lease's trajectory is wanted: it is out, or it lapsed and nobody else has its place."""
        return record.state == "leased" or self._is_last_hope(record)

    def _is_last_hope(self, record: LeaseRecord) -> bool:
        group, _ = self._register.leases[record.lease_id]
        member = group.members[record.lease.member]
        return (
            record.state == "dropped"
            and record.reason in ("lapsed", "unclaimed", "actor_left")
            and member.leases[-1] is record
            and group.state == "open"
        )

    def arrive(self, record: LeaseRecord, oldest_version: int, reward: float) -> None:
        """A valid trajectory fills its lease."""
        assert self.may_arrive(record), record
        group, _ = self._register.leases[record.lease_id]
        record.oldest_version, record.reward = oldest_version, reward
        record.failure = False
        self._register.move(record, "received" if group.purpose == "train" else "evaluated")
        self._settle(group)

    def _drop(self, record: LeaseRecord, reason: str, detail: str = "", *, failure: bool = False) -> None:
        record.failure = failure
        self._register.move(record, "dropped", reason, detail)
        self._settle(self._register.leases[record.lease_id][0])

    def _settle(self, group: Group, *, closing: bool = False) -> None:
        """A group none of whose places is open any more is whole, or closes with its survivors, or is dropped."""
        if group.state not in ("open", "ready"):
            return
        most = self.config.most_failures
        awaited = any(member.arrived is None and not member.is_lost(most) for member in group.members)
        # what is ready stays closed, though places of it may be empty that nobody failed at
        if awaited and group.state == "open" and not closing:
            return
        survivors = group.survivors
        if group.purpose == "evaluate":
            self._register.move_group(
                group, "evaluated" if survivors else "dropped", "" if survivors else "every member was lost"
            )
        elif len(survivors) >= 2:
            self._register.move_group(group, "ready")
            self._refill(group)
        else:
            for record in survivors:
                told = f"{len(survivors)} of {len(group.members)} survived"
                self._register.move(record, "dropped", "group_too_small", told)
            group.step = 0  # it is no step's any more
            self._register.move_group(group, "dropped", "group_too_small")

    # --- groups to the trainer and back

    def _next_step(self) -> int:
        """The step that the next groups are for."""
        return self.steps + (2 if self._index.count("train", "handed") else 1)

    def _refill(self, group: Group) -> None:
        """Drop a whole group without signal, so that another is drawn, as often as its step may have that.

        A group that was handed out before stays: a step that is made again gets what it had.
        """
        step, survivors = self._next_step(), group.survivors
        rewards = {record.reward for record in survivors}
        if group.state != "ready" or group.step or len(rewards) > 1:
            return
        if self.history.refills(step) >= self.config.refill_most:
            return
        for record in survivors:
            self._register.move(record, "dropped", NO_SIGNAL, f"every reward of its group is {record.reward:g}")
        group.step = step
        self._register.move_group(group, "dropped", NO_SIGNAL)

    def missing_groups(self) -> str:
        """In words, what the next step still lacks; empty when nothing."""
        return missing_groups(self.config, self._index, self.history.refills(self._next_step()))

    def take(self, step: int) -> list[Group] | str:
        """The groups of a step, or why there are none yet. Asked again, the same."""
        handed = self.in_state("handed")
        if handed:
            assert all(group.step == step for group in handed), f"step {step} asked for, {handed[0].step} is handed out"
            return handed
        before = self._index.in_order("evaluate", "open")
        if before:
            return f"the evaluation {before[0].label}: {len(before)} tasks of it are not done"
        for group in self.in_state("ready"):
            if group.judged_at != self.policy_version:
                group.judged_at = self.policy_version
                self._drop_stale(group)
                self._refill(group)
        self._go_without_stragglers()
        # a step that is made again gets what it had, whatever has become ready since
        in_order = sorted(self.in_state("ready"), key=lambda group: (group.step != step, group.step > step))
        ready = in_order[: self.config.groups_per_step]
        if len(ready) < self.config.groups_per_step:
            return self.missing_groups()
        for group in ready:
            group.step = step
            for record in group.survivors:
                self._register.move(record, "handed")
            self._register.move_group(group, "handed")
        return self.in_state("handed")

    def _go_without_stragglers(self) -> None:
        """Close the groups whose last members the next step does not wait for, or carry them over."""
        if self.config.straggler_share >= 1:
            return
        for group in self._index.carried():
            self._drop_stale(group)
            if group.state == "open" and is_hopeless(group, self.config.most_failures):
                self._close(group, "stale", "the others of its group are too old")
        if self._next_step() < self.config.steps and (late := self._late(to_carry)):
            for group in late:
                self._register.carry(group, self._next_step())
            return
        while closing := self._late(to_close):
            for group in closing:
                self._close(group, STRAGGLER, f"{len(group.survivors)} of {len(group.members)} are enough")
                self._drop_stale(group)

    def _late(self, rule: Callable[..., list[Group]]) -> list[Group]:
        return rule(
            self._index.in_order("train", "ready"),
            list(self._index.opened()),
            self.config,
            oldest_version=self.policy_version - self.config.staleness_bound,
            refills_left=self.history.refills(self._next_step()) < self.config.refill_most,
        )

    def _close(self, group: Group, reason: str, told: str) -> None:
        """An open group goes without the members that are out."""
        for record in stragglers_of(group):
            self._register.move(record, "dropped", reason, told)
        self._settle(group, closing=True)

    def _drop_stale(self, group: Group) -> None:
        bound = self.config.staleness_bound
        for record in group.survivors:
            lag = self.policy_version - record.oldest_version
            if lag > bound:
                self._register.move(record, "dropped", "stale", f"lag {lag} above the bound {bound}")
        self._settle(group)

    def consume(self, step: int, consumed: Collection[str], passed_over: Mapping[str, str]) -> None:
        """A step is made: what it trained on, what it passed over and why; the rest of its groups is `not_trained`."""
        trained = set(consumed)
        # after a restart of either side a group may be ready here and consumed there
        theirs = (self._register.leases[lease_id][0] for lease_id in consumed if lease_id in self._register.leases)
        handed = (group for group in self._index.in_order("train", "handed") if group.step == step)
        for group in dict.fromkeys((*handed, *theirs)):
            mine = group.survivors
            if not (group.state == "handed" and group.step == step) and trained.isdisjoint(r.lease_id for r in mine):
                continue
            for record in mine:
                if record.lease_id in trained:
                    self._register.move(record, "trained")
                else:
                    self._register.move(record, "dropped", passed_over.get(record.lease_id, "not_trained"))
            group.step = step
            any_trained = any(record.state == "trained" for record in mine)
            self._register.move_group(group, "trained" if any_trained else "dropped")

    def resume(
        self, step: int, consumed: Collection[str], passed_over: Mapping[str, str], undone: Iterable[Group]
    ) -> None:
        """The trainer (re)started with a state of `step`: what it did not consume is ready again, for the same steps.

        Args:
            step: steps made, as the trainer's state has it.
            consumed: trajectories that this step trained on.
            passed_over: those of its groups that it did not train on, with reasons.
            undone: groups of later steps, which its state knows nothing of.
        """
        if step:
            self.consume(step, consumed, passed_over)
        for group in undone:
            self._register.restore(group)
        for group in [*self.in_state("handed"), *undone]:
            for record in [record for member in group.members for record in member.leases]:
                by_trainer = record.state == "dropped" and record.reason not in NOT_THE_TRAINERS
                if record.state in ("handed", "trained") or (by_trainer and record.oldest_version >= 0):
                    self._register.move(record, "received")
            self._register.move_group(group, "ready")
        for group in self.in_state("ready"):
            group.judged_at = -1
        self.steps = step

    def end_training(self) -> None:
        """No training lease is wanted any more; what is under way is dropped."""
        self.training = False
        for group in [group for group in self.groups if group.purpose == "train"]:
            for record in [record for member in group.members for record in member.leases]:
                if record.state != "dropped":
                    self._register.move(record, "dropped", "run_over")
            self._register.move_group(group, "dropped", "run_over")
