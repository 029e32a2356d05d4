"""Whose connection is whose, and who must go, with the system scripted: bytes and times come in."""

from __future__ import annotations

import pytest

from common.config import LinkConfig
from common.wire import MAX_MESSAGE_BYTES
from learner.gateway.connections import (
    FIRST_WORD_SECONDS,
    IN_HAND,
    MOST_CLOSED,
    MOST_OF_A_NAME,
    MOST_UNHEARD,
    RESTS_SECONDS,
    Connection,
    Connections,
    Limits,
)
from learner.gateway.credit import Credit

MIB = 1 << 20


class ScriptedTap:
    """A connection as the kernel tells of it."""

    def __init__(self, address: str = "10.0.0.2:5000") -> None:
        self.address = address
        self.received = self.written = self.in_kernel = 0
        self.open = True

    def passed(self) -> tuple[int, int]:
        return self.received, self.written

    def unread(self) -> int:
        return self.in_kernel

    def cut(self) -> None:
        raise AssertionError("the bookkeeping cuts nobody")

    def close(self) -> None:
        self.open = False


def make(*, peer: int = 10 * MIB, memory: int = 30 * MIB, connections: int = 100) -> Connections:
    return Connections(Limits(peer, memory, connections))


def accept(made: Connections, descriptor: int, *, now: float = 0.0, port: str = "actors") -> ScriptedTap:
    tap = ScriptedTap()
    assert made.accepted(port, descriptor, tap, now) == []
    return tap


def introduce(made: Connections, descriptor: int, name: str, routing: bytes, *, now: float = 0.0) -> Connection:
    token = made.admit(name, now)
    assert token is not None
    connection, cuts = made.introduced(routing, descriptor, token, name=name, key=name.encode())
    assert connection is not None
    assert cuts == []
    return connection


def kinds(cuts) -> list[tuple[str, str]]:
    return [(cut.kind, cut.connection.name) for cut in cuts]


def test_bytes_received_and_not_delivered_are_held():
    made = make()
    tap = accept(made, 7)
    connection = introduce(made, 7, "actor-0", b"r")
    tap.received = 3 * MIB
    assert made.judge(0.0, 0) == []
    assert made.held() == 3 * MIB
    made.delivered(connection, 2 * MIB)
    made.handed(b"r", MIB)
    tap.written = MIB // 2
    made.judge(0.0, 0)
    assert made.held() == MIB + MIB // 2


def test_what_lies_in_the_kernel_is_not_held_here():
    made = make()
    tap = accept(made, 7)
    tap.received, tap.in_kernel = 12 * MIB, 9 * MIB
    assert made.judge(0.0, 0) == []
    assert made.held() == 3 * MIB


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_peer_above_its_bound_loses_its_largest_connection_alone(direction):
    made = make()
    taps = [accept(made, descriptor) for descriptor in (7, 8, 9)]
    for number, name in enumerate(("mallory", "mallory", "actor-0")):
        introduce(made, 7 + number, name, bytes([number]))
    for number, held in enumerate((6 * MIB, 5 * MIB, 9 * MIB)):
        if direction == "in":
            taps[number].received = held
        else:
            made.handed(bytes([number]), held)
    (cut,) = made.judge(0.0, 0)
    assert (cut.kind, cut.connection.descriptor) == ("peer_memory", 7)
    assert cut.reason.startswith("11 MiB wait here for it, allowed are 10")
    assert made.judge(0.0, 0) == [], "cut once"
    assert made.count == 2


def test_above_the_bound_in_all_the_largest_goes():
    made = make()
    taps = [accept(made, descriptor) for descriptor in range(4)]
    for number in range(4):
        introduce(made, number, f"actor-{number}", bytes([number]))
        taps[number].received = (7 + number) * MIB
    assert kinds(made.judge(0.0, 34 * MIB)) == [("memory", "actor-3")]


def test_queues_of_connections_that_were_cut_count_until_they_were_read():
    """Those who fill one connection after another are not given the bound anew each time."""
    made = make()
    for number in range(4):
        tap = accept(made, number)
        connection = introduce(made, number, f"mallory-{number}", bytes([number]))
        tap.received = 11 * MIB
        cuts = made.judge(0.0, (number + 1) * 11 * MIB)
        assert kinds(cuts) == [("peer_memory", f"mallory-{number}")]
        made.closed(number, 0.0)
    tap = accept(made, 9)
    other = introduce(made, 9, "actor-0", b"honest")
    tap.received = MIB
    assert kinds(made.judge(0.0, 45 * MIB)) == [("memory", "actor-0")], "44 MiB wait, 30 and 10 are allowed"
    assert other.cut_for
    for number in range(3):
        made.delivered(made.on(bytes([number])), 11 * MIB)
    tap = accept(made, 10)
    introduce(made, 10, "actor-1", b"another")
    tap.received = MIB
    assert made.judge(0.0, 12 * MIB) == [], "they were read"
    assert connection.held == 11 * MIB


def test_an_unfinished_message_of_a_closed_connection_was_dropped_with_it():
    """The process did not grow by it, so nothing of it can be waiting."""
    made = make()
    for number in range(4):
        accept(made, number).received = 11 * MIB
        made.judge(0.0, 11 * MIB)
        made.closed(number, 0.0)
    accept(made, 9).received = MIB
    assert made.judge(0.0, 2 * MIB) == []


def test_who_says_nothing_in_time_is_cut():
    made = make()
    accept(made, 1, now=0.0)
    accept(made, 2, now=1.0)
    introduce(made, 2, "actor-0", b"r")
    accept(made, 3, now=5.0)
    assert made.judge(FIRST_WORD_SECONDS, 0) == []
    (cut,) = made.judge(FIRST_WORD_SECONDS + 0.5, 0)
    assert (cut.kind, cut.connection.descriptor) == ("silent", 1)


