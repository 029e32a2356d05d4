"""For `loop doctor`: whether an actor reaches its learner, and whose it is.

In three steps, each with faults of its own: TCP (nobody there, no way there), the CURVE handshake (the learner does not
list our key), and where that fails the greeting (something else listens, it is insecure, or another learner's key).
Nothing is said after the handshake, so nothing changes at the learner.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import zmq.asyncio

from common.config import LinkConfig
from common.errors import UsageError
from common.finding import Check, Finding, error, lacking, ok
from common.keys import ActorKeys, actor_keys, fingerprint
from common.sockets import client_socket, close_client, connection_events

REACH_SECONDS = 5.0
# of ZMTP 3's greeting of 64 bytes: signature and version; the other side then says all of its own
GREETING, GREETING_BYTES = b"\xff" + bytes(8) + b"\x7f\x03\x00", 64


def reach_checks(link: LinkConfig, name: str, *, wanted: bool) -> list[Check]:
    """An actor's."""
    return [
        Check("learner's port", lambda: reach(link, link.port, name, wanted=wanted)),
        Check("learner's files", lambda: reach(link, link.files_port, name, wanted=wanted)),
    ]


def reach(link: LinkConfig, number: int, name: str, *, wanted: bool) -> Finding:
    """Whether the learner answers there, and takes this actor's key."""
    where = f"{link.host}:{number}"
    if number == 0:
        remedy = "give both; gateway.json in the learner's run folder has them"
        return error("link.port and link.files_port of an actor cannot be 0", remedy)
    unreachable = _connect(link.host, number, wanted=wanted)
    if unreachable is not None:
        return unreachable
    keys: ActorKeys | None = None
    if not link.insecure:
        try:
            keys = actor_keys(link.keys, name)
        except UsageError:
            remedy = f"see the line about {name}'s key: without it the handshake cannot be tried"
            return lacking(f"{where}: somebody listens; this actor has no usable key", remedy, wanted=wanted)
    what, reason = asyncio.run(_handshake(f"tcp://{where}", keys))
    return ok(f"{where}: {_welcomed(keys)}") if what == "succeeded" else _refused(link, number, keys, what, reason)


def _connect(host: str, number: int, *, wanted: bool) -> Finding | None:
    """What keeps TCP from that port; None: nothing."""
    where = f"{host}:{number}"
    try:
        socket.create_connection((host.strip("[]"), number), REACH_SECONDS).close()
    except socket.gaierror as problem:
        return error(f"{host}: {problem.strerror}", "set link.host to the learner's address or name")
    except ConnectionRefusedError:
        remedy = "start the learner there; if it runs, compare link.host and the ports with its gateway.json"
        return lacking(f"nobody listens at {where}", remedy, wanted=wanted)
    except TimeoutError:
        remedy = "look at firewalls and routes between the two machines, then at link.host"
        return error(f"{where}: no answer to TCP in {REACH_SECONDS:g} s", remedy)
    except OSError as problem:
        return error(f"{where}: {problem.strerror}", "look at link.host and this machine's routes")
    return None


def _welcomed(keys: ActorKeys | None) -> str:
    return "answers, insecure" if keys is None else f"answers, and takes the key of {keys.own.name}"


async def _handshake(endpoint: str, keys: ActorKeys | None) -> tuple[str, str]:
    """How the handshake ended, as `ConnectionEvent` says it, or "silent"; and the reason in words."""
    context = zmq.asyncio.Context()
    client = client_socket(context, keys, endpoint, 1)
    try:
        async with asyncio.timeout(REACH_SECONDS), contextlib.aclosing(connection_events(client)) as events:
            async for event in events:
                if event.what != "connected":
                    return event.what, event.reason
    except TimeoutError:
        pass
    finally:
        close_client(client)
        context.destroy(linger=0)
    return "silent", ""


def _refused(link: LinkConfig, number: int, keys: ActorKeys | None, what: str, reason: str) -> Finding:
    where = f"{link.host}:{number}"
    if what == "key_refused" and keys is not None:
        mark = fingerprint(keys.own.public)
        remedy = f"put {keys.own.name}.public into actors/ of the learner's key folder"
        return error(f"{where}: the learner does not list this actor's key (fingerprint {mark})", remedy)
    speaks = mechanism(link.host, number)
    if not speaks:
        remedy = "set link.host, link.port and link.files_port to the learner's"
        return error(f"{where}: something listens there that is no learner", remedy)
    if (speaks == "CURVE") != (keys is not None):
        here = "with keys here and insecure there" if keys is not None else "insecure here and with keys there"
        return error(f"{where}: {here}", "start both sides with --insecure, or neither")
    if keys is not None and what in ("failed", "disconnected") and "later" not in reason:
        mark = fingerprint(keys.learner_public)
        remedy = "copy learner.public from the learner's machine again, and compare `loop keys show learner` there"
        return error(f"{where}: a learner, but not that of {link.keys}/learner.public (fingerprint {mark})", remedy)
    said = reason or f"no end of the handshake in {REACH_SECONDS:g} s"
    return error(f"{where}: {said}", "try again; if it stays so, look at the learner's log")


def mechanism(host: str, number: int) -> str:
    """What ZMTP's greeting says is spoken there: NULL, CURVE; empty when no ZMTP is."""
    said = b""
    try:
        with socket.create_connection((host.strip("[]"), number), REACH_SECONDS) as there:
            there.sendall(GREETING)
            while len(said) < GREETING_BYTES and (more := there.recv(GREETING_BYTES - len(said))):
                said += more
    except OSError:
        pass  # what was said before counts
    if len(said) < 32 or said[0] != 0xFF or said[9] != 0x7F:
        return ""
    return said[12:32].rstrip(b"\0").decode(errors="replace")
