"""`loop tail`: where lines come from: files that grow, rotate, appear; run folders; pipes. Bytes in, dated lines out.

A line is dated by its own time; what has none (a traceback, another program's text) by the line before it.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.errors import UsageError
from common.tail_filters import Filter
from common.tail_lines import time_of

Line = tuple[bytes, bytes]  # when (`time_of`), and the line without its end
BLOCK = 1 << 20  # bytes read at a time
LONGEST = 16 << 20  # bytes; what is longer is no line, and is shown in pieces
GRACE_SECONDS = 5.0  # a file whose name is gone is read for so long: who has it open still may write to it
LOGS = "logs"
ROTATED = re.compile(r"(.+)\.(\d+)")


class Splitter:
    """The bytes of one source, cut into lines that may pass the filter, each with its time."""

    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._begun = b""  # a line whose end has not come yet
        self._last = b""  # the newest time so far

    def feed(self, data: bytes) -> list[Line]:
        """The lines that are whole now."""
        *lines, self._begun = (self._begun + data if self._begun else data).split(b"\n")
        if len(self._begun) > LONGEST:
            lines.append(self._begun)
            self._begun = b""
        return self._dated(lines)

    def end(self) -> list[Line]:
        """What was begun and will not be ended any more."""
        begun, self._begun = self._begun, b""
        return self._dated([begun])

    def _dated(self, lines: list[bytes]) -> list[Line]:
        dated, since, last = [], self._wanted.since, self._last
        for line in self._wanted.may_pass(lines):
            last = time_of(line) or last
            if last >= since and line.strip(b"\0\r \t"):  # a machine that lost power leaves zeros
                dated.append((last, line.rstrip(b"\r")))
        self._last = last
        return dated


class LogFile:
    """One open file, wherever its name moves to."""

    def __init__(self, path: Path, wanted: Filter) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        told = os.fstat(self.descriptor)
        self.identity = (told.st_dev, told.st_ino)
        self.log = str(path.with_name(base_of(path.name)[0]))  # that it is a part of
        self.gone_at: float | None = None  # on the monotonic clock: since when it has no name that we look at
        self._splitter = Splitter(wanted)
        self._offset = 0

    def read(self) -> list[Line] | None:
        """The lines of the next block; None at the end, where there may be more later."""
        data = os.read(self.descriptor, BLOCK)
        if not data:
            return self._begin_again() if os.fstat(self.descriptor).st_size < self._offset else None
        self._offset += len(data)
        return self._splitter.feed(data)

    def end(self) -> list[Line]:
        """A last line without an end."""
        return self._splitter.end()

    def close(self) -> None:
        os.close(self.descriptor)

    def _begin_again(self) -> list[Line]:
        """It was cut: what is in it now is new."""
        self._offset = os.lseek(self.descriptor, 0, os.SEEK_SET)
        return self._splitter.end()


class Chain:
    """The files of one log as one source: those that were rotated, the oldest first, then the newest."""

    def __init__(self, files: Sequence[LogFile]) -> None:
        self._files = list(files)

    def read(self) -> list[Line] | None:
        lines = self._files[0].read()
        if lines is None and len(self._files) > 1:
            return self._files.pop(0).end()
        return lines

    def end(self) -> list[Line]:
        return self._files[0].end()


class Pipe:
    """Standard input, or a pipe that was named: `loop tail <(ssh a journalctl -f -o cat) <(ssh b ...)`."""

    def __init__(self, descriptor: int, wanted: Filter) -> None:
        self.descriptor = descriptor
        self.is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)  # loop tail < FILE
        self._splitter = Splitter(wanted)

    def read(self) -> list[Line] | None:
        """What is there; blocks when nothing is. None: it is over."""
        try:
            data = os.read(self.descriptor, BLOCK)
        except BlockingIOError:
            return []
        return self._splitter.feed(data) if data else None

    def end(self) -> list[Line]:
        return self._splitter.end()


class Logs:
    """All files that were named, or lie in folders that were: run folders, or folders of logs.

    A file is known by what it is, not by its name, and stays open as long as it lies there: so what is rotated is read
    to its end and only once, and a new file never counts as an old one because it got its number.
    """

    def __init__(self, paths: Sequence[Path], wanted: Filter, clock: Callable[[], float] = time.monotonic) -> None:
        self.paths, self._wanted, self._clock = paths, wanted, clock
        self.files: list[LogFile] = []

    def look(self) -> None:
        """Open what is new, oldest first, and note what is gone."""
        there: set[tuple[int, int]] = set()
        known = {file.identity for file in self.files}
        for path in self._listed():
            try:
                told = path.stat()
                identity = (told.st_dev, told.st_ino)
                if identity not in known and stat.S_ISREG(told.st_mode):
                    file = LogFile(path, self._wanted)
                    identity = file.identity  # it may have been rotated in between
                    if identity in known:
                        file.close()
                    else:
                        self.files.append(file)
                        known.add(identity)
            except FileNotFoundError:
                continue  # rotated in between: the next look finds it
            except PermissionError:
                raise UsageError(f"{path}: this user may not read it") from None
            there.add(identity)
        for file in self.files:
            if file.identity in there:
                file.gone_at = None
            elif file.gone_at is None:
                file.gone_at = self._clock()

    def chains(self) -> list[Chain]:
        """The logs that are there, each a source of its own."""
        by_log: dict[str, list[LogFile]] = {}
        for file in self.files:
            by_log.setdefault(file.log, []).append(file)
        return [Chain(files) for files in by_log.values()]

    def new(self) -> Iterator[list[Line]]:
        """What was written since the last call, and in what lies there since."""
        self.look()
        for file in self.files:
            while (lines := file.read()) is not None:
                yield lines
        now = self._clock()
        for file in [file for file in self.files if file.gone_at is not None and now - file.gone_at > GRACE_SECONDS]:
            yield file.end()
            self.files.remove(file)
            file.close()

    def close(self) -> None:
        for file in self.files:
            file.close()

    def _listed(self) -> Iterator[Path]:
        for path in self.paths:
            if path.is_dir():
                yield from logs_in(path)
            else:
                yield path


def logs_in(folder: Path) -> list[Path]:
    """The logs of a run folder, or of a folder of logs; those that were rotated before those that took their place."""
    inner = folder / LOGS
    found = []
    for path in (inner if inner.is_dir() else folder).glob("*.jsonl*"):
        base, number = base_of(path.name)
        if base.endswith(".jsonl"):
            found.append((base, -number, path))
    if inner.is_dir() or folder.name == LOGS:
        return [path for _, _, path in sorted(found)]
    return []


def base_of(name: str) -> tuple[str, int]:
    """What a file was called before it was rotated, and how often it was."""
    parts = ROTATED.fullmatch(name)
    return (parts[1], int(parts[2])) if parts is not None else (name, 0)


def sources_of(paths: Sequence[str], wanted: Filter, *, follow: bool) -> tuple[Logs, list[Pipe]]:
    """What the words of a command line name; without any, standard input.

    Raises UsageError: something is not there, or is no log; a terminal is all there is to read from.
    """
    files: list[Path] = []
    pipes: list[Pipe] = []
    for word in paths or ["-"]:
        path = Path(word)
        if word == "-":
            if sys.stdin is None or sys.stdin.isatty():
                raise UsageError("nothing to read: name run folders or files, or pipe lines in")
            pipes.append(Pipe(sys.stdin.fileno(), wanted))
        elif path.is_dir():
            if not follow and not logs_in(path):
                raise UsageError(f"{path}: no logs there ({LOGS}/*.jsonl): name a run's folder, or wait with --follow")
            files.append(path)
        elif path.exists() and not path.is_file():
            pipes.append(Pipe(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), wanted))
        elif path.exists() or (follow and path.parent.is_dir()):
            files.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder" + ("" if follow else "; --follow waits for a file"))
    return Logs(files, wanted), pipes
