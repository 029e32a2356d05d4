"""Frames that are no message (stage 4): counted, named in the log, and the first of them kept to be looked into.

What is kept is bounded in number, size and pace, so that a flood costs neither disk nor time:

    RUN/quarantine/000001-actor-0.frame   the bytes as they came, cut at a mebibyte
    RUN/quarantine/000001-actor-0.json    from whom, when, how long it was, what was wrong
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common.log import get_logger

log = get_logger(__name__)

MOST_KEPT = 100  # frames; what comes after them is counted alone
MOST_BYTES = 1 << 20  # of one
PACE = 1.0  # seconds between two of one actor that are kept or logged


class Quarantine:
    """Where broken frames go.

    Args:
        folder: made with the first frame; what it holds from an earlier start of the gateway counts as kept.
        clock: seconds, monotonic.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._kept = max((_number_of(file) for file in folder.glob("*.json")), default=0)
        self._last: dict[str, float] = {}  # by actor: when one of it was kept or logged
        self.by_actor: Counter[str] = Counter()  # since this start

    @property
    def count(self) -> int:
        """Frames since this start."""
        return self.by_actor.total()

    def put(self, actor: str, frame: bytes, reason: str) -> None:
        """A frame of `actor` (its key's name) that was no message, and why. Never fails: a full disk costs the copy."""
        self.by_actor[actor] += 1
        now = self._clock()
        if actor in self._last and now - self._last[actor] < PACE:
            return
        self._last[actor] = now
        kept = self._keep(actor, frame, reason) if self._kept < MOST_KEPT else "no: enough are kept"
        told = {"bytes": len(frame), "reason": reason, "so_far": self.by_actor[actor], "kept": kept}
        log.warning("frame_unreadable", actor=actor, **told)

    def _keep(self, actor: str, frame: bytes, reason: str) -> str:
        name = f"{self._kept + 1:06d}-{actor}"
        facts = {"actor": actor, "at": time.time(), "bytes": len(frame), "reason": reason}
        try:
            self._folder.mkdir(exist_ok=True)
            (self._folder / f"{name}.frame").write_bytes(frame[:MOST_BYTES])
            (self._folder / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")
        except OSError as error:
            return f"no: {error.strerror}"
        self._kept += 1
        return f"{self._folder.name}/{name}.frame"


def _number_of(file: Path) -> int:
    number = file.name.partition("-")[0]
    return int(number) if number.isdigit() else 0
