"""A run's journal read again: every trajectory that its learner acknowledged, as it came over the link (stage 4).

Flows in: a run folder, its journal folder, or one file of frames. Flows out: places of frames, and trajectories. The
files are enough, without the ledger beside them: a frame says itself where it ends. The gateway may be writing
meanwhile; a frame that is not whole yet, and whatever cannot be read, is named in `Journal.damage` and passed over.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UsageError
from common.messages import Trajectory
from common.segments import SUFFIX, read_bytes
from common.wire import MAX_MESSAGE_BYTES, decode, first_frame, unpack

FIRST_LOOK = 64 << 10  # bytes read to see where a frame ends; doubled while it does not
CLOSE_ENOUGH = 20_000  # ids that a mistyped one is compared with


@dataclass(frozen=True)
class FramePlace:
    """Where a frame lies."""

    file: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """The frame. Raises RunError: the file has changed since."""
        return read_bytes(self.file, self.offset, self.length)


class Journal:
    """What a run folder, a journal folder or one file of frames holds. UsageError: there is no journal."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.damage: list[str] = []  # of the last walk over it
        folder = source / "journal" if (source / "journal").is_dir() else source
        self._files = [folder] if folder.is_file() else sorted(folder.glob(f"*{SUFFIX}"))
        if not self._files:
            raise UsageError(f"{source}: no journal there; name the folder of a run that has trajectories")

    def places(self) -> Iterator[FramePlace]:
        """Every frame's place, in the order of arrival."""
        self.damage = []
        for file in self._files:
            yield from self._places_in(file)

    def trajectories(self, wanted: Callable[[dict[str, Any]], bool] | None = None) -> Iterator[Trajectory]:
        """Every trajectory in the order of arrival; `wanted` is asked with its fields before they are validated."""
        for place in self.places():
            trajectory = self.read(place, wanted)
            if trajectory is not None:
                yield trajectory

    def read(self, place: FramePlace, wanted: Callable[[dict[str, Any]], bool] | None = None) -> Trajectory | None:
        """The trajectory of a frame; None when it is not wanted or none, which `damage` then names."""
        frame = place.read()
        try:
            if wanted is not None and not wanted(unpack(frame)):
                return None
            message = decode(frame)
        except (ValueError, LookupError, TypeError) as error:
            self.damage.append(f"{place.file}: the frame at byte {place.offset} cannot be read: {error}")
            return None
        if isinstance(message, Trajectory):
            return message
        self.damage.append(f"{place.file}: the frame at byte {place.offset} is no trajectory")
        return None

    def find(self, trajectory_id: str) -> Trajectory:
        """One trajectory. UsageError: there is none of that id; the nearest is named."""
        ids: list[str] = []

        def is_it(fields: dict[str, Any]) -> bool:
            ids.append(str(fields["trajectory_id"]))
            return ids[-1] == trajectory_id

        for found in self.trajectories(is_it):
            return found
        near = difflib.get_close_matches(trajectory_id, ids[:CLOSE_ENOUGH], n=1)
        hint = f"; the nearest of {len(ids)} is {near[0]}" if near else f"; it holds {len(ids)} others"
        named = f" ({self.damage[0]})" if self.damage else ""
        raise UsageError(f"{self.source}: its journal has no trajectory {trajectory_id}{hint}{named}")

    def _places_in(self, file: Path) -> Iterator[FramePlace]:
        try:
            with file.open("rb", buffering=0) as stream:
                size, offset = os.fstat(stream.fileno()).st_size, 0
                while offset < size:
                    length = _length_at(stream.fileno(), offset, size)
                    yield FramePlace(file, offset, length)
                    offset += length
        except OSError as error:
            self.damage.append(f"{file}: cannot be read: {error.strerror}")
        except EOFError:
            self.damage.append(f"{file}: its last frame, {size - offset} bytes at byte {offset}, is not whole")
        except ValueError as error:
            self.damage.append(f"{file}: from byte {offset} on it cannot be read: {error}")


def _length_at(descriptor: int, offset: int, size: int) -> int:
    """How long the frame is that begins there. EOFError: the file ends first. ValueError: it is none."""
    look = FIRST_LOOK
    while True:
        data = os.pread(descriptor, look, offset)
        length = first_frame(data)
        if length is not None:
            return length
        if len(data) < look or offset + look >= size:
            raise EOFError
        if look > 2 * MAX_MESSAGE_BYTES:
            raise ValueError(f"a frame of more than {MAX_MESSAGE_BYTES} bytes")
        look *= 2