def test_beyond_the_limit_the_oldest_stranger_goes_then_the_newest():
    made = make(connections=3)
    for descriptor in (1, 2):
        accept(made, descriptor)
    introduce(made, 1, "actor-0", b"a")
    accept(made, 3)
    (cut,) = made.accepted("actors", 4, ScriptedTap(), 0.0)
    assert (cut.kind, cut.connection.descriptor) == ("full", 2)
    for descriptor, routing in ((3, b"b"), (4, b"c")):
        introduce(made, descriptor, f"actor-{descriptor}", routing)
    (cut,) = made.accepted("actors", 5, ScriptedTap(), 0.0)
    assert cut.connection.descriptor == 5, "nobody but itself is a stranger"
    assert made.count == 3


def test_a_name_keeps_its_newest_connections_to_each_port():
    made = make()
    for number in range(MOST_OF_A_NAME):
        for port, descriptor in (("actors", number), ("files", 100 + number)):
            accept(made, descriptor, port=port)
            introduce(made, descriptor, "actor-0", b"%d" % descriptor)
    accept(made, 50)
    token = made.admit("actor-0", 0.0)
    _, (cut,) = made.introduced(b"new", 50, token, name="actor-0", key=b"k")
    assert (cut.kind, cut.connection.descriptor) == ("name", 0)


def test_a_name_that_connects_again_and_again_in_silence_waits():
    made = make()
    for _ in range(MOST_UNHEARD):
        assert made.admit("mallory", 0.0) is not None
    assert made.admit("mallory", 1.0) is None
    assert made.admit("actor-0", 1.0) is not None
    assert made.unheard_names == ["actor-0", "mallory"]
    assert made.admit("mallory", FIRST_WORD_SECONDS + 1) is not None


def test_a_message_of_a_closed_connection_is_not_laid_at_the_door_of_the_next_with_its_descriptor():
    made = make()
    old = accept(made, 7)
    token_of_old = made.admit("mallory", 0.0)
    old.received = 8 * MIB
    made.closed(7, 0.0)
    assert not old.open
    accept(made, 7)
    token_of_new = made.admit("actor-0", 0.0)
    late, _ = made.introduced(b"old", 7, token_of_old, name="mallory", key=b"m")
    new, _ = made.introduced(b"new", 7, token_of_new, name="actor-0", key=b"a")
    assert (late.name, late.closed_at) == ("mallory", 0.0)
    assert (new.name, new.closed_at) == ("actor-0", None)
    assert made.on(b"old") is late
    made.delivered(late, 8 * MIB)
    assert (late.held, new.delivered) == (0, 0)


def test_connections_long_closed_are_forgotten():
    made = make()
    accept(made, 1)
    introduce(made, 1, "actor-0", b"first")
    made.closed(1, 0.0)
    for _ in range(MOST_CLOSED):
        accept(made, 1)
        made.closed(1, 0.0)
    assert made.on(b"first") is None
    assert made.count == 0


def test_who_was_cut_for_its_memory_rests_a_while_and_nobody_else_does():
    made = make()
    accept(made, 1).received = 11 * MIB
    introduce(made, 1, "mallory", b"one")
    assert kinds(made.judge(100.0, 11 * MIB)) == [("peer_memory", "mallory")]
    assert made.admit("mallory", 100.0 + RESTS_SECONDS - 0.1) is None
    assert made.admit("actor-0", 100.0) is not None
    assert made.admit("mallory", 100.0 + RESTS_SECONDS) is not None


def test_small_frames_count_for_what_they_take_in_memory():
    """Of 160 MiB that may wait, 64 came as bytes and take five times that: who sent most of them goes."""
    made = make(peer=160 * MIB, memory=160 * MIB)
    for number, name in enumerate(("actor-0", "mallory")):
        accept(made, number).received = (4, 60)[number] * MIB
        introduce(made, number, name, bytes([number]))
    assert made.judge(0.0, IN_HAND + 64 * MIB) == [], "what the gateway has in hand is not theirs"
    assert kinds(made.judge(0.0, IN_HAND + 5 * 64 * MIB)) == [("peer_memory", "mallory")]


def test_a_little_that_waits_is_not_blamed_for_memory_that_others_left():
    made = make()
    accept(made, 1).received = MIB
    assert made.judge(0.0, IN_HAND + 9 * MIB) == []


def test_nobody_is_cut_where_nothing_is_won():
    """Queues of others wait to be read: who holds a heartbeat is not cut for them."""
    made = make()
    for number in range(4):
        tap = accept(made, number)
        introduce(made, number, f"mallory-{number}", bytes([number]))
        tap.received = 11 * MIB
        made.judge(0.0, 44 * MIB)
        made.closed(number, 0.0)
    accept(made, 9).received = 1000
    assert made.judge(0.0, 44 * MIB) == []


@pytest.mark.parametrize("peer", [LinkConfig().peer_megabytes, 160], ids=["default", "least"])
def test_an_actor_that_keeps_to_its_credit_is_far_from_its_bound(peer):
    """Even when all that was under way waits here twice: on the connection that broke, and on the one after it."""
    credit = Credit(LinkConfig().memory_megabytes << 20, peer << 20).bytes
    made = make(peer=peer << 20, memory=LinkConfig().memory_megabytes << 20)
    for descriptor in (1, 2):
        tap = accept(made, descriptor)
        introduce(made, descriptor, "actor-0", bytes([descriptor]))
        tap.received = max(credit, MAX_MESSAGE_BYTES)
    assert made.judge(0.0, 2 * max(credit, MAX_MESSAGE_BYTES)) == []
