"""A filter on system calls for model-written code: no programs, no sockets, no reach into other processes.

The kernel answers a denied call with EPERM, which Python raises as PermissionError. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # classic BPF
ALLOW, DENY = 0x7FFF0000, 0x00050000 | errno.EPERM
X32 = 0x40000000  # x86-64's second numbering of the same calls
# name: (x86-64, aarch64); -1 where an architecture has no such call
CALLS = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, -1),
    "vfork": (58, -1),
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "setns": (308, 268),
    "unshare": (272, 97),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
}
SIGNALS = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


@functools.cache
def deny_is_possible() -> bool:
    """Whether this kernel filters system calls and this machine's numbers are known."""
    if os.uname().machine not in ARCHITECTURES:
        return False
    _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, None, 0, 0)
    return ctypes.get_errno() == errno.EFAULT  # it looked at the filter that is not there


def deny(*, signals: bool) -> None:
    """From now on this process gets EPERM for the calls above; `signals` leaves it those of `SIGNALS`."""
    code = _filter(signals)
    program = _Program(len(code) // 8, code)
    if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the filter on system calls was refused")


@functools.cache
def _filter(signals: bool) -> bytes:
    column, architecture = ARCHITECTURES[os.uname().machine]
    calls = CALLS if signals else CALLS | SIGNALS
    numbers = sorted(number for entry in calls.values() if (number := entry[column]) >= 0)
    count = len(numbers)
    lines = [
        (LOAD, 0, 0, 4),  # the architecture
        (JUMP_EQUAL, 0, count + 3, architecture),
        (LOAD, 0, 0, 0),  # the call's number
        (JUMP_AT_LEAST, count + 1, 0, X32),
        *((JUMP_EQUAL, count - index, 0, number) for index, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, DENY),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
