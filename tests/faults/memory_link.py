"""The link without a network: sockets in memory that carry the real frames, and lose, delay, repeat or spoil them.

    Channel ─► ActorSocket ─► fates "up" ─► GatewaySocket ─► gateway
    Channel ◄─ ActorSocket ◄─ fates "down" ◄─ GatewaySocket ◄─ gateway

Where the real sockets are made, `in_memory` puts these. A fate befalls each message in turn; the list of a direction
begins again at its end. A connection breaks as TCP's does: at once and on both sides, or unnoticed, when its messages
wait until the network is whole again.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from unittest.mock import patch

import zmq

import common.sockets
from common.sockets import ConnectionEvent, question_in
from common.wire import decode

KINDS = ("pass", "drop", "delay", "duplicate", "truncate", "flip", "enlarge", "behead", "oversize")
life: ContextVar[str] = ContextVar("life")  # of the process that a task stands for
HARMLESS = frozenset({"pass", "drop", "delay", "duplicate"})  # no byte of a message differs


@dataclass(frozen=True)
class Fate:
    """What becomes of one message; `amount` from 0 to 1 says how much, of seconds or of its bytes."""

    kind: str = "pass"
    amount: float = 0.0


class Frame(bytes):
    """A received frame with the sender's name, as zmq.Frame gives it."""

    name = ""

    @property
    def bytes(self):
        return bytes(self)

    def get(self, _key):
        return self.name


class Connection:
    """Between one actor's socket and one of the gateway's."""

    def __init__(self, near: ActorSocket, far: GatewaySocket, routing: bytes) -> None:
        self.near, self.far, self.routing, self.open = near, far, routing, True


class Network:
    """Which sockets there are, whether they reach each other, and the fates of what they say."""

    def __init__(self) -> None:
        self.fates: dict[str, list[Fate]] = {"up": [], "down": []}
        self.seen: Counter[str] = Counter()  # messages by fate, and what spoiled ones amounted to
        self.silent = False  # packets are lost: messages wait
        self._turns = {"up": 0, "down": 0}
        self._near: list[ActorSocket] = []
        self._far: dict[int, GatewaySocket] = {}
        self._held: list[tuple] = []
        self._routings = itertools.count(1)
        self._dead: set[str] = set()  # lives of processes that were killed

    # --- who is there

    def bind(self, port: int) -> GatewaySocket:
        made = self._far[port] = GatewaySocket(self, port)
        for socket in list(self._near):
            self._connect(socket)
        return made

    def unbind(self, port: int) -> None:
        """Its process ended."""
        gone = self._far.pop(port)
        for connection in list(gone.connections.values()):
            self.cut(connection)

    def join(self, socket: ActorSocket) -> None:
        self._near.append(socket)
        self._connect(socket)

    def leave(self, socket: ActorSocket) -> None:
        if socket in self._near:
            self._near.remove(socket)
        if socket.connection is not None:
            self.cut(socket.connection)

    def kill(self, killed: str) -> None:
        """Nothing of the process with this `life` is heard any more, and it hears nothing."""
        self._dead.add(killed)
        for socket in [socket for socket in self._near if socket.life == killed]:
            self.leave(socket)

    def cut_all(self) -> None:
        """Every connection breaks, noticed by both sides; they may connect again."""
        for far in list(self._far.values()):
            for connection in list(far.connections.values()):
                self.cut(connection)
        for socket in list(self._near):
            self._connect(socket)

    def cut(self, connection: Connection) -> None:
        if not connection.open:
            return
        connection.open = False
        connection.far.connections.pop(connection.routing, None)
        connection.near.connection = None
        connection.near.tell("disconnected")

    def heal(self) -> None:
        """The network is whole; what waited arrives now, in its order."""
        self.silent = False
        self.fates = {"up": [], "down": []}
        for socket in list(self._near):
            self._connect(socket)
        held, self._held = self._held, []
        for arrive in held:
            self._arrive(*arrive)

    def _connect(self, socket: ActorSocket) -> None:
        far = self._far.get(socket.port)
        killed = socket.life in self._dead
        if socket.connection is not None or socket.was_connected or far is None or killed or self.silent:
            return
        routing = next(self._routings).to_bytes(5, "big")
        socket.connection = far.connections[routing] = Connection(socket, far, routing)
        socket.was_connected = True
        socket.tell("succeeded")
        unsent, socket.unsent = socket.unsent, []
        for frames in unsent:
            self.carry(socket.connection, "up", frames)

    # --- what they say

    def carry(self, connection: Connection, way: str, frames: list[bytes]) -> None:
        fates = self.fates[way]
        fate = fates[self._turns[way] % len(fates)] if fates else Fate()
        self._turns[way] += 1
        self.seen[fate.kind] += 1
        match fate.kind:
            case "drop":
                return
            case "delay":
                self._later(0.01 + 8 * fate.amount, connection, way, frames)
                return
            case "duplicate":
                self._later(8 * fate.amount, connection, way, frames)
            case "oversize":  # libzmq takes no message above its limit: the connection breaks
                self.cut(connection)
                return
            case _:
                frames = spoiled(frames, fate)
        self._arrive(connection, way, frames)

    def _later(self, seconds: float, *arrival) -> None:
        asyncio.get_running_loop().call_later(seconds, self._arrive, *arrival)

    def _arrive(self, connection: Connection, way: str, frames: list[bytes]) -> None:
        if self.silent:
            self._held.append((connection, way, frames))
        elif not connection.open:
            self.seen["lost with its connection"] += 1
        elif way == "up":
            self._note_unreadable("up", frames)
            connection.far.arrive(connection, frames)
        else:
            self._note_unreadable("down", frames)
            connection.near.inbox.put_nowait(frames)

    def _note_unreadable(self, way: str, frames: list[bytes]) -> None:
        """Counts what the receiver must count too."""
        *_, body, wrong = question_in([b"", *frames])
        try:
            decode(body)
        except ValueError as error:
            wrong = str(error)
        self.seen[f"unreadable {way}"] += bool(wrong)


