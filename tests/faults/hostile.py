"""Peers that no actor of ours would be: with a listed key or without one, below and above ZeroMQ."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Self

import zmq

from common.keys import ActorKeys, actor_keys, new_keys

GREETING = b"\xff" + b"\x00" * 8 + b"\x7f" + b"\x03\x01" + b"CURVE".ljust(20, b"\x00")  # half of ZMTP's 64 bytes


def listed(folder: Path, name: str = "mallory") -> ActorKeys:
    """Keys of an actor that is listed, and means ill."""
    new_keys(folder, name)
    return actor_keys(folder, name)


class Hostile:
    """Sockets of a peer's own, to one address."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._context = zmq.Context()
        self._endpoint = f"tcp://{host}:{port}"
        self._address = (host, port)
        self._raw: list[socket.socket] = []
        self._dealers: list[zmq.Socket] = []

    def dealer(
        self,
        keys: ActorKeys | None = None,
        *,
        own: bytes = b"",
        server: bytes = b"",
        plain: bool = False,
        reads: int = 0,
    ) -> zmq.Socket:
        """A DEALER with these keys, or with its own secret or another server's public key in their place.

        It takes `reads` answers into its queue and then no more (0: as many as come).
        """
        made = self._context.socket(zmq.DEALER)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.SNDHWM, 2)
        made.setsockopt(zmq.RECONNECT_IVL, 200)
        if reads:
            made.setsockopt(zmq.RCVHWM, reads)
            made.setsockopt(zmq.RCVBUF, 4096)
        if keys is not None:
            secret = own or keys.own.secret
            made.curve_publickey, made.curve_secretkey = zmq.curve_public(secret), secret
            made.curve_serverkey = server or keys.learner_public
        if plain:
            made.plain_username, made.plain_password = b"mallory", b"guess"
        made.connect(self._endpoint)
        self._dealers.append(made)
        return made

    def raw(self, *said: bytes) -> socket.socket:
        """A TCP connection that says this, and no more."""
        made = socket.create_connection(self._address, timeout=30)
        for words in said:
            made.sendall(words)
        self._raw.append(made)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for made in self._raw:
            made.close()
        self._context.destroy(linger=0)


def memory(pid: int, field: str) -> int:
    """VmRSS or VmHWM of a process, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(field)
