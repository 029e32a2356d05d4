"""What is asked of the live groups and leases at every message, without a walk over them (stages 1 and 5). Pure.

Groups by lane and state, leases that are out by id and by actor, places that may be leased, expiries. The register
files each change here, and nobody else does; a lease costs the same with one actor and with a thousand.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator

from learner.gateway.records import Group, GroupState, Lane, LeaseRecord

Order = tuple[int, int, int]  # lane, draw's number, when it was filed: evaluations first, then by draw
LANES: tuple[Lane, ...] = ("evaluate", "online", "train")


class Index:
    """Answers about what the register holds. `most_failures`: of a member, after which nothing more is tried there."""

    def __init__(self, most_failures: int) -> None:
        self._most_failures = most_failures
        self._order: dict[str, Order] = {}
        self._filed = itertools.count()
        self._state: dict[str, GroupState] = {}  # that a group is filed under
        self._groups: dict[tuple[Lane, GroupState], dict[str, Group]] = defaultdict(dict)
        self._labels: Counter[str] = Counter()  # of evaluations
        self._free: dict[tuple[str, int], Group] = {}
        # a heap each; what is in `_free` no more is passed over
        self._free_in_order: dict[Lane, list[tuple[Order, int, str]]] = {lane: [] for lane in LANES}
        self._out: dict[str, LeaseRecord] = {}
        self._out_by_lane: Counter[Lane] = Counter()
        self._by_actor: dict[str, dict[str, LeaseRecord]] = defaultdict(dict)
        self._expiries: list[tuple[float, str]] = []  # a heap of each lease's expiry, as it was or earlier

    # --- filing

    def file_group(self, group: Group) -> None:
        """A group is new, or its state has changed."""
        before = self._state.get(group.group_id)
        if before is None:
            self._order[group.group_id] = (LANES.index(group.lane), group.number, next(self._filed))
            self._labels += Counter([group.label] if group.purpose == "evaluate" else [])
        else:
            del self._groups[group.lane, before][group.group_id]
        self._state[group.group_id] = group.state
        self._groups[group.lane, group.state][group.group_id] = group
        for index in range(len(group.members)):
            self._file_place(group, index)

    def file_lease(self, group: Group, record: LeaseRecord) -> None:
        """A lease is new, or its state has changed."""
        if record.state == "leased":
            if record.lease_id not in self._out:
                self._out_by_lane[group.lane] += 1
                heapq.heappush(self._expiries, (record.expires_at, record.lease_id))
            self._out[record.lease_id] = self._by_actor[record.actor][record.lease_id] = record
        elif self._out.pop(record.lease_id, None) is not None:
            self._out_by_lane[group.lane] -= 1
            held = self._by_actor[record.actor]
            del held[record.lease_id]
            if not held:
                del self._by_actor[record.actor]
        self._file_place(group, record.lease.member)

    def forget(self, group: Group) -> None:
        """A group that is settled, with all its leases."""
        state = self._state.pop(group.group_id, None)
        if state is None:
            return
        del self._groups[group.lane, state][group.group_id]
        del self._order[group.group_id]
        if group.purpose == "evaluate":
            self._labels -= Counter([group.label])
        for index in range(len(group.members)):
            self._free.pop((group.group_id, index), None)

    def _file_place(self, group: Group, index: int) -> None:
        place = (group.group_id, index)
        free = group.state == "open" and group.members[index].is_free(self._most_failures)
        if not free:
            self._free.pop(place, None)
        elif place not in self._free:
            self._free[place] = group
            heapq.heappush(self._free_in_order[group.lane], (self._order[group.group_id], index, group.group_id))

    # --- asking

    def in_order(self, lane: Lane, state: GroupState) -> list[Group]:
        """Groups of a lane in a state, in the order of their draw."""
        return sorted(self._groups[lane, state].values(), key=lambda group: self._order[group.group_id])

    def opened(self) -> Iterator[Group]:
        """Open groups of training in the order of their draw."""
        return iter(self._groups["train", "open"].values())

    def carried(self) -> list[Group]:
        """Open groups of training that a step went without, in the order of their draw."""
        return [group for group in self.opened() if group.carried]

    def all_in_order(self) -> list[Group]:
        """Every live group: evaluations first, then by draw."""
        groups = [group for filed in self._groups.values() for group in filed.values()]
        return sorted(groups, key=lambda group: self._order[group.group_id])

    def count(self, lane: Lane, *states: GroupState) -> int:
        """Live groups of a lane, in these states or in any."""
        return sum(len(self._groups[lane, state]) for state in states or ("open", "ready", "handed"))

    @property
    def labels(self) -> set[str]:
        """Evaluations that have a live group."""
        return set(self._labels)

    def first_free(self, lane: Lane) -> tuple[Group, int] | None:
        """The place of a lane to lease next: of the oldest open group that has one."""
        heap = self._free_in_order[lane]
        while heap and (heap[0][2], heap[0][1]) not in self._free:
            heapq.heappop(heap)
        if not heap:
            return None
        _, index, group_id = heap[0]
        return self._free[group_id, index], index

    def count_out(self, lane: Lane) -> int:
        """Leases of a lane that are out, count."""
        return self._out_by_lane[lane]

    @property
    def free(self) -> set[tuple[str, int]]:
        """All places that may be leased: group and member."""
        return set(self._free)

    @property
    def out(self) -> dict[str, LeaseRecord]:
        """Leases that are out, by id; to look at."""
        return self._out

    def held_by(self, actor: str) -> list[LeaseRecord]:
        """Leases that are out to an actor, as they were granted."""
        return list(self._by_actor[actor].values()) if actor in self._by_actor else []

    def count_held_by(self, actor: str) -> int:
        return len(self._by_actor[actor]) if actor in self._by_actor else 0

    def expired(self, now: float) -> list[LeaseRecord]:
        """Leases whose time is over. They are told once, so the caller is to drop them.

        A renewal moves nothing in the heap: a lease that comes up there and was renewed since goes back in.
        """
        over = []
        while self._expiries and self._expiries[0][0] <= now:
            _, lease_id = heapq.heappop(self._expiries)
            record = self._out.get(lease_id)
            if record is not None and record.expires_at > now:
                heapq.heappush(self._expiries, (record.expires_at, lease_id))
            elif record is not None:
                over.append(record)
        return over
