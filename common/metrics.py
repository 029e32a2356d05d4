"""metrics.jsonl: one JSON object a line, appended by the gateway and the trainer, read by `loop demo` and by people."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from common.log_file import ends_torn

MOST_UNWRITTEN = 1 << 20  # bytes


class MetricsFile:
    """Appends events. Several processes may hold one each: a line is a single write to a file opened for appending."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        # what a full disk did not take; the rest of a line that an earlier life left in part is lost, the next is whole
        self._unwritten = b"\n" * ends_torn(self._descriptor)

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
    """Reads what was appended since the last look; a line that is not finished yet waits for the next look.

    `only`: events wanted; others are passed over unparsed, as `MetricsFile` writes them. `offset`: bytes that another
    reader has read already.
    """

    def __init__(self, path: Path, *, only: Collection[str] | None = None, offset: int = 0) -> None:
        self._path = path
        self.offset = offset
        self._wanted = None if only is None else tuple(f'{{"event":"{event}"'.encode() for event in only)

    def new(self) -> Iterator[dict[str, Any]]:
        """New events in order; lines that are not JSON objects are passed over."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self.offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                if self._wanted is not None and not line.startswith(self._wanted):
                    continue
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    yield event
