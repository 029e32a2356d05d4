"""Attacks each guard once, from a process that is confined like a cell: only those that hold are said to be on.

Flows in: the guards that should be on, and what lies `Outside`. Flows out: those of them that held.
Standard library only.
"""

from __future__ import annotations

import mmap
import os
import resource
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actor.world import sandbox

READABLE = tuple(map(Path, ("/etc/passwd", "/etc/hostname", "/proc/version", "/proc/self/status")))


class Outside:
    """Looked up before the guards are on: files that anybody may read, and a listening socket."""

    def __init__(self) -> None:
        self.files = [file for file in READABLE if os.access(file, os.R_OK)]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]

    def close(self) -> None:
        self.listener.close()


def held(guards: tuple[str, ...], outside: Outside, folder: str, limits: sandbox.Limits) -> tuple[str, ...]:
    """Those of `guards` that a confined process could not get past. `folder` is one that it may be in."""
    uid = sandbox.FIRST_UID if "own-uid" in guards else None
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        _attack(guards, outside, tell, (uid, limits, folder))
    os.close(tell)
    with os.fdopen(told) as stream:
        *found, last = stream.read().split("\n")
    os.waitpid(pid, 0)
    return tuple(guard for guard in guards if guard in found) if last == "end" else ()


def _attack(guards: tuple[str, ...], outside: Outside, tell: int, terms: tuple[Any, ...]) -> None:
    """Does not return."""
    try:
        uid, limits, folder = terms
        host = os.getuid()
        sandbox.confine(uid=uid, limits=limits, keep={2, tell}, folder=folder, passing=False)
        attacks: dict[str, tuple[Callable[[], object], ...]] = {
            "limits": (
                lambda: mmap.mmap(-1, limits.address_space),
                lambda: resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2),
                lambda: Path("made").write_text("x", encoding="utf-8"),
            ),
            "no-network": (
                lambda: _connect("127.0.0.1", outside.port),
                lambda: _connect("192.0.2.1", 9),
            ),
            "no-programs": (
                os.fork,
                lambda: os.kill(os.getppid(), 0),
                lambda: os.posix_spawn(sys.executable, ["python", "-c", ""], {}),
            ),
            "own-files": tuple(file.read_bytes for file in outside.files),
            "own-uid": (lambda: os.setresuid(host, host, host),),
        }
        for guard in guards:
            if all(_refused(attack) for attack in attacks[guard]):
                os.write(tell, f"{guard}\n".encode())
        os.write(tell, b"end")
    except BaseException:  # noqa: BLE001  # nothing may run in this process after its attacks
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def _connect(address: str, port: int) -> None:
    with socket.socket() as sock:
        sock.settimeout(1.0)
        sock.connect((address, port))


def _refused(attack: Callable[[], object]) -> bool:
    parent = os.getpid()
    try:
        attack()
    except (OSError, MemoryError, ValueError):
        return True
    if os.getpid() != parent:  # a child of an attack that worked
        os._exit(0)
    return False
