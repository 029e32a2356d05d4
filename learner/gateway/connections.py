"""Who holds which connection, what each makes this process hold, and which are to be cut. Bookkeeping alone: `guard.py`
asks the system and does the cutting.

    accepted ─► handshake: the gatekeeper gives it a token ─► first message: token and descriptor say whose ─► closed

What a connection makes us hold: bytes received less those delivered (libzmq's queue of whole messages, and the
unfinished one), and bytes of answers that were given to libzmq less those that the kernel took. Sizes are bytes, times
seconds on a clock that stands still while the gateway itself does.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

FIRST_WORD_SECONDS = 10.0  # from connecting to the first message
MOST_OF_A_NAME = 4  # connections of one name to one port: a fresh one beside some that are not known to be dead yet
MOST_UNHEARD = 8  # handshakes of one name in `FIRST_WORD_SECONDS` that no message followed
LOOK_CLOSER = 4 << 20  # held: from here on, what lies in the kernel is asked for and taken off
SMALL = 64 << 10  # held: nothing is won by a cut
RETAINED_SECONDS = 5.0  # that the queue of a closed connection counts for, at most
RESTS_SECONDS = 5.0  # before a name that was cut for its memory may connect again: libzmq takes a while to free it
WEIGHED_FROM = 16 << 20  # held in all: from here on, what it weighs in memory is looked at
IN_HAND = 352 << 20  # that the gateway itself may have in use: a batch of the largest messages, read twice over
MOST_CLOSED = 4096  # closed connections whose messages may still come


class Passage(Protocol):
    """What is asked of the system for one connection: `common.tcp.Tap`."""

    address: str

    def passed(self) -> tuple[int, int]: ...
    def unread(self) -> int: ...
    def cut(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """What may be used."""

    peer_bytes: int
    memory_bytes: int
    connections: int


@dataclass(slots=True, eq=False)
class Connection:
    """One TCP connection to one of the gateway's ports."""

    port: str
    number: int  # in the order of acceptances and handshakes
    descriptor: int  # libzmq's, free again once it is closed
    tap: Passage
    since: float
    name: str = ""  # of its key, from its first message on
    key: bytes = b""
    heard: bool = False
    delivered: int = 0  # bytes of its messages that were taken out of libzmq
    handed: int = 0  # bytes of the answers that were given to libzmq
    held: int = 0  # bytes, both directions, as of the last look
    cut_for: str = ""  # the reason, once it was cut
    closed_at: float | None = None
    routings: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Cut:
    """A connection to be cut, and why."""

    connection: Connection
    kind: str  # "silent", "name", "full", "peer_memory", "memory", "key"
    reason: str


