"""Stage 11: files of published versions, in chunks, for actors that have no disk in common with the learner.

Only what a version's manifest names, and the manifest itself, is served; one chunk at a time is in memory.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

from common.checkpoint import MANIFEST, folder_of, read_manifest
from common.errors import RunError
from common.messages import FileChunk, FileRequest
from common.wire import CHUNK_BYTES

MOST_OPEN = 16


class Blobs:
    """Reads chunks below the folder of published versions."""

    def __init__(self, checkpoints: Path) -> None:
        self._checkpoints = checkpoints
        self._open: OrderedDict[tuple[int, str], int] = OrderedDict()  # descriptors

    def chunk(self, request: FileRequest) -> FileChunk:
        """The bytes asked for, at most `CHUNK_BYTES` of them, or why there are none."""
        size, data, error = 0, b"", ""
        try:
            descriptor = self._descriptor(request.policy_version, request.name)
            size = os.fstat(descriptor).st_size
            data = os.pread(descriptor, min(request.length, CHUNK_BYTES), request.offset)
        except RunError:
            error = f"version {request.policy_version} is not there or no longer kept"
        except OSError as failure:
            error = f"cannot be read: {failure.strerror}"
        except KeyError:
            error = "the manifest does not name it"
        return FileChunk(
            policy_version=request.policy_version,
            name=request.name,
            offset=request.offset,
            size=size,
            data=data,
            error=error,
        )

    def forget(self, version: int) -> None:
        """A version was published (again): nothing of an older one of that number is served."""
        for key in [key for key in self._open if key[0] == version]:
            os.close(self._open.pop(key))

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, version: int, name: str) -> int:
        found, folder = self._open.get((version, name)), folder_of(self._checkpoints, version)
        if found is not None and not _is_replaced(found, folder / name):
            self._open.move_to_end((version, name))
            return found
        if found is not None:
            self.forget(version)
        manifest, _ = read_manifest(folder)
        if name != MANIFEST and name not in manifest.files:
            raise KeyError(name)
        found = self._open[version, name] = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        while len(self._open) > MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return found


def _is_replaced(descriptor: int, file: Path) -> bool:
    """Whether another file stands under the name: a version that was published again. One that is gone is read on."""
    try:
        there = file.lstat()
    except OSError:
        return False
    held = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino)
