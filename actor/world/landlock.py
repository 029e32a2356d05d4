"""A file-system fence that any user may put up (Linux 5.13 and later), for where there is no private root folder.

Once restricted, this process and its children read nothing but what is listed; where the kernel can, they neither
reach TCP nor signal, trace or speak to a process outside of the fence. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on all architectures
ASK_VERSION, PATH_BENEATH = 1, 1
PR_SET_NO_NEW_PRIVS = 38
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
# What the fence is about, by the first version of the interface that knows it.
FILES = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))  # then moving, truncating, device controls
NETWORK = ((4, 0b11),)  # TCP: binding, connecting
SCOPES = ((6, 0b11),)  # abstract unix sockets and signals that lead out
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE
_libc = ctypes.CDLL(None, use_errno=True)


def restrict(readable: Iterable[Path], devices: Iterable[Path], writable: Path) -> bool:
    """Puts the fence up for good; False where the kernel has none. Raises OSError when it refuses."""
    version = _libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)
    if version < 1:
        return False
    everything, network, scopes = (
        sum(bits for since, bits in known if version >= since) for known in (FILES, NETWORK, SCOPES)
    )
    attributes = struct.pack("=QQQ", everything, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _called(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    for path in readable:
        _allow(ruleset, path, READ_FILE | READ_DIR)
    for path in devices:
        _allow(ruleset, path, READ_FILE | WRITE_FILE)
    _allow(ruleset, writable, everything)
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "giving up privileges failed")
    _called(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return True


def _allow(ruleset: int, path: Path, access: int) -> None:
    if not path.exists():
        return
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    allowed = access if path.is_dir() else access & OF_A_FILE
    _called(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", allowed, opened), 0)
    os.close(opened)


def _called(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock's call {number} was refused")
    return result
