"""Keeps the gateway within its bounds of connections and memory, whatever its peers do; names whom it cuts, and why.

    libzmq's monitors ─► connections, closed, failed handshakes ─┐
    gatekeeper ────────► handshakes that succeed ────────────────┼─► `Connections` ─► cut: the kernel ends it, libzmq
    service, files desk ► messages taken, answers given ─────────┤                    drops what it holds
    kernel ────────────► bytes of each connection ───────────────┘

A thread of its own looks many times a second, for the gateway's event loop may be waiting for the disk while a peer
goes on sending: at the process's size with every event and every `LOOK_SECONDS`; at each connection when that grew, or
once a second.
"""

from __future__ import annotations

import contextvars
import os
import resource
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from common.keys import KeyList
from common.log import Reminder, get_logger
from common.memory import in_use
from common.sockets import CONNECTION_KEY, CONNECTION_TOKEN, MONITORED, why_failed
from common.tcp import Tap, wire_bytes
from learner.gateway.connections import Connection, Connections, Cut, Limits

log = get_logger(__name__)

LOOK_SECONDS = 0.02
LOOK_AT_EACH_SECONDS = 1.0
GROWN_BYTES = 4 << 20  # of the process since the last look at each connection: time for another
AWAKE_SECONDS = 2.0  # the event loop's last sign of life is younger: time counts against silent peers
DESCRIPTORS_BESIDE = 256  # that the gateway needs for other things
SAY_EVERY = 10.0


@dataclass
class _Said:
    """How often something happened since it was last logged."""

    reminder: Reminder
    times: int = 0


@dataclass
class _Port:
    """A socket's monitor; `failure` is that of the handshake whose connection is about to be told as ended."""

    name: str
    socket: zmq.asyncio.Socket
    monitor: zmq.Socket[bytes]
    failure: str = ""


