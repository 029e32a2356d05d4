"""Sockets of the link: ZeroMQ with CURVE and safe options, and the gatekeeper that hears listed keys alone.

Each option here has a default that loses data, memory or time: LINGER waits for ever, MAXMSGSIZE takes anything, and a
CURVE server without a ZAP handler takes any key. Who speaks is the key's name (`User-Id`), never a routing id.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import zmq
import zmq.asyncio
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from common.errors import UsageError
from common.keys import ActorKeys, KeyList, KeyPair, fingerprint
from common.log import get_logger
from common.wire import MAX_MESSAGE_BYTES

log = get_logger(__name__)

DOMAIN = b"loop"
LONGEST_NUMBER = 64  # bytes of a question's number
SHORT = 4096  # bytes of a frame that is kept of too many
WATCHED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)


def client_socket(context: zmq.asyncio.Context, keys: ActorKeys, endpoint: str, queued: int) -> zmq.asyncio.Socket:
    """A DEALER that speaks to the learner's key alone; at most `queued` messages wait in each direction.

    Raises:
        UsageError: an endpoint that cannot be one.
    """
    socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
    _set_limits(socket, heard=queued, said=queued)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.curve_publickey, socket.curve_secretkey = keys.own.public, keys.own.secret
    socket.curve_serverkey = keys.learner_public
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise UsageError(f"{endpoint}: cannot be connected to: {error.strerror}; see link.host, link.port") from None
    return socket


def server_socket(
    context: zmq.asyncio.Context, keys: KeyPair, host: str, port: int, *, heard: int, said: int
) -> tuple[zmq.asyncio.Socket, int]:
    """A ROUTER that hears listed keys alone (start a `Gatekeeper` first), and the port it got.

    At most `heard` messages of a peer wait here unread (then it is not read from), and `said` to it; one more is
    refused with EAGAIN, and one to a connection that is gone with EHOSTUNREACH.

    Raises:
        UsageError: the address cannot be bound.
    """
    socket: zmq.asyncio.Socket = context.socket(zmq.ROUTER)
    _set_limits(socket, heard=heard, said=said)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
    socket.curve_server = True
    socket.zap_domain = DOMAIN
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close()
        why = "another process listens there already" if error.errno == zmq.EADDRINUSE else error.strerror
        remedy = "choose another with --link.port or --link.files_port"
        raise UsageError(f"{host}:{port}: cannot listen: {why}; {remedy}") from None
    bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return socket, int(bound.rpartition(":")[2])


def _set_limits(socket: zmq.asyncio.Socket, *, heard: int, said: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES + 1024)
    socket.setsockopt(zmq.RCVHWM, heard)
    socket.setsockopt(zmq.SNDHWM, said)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
    # heartbeats are the application's: this merely clears away connections whose other end is long gone
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)


@dataclass(frozen=True)
class ConnectionEvent:
    """What became of a connection or its handshake."""

    what: str  # "succeeded", "key_refused", "failed", "disconnected"
    endpoint: str


async def connection_events(socket: zmq.asyncio.Socket) -> AsyncGenerator[ConnectionEvent, None]:
    """What the socket's monitor tells, until cancelled."""
    names: dict[int, str] = {
        zmq.EVENT_HANDSHAKE_SUCCEEDED: "succeeded",
        zmq.EVENT_DISCONNECTED: "disconnected",
        zmq.EVENT_HANDSHAKE_FAILED_AUTH: "key_refused",
    }
    monitor = socket.get_monitor_socket(WATCHED)
    try:
        while True:
            event = await recv_monitor_message(monitor)
            what = names.get(event["event"], "failed")
            yield ConnectionEvent(what, event["endpoint"].decode(errors="replace"))
    finally:
        with contextlib.suppress(zmq.ZMQError):
            socket.disable_monitor()
        monitor.close(linger=0)


class Gatekeeper:
    """ZAP (ZeroMQ RFC 27): libzmq asks it about every handshake; the answer carries the key's name as User-Id."""

    def __init__(self, context: zmq.asyncio.Context, keys: KeyList) -> None:
        self._keys = keys
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
        name = None
        if mechanism == b"CURVE" and domain == DOMAIN and len(credentials) == 1 and len(credentials[0]) == 32:
            public = z85.encode(credentials[0])
            name = self._name_of(public)
            if name is None:
                log.warning("key_refused", fingerprint=fingerprint(public), address=address.decode(errors="replace"))
        if name is None:
            self.refused += 1
            return [version, request_id, b"400", b"key not listed", b"", b""]
        log.debug("key_accepted", actor=name, address=address.decode(errors="replace"))
        return [version, request_id, b"200", b"", name.encode(), b""]

    def _name_of(self, public: bytes) -> str | None:
        try:
            return self._keys.name_of(public)
        except UsageError as error:
            # a broken file in the list must not end the gateway; the handshake is refused and the file named
            log.error("key_list_unreadable", error=str(error))
            return None


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
