"""What a lease book's index must say, by walking over every group and lease: the slow twin of `Index`."""

from __future__ import annotations

from learner.gateway.index import LANES
from learner.gateway.leases import LeaseBook
from learner.gateway.records import Group, LeaseRecord

STATES = ("open", "ready", "handed")


def assert_filed(book: LeaseBook) -> None:
    """The index says what a walk finds; nothing that is settled is left in it."""
    index, most = book._index, book.config.most_failures
    live = {group.group_id: group for group, _ in book._register.leases.values()}
    groups = index.all_in_order()
    assert live.keys() <= {group.group_id for group in groups}
    assert groups == sorted(groups, key=lambda group: (LANES.index(group.lane), group.number)), "evaluations first"
    out = [record for record in every_lease(groups) if record.state == "leased"]
    free = free_places(groups, most)
    for lane in LANES:
        of = [group for group in groups if group.lane == lane]
        assert index.count(lane) == len(of)
        for state in STATES:
            assert index.in_order(lane, state) == [group for group in of if group.state == state]
        assert index.first_free(lane) == next(((group, member) for group, member in free if group.lane == lane), None)
        assert index.count_out(lane) == sum(live[record.lease.group_id].lane == lane for record in out)
    assert list(index.opened()) == [group for group in groups if (group.purpose, group.state) == ("train", "open")]
    assert index.labels == {group.label for group in groups if group.purpose == "evaluate"}
    assert index.free == {(group.group_id, member) for group, member in free}
    assert list(index.out) == [record.lease_id for record in sorted(out, key=list(index.out.values()).index)]
    assert {id(record) for record in index.out.values()} == {id(record) for record in out}
    for actor in {record.actor for record in out} | set(index._by_actor):
        held = {record.lease_id for record in out if record.actor == actor}
        assert {record.lease_id for record in index.held_by(actor)} == held != set()
        assert index.count_held_by(actor) == len(held)
    earliest: dict[str, float] = {}
    for at, lease_id in index._expiries:
        earliest[lease_id] = min(at, earliest.get(lease_id, at))
    assert all(earliest[record.lease_id] <= record.expires_at for record in out), "each will come up in time"


def free_places(groups: list[Group], most: int) -> list[tuple[Group, int]]:
    return [
        (group, number)
        for group in groups
        if group.state == "open"
        for number, member in enumerate(group.members)
        if member.is_free(most)
    ]


def every_lease(groups: list[Group]) -> list[LeaseRecord]:
    return [record for group in groups for member in group.members for record in member.leases]