class Connections:
    """All connections of both ports. The caller serializes access."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._numbers = itertools.count(1)
        self._open: dict[int, Connection] = {}
        self._strangers: OrderedDict[int, Connection] = OrderedDict()  # not heard yet, not cut: by number, oldest first
        self._closed: deque[Connection] = deque()
        self._by_routing: dict[bytes, Connection] = {}
        self._by_name: dict[tuple[str, str], list[Connection]] = {}
        self._unheard: dict[str, deque[float]] = {}
        self._rests: dict[str, float] = {}  # names cut for their memory, and until when
        self._kept = 0  # open and not cut

    @property
    def count(self) -> int:
        """Connections that are open and were not cut."""
        return self._kept

    @property
    def open(self) -> list[Connection]:
        return list(self._open.values())

    # --- what happens to connections

    def accepted(self, port: str, descriptor: int, tap: Passage, now: float) -> list[Cut]:
        """A connection came: one too many costs the oldest that has not spoken, or itself."""
        made = Connection(port, next(self._numbers), descriptor, tap, now)
        if descriptor in self._open:  # its end was not told: this one has its number
            self.closed(descriptor, now)
        self._open[descriptor] = made
        self._strangers[made.number] = made
        self._kept += 1
        if self._kept <= self._limits.connections:
            return []
        victim = next(iter(self._strangers.values()))
        reason = f"{self._limits.connections} connections are the limit: raise link.connections, or see who connects"
        return [self._cut(victim, "full", reason)]

    def closed(self, descriptor: int, now: float) -> Connection | None:
        """A connection ended."""
        gone = self._open.pop(descriptor, None)
        if gone is None:
            return None
        self._let_go(gone)
        gone.closed_at, gone.handed = now, 0  # its answers are dropped with it, its whole messages stay
        self._measure(gone)
        gone.tap.close()
        self._closed.append(gone)
        while len(self._closed) > MOST_CLOSED:
            for routing in self._closed.popleft().routings:
                self._by_routing.pop(routing, None)
        return gone

    def admit(self, name: str, now: float) -> int | None:
        """A token for a handshake that is about to succeed.

        None: this name has too many that said nothing, or was cut for its memory a moment ago.
        """
        unheard = self._unheard.setdefault(name, deque())
        while unheard and now - unheard[0] > FIRST_WORD_SECONDS:
            unheard.popleft()
        if name and (len(unheard) >= MOST_UNHEARD or self._rests.get(name, now) > now):
            return None
        unheard.append(now)
        return next(self._numbers)

    def on(self, routing: bytes) -> Connection | None:
        """The connection that messages under a routing id come from; None before its first is introduced."""
        return self._by_routing.get(routing)

    def introduced(
        self, routing: bytes, descriptor: int, token: int, *, name: str, key: bytes
    ) -> tuple[Connection | None, list[Cut]]:
        """The first message under a routing id: whose it is (None: of one long closed), and who must go for it."""
        connection = self._owner(descriptor, token)
        if connection is None:
            return None, []
        self._by_routing[routing] = connection
        connection.routings.append(routing)
        return connection, self._introduce(connection, name, key)

    def delivered(self, connection: Connection, size: int) -> None:
        """A message of it was taken out of libzmq."""
        connection.delivered += size
        if connection.closed_at is not None:
            connection.held = max(0, connection.held - size)

    def handed(self, routing: bytes, size: int) -> None:
        """An answer was given to libzmq."""
        connection = self._by_routing.get(routing)
        if connection is not None:
            connection.handed += size

    @property
    def unheard_names(self) -> list[str]:
        """Whose handshakes succeeded without a message so far: a stranger that sends is one of them."""
        return sorted(name for name, times in self._unheard.items() if name and times)

    def cut_key(self, connection: Connection) -> Cut:
        """The key of a connection is listed no longer."""
        return self._cut(
            connection, "key", f"the key of {connection.name} was taken off the list or replaced by another"
        )

    # --- what is to be done about them

    def judge(self, now: float, grown: int) -> list[Cut]:
        """Measure all connections; those that are to be cut. `grown`: bytes in use above those at the start."""
        for connection in self._open.values():
            self._measure(connection)
        self._weigh(grown)
        return [*self._silent(now), *self._too_large(now, grown)]

    def held(self) -> int:
        """Bytes held for connections that were not cut, as of the last look."""
        return sum(connection.held for connection in self._open.values() if not connection.cut_for)

    def _weigh(self, grown: int) -> None:
        """Many small frames take more memory than they had bytes: each then counts for its share of what is in use."""
        total = self.held()
        if total >= WEIGHED_FROM and grown - IN_HAND > total:
            for connection in self._open.values():
                connection.held = connection.held * (grown - IN_HAND) // total

    def _silent(self, now: float) -> Iterable[Cut]:
        cuts = []
        for connection in list(self._strangers.values()):
            if now - connection.since <= FIRST_WORD_SECONDS:
                break
            within = f"no handshake and first message within {FIRST_WORD_SECONDS:.0f} s"
            reason = f"{within}: no actor behaves so; if there is one at that address, see its log"
            cuts.append(self._cut(connection, "silent", reason))
        return cuts

    def _too_large(self, now: float, grown: int) -> Iterable[Cut]:
        """Peers above their bound lose their largest connections; above the bound in all, the largest of anybody."""
        cuts: list[Cut] = []
        kept = sorted((c for c in self._open.values() if not c.cut_for and c.held), key=lambda c: (-c.held, c.number))
        sums: dict[object, int] = {}
        for connection in kept:
            sums[_peer(connection)] = sums.get(_peer(connection), 0) + connection.held
        peer_bytes, memory_bytes = self._limits.peer_bytes, self._limits.memory_bytes
        for connection in kept:
            if sums[_peer(connection)] > peer_bytes:
                reason = (
                    f"{sums[_peer(connection)] >> 20} MiB wait here for it, allowed are {peer_bytes >> 20}: it sends "
                    "beyond its credit or does not read its answers; if it is honest, raise link.peer_megabytes"
                )
                sums[_peer(connection)] -= connection.held
                cuts.append(self._cut(connection, "peer_memory", reason))
                self._rests[connection.name] = now + RESTS_SECONDS
        total = sum(connection.held for connection in kept if not connection.cut_for)
        retained = max(0, min(self._retained(now), grown - total))  # no more than there is
        for connection in kept:
            # a queue of whole messages stays until it was read, cut or not: it counts against a peer's bound on top
            fits = total + retained <= memory_bytes + peer_bytes or connection.held < SMALL
            if total <= memory_bytes and fits:
                break
            if connection.cut_for:
                continue
            reason = (
                f"{total + retained >> 20} MiB wait here for all connections, allowed are {memory_bytes >> 20}: the "
                f"largest ({connection.held >> 20}) is cut; raise link.memory_megabytes, or have fewer actors"
            )
            total -= connection.held
            cuts.append(self._cut(connection, "memory", reason))
            if total <= memory_bytes:
                break
        return cuts

    def _retained(self, now: float) -> int:
        closed = 0
        for connection in reversed(self._closed):
            if connection.closed_at is None or now - connection.closed_at > RETAINED_SECONDS:
                break
            closed += connection.held
        return closed + sum(connection.held for connection in self._open.values() if connection.cut_for)

    def _measure(self, connection: Connection) -> None:
        try:
            received, written = connection.tap.passed()
            held = max(0, received - connection.delivered)
            if held > LOOK_CLOSER:
                held = max(0, held - connection.tap.unread())
        except OSError:  # it is ending; its end will be told
            return
        connection.held = held + max(0, connection.handed - written)

    def _owner(self, descriptor: int, token: int) -> Connection | None:
        """The connection that had this descriptor when the token was given: the newest accepted before."""
        connection = self._open.get(descriptor)
        if connection is not None and connection.number < token:
            return connection
        for closed in reversed(self._closed):
            if closed.descriptor == descriptor and closed.number < token:
                return closed
        return None

    def _introduce(self, connection: Connection, name: str, key: bytes) -> list[Cut]:
        """Its first message: it has a name now; the oldest of too many of that name goes."""
        connection.heard, connection.name, connection.key = True, name, key
        self._strangers.pop(connection.number, None)
        unheard = self._unheard.get(name)
        if unheard:
            unheard.popleft()
        if connection.closed_at is not None or not name:
            return []
        same = self._by_name.setdefault((name, connection.port), [])
        same.append(connection)
        cuts = []
        while len(same) > MOST_OF_A_NAME:
            oldest = min(same, key=lambda c: c.number)
            reason = (
                f"{MOST_OF_A_NAME} connections to a port are an actor's limit, and the newest count: is {name} copied?"
            )
            cuts.append(self._cut(oldest, "name", reason))
        return cuts

    def _cut(self, connection: Connection, kind: str, reason: str) -> Cut:
        if not connection.cut_for:
            self._let_go(connection)
            connection.cut_for = reason
        return Cut(connection, kind, reason)

    def _let_go(self, connection: Connection) -> None:
        """It counts no longer among those that are kept."""
        if connection.cut_for:
            return
        self._kept -= 1
        self._strangers.pop(connection.number, None)
        same = self._by_name.get((connection.name, connection.port), [])
        if connection in same:
            same.remove(connection)
            if not same:
                del self._by_name[connection.name, connection.port]


def _peer(connection: Connection) -> object:
    """Whose bound it counts against: its name's; a stranger is a peer of its own."""
    return connection.name or connection
