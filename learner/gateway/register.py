"""Live groups and their leases, by id (stages 1 and 5): the one place where a state changes. Pure.

What is trained, evaluated or dropped leaves it. Each change is filed in the index and kept until `take_changes` gives
it to the ledger, and the history of draws hears of it at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from learner.gateway.history import History
from learner.gateway.index import Index
from learner.gateway.records import ARRIVED, Group, GroupState, LeaseRecord, LeaseState


class Register:
    """Groups that are open, ready or handed out. `most_failures`: as `Index` has it."""

    def __init__(self, groups: Iterable[Group], history: History, most_failures: int) -> None:
        self.leases: dict[str, tuple[Group, LeaseRecord]] = {}
        self.index = Index(most_failures)
        self.history = history
        self._changed_leases: dict[str, LeaseRecord] = {}
        self._changed_groups: dict[str, Group] = {}
        for group in groups:
            self.restore(group)

    def restore(self, group: Group) -> None:
        """A group that the ledger has."""
        self.index.file_group(group)
        for record in [record for member in group.members for record in member.leases]:
            self.leases[record.lease_id] = (group, record)
            self.index.file_lease(group, record)

    def add(self, *groups: Group) -> None:
        """New groups."""
        for group in groups:
            self.index.file_group(group)
            self._note(group)

    def grant(self, group: Group, record: LeaseRecord) -> None:
        """A new lease of a member."""
        group.members[record.lease.member].leases.append(record)
        self.leases[record.lease_id] = (group, record)
        self._changed_leases[record.lease_id] = record
        self.index.file_lease(group, record)

    def move(self, record: LeaseRecord, state: LeaseState, reason: str = "", detail: str = "") -> None:
        """A lease's state changes."""
        assert record.state != "evaluated", f"{record.lease_id} is {record.state} and cannot become {state}"
        assert state not in ARRIVED or state == "received" or record.state != "dropped", record
        record.state, record.reason, record.detail = state, reason, detail
        self._changed_leases[record.lease_id] = record
        self.index.file_lease(self.leases[record.lease_id][0], record)

    def move_group(self, group: Group, state: GroupState, reason: str = "") -> None:
        """A group's state changes, after its leases'."""
        group.state, group.reason = state, reason
        self._note(group)
        if state not in ("trained", "evaluated", "dropped"):
            self.index.file_group(group)
            return
        self.index.forget(group)
        for record in [record for member in group.members for record in member.leases]:
            self.leases.pop(record.lease_id, None)

    def carry(self, group: Group, step: int) -> None:
        """A step goes without a group that is not whole; it stays open."""
        group.carried = step
        self._note(group)

    def take_changes(self) -> tuple[list[Group], list[LeaseRecord]]:
        """What changed since the last call, for the ledger."""
        changes = list(self._changed_groups.values()), list(self._changed_leases.values())
        self._changed_groups, self._changed_leases = {}, {}
        return changes

    def _note(self, group: Group) -> None:
        self._changed_groups[group.group_id] = group
        if group.purpose == "train":
            self.history.note(group.as_draw)
