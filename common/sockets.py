"""Sockets of the link: ZeroMQ with CURVE and safe options, and the gatekeeper that hears listed keys alone.

Each option here has a default that loses data, memory or time: LINGER waits for ever, MAXMSGSIZE takes anything, and a
CURVE server without a ZAP handler takes any key. Who speaks is the key's name (`User-Id`), never a routing id. An
insecure link (loopback alone) has no keys, and nobody to vouch for a name.
"""

from __future__ import annotations

import struct
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import zmq
import zmq.asyncio
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from common.config import is_loopback
from common.errors import UsageError
from common.keys import ActorKeys, KeyList, KeyPair, NotReadNow, fingerprint
from common.log import Reminder, get_logger
from common.wire import MAX_MESSAGE_BYTES

log = get_logger(__name__)

DOMAIN = b"loop"
LONGEST_NUMBER = 64  # bytes of a question's number
SHORT = 4096  # bytes of a frame that is kept of too many
KEY_REFUSED, TRY_LATER = (
    400,
    500,
)  # ZAP: a key that is not listed; one that connects too often (300 would leave it open)
CONNECTION_TOKEN, CONNECTION_KEY = "Connection", "Key"  # what the gatekeeper tells of a connection with each message
HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
WATCHED = HANDSHAKES | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED
MONITORED = HANDSHAKES | zmq.EVENT_ACCEPTED | zmq.EVENT_ACCEPT_FAILED | zmq.EVENT_DISCONNECTED  # by a server
INSECURE = "no encryption and no keys: whoever is on this machine may read it and take part; loopback alone"
SAY_INSECURE_EVERY = 60.0  # seconds
ANSWER_BYTES = 16 << 20  # of one message to an actor: a chunk, or some ten thousand leases


def client_socket(
    context: zmq.asyncio.Context, keys: ActorKeys | None, endpoint: str, queued: int
) -> zmq.asyncio.Socket:
    """A DEALER that speaks to the learner's key alone; at most `queued` messages wait in each direction.

    Without keys it is insecure: anybody may answer. End it with `close_client`.

    Raises:
        UsageError: an endpoint that cannot be one.
    """
    socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
    _set_limits(socket, heard=queued, said=queued, largest=ANSWER_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    if keys is not None:
        socket.curve_publickey, socket.curve_secretkey = keys.own.public, keys.own.secret
        socket.curve_serverkey = keys.learner_public
    socket.get_monitor_socket(WATCHED)  # before there is anything to hear; `connection_events` gets the same one
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        close_client(socket)
        raise UsageError(f"{endpoint}: cannot be connected to: {error.strerror}; see link.host, link.port") from None
    return socket


def close_client(socket: zmq.asyncio.Socket) -> None:
    """Close a `client_socket`, in the one order that is safe.

    libzmq's thread, which serves all sockets of the context, waits for ever to tell an event to a monitor whose reader
    is gone: the monitor ends while its reader is there, then the reader, then what was monitored.
    """
    if not socket.closed:
        monitor = socket.get_monitor_socket(WATCHED)  # the one that is there
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=0)


def server_socket(
    context: zmq.asyncio.Context,
    keys: KeyPair | None,
    host: str,
    port: int,
    *,
    heard: int,
    said: int,
    watch: Callable[[zmq.asyncio.Socket], None] | None = None,
) -> tuple[zmq.asyncio.Socket, int]:
    """A ROUTER that hears listed keys alone (start a `Gatekeeper` first), and the port it got.

    At most `heard` messages of a peer wait here unread (then it is not read from), and `said` to it; one more is
    refused with EAGAIN, and one to a connection that is gone with EHOSTUNREACH. `watch` gets the socket before it is
    bound. Without keys it is insecure: anybody on this machine is heard.

    Raises:
        UsageError: the address cannot be bound.
    """
    socket: zmq.asyncio.Socket = context.socket(zmq.ROUTER)
    _set_limits(socket, heard=heard, said=said, largest=MAX_MESSAGE_BYTES + 1024)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if keys is not None:
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_server = True
    socket.zap_domain = DOMAIN
    if watch is not None:
        watch(socket)
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close()
        why = "another process listens there already" if error.errno == zmq.EADDRINUSE else error.strerror
        remedy = "choose another with --link.port or --link.files_port"
        raise UsageError(f"{host}:{port}: cannot listen: {why}; {remedy}") from None
    bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return socket, int(bound.rpartition(":")[2])


def _set_limits(socket: zmq.asyncio.Socket, *, heard: int, said: int, largest: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, largest)
    socket.setsockopt(zmq.RCVHWM, heard)
    socket.setsockopt(zmq.SNDHWM, said)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
    # heartbeats are the application's: this merely clears away connections whose other end is long gone
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)


@dataclass(frozen=True)
class ConnectionEvent:
    """What became of a connection or its handshake."""

    what: str  # "connected", "succeeded", "key_refused", "failed", "disconnected"
    descriptor: int = -1  # of "connected"
    reason: str = ""  # of "failed"


