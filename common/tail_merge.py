"""`loop tail`: lines of several sources in the order of time: exactly what is there, nearly what comes."""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Protocol

from common.tail_sources import BLOCK, Line, Logs, Pipe

HELD_BYTES = 64 << 20  # of all files together, so that what lies so far from its place in one is still put there
POLL_SECONDS = 0.25  # between two looks at files
FLUSH_SECONDS = 0.05  # a flood of lines is put in order so often, not at every read
WHEN = itemgetter(0)


class Source(Protocol):
    """What gives lines, block by block."""

    def read(self) -> list[Line] | None: ...
    def end(self) -> list[Line]: ...


def in_order(sources: Sequence[Source], *, goes_on: bool = False) -> Iterator[list[Line]]:
    """Everything up to the ends of the sources, the oldest first. `goes_on`: a line without an end may get one.

    A part is given when no source that still has something can have anything older in its next blocks: a file's lines
    may be out of order by as much as is held of it, and memory is bounded.
    """
    blocks = max(2, HELD_BYTES // BLOCK // max(1, len(sources)))
    held: dict[int, deque[bytes]] = {number: deque() for number in range(len(sources))}
    newest = dict.fromkeys(held, b"")  # of each source; of each block that is held, the newest until then
    pool: list[Line] = []
    reading = list(held)
    while reading:
        for number in list(reading):
            while len(held[number]) < blocks:
                lines = sources[number].read()
                if lines is None:
                    pool += [] if goes_on else sources[number].end()
                    reading.remove(number)
                    break
                pool += lines
                newest[number] = max(newest[number], max(map(WHEN, lines), default=b""))
                held[number].append(newest[number])
        if not reading:
            break
        bound = min(held[number][0] for number in reading)
        pool.sort(key=WHEN)
        cut = bisect_right(pool, bound, key=WHEN)
        yield pool[:cut]
        del pool[:cut]
        for times in held.values():
            while times and times[0] <= bound:
                times.popleft()
    pool.sort(key=WHEN)
    yield pool


class Window:
    """Holds each line for `seconds`, so that one of another machine that is older may still come before it."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._arrived: deque[tuple[float, bytes]] = deque()  # when, and the newest line that came then
        self._pool: list[Line] = []
        self._flushed_at = -FLUSH_SECONDS

    def add(self, lines: list[Line]) -> None:
        if lines:
            self._arrived.append((self._clock(), max(map(WHEN, lines))))
            self._pool += lines

    @property
    def seconds_left(self) -> float | None:
        """Until lines are due; None: it holds none."""
        return max(0.0, self._arrived[0][0] + self._seconds - self._clock()) if self._arrived else None

    def due(self) -> list[Line]:
        """What has waited long enough, with all that is older."""
        now = self._clock()
        if not self._arrived or self.seconds_left or now - self._flushed_at < FLUSH_SECONDS:
            return []
        self._flushed_at, bound = now, b""
        while self._arrived and self._arrived[0][0] + self._seconds <= now:
            bound = max(bound, self._arrived.popleft()[1])
        self._pool.sort(key=WHEN)
        cut = bisect_right(self._pool, bound, key=WHEN)
        lines, self._pool = self._pool[:cut], self._pool[cut:]
        return lines

    def rest(self) -> list[Line]:
        """Everything."""
        lines, self._pool = sorted(self._pool, key=WHEN), []
        self._arrived.clear()
        return lines


def as_they_come(logs: Logs | None, pipes: Sequence[Pipe], window: Window) -> Iterator[list[Line]]:
    """Lines of files that are followed (until the end of time) and of pipes (until theirs), nearly in order.

    Raises BrokenPipeError: nobody reads standard output any more, found out also while nothing is to be said.
    """
    poll = select.poll()
    by_descriptor = {pipe.descriptor: pipe for pipe in pipes}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    reader = _reader_of_output()
    if reader is not None:
        poll.register(reader, 0)
    looked_at = -POLL_SECONDS
    while logs is not None or by_descriptor:
        for descriptor, what in poll.poll(_milliseconds(window, has_files=logs is not None)):
            if descriptor == reader:
                if what & (select.POLLERR | select.POLLHUP):
                    raise BrokenPipeError
                continue
            pipe = by_descriptor[descriptor]
            lines = pipe.read()
            if lines is None:
                window.add(pipe.end())
                poll.unregister(descriptor)
                del by_descriptor[descriptor]
            else:
                window.add(lines)
        if logs is not None and time.monotonic() - looked_at >= POLL_SECONDS:
            for lines in logs.new():
                window.add(lines)
            looked_at = time.monotonic()
        yield window.due()
    yield window.rest()


def _milliseconds(window: Window, *, has_files: bool) -> float | None:
    """How long to sleep when no pipe has anything."""
    waits = [seconds for seconds in (window.seconds_left, POLL_SECONDS if has_files else None) if seconds is not None]
    return max(FLUSH_SECONDS, min(waits)) * 1000 if waits else None


def _reader_of_output() -> int | None:
    """The descriptor of standard output where it is a pipe."""
    try:
        descriptor = sys.stdout.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return None
    return descriptor if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
