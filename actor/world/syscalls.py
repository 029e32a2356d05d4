"""A filter on system calls for model-written code: what is not listed here is refused.

No programs, processes, threads or new sockets, no file made or changed, no reach into other processes, not by signal,
limit, priority or the owner of a descriptor either. The kernel answers a refused call with EPERM, which Python raises
as PermissionError. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from dataclasses import dataclass

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, AND, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06  # classic BPF
ALLOW, DENY = 0x7FFF0000, 0x00050000 | errno.EPERM
X32 = 0x40000000  # x86-64's second numbering of the same calls
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in what a filter sees; arguments of 8 bytes, low half first
ALL = 0xFFFFFFFF
MAKES_OR_EMPTIES = os.O_CREAT | os.O_TRUNC | 0x400000  # the last: a file without a name (O_TMPFILE)
TERMINAL_AND_FLAGS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # ask a terminal, bytes waiting, blocking, exec


@dataclass(frozen=True)
class Rule:
    """An argument of a call, and what it may be once masked."""

    argument: int
    mask: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Ruled:
    """A call that is allowed while its arguments keep to rules."""

    numbers: tuple[int, int]
    rules: tuple[Rule, ...]


RULED = (
    Ruled((2, -1), (Rule(1, MAKES_OR_EMPTIES, (0,)),)),  # open
    Ruled((257, 56), (Rule(2, MAKES_OR_EMPTIES, (0,)),)),  # openat
    # fcntl: copies, flags and locks. An owner's signal would reach any process of the same user, by any number.
    Ruled((72, 25), (Rule(1, ALL, (0, 1, 2, 3, 4, 5, 6, 7, 1030)),)),
    Ruled((16, 29), (Rule(1, ALL, TERMINAL_AND_FLAGS),)),  # ioctl
    # socketpair: connected streams between this process and itself; datagrams could be sent elsewhere
    Ruled((53, 199), (Rule(0, ALL, (1,)), Rule(1, 0xF, (1,)))),
    Ruled((302, 261), (Rule(0, ALL, (0,)),)),  # prlimit64: its own limits alone
)
PASSING = {"sendmsg": (46, 211), "recvmsg": (47, 212)}  # a member hands descriptors to the client, and is handed one
# name: (x86-64, aarch64); -1 where an architecture has no such call
CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "dup2": (33, -1),
    "dup3": (292, 24),
    "pipe": (22, -1),
    "pipe2": (293, 59),
    "stat": (4, -1),
    "lstat": (6, -1),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, -1),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, -1),
    "readlinkat": (267, 78),
    "getdents": (78, -1),
    "getdents64": (217, 61),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "umask": (95, 166),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "pause": (34, -1),
    "alarm": (37, -1),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    "restart_syscall": (219, 128),
    "poll": (7, -1),
    "ppoll": (271, 73),
    "select": (23, -1),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, -1),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    "shutdown": (48, 210),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getpgid": (121, 155),
    "getpgrp": (111, -1),
    "getsid": (124, 156),
    "getpriority": (140, 141),
    "uname": (63, 160),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "sysinfo": (99, 179),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "time": (201, -1),
    "gettimeofday": (96, 169),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "set_tid_address": (218, 96),
    "arch_prctl": (158, -1),
    "membarrier": (324, 283),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "wait4": (61, 260),
    "waitid": (247, 95),
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
Line = tuple[int, int, int, int]  # operation, jump when true, jump when false, value
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


def deny(*, passing: bool) -> None:
    """From now on this process gets EPERM for all but the calls above; `passing` leaves it those of `PASSING`."""
    code = _filter(passing)
    program = _Program(len(code) // 8, code)
    if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the filter on system calls was refused")


@functools.cache
def _filter(passing: bool) -> bytes:
    column, architecture = ARCHITECTURES[os.uname().machine]
    calls = CALLS | PASSING if passing else CALLS
    numbers = sorted(number for entry in calls.values() if (number := entry[column]) >= 0)
    ruled = [(one.numbers[column], one.rules) for one in RULED if one.numbers[column] >= 0]
    lines: list[Line] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, DENY),
        (LOAD, 0, 0, NUMBER),
        (JUMP_AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, DENY),
    ]
    for number, rules in ruled:
        block = [line for rule in rules for line in _checked(rule)]
        lines += [(JUMP_EQUAL, 0, len(block) + 1, number), *block, (RETURN, 0, 0, ALLOW)]
    lines += [(JUMP_EQUAL, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    lines += [(RETURN, 0, 0, DENY), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _checked(rule: Rule) -> list[Line]:
    """Goes on behind itself when the argument is as it may be; else refuses."""
    count = len(rule.values)
    tests = [(JUMP_EQUAL, count - index, 0, value) for index, value in enumerate(rule.values)]
    return [(LOAD, 0, 0, ARGUMENTS + 8 * rule.argument), (AND, 0, 0, rule.mask), *tests, (RETURN, 0, 0, DENY)]
