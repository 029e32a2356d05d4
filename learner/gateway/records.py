"""What the ledger keeps of stages 1 and 5: groups, their members, and each member's leases. Data and derived facts.

lease   leased ─► received ─► handed ─► trained            dropped from any of the first three, with a reason
              └─► evaluated (evaluation)                   dropped ─► received: a late result nobody else does
group   open ─► ready ─► handed ─► trained                 dropped when fewer than two survive, or without signal
            └─► evaluated
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from common.messages import Lease, Sampling
from learner.gateway.evaluation import is_online
from learner.gateway.history import Draw

LeaseState = Literal["leased", "received", "handed", "trained", "evaluated", "dropped"]
GroupState = Literal["open", "ready", "handed", "trained", "evaluated", "dropped"]
Purpose = Literal["train", "evaluate"]
Lane = Literal["evaluate", "online", "train"]  # who is leased first; an online evaluation within its share of slots

ARRIVED = frozenset({"received", "handed", "trained", "evaluated"})
NO_SIGNAL = "no_signal"  # the trainer's word too
STRAGGLER = "straggler"  # why a lease is dropped whose group was closed without it
NOT_AWAITED = frozenset({STRAGGLER, "stale", "run_over"})  # why the learner drops a lease that an actor works on
WITHOUT_SIGNAL = (NO_SIGNAL, "no_success")  # what the trainer could learn nothing from, by its objective


def has_signal(state: GroupState, rewards: Collection[float], *, passed_over: bool) -> bool | None:
    """Whether a group's rewards [n] differ; None while it is open, or when it never had two.

    The trainer has the last word: what it trained on had signal. `passed_over`: a lease of the group was dropped as
    without signal; where nothing of it was trained, that settles it.
    """
    if state == "open" or len(rewards) < 2:
        return None
    if state == "trained":
        return True
    return len(set(rewards)) > 1 and not (state == "dropped" and passed_over)


@dataclass(slots=True, eq=False)
class LeaseRecord:
    """One lease and what became of it."""

    lease: Lease
    actor: str
    version: int  # current when it was granted
    state: LeaseState = "leased"
    reason: str = ""  # why it was dropped: a word that the books count by
    detail: str = ""  # the same for a person
    failure: bool = False  # whether it counts towards `most_failures`
    oldest_version: int = -1  # of its tokens, once received
    reward: float | None = None  # once received
    expires_at: float = 0.0  # on the gateway's monotonic clock

    @property
    def lease_id(self) -> str:
        return self.lease.lease_id


@dataclass(slots=True, eq=False)
class Member:
    """One place in a group, filled by the first of its leases that yields a trajectory."""

    leases: list[LeaseRecord] = field(default_factory=list)  # by epoch

    @property
    def arrived(self) -> LeaseRecord | None:
        """The lease whose trajectory fills this place."""
        return next((record for record in self.leases if record.state in ARRIVED), None)

    @property
    def failures(self) -> int:
        return sum(record.failure for record in self.leases)

    def is_lost(self, most_failures: int) -> bool:
        """Whether nothing more is tried here."""
        return self.failures >= most_failures or any(record.reason == "stale" for record in self.leases)

    def is_free(self, most_failures: int) -> bool:
        """Whether it may be leased (again)."""
        taken = bool(self.leases) and self.leases[-1].state == "leased"
        return not taken and self.arrived is None and not self.is_lost(most_failures)


@dataclass(slots=True, eq=False)
class Group:
    """K rollouts of one task draw (or the rollouts of one task of an evaluation)."""

    group_id: str
    number: int  # of the draw, from 0; -1 for evaluations
    task_id: str
    purpose: Purpose
    label: str
    minimum_version: int  # evaluations; training leases take the current version when granted
    sampling: Sampling
    members: list[Member]
    state: GroupState = "open"
    reason: str = ""
    step: int = 0  # that it was handed to, or replaced for, from 1
    carried: int = 0  # the step that did not wait for it, and did not cut it either, from 1; 0: none
    judged_at: int = -1  # the policy version at which its members' ages were looked at last

    @property
    def lane(self) -> Lane:
        return "online" if is_online(self.label) else self.purpose

    @property
    def survivors(self) -> list[LeaseRecord]:
        """Leases whose trajectories are here, by member."""
        return [record for member in self.members if (record := member.arrived) is not None]

    @property
    def as_draw(self) -> Draw:
        """What the history of draws keeps of it."""
        records = [record for member in self.members for record in member.leases]
        rewards = [record.reward for record in records if record.reward is not None]
        passed_over = any(record.reason in WITHOUT_SIGNAL for record in records)
        signal = has_signal(self.state, rewards, passed_over=passed_over)
        return Draw(self.number, self.task_id, signal, self.step, refilled=self.reason == NO_SIGNAL)
