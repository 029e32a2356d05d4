"""What an episode's processes give up before they run anything. Standard library only.

The host calls `enter` once (no network for it and its children); every forked process calls `confine`. Each returns
or is described by the names of the guards that are on, so that a log can say so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
FIRST_UID = 61_184  # the range that systemd keeps for passing users, so nobody's files
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Limits:
    """What one process may use."""

    memory_bytes: int  # address space beyond what it has when it starts
    cpu_seconds: int  # processor time in its whole life
    files: int = 64  # open descriptors


def enter() -> list[str]:
    """Leaves the network, once, in the host: children inherit the empty namespace at no cost. Returns guards."""
    if os.geteuid() == 0 and _libc.unshare(CLONE_NEWNET) == 0:
        return ["no-network", "own-uid"]
    user, group = os.getuid(), os.getgid()
    if os.geteuid() != 0 and _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
        return ["no-network"]
    return ["own-uid"] if os.geteuid() == 0 else []


def confine(*, uid: int | None, limits: Limits, keep: set[int], folder: str) -> None:
    """Gives up what an episode does not need. `uid` is None where the host is not root; `keep` are descriptors.

    Raises OSError when a guard that should be there cannot be had: the process must not go on.
    """
    os.setsid()
    _close_all_but(keep)
    os.chdir(folder)
    os.environ.clear()
    space = _address_space() + limits.memory_bytes
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _limit(limits, space)
    # After setresuid, which clears both the parent-death signal and the dumpable flag.
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _address_space() -> int:
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _limit(limits: Limits, space: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_NPROC, 0),  # no further process and no further thread
    ):
        resource.setrlimit(what, (most, most))


def _close_all_but(keep: set[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if descriptor not in keep:
            os.dup2(null, descriptor)
    low = 3
    for descriptor in sorted(keep - {0, 1, 2}):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, 1 << 20)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _write(path: str, text: str) -> None:
    with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
        file.write(text)