async def connection_events(socket: zmq.asyncio.Socket) -> AsyncGenerator[ConnectionEvent, None]:
    """What the monitor of a `client_socket` tells, until cancelled or `close_client`."""
    names: dict[int, str] = {
        zmq.EVENT_CONNECTED: "connected",
        zmq.EVENT_HANDSHAKE_SUCCEEDED: "succeeded",
        zmq.EVENT_DISCONNECTED: "disconnected",
        zmq.EVENT_HANDSHAKE_FAILED_AUTH: "key_refused",
    }
    monitor = socket.get_monitor_socket(WATCHED)
    while True:
        event = await recv_monitor_message(monitor)
        what = names.get(event["event"], "failed")
        if what == "key_refused" and event["value"] != KEY_REFUSED:
            what = "failed"
        reason = why_failed(event["event"], event["value"], server=False) if what == "failed" else ""
        yield ConnectionEvent(what, event["value"], reason)


def why_failed(event: int, value: int, *, server: bool) -> str:
    """A handshake that failed before a key was looked up, in words, with what to do."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        if server:
            return "it left in the middle of the handshake: it speaks no CURVE, or gave up"
        return (
            "it ended the handshake: its key is not the one in learner.public, or it speaks no CURVE, or is no learner"
        )
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return (
            "the learner lets it in later: connections with this key came again and again and said nothing, "
            "or its list of keys cannot be read now (its log has why)"
        )
    if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "one side speaks CURVE and the other does not: start both with --insecure, or neither"
    if value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
        return "it holds another learner.public: copy the learner's again" if server else "its key is another"
    return f"it does not speak the protocol (ZMTP error {value:#x})"


class Gatekeeper:
    """ZAP (ZeroMQ RFC 27): libzmq asks it about every handshake; the answer carries the key's name as User-Id.

    Args:
        context: of the sockets that it keeps.
        keys: who may connect; None: insecure, anybody on this machine, without a name.
        admit: gives a connection of that name a token, which comes with each of its messages; None refuses for now.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        keys: KeyList | None,
        admit: Callable[[str], int | None] | None = None,
    ) -> None:
        self._keys = keys
        self._admit = admit
        self._reminders: dict[str, Reminder] = {}
        self._socket: zmq.asyncio.Socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind("inproc://zeromq.zap.01")
        self.refused = 0

    async def serve(self) -> None:
        """Answer until cancelled."""
        while True:
            frames = await self._socket.recv_multipart()
            await self._socket.send_multipart(self._answer(frames))

    def close(self) -> None:
        self._socket.close(linger=0)

    def _answer(self, frames: list[bytes]) -> list[bytes]:
        version, request_id, domain, address, _, mechanism, *credentials = frames
        name, public = None, b""
        if self._keys is None:
            name = "" if mechanism == b"NULL" and is_loopback(address.decode(errors="replace")) else None
        elif mechanism == b"CURVE" and domain == DOMAIN and len(credentials) == 1 and len(credentials[0]) == 32:
            public = z85.encode(credentials[0])
            try:
                name = self._name_of(public)
            except NotReadNow:
                return [version, request_id, b"%d" % TRY_LATER, b"later", b"", b""]
            if name is None and self._is_due(mark := fingerprint(public)):
                remedy = "list its public key in keys/actors, if it is one of yours"
                where = address.decode(errors="replace")
                log.warning("key_refused", fingerprint=mark, address=where, refused=self.refused + 1, remedy=remedy)
        if name is None:
            self.refused += 1
            return [version, request_id, b"%d" % KEY_REFUSED, b"key not listed", b"", b""]
        token = self._admit(name) if self._admit is not None else 0
        if token is None:
            return [version, request_id, b"%d" % TRY_LATER, b"later", b"", b""]
        log.debug("key_accepted", actor=name, address=address.decode(errors="replace"))
        told = _properties({CONNECTION_TOKEN: str(token), CONNECTION_KEY: public.decode()})
        return [version, request_id, b"200", b"", name.encode(), told]

    def _name_of(self, public: bytes) -> str | None:
        assert self._keys is not None
        try:
            return self._keys.name_of(public)
        except UsageError as error:
            # a broken file in the list must not end the gateway; the file is named, and nobody refused for good
            if self._is_due("list"):
                log.error("key_list_unreadable", reason=str(error))
            raise NotReadNow from None

    def _is_due(self, what: str) -> bool:
        """Whether to say so: once in ten seconds for each key, and for all beyond a thousand together."""
        kept = what if what in self._reminders or len(self._reminders) < 1000 else ""
        return self._reminders.setdefault(kept, Reminder(time.monotonic)).is_due()


def _properties(told: dict[str, str]) -> bytes:
    """ZMTP metadata (RFC 37): each name with its length in a byte, each value with its length in four."""
    return b"".join(
        bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value.encode()
        for name, value in told.items()
    )


def question_in(frames: list[bytes]) -> tuple[bytes, bytes, bytes, str]:
    """Connection, number and body of a question on a ROUTER, and what is wrong with its frames, if anything."""
    routing = frames[0]
    if len(frames) != 3:
        return routing, b"", b"".join(frame[:SHORT] for frame in frames[1:9]), f"{len(frames) - 1} frames, expected 2"
    if len(frames[1]) > LONGEST_NUMBER:
        # it comes back with the answer
        return routing, b"", frames[2], f"a number of {len(frames[1])} bytes, allowed are {LONGEST_NUMBER}"
    return routing, frames[1], frames[2], ""


def name_and_frames(frames: list[zmq.Frame]) -> tuple[str, list[bytes]]:
    """Who sent a message (its key's name, as the gatekeeper gave it) and its frames' bytes."""
    name: object = frames[-1].get("User-Id")
    return str(name), [frame.bytes for frame in frames]
