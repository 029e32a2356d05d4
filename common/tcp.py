"""What the kernel knows of a TCP connection that libzmq holds: how much passed through it; and the way to cut it.

libzmq bounds its queues in messages, never in bytes, and an unfinished multi-part message not at all. The kernel counts
the bytes of each connection: what came in less what was delivered waits in this process's memory. Linux alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios

# struct tcp_info, linux/tcp.h: where its fields lie
_INFO_BYTES = 216
_RECEIVED, _NOT_SENT, _SENT = 128, 144, 200  # u64; u32; u64 twice: sent, and of it sent again
CURVE_BYTES = 33  # of a frame: command name 8, nonce 8, authenticator 16, flags 1 (ZMTP 3.1, RFC 26)


def wire_bytes(length: int, *, curve: bool) -> int:
    """Bytes that a frame of `length` bytes takes on the connection."""
    inner = length + (CURVE_BYTES if curve else 0)
    return inner + (2 if inner <= 255 else 9)


class Tap:
    """A second descriptor of a connection, so that its number cannot come to mean another one while it is looked at.

    Raises:
        OSError: the descriptor is no TCP connection (any more).
    """

    def __init__(self, descriptor: int) -> None:
        own = os.dup(descriptor)
        try:
            # who was stopped hears of connections long gone, whose numbers stand for anything by now
            self._socket = socket.socket(fileno=own)
            self.address = _shown(self._socket)
            self.passed()
        except (OSError, struct.error) as error:
            os.close(self._socket.detach() if hasattr(self, "_socket") else own)
            raise OSError(f"descriptor {descriptor} is no TCP connection") from error

    def passed(self) -> tuple[int, int]:
        """Bytes received from the other side, and bytes that this process handed to the kernel for it.

        Raises:
            OSError: the connection cannot be asked.
        """
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        (received,) = struct.unpack_from("=Q", info, _RECEIVED)
        (not_sent,) = struct.unpack_from("=I", info, _NOT_SENT)
        sent, again = struct.unpack_from("=QQ", info, _SENT)
        return received, sent - again + not_sent

    def unread(self) -> int:
        """Of the bytes received, those that still lie in the kernel."""
        return int(struct.unpack("=i", fcntl.ioctl(self._socket, termios.FIONREAD, b"\0" * 4))[0])

    def cut(self) -> None:
        """End the connection; libzmq notices and drops what it holds of an unfinished message."""
        with contextlib.suppress(OSError):  # ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


def _shown(connection: socket.socket) -> str:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        raise OSError("another kind of socket")
    host, port, *_ = connection.getpeername()
    return f"{host}:{port}"
