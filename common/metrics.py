"""metrics.jsonl: one JSON object a line, appended by the gateway and the trainer, read by `loop demo` and by people."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_UNWRITTEN = 1 << 20  # bytes


class MetricsFile:
    """Appends events. Several processes may hold one each: a line is a single write to a file opened for appending."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._unwritten = b""  # that a full disk did not take

    def write(self, event: str, **fields: Any) -> None:
        """One line: the event, wall-clock seconds since 1970, and the fields.

        What a full disk does not take is written with a later line; beyond a mebibyte the newest are lost.
        """
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}, separators=(",", ":"))
        if len(self._unwritten) < MOST_UNWRITTEN:
            self._unwritten += line.encode() + b"\n"
        try:
            self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def close(self) -> None:
        os.close(self._descriptor)


class MetricsReader:
    """Reads what was appended since the last look; a line that is not finished yet waits for the next look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """New events in order; lines that are not JSON objects are passed over."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    yield event
