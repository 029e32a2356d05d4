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
        self._open: OrderedDict[tuple[int, str], tuple[int, int]] = OrderedDict()  # descriptor and size

    def chunk(self, request: FileRequest) -> FileChunk:
        """The bytes asked for, at most `CHUNK_BYTES` of them, or why there are none."""
        size, data, error = 0, b"", ""
        try:
            descriptor, size = self._descriptor(request.policy_version, request.name)
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
            os.close(self._open.pop(key)[0])

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1][0])

    def _descriptor(self, version: int, name: str) -> tuple[int, int]:
        found = self._open.get((version, name))
        if found is not None:
            self._open.move_to_end((version, name))
            return found
        folder = folder_of(self._checkpoints, version)
        manifest, _ = read_manifest(folder)
        if name != MANIFEST and name not in manifest.files:
            raise KeyError(name)
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        found = self._open[version, name] = descriptor, os.fstat(descriptor).st_size
        while len(self._open) > MOST_OPEN:
            os.close(self._open.popitem(last=False)[1][0])
        return found