def spoiled(frames: list[bytes], fate: Fate) -> list[bytes]:
    """A message with some of it changed; which part follows from the amount."""
    body = frames[-1]
    place = min(int(fate.amount * len(body)), len(body) - 1)
    match fate.kind:
        case "truncate":
            return [*frames[:-1], body[:place]]
        case "flip":
            bit = int(fate.amount * 8 * len(body)) % 8
            return [*frames[:-1], body[:place] + bytes([body[place] ^ 1 << bit]) + body[place + 1 :]]
        case "enlarge":
            return [*frames[:-1], body + random.Random(place).randbytes(1 + place)]
        case "behead":
            return frames[1:]
    return frames


class ActorSocket:
    """In a DEALER's place. One connection in its life, as `Channel` uses it."""

    def __init__(self, network: Network, name: str, port: int, queued: int) -> None:
        self.network, self.name, self.port, self.life = network, name, port, life.get()
        self.inbox: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.events: asyncio.Queue[ConnectionEvent] = asyncio.Queue()
        self.unsent: list[list[bytes]] = []
        self.connection: Connection | None = None
        self.was_connected = False
        self._queued = queued
        network.join(self)

    def tell(self, what: str) -> None:
        self.events.put_nowait(ConnectionEvent(what))

    def getsockopt(self, _option):
        return zmq.CURVE

    async def send_multipart(self, frames, flags=0, copy=True):
        if self.connection is not None:
            self.network.carry(self.connection, "up", list(frames))
        elif len(self.unsent) < self._queued:
            self.unsent.append(list(frames))
        else:
            raise zmq.Again

    async def recv_multipart(self, flags=0, copy=True):
        return await self.inbox.get()

    def close(self):
        self.network.leave(self)


class GatewaySocket:
    """In a ROUTER's place."""

    def __init__(self, network: Network, port: int) -> None:
        self.network, self.port = network, port
        self.inbox: asyncio.Queue[list[Frame]] = asyncio.Queue()
        self.connections: dict[bytes, Connection] = {}

    def arrive(self, connection: Connection, frames: list[bytes]) -> None:
        named = [Frame(part) for part in (connection.routing, *frames)]
        named[-1].name = connection.near.name
        self.inbox.put_nowait(named)

    def send_multipart(self, frames, flags=0, copy=True):
        routing, *rest = frames
        sent = asyncio.get_running_loop().create_future()
        if routing in self.connections:
            self.network.carry(self.connections[routing], "down", rest)
            sent.set_result(None)
        else:
            sent.set_exception(zmq.ZMQError(zmq.EHOSTUNREACH))
        return sent

    async def recv_multipart(self, flags=0, copy=True):
        if flags & zmq.NOBLOCK and self.inbox.empty():
            raise zmq.Again
        return await self.inbox.get()


async def events_of(socket):
    while True:
        yield await socket.events.get()


@contextmanager
def in_memory(network: Network):
    """Every module that makes or watches sockets of the link gets those of `network`."""

    def client_socket(_context, keys, endpoint, queued):
        return ActorSocket(network, keys.own.name, int(endpoint.rpartition(":")[2]), queued)

    replacements = {
        "client_socket": client_socket,
        "close_client": ActorSocket.close,
        "connection_events": events_of,
    }
    originals = {name: getattr(common.sockets, name) for name in replacements}
    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            for name, original in originals.items():
                if getattr(module, "__dict__", {}).get(name) is original:
                    stack.enter_context(patch.object(module, name, replacements[name]))
        yield
