"""Frames and descriptors over sockets for asyncio: the client's half of frames.py."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from actor.world import frames


async def packet(sock: socket.socket) -> dict[str, Any]:
    data = await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
    if not data:
        raise EOFError("it ended")
    return frames.header(data)


async def first_header(sock: socket.socket) -> dict[str, Any]:
    return (await receive(sock, 1 << 20))[0]


async def receive(sock: socket.socket, limit: int) -> frames.Frame:
    """The next frame. Raises EOFError when the peer closes, BadFrame above the limit."""
    head_length, body_length = frames.lengths(await _exactly(sock, frames.LENGTHS.size), limit)
    rest = await _exactly(sock, head_length + body_length)
    return frames.header(rest[:head_length]), rest[head_length:]


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        part = await loop.sock_recv(sock, min(count - len(data), 1 << 18))
        if not part:
            raise EOFError("its process has ended")
        data += part
    return bytes(data)


async def ready(sock: socket.socket | int, *, write: bool) -> None:
    """Until the socket can be read or written: asyncio has no calls of its own that pass descriptors."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    add(sock, wake)
    try:
        await waiter
    finally:
        remove(sock)


async def send_descriptors(sock: socket.socket, data: bytes, *descriptors: int) -> None:
    while True:
        try:
            socket.send_fds(sock, [data], list(descriptors))
            return
        except BlockingIOError:
            await ready(sock, write=True)
