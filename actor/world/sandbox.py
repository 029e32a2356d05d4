"""What an episode's processes give up before they run anything. Standard library only.

The host calls `enter` once: without network, in a root folder of its own that holds little more than the interpreter,
read-only. Every process that it forks then calls `confine`. As root this uses namespaces and one user id a process;
as an ordinary user a user namespace, where the kernel allows it, else a fence around files and a filter on system
calls, which need no leave. `enter` says which guards are on:

    limits       memory, processor time, files, processes and threads
    no-network   no interface, or no socket
    no-programs  the filter on system calls: no program, process, thread, socket, signal, trace
    own-files    nothing can be read but the interpreter, its packages and the episode's data, nothing written
    own-uid      a user id for each member process and each cell process
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from actor.world.landlock import restrict
from actor.world.syscalls import deny, deny_is_possible

CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWUSER = 0x20000, 0x40000000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x1000, 0x4000, 0x40000, 0x2, 0x4
MNT_DETACH = 2
SYS_MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100
MOUNT_ATTR_READ_ONLY_NO_SETUID = 0x1 | 0x2
CAPABILITY_VERSION = 0x20080522
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 8, 36, 38
CAP_DAC_READ_SEARCH = 1 << 2
FIRST_UID = 61_184  # the range that systemd keeps for passing users, so nobody's files
GRADER_UID = 65_500  # above those of the episodes' processes
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SYSTEM = ("/usr", "/lib", "/lib64", "/etc/localtime")
YIELD = 5  # steps of priority by which episodes stand back behind what all of them wait for
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Limits:
    """What one process may use."""

    address_space: int  # bytes
    cpu_seconds: int | None  # processor time in its whole life; None: no limit
    files: int = 64  # open descriptors
    nice: int = YIELD  # priority; the host's own is above it, where that is allowed


def address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()


def adopt_orphans() -> None:
    """A cell process whose member died becomes this process's child, so that nothing is left unburied."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def enter(readable: list[Path], writable: Path) -> tuple[str, ...]:
    """Moves this process and its future children away from network and files. Returns the guards that are on.

    `readable` is what they go on to read, at the same paths; `writable` is the one folder where files may be made.
    """
    root = os.geteuid() == 0
    guards = {"limits", *(["own-uid"] if root else []), *(["no-programs", "no-network"] if deny_is_possible() else [])}
    unshare = _unshare if root else _unshare_as_user
    if unshare(CLONE_NEWNET | CLONE_NEWNS):
        guards.add("no-network")
        try:
            _private_root(readable, writable)
            guards.add("own-files")
        except OSError as error:
            print(f"no private root folder: {error}", file=sys.stderr)  # noqa: T201  # the client logs it
    if "own-files" not in guards and restrict([*map(Path, SYSTEM), *readable], map(Path, DEVICES), writable):
        guards.add("own-files")
    _prctl(PR_SET_DUMPABLE, 0)  # nobody of the same user reads this process's memory or environment
    return tuple(sorted(guards))


def own_code() -> list[Path]:
    """The interpreter and its packages: a module may be imported late, and tracebacks quote their sources."""
    folders = [sys.prefix, sys.base_prefix, *(path for path in sys.path if path), str(Path(__file__).parents[1])]
    return [path for folder in folders if (path := Path(folder)).is_dir()]


def confine(*, uid: int | None, limits: Limits, keep: set[int], folder: str, passing: bool) -> None:
    """Gives up what an episode's process does not need. It must not go on when this raises OSError.

    `uid` is None where the host is not root; `keep` are descriptors; `passing`: it may hand descriptors to others.
    """
    # Not a session of its own: Linux shares processors out by session first, and priorities count within one only.
    os.setpgid(0, 0)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(own, limits.nice))  # raising it is root's right alone
    _close_all_but(keep)
    os.chdir(folder)
    if uid is not None:
        _become(uid)
    _drop_capabilities()
    _seal(limits)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user id, which clears it
    if deny_is_possible():
        deny(passing=passing)


