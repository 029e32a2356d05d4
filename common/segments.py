"""Append-only files of frames (stage 4): what the spool and the journal keep of trajectories, written to the disk once.

    append ─► sync ─► the index's own commit ─► settle          rolled back: cut ─► as after the last `settle`

An index (SQLite on both sides) names the place of each frame. A frame is on the disk before the row that names it, so
what lies beyond the last named frame was promised to nobody: the next start cuts it off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError

SUFFIX = ".frames"


@dataclass(frozen=True)
class Place:
    """Where a frame lies: the number of its file, its first byte, its bytes."""

    segment: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Segments:
    """The files of one folder; one writer.

    Args:
        folder: made when it is not there.
        ends: of each file that the index names, where its last named frame ends.
        most_bytes: after which a next file is begun.

    A file that lacks, or lacks frames that the index names, is in `damaged` and is not appended to.
    """

    def __init__(self, folder: Path, ends: Mapping[int, int], most_bytes: int = 256 << 20) -> None:
        self._folder, self._most = folder, most_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = None
        sizes = {number: _size_of(_file_of(folder, number)) for number in ends}
        self.damaged = [
            f"{_file_of(folder, number)}: {sizes[number]} bytes, but its frames end at byte {end}"
            for number, end in sorted(ends.items())
            if sizes[number] < end
        ]
        for file in folder.glob(f"*{SUFFIX}"):
            if not file.stem.isdigit() or int(file.stem) not in ends:
                file.unlink()  # begun, and never named
        self._current = max(ends, default=0)
        self._end = ends.get(self._current, 0)
        if self._current and sizes[self._current] > self._end:
            os.truncate(self._file(self._current), self._end)
        elif self._current and sizes[self._current] < self._end:
            self._end = most_bytes
        self._settled_segment, self._settled = self._current, self._end

    @property
    def current(self) -> int:
        """The file that is appended to; 0 before the first."""
        return self._current

    def append(self, frame: bytes) -> Place:
        """Write a frame, not durable before `sync`. Raises OSError: the disk is full; `cut` then."""
        if not self._current or (self._end and self._end + len(frame) > self._most):
            self._begin_next()
        if self._descriptor is None:
            self._descriptor = os.open(self._file(self._current), os.O_WRONLY)
        place = Place(self._current, self._end, len(frame))
        written = 0
        while written < len(frame):
            rest = memoryview(frame)[written:]
            written += os.pwrite(self._descriptor, rest, self._end + written)
        self._end = place.end
        return place

    def sync(self) -> None:
        """Returns when every frame is on the disk. Raises OSError: it takes no more."""
        if self._descriptor is not None and (self._current, self._end) != (self._settled_segment, self._settled):
            os.fdatasync(self._descriptor)

    def settle(self) -> None:
        """The index has named what was appended."""
        self._settled_segment, self._settled = self._current, self._end

    def cut(self) -> None:
        """Take back what was appended since `settle`."""
        while self._current > self._settled_segment:
            self._close()
            self._file(self._current).unlink(missing_ok=True)
            self._current -= 1
        self._end = self._settled
        if self._current and _size_of(self._file(self._current)) > self._end:
            os.truncate(self._file(self._current), self._end)

    def read(self, place: Place) -> bytes:
        """A frame. Raises RunError: its file lacks, or is shorter than the index says."""
        return read_frame(self._folder, place)

    def remove(self, segment: int) -> None:
        """Remove a file none of whose frames is named any more; not the one that is appended to."""
        assert segment != self._current
        self._file(segment).unlink(missing_ok=True)

    def close(self) -> None:
        self._close()

    def _begin_next(self) -> None:
        self.sync()  # the file that is left is whole on the disk before a row can name a frame of the next
        self._close()
        self._descriptor = os.open(self._file(self._current + 1), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._current, self._end = self._current + 1, 0
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _file(self, number: int) -> Path:
        return _file_of(self._folder, number)


def read_frame(folder: Path, place: Place) -> bytes:
    """A frame of the files in `folder`. Raises RunError: its file lacks, or is shorter than the index says."""
    return read_bytes(_file_of(folder, place.segment), place.offset, place.length)


def read_bytes(file: Path, offset: int, length: int) -> bytes:
    """The frame that lies there. Raises RunError: the file lacks, or ends before the frame does."""
    try:
        with file.open("rb", buffering=0) as stream:
            frame = os.pread(stream.fileno(), length, offset)
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from None
    if len(frame) < length:
        raise RunError(f"{file}: ends within the frame of {length} bytes at {offset}")
    return frame


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _file_of(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}{SUFFIX}"
