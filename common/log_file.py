"""A log's file: lines in at its end, set aside by its size as FILE.1, FILE.2, ... (the highest is the oldest).

Several processes may write to one file, such as an actor and the engine that it forked, each with a descriptor of its
own or with one that it inherited; whoever finds the file too large sets it aside, and the others notice with their next
line. A line is one write to a file opened for appending, so that lines do not mix.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path


def ends_torn(descriptor: int) -> bool:
    """Whether who wrote last, now or in an earlier life, met a full disk or was killed amid a line."""
    file = os.fstat(descriptor)
    if not stat.S_ISREG(file.st_mode) or not file.st_size:
        return False
    return os.pread(descriptor, 1, file.st_size - 1) != b"\n"


class LogFile:
    """Appends lines to `path`, made with its folder when missing.

    Args:
        path: the file that is written to.
        most_bytes: a line that would make it larger goes to a new one.
        kept: files that were set aside and are kept beside it, count; the oldest beyond are removed.

    Raises:
        OSError: it cannot be opened. Afterwards nothing raises: a full disk costs lines, not the process.
    """

    def __init__(self, path: Path, most_bytes: int, kept: int) -> None:
        self._path, self._most_bytes, self._kept = path, most_bytes, kept
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._open()
        self._torn = ends_torn(self._descriptor)  # the last line was written in part

    def write(self, line: bytes) -> None:
        """One line, its end included; lost where the disk does not take it."""
        with contextlib.suppress(OSError):
            self._look(len(line))
        with contextlib.suppress(OSError):
            data = b"\n" * self._torn + line
            self._torn = os.write(self._descriptor, data) < len(data)

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _look(self, wanted: int) -> None:
        """Follow the path where another process set its file aside; set it aside where it would grow too large."""
        if not self._is_at_path():
            self._open_anew()
        size = os.fstat(self._descriptor).st_size
        if size and size + wanted > self._most_bytes:
            self._set_aside()

    def _is_at_path(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))  # noqa: PTH116 - with every line
        except FileNotFoundError:
            return False

    def _open_anew(self) -> None:
        fresh = self._open()
        # in place: another thread that writes just now never meets a number that is closed, or is another file's
        os.dup2(fresh, self._descriptor, inheritable=False)
        os.close(fresh)
        self._torn = ends_torn(self._descriptor)

    def _set_aside(self) -> None:
        """Under a lock that is this call's own: a forked child shares descriptors, and with them locks.

        Whoever finds it taken goes on writing where he is; a process that is stopped meanwhile holds up nobody.
        """
        lock = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                if self._is_at_path():
                    self._shift()
                self._open_anew()
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            os.close(lock)

    def _shift(self) -> None:
        if not self._kept:
            self._path.unlink()
            return
        there = 0
        while there + 1 < self._kept and self._aside(there + 1).exists():
            there += 1
        for number in range(there, 0, -1):
            self._aside(number).replace(self._aside(number + 1))
        self._path.replace(self._aside(1))

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
