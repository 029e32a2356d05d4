"""The gateway's ends: two ports for actors, a unix socket for the trainer, gateway.json that says where they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from common.config import LinkConfig
from common.errors import UsageError
from common.keys import KeyList, learner_keys
from common.sockets import Gatekeeper, server_socket
from learner.gateway.connections import Limits
from learner.gateway.guard import Guard
from learner.gateway.trainer_port import trainer_socket


@dataclass
class Sockets:
    """What the gateway listens on."""

    actors: zmq.asyncio.Socket
    files: zmq.asyncio.Socket
    trainer: zmq.asyncio.Socket
    port: int
    files_port: int
    listed: KeyList | None  # None: insecure
    guard: Guard
    gate: asyncio.Task[None]  # the gatekeeper at work: without it nobody gets in


@contextlib.asynccontextmanager
async def listening(folder: Path, link: LinkConfig) -> AsyncIterator[Sockets]:
    """The bound sockets of a run, behind a gatekeeper that knows the listed keys; gateway.json is written.

    Raises:
        UsageError: a port in use, keys missing or readable by others.
    """
    keys = None if link.insecure else learner_keys(link.keys)
    listed = KeyList(link.keys, own=keys.public) if keys is not None else None
    limits = Limits(link.peer_megabytes << 20, link.memory_megabytes << 20, link.connections)
    context = zmq.asyncio.Context()
    guard = Guard(limits, curve=keys is not None)
    gatekeeper = Gatekeeper(context, listed, guard.admit)
    gate = asyncio.create_task(gatekeeper.serve())
    sockets: list[zmq.asyncio.Socket] = []
    try:
        before = _ports_before(folder)
        # trajectories are large and acks small; a batch of 256 from one actor gets its 256 acks at once
        server = partial(server_socket, context, keys, link.host)
        for_actors = partial(server, heard=32, said=4096, watch=partial(guard.watch, "actors"))
        actors, port = _bind(for_actors, link.port, before.get("port", 0))
        sockets.append(actors)
        for_files = partial(server, heard=64, said=16, watch=partial(guard.watch, "files"))
        files, files_port = _bind(for_files, link.files_port, before.get("files_port", 0))
        sockets.append(files)
        trainer = _bind_trainer(context, folder)
        sockets.append(trainer)
        where = {"host": link.host, "port": port, "files_port": files_port, "pid": os.getpid()}
        _write_json(folder / "gateway.json", where)
        guard.start()
        yield Sockets(actors, files, trainer, port, files_port, listed, guard, gate)
    finally:
        gate.cancel()
        gatekeeper.close()
        guard.close()
        for socket in sockets:
            socket.close(linger=0)
        context.destroy(linger=0)
        await asyncio.gather(gate, return_exceptions=True)  # last: who is cancelled here has left nothing open


def _bind(
    bind: Callable[..., tuple[zmq.asyncio.Socket, int]], port: int, before: int
) -> tuple[zmq.asyncio.Socket, int]:
    """Where the choice of the port is free, that of before, so that a restarted learner is found again."""
    if not port and before:
        with contextlib.suppress(UsageError):
            return bind(before)
    return bind(port)


def _ports_before(folder: Path) -> dict[str, int]:
    try:
        before = json.loads((folder / "gateway.json").read_text(encoding="utf-8"))
        return {name: int(before[name]) for name in ("port", "files_port")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _bind_trainer(context: zmq.asyncio.Context, folder: Path) -> zmq.asyncio.Socket:
    """The trainer's unix socket, for this user alone; it speaks no CURVE."""
    path = trainer_socket(folder)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = path.parent.stat()
    if path.parent != folder.resolve() and (owner.st_uid != os.getuid() or owner.st_mode & 0o077):
        raise UsageError(f"{path.parent}: belongs to others; remove it, or choose a run.folder with a shorter path")
    socket: zmq.asyncio.Socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    before = os.umask(0o177)
    try:
        socket.bind(f"ipc://{path}")
    except zmq.ZMQError as error:
        socket.close()
        raise UsageError(f"{path}: cannot be listened on: {error.strerror}; is run.folder on a local disk?") from None
    finally:
        os.umask(before)
    return socket


def _write_json(file: Path, content: dict[str, Any]) -> None:
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.rename(file)