class Guard:
    """Watches the connections of the gateway's ports.

    Args:
        limits: what may be used; its connections are lowered to what the system's limit of open files allows.
        curve: whether the ports speak CURVE: what a frame takes on the connection.
    """

    def __init__(self, limits: Limits, *, curve: bool) -> None:
        self._connections = Connections(_affordable(limits))
        self._curve = curve
        self._ports: list[_Port] = []
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._size_at_look = self._size()
        self._in_use_at_start = in_use()
        self._looked_at = -LOOK_AT_EACH_SECONDS
        self._alive_at = time.monotonic()
        self._awake = 0.0
        self._turned_at = time.monotonic()
        self._said: dict[tuple[str, str], _Said] = {}
        self.cuts = 0
        self.failure: Exception | None = None
        context = contextvars.copy_context()  # the log's fields
        self._thread = threading.Thread(target=context.run, args=(self._watch,), name="guard", daemon=True)

    def watch(self, name: str, socket: zmq.asyncio.Socket) -> None:
        """Hear of a port's connections; before it is bound. From `start` on they are looked after."""
        address = f"inproc://monitor-{name}-{id(socket)}"
        socket.monitor(address, MONITORED)
        monitor: zmq.Socket[bytes] = zmq.Context.shadow(socket.context).socket(zmq.PAIR)
        monitor.setsockopt(zmq.RCVHWM, 0)  # else libzmq's thread waits for us when many come at once
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.connect(address)
        self._ports.append(_Port(name, socket, monitor))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Before the sockets are closed."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for port in self._ports:
            if not port.socket.closed:
                port.socket.disable_monitor()  # else libzmq's thread would wait for ever for one that listens
            port.monitor.close()
        for connection in self._connections.open:
            connection.tap.close()
        os.close(self._statm)

    @property
    def count(self) -> int:
        """Connections that are open."""
        return self._connections.count

    # --- called by the event loop

    def alive(self) -> None:
        """The event loop runs: whoever is silent now is silent by himself. Raises what ended the watch."""
        self._alive_at = time.monotonic()
        if self.failure is not None:
            raise self.failure

    def admit(self, name: str) -> int | None:
        """As `Connections.admit`, after all connections that came before."""
        with self._lock:
            self._drain()
            token = self._connections.admit(name, time.monotonic())
        if token is None:
            self._say("handshakes", name, "refused_for_now", actor=name, reason="it connects again and again, silently")
        return token

    def heard(self, frames: Sequence[zmq.Frame]) -> bool:
        """A message was taken from a port (routing first). False when its connection was cut: drop it."""
        routing, size = frames[0].bytes, sum(wire_bytes(len(frame), curve=self._curve) for frame in frames[1:])
        with self._lock:
            connection = self._connections.on(routing)
            if connection is None:
                connection = self._introduce(routing, frames[-1])
            if connection is None:
                return True
            self._connections.delivered(connection, size)
            return not connection.cut_for

    def _introduce(self, routing: bytes, frame: zmq.Frame) -> Connection | None:
        """The connection of a first message."""
        descriptor, token = int(frame.get(zmq.SRCFD)), int(_told(frame, CONNECTION_TOKEN) or 0)
        name, key = _told(frame, "User-Id"), _told(frame, CONNECTION_KEY).encode()
        connection, cuts = self._connections.introduced(routing, descriptor, token, name=name, key=key)
        self._carry_out(cuts)
        return connection

    def said(self, routing: bytes, *frames: bytes) -> None:
        """A message was given to a port."""
        with self._lock:
            size = sum(wire_bytes(len(frame), curve=self._curve) for frame in frames)
            self._connections.handed(routing, size)

    def dismiss_unlisted(self, listed: KeyList) -> None:
        """Cut connections whose key is no longer the one listed under their name, as the list was read last."""
        with self._lock:
            heard = [c for c in self._connections.open if c.key and not c.cut_for]
            self._carry_out([self._connections.cut_key(c) for c in heard if listed.holder(c.key) != c.name])

    # --- the thread

    def _watch(self) -> None:
        try:
            news = select.poll()
            for port in self._ports:
                news.register(int(port.monitor.getsockopt(zmq.FD)), select.POLLIN)
            while not self._stop.is_set():
                news.poll(1000 * LOOK_SECONDS)
                self._turn()
        except Exception as error:  # noqa: BLE001 - without the watch there are no bounds: the gateway ends on it
            self.failure = error

    def _turn(self) -> None:
        now = time.monotonic()
        with self._lock:
            # neither a stopped process nor a busy event loop counts against those who wait for it
            if now - self._alive_at < AWAKE_SECONDS:
                self._awake += min(now - self._turned_at, 10 * LOOK_SECONDS)
            self._turned_at = now
            self._drain()
            size = self._size()
            grown = size - self._size_at_look
            if grown < GROWN_BYTES and now - self._looked_at < LOOK_AT_EACH_SECONDS:
                self._size_at_look = min(size, self._size_at_look)
                return
            self._size_at_look, self._looked_at = size, now
            self._carry_out(self._connections.judge(self._awake, in_use() - self._in_use_at_start))

    def _size(self) -> int:
        """Bytes of this process in memory."""
        return int(os.pread(self._statm, 64, 0).split()[1]) * self._page

    def _drain(self) -> None:
        """Take up what the monitors tell. Needs the lock."""
        for port in self._ports:
            while port.monitor.poll(0):
                event = recv_monitor_message(port.monitor, zmq.NOBLOCK)
                self._take_up(port, event["event"], event["value"])

    def _take_up(self, port: _Port, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            try:
                tap = Tap(value)
            except OSError:  # gone already, and its end is the next event
                return
            self._carry_out(self._connections.accepted(port.name, value, tap, self._awake))
        elif event == zmq.EVENT_DISCONNECTED:
            gone = self._connections.closed(value, self._awake)
            failure, port.failure = port.failure, ""
            if failure and not (gone is not None and gone.cut_for):
                address = gone.tap.address if gone is not None else "gone already"
                self._say("handshake", failure, "handshake_failed", port=port.name, address=address, reason=failure)
        elif event == zmq.EVENT_ACCEPT_FAILED:
            reason = f"{os.strerror(value)}: too many connections for the system's limit of open files?"
            self._say("accept", "", "connection_not_taken", port=port.name, reason=reason)
        elif event in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            port.failure = why_failed(event, value, server=True)

    def _carry_out(self, cuts: Sequence[Cut]) -> None:
        for cut in cuts:
            connection = cut.connection
            connection.tap.cut()
            self.cuts += 1
            name = connection.name
            if not name and cut.kind in ("peer_memory", "memory"):
                name = " or ".join(self._connections.unheard_names)
            who = {"actor": name, "address": connection.tap.address, "port": connection.port}
            self._say(cut.kind, connection.name, "connection_cut", **who, reason=cut.reason)

    def _say(self, kind: str, whom: str, event: str, **fields: object) -> None:
        """Log it, at most every ten seconds for one kind and name, with how often it happened since."""
        said = self._said.setdefault((kind, whom), _Said(Reminder(time.monotonic, SAY_EVERY)))
        said.times += 1
        if said.reminder.is_due():
            log.warning(event, **fields, times=said.times)
            said.times = 0


def _told(frame: zmq.Frame, name: str) -> str:
    """A property that the gatekeeper gave the connection; empty where there is none."""
    try:
        return str(frame.get(name))
    except (zmq.ZMQError, KeyError):
        return ""


def _affordable(limits: Limits) -> Limits:
    """Each connection takes two descriptors; the limit of open files is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.connections + DESCRIPTORS_BESIDE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = (soft - DESCRIPTORS_BESIDE) // 2
    if most < limits.connections:
        remedy = "raise the hard limit of open files (ulimit -Hn), or lower link.connections"
        log.warning("connections_limited", connections=most, wanted=limits.connections, reason=remedy)
    return Limits(limits.peer_bytes, limits.memory_bytes, min(limits.connections, most))