def settle_in(*, uid: int | None, limits: Limits, keep: set[int], needed: Path) -> None:
    """The grader's confinement: as `confine`, for a process that runs for long, at full priority, beside its client.

    `needed` is a file that it must be able to read: where the user id alone may not, one capability is left to it.
    """
    _close_all_but(keep)
    kept = 0
    if uid is not None:
        _prctl(PR_SET_KEEPCAPS, 1)
        _become(uid)
        kept = 0 if os.access(needed, os.R_OK) else CAP_DAC_READ_SEARCH
    try:
        _drop_capabilities(kept)
    except OSError as error:
        raise OSError(error.errno, f"{needed} cannot be read by user id {uid}: allow it to others") from error
    _seal(limits)
    if deny_is_possible():
        deny(passing=False)


def _seal(limits: Limits) -> None:
    """Limits that cannot be raised again, and no way to more rights. Comes after the change of user id."""
    for what, most in (
        (resource.RLIMIT_AS, limits.address_space),
        (resource.RLIMIT_CPU, resource.RLIM_INFINITY if limits.cpu_seconds is None else limits.cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_NPROC, 0),  # no further process and no further thread
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, limits.files),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(what, (most, most))
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _unshare(flags: int) -> bool:
    return bool(_libc.unshare(flags) == 0)


def _unshare_as_user(flags: int) -> bool:
    user, group = os.getuid(), os.getgid()
    if not _unshare(CLONE_NEWUSER | flags):
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text, encoding="utf-8")
    return True


def _private_root(readable: list[Path], writable: Path) -> None:
    """A root folder of devices, system libraries, `readable` (read-only) and `writable`: no home, no /proc, no /tmp."""
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    root = writable / "root"
    root.mkdir(exist_ok=True)
    _mount("tmpfs", str(root), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    try:
        _fill(root, readable, writable)
    except OSError:
        _libc.umount2(str(root).encode(), MNT_DETACH)
        raise
    os.chdir(root)
    if _libc.pivot_root(b".", b".") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root failed")
    _libc.umount2(b".", MNT_DETACH)
    os.chdir("/")
    _mount_setattr("/", recursive=False)
    os.chdir(writable)


def _fill(root: Path, readable: list[Path], writable: Path) -> None:
    bound: list[Path] = []
    wanted = [*map(Path, SYSTEM), *readable]
    for path in sorted({*wanted, *(path.resolve() for path in wanted)}):
        if path.exists() and not any(path.is_relative_to(folder) for folder in bound):
            _bind(path, root, read_only=True)
            bound.append(path)
    for device in DEVICES:
        _bind(Path(device), root, read_only=False)
    _bind(writable, root, read_only=False)


def _bind(path: Path, root: Path, *, read_only: bool) -> None:
    target = root / path.relative_to("/")
    if path.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(path), str(target), None, MS_BIND | (MS_REC if read_only else 0))
    if read_only:
        _mount_setattr(str(target), recursive=True)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    source_, kind_, options_ = (text.encode() if text else None for text in (source, kind, options))
    if _libc.mount(source_, target.encode(), kind_, ctypes.c_ulong(flags), options_) != 0:
        raise OSError(ctypes.get_errno(), f"mounting {target} failed")


def _mount_setattr(target: str, *, recursive: bool) -> None:
    wanted = (ctypes.c_uint64 * 4)(MOUNT_ATTR_READ_ONLY_NO_SETUID, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    if _libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), flags, ctypes.byref(wanted), size) != 0:
        raise OSError(ctypes.get_errno(), f"making {target} read-only failed")


def _drop_capabilities(kept: int = 0) -> None:
    """In a user namespace an ordinary user has them all; a change of user id alone drops them only for root."""
    head = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)(kept, kept)  # effective, permitted, inheritable; then their upper halves
    if _libc.capset(ctypes.byref(head), ctypes.byref(sets)) != 0:
        raise OSError(ctypes.get_errno(), "dropping capabilities failed")


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
        raise OSError(ctypes.get_errno() or errno.EPERM, f"prctl({option}) failed")
