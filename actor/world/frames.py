"""How the world's processes talk: frames of a JSON header and raw bytes on a stream socket. Standard library only."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

Frame = tuple[dict[str, Any], bytes]
LENGTHS = struct.Struct("!II")


class BadFrame(Exception):  # noqa: N818  # it names the frame
    """The peer sent what is not a frame, or one above the limit."""


def pack(header: dict[str, Any], body: bytes = b"") -> bytes:
    """One frame: two lengths, the header as JSON, the body as it is."""
    head = json.dumps(header, separators=(",", ":")).encode()
    return LENGTHS.pack(len(head), len(body)) + head + body


def lengths(prefix: bytes, limit: int) -> tuple[int, int]:
    """Header and body length in bytes; raises `BadFrame` above `limit`, before anything is allocated."""
    head, body = LENGTHS.unpack(prefix)
    if head + body > limit:
        raise BadFrame(f"a frame of {head + body} bytes is above the limit of {limit}")
    return head, body


def header(raw: bytes) -> dict[str, Any]:
    """The header of a frame; raises `BadFrame` when it is not a JSON object."""
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise BadFrame("a frame's header is not JSON") from error
    if not isinstance(value, dict):
        raise BadFrame("a frame's header is not an object")
    return value


def send(sock: socket.socket, head: dict[str, Any], body: bytes = b"") -> None:
    """Sends one frame, blocking."""
    sock.sendall(pack(head, body))


def receive(sock: socket.socket, limit: int) -> Frame | None:
    """The next frame, blocking; None when the peer has closed."""
    prefix = _exactly(sock, LENGTHS.size)
    if prefix is None:
        return None
    head_length, body_length = lengths(prefix, limit)
    rest = _exactly(sock, head_length + body_length)
    if rest is None:
        return None
    return header(rest[:head_length]), rest[head_length:]


def _exactly(sock: socket.socket, count: int) -> bytes | None:
    data = sock.recv(count)
    if len(data) == count:
        return data
    parts = bytearray(data)
    while data and len(parts) < count:
        data = sock.recv(min(count - len(parts), 1 << 20))
        parts += data
    return bytes(parts) if len(parts) == count else None
