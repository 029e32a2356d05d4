"""For `loop doctor`: what any process of a run needs of its machine: memory, cores, a disk, a clock."""

from __future__ import annotations

import ctypes
import os
import statistics
import struct
import tempfile
import time
from pathlib import Path

from common.finding import Check, Finding, error, ok, warning

GIB = 1 << 30
LEAST_MEMORY, ENOUGH_MEMORY = 1 * GIB, 4 * GIB  # free; the demo's processes use 3 GiB together
LEAST_DISK, ENOUGH_DISK = 1 * GIB, 5 * GIB
LEAST_FILES = 10_000  # inodes: a built world has several thousand, a run some hundred
SLOW_SYNC_SECONDS = 0.05  # a trajectory is acknowledged once it is on the disk
SYNCS = 9
REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "lustre", "beegfs", "afs")
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
STA_UNSYNC, TIMEX_BYTES = 0x40, 512
WRONG_CLOCK_SECONDS = 86_400.0  # behind the time when this program was installed


def checks(folder: Path) -> list[Check]:
    """`folder` is the run's; where it is not there yet, the disk below its next parent is meant."""
    there = existing(folder)
    return [
        Check("memory", memory),
        Check("cores", cores),
        Check("disk", lambda: disk(there)),
        Check("disk's file system", lambda: file_system(there)),
        Check("disk's speed", lambda: sync_speed(there)),
        Check("clock", clock),
    ]


def existing(folder: Path) -> Path:
    """The folder, or the nearest of its parents that is there."""
    folder = folder.expanduser().absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def available_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[int, int]:
    """Bytes that may still be used, and all that there are: the machine's, or less where a control group says so."""
    lines = (line.split() for line in (proc / "meminfo").read_text(encoding="utf-8").splitlines())
    figures = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    free, total = figures["MemAvailable"], figures["MemTotal"]
    for group in _groups(proc, cgroups):
        limit, used = _number(group / "memory.max"), _number(group / "memory.current")
        if limit is not None and used is not None:
            free, total = min(free, limit - used), min(total, limit)
    return max(0, free), total


def memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> Finding:
    """Whether there is any to speak of; what a configuration needs is each side's own check."""
    free, total = available_memory(proc, cgroups)
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < LEAST_MEMORY:
        return error(text, "end what uses it, or raise the limit of this container: a world host alone takes 0.3 GiB")
    if free < ENOUGH_MEMORY:
        return warning(text, "the demo uses 3 GiB; with less set --actor.episodes lower")
    return ok(text)


def cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> Finding:
    """How many this process may use, and how much of them."""
    number = len(os.sched_getaffinity(0))
    share = float(number)
    for group in _groups(proc, cgroups):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        if quota.isdecimal() and period.strip().isdecimal():
            share = min(share, int(quota) / int(period))
    text = f"{number}" if share >= number else f"{number}, of which a control group allows {share:.1f}"
    if share < 2:
        return warning(text, "engine, worlds and trainer take turns on fewer than two: give this machine more")
    return ok(text)


def disk(folder: Path, wanted: int = ENOUGH_DISK, what: str = "a run's first day") -> Finding:
    """Room below a folder. `wanted` bytes are enough for `what`."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    text = f"{free / GIB:.1f} GiB free below {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return error(f"{folder} cannot be written by user {os.geteuid()}", "choose another run.folder, or its owner")
    if free < LEAST_DISK:
        return error(text, "make room, or name another disk with --run.folder")
    if found.f_files and found.f_favail < LEAST_FILES:
        return error(f"{found.f_favail} files may still be made below {folder}", "make room for more (inodes)")
    if free < wanted:
        return warning(text, f"{what} wants {wanted / GIB:.1f} GiB: make room, or name another disk")
    return ok(text)


def file_system(folder: Path, proc: Path = PROC) -> Finding:
    """Ledger and spool are SQLite in WAL mode, which a network's file system cannot hold safely."""
    kind, mount = _mounted(folder, proc)
    if kind in REMOTE:
        return error(
            f"{folder} lies on {kind} ({mount})",
            "choose a run.folder (and actor.folder) on a local disk: ledger, spool and the trainer's socket need one",
        )
    if kind in ("tmpfs", "ramfs"):
        return warning(f"{folder} lies in memory ({kind})", "nothing of a run there outlives a restart of the machine")
    return ok(f"{kind} on {mount}")


def sync_speed(folder: Path) -> Finding:
    """What a write costs until it is on the disk: an acknowledgement waits for that."""
    seconds = []
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".loop-doctor-") as file:
            for _ in range(SYNCS):
                began = time.perf_counter()
                file.write(bytes(1 << 16))
                file.flush()
                os.fsync(file.fileno())
                seconds.append(time.perf_counter() - began)
    except OSError as problem:
        return error(f"writing in {folder} fails: {problem.strerror}", "choose another run.folder, or mend that disk")
    median = statistics.median(seconds)
    text = f"{median * 1000:.1f} ms for 64 KiB to be on the disk (median of {SYNCS})"
    if median > SLOW_SYNC_SECONDS:
        return warning(text, "trajectories are acknowledged that slowly: take a local SSD for run.folder")
    return ok(text)


def clock() -> Finding:
    """Leases and silence are told by monotonic clocks; wall clocks stamp logs, metrics and keep_hours."""
    installed = max(file.stat().st_mtime for file in Path(__file__).parent.glob("*.py"))
    behind = installed - time.time()
    if behind > WRONG_CLOCK_SECONDS:
        return error(f"it is {behind / 86_400:.0f} days behind the time of this program's files", "set it, by NTP")
    held, most = synchronised()
    if held is None:
        return warning("the kernel does not say whether anything keeps it right", "see that NTP runs on this host")
    if not held:
        remedy = "start chronyd or systemd-timesyncd: `loop tail` merges the logs of several machines by time"
        return warning("nothing keeps it right (NTP)", remedy)
    return ok(f"kept by NTP, within {most / 1000:.0f} ms")


def synchronised() -> tuple[bool | None, int]:
    """Whether the kernel's clock is disciplined (None: it does not say), and its largest error in microseconds."""
    timex = ctypes.create_string_buffer(TIMEX_BYTES)  # struct timex; modes 0 merely reads
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        return None, 0
    _, _, _, most, _, status = struct.unpack_from("@I4xqqqqi", timex)
    return not status & STA_UNSYNC, most


def _mounted(folder: Path, proc: Path) -> tuple[str, str]:
    """Kind and place of the file system below a folder; the last that is mounted there counts."""
    best = ("unknown", "/")
    for line in (proc / "self" / "mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        head, _, tail = line.partition(" - ")
        mount = head.split()[4].encode().decode("unicode_escape")
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best[1]):
            best = (tail.split()[0], mount)
    return best


def _groups(proc: Path, cgroups: Path) -> list[Path]:
    """The control group (version 2) of this process, and those above it."""
    own = next((line[3:] for line in _text(proc / "self" / "cgroup").splitlines() if line.startswith("0::")), "/")
    group = cgroups / own.strip().lstrip("/")
    return [path for path in (group, *group.parents) if path.is_relative_to(cgroups)]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdecimal() else None
