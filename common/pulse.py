"""Whether a process's own loop works: it beats, and who asks from another thread hears how long ago that was.

    loop ── beat(figures) ──► Pulse ◄── health(), figures ── exporter's thread

A beat brings the process's figures of now, so that what the other thread reads never changes under its hands.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from common.measures import Figures

STUCK_SECONDS = 10.0  # without a beat
OURS = ("actor", "common", "learner")


@dataclass(frozen=True)
class Health:
    """Whether the loop works, and what there is to say of it, as JSON."""

    well: bool
    said: Mapping[str, Any]


class Pulse:
    """One process's; made in the thread whose loop beats. `process` is its name in the logs."""

    def __init__(
        self, process: str, figures: Figures | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.figures = figures or Figures()
        self._process, self._clock = process, clock
        self._thread = threading.get_ident()
        self._beat = (clock(), "")  # when, and what was waited for: one object, since another thread reads it

    def beat(self, figures: Figures | None = None, waiting_for: str = "") -> None:
        """The loop came by; `waiting_for` is in words what the process waits for, empty when for nothing."""
        if figures is not None:
            self.figures = figures
        self._beat = (self._clock(), waiting_for)

    def health(self) -> Health:
        """As it is now; a loop that is stuck is said to be so, for how long and in what."""
        beaten_at, waiting_for = self._beat
        seconds = self._clock() - beaten_at
        said = {"process": self._process, "seconds_since_beat": round(seconds, 1), "waiting_for": waiting_for}
        if seconds < STUCK_SECONDS:
            return Health(well=True, said={"status": "ok", **said})
        reason = f"{self._process} has been stuck for {seconds:.0f} s in {place_of(self._thread)}"
        return Health(well=False, said={"status": "stuck", "reason": reason, **said})


def place_of(thread: int) -> str:
    """Where a thread is now: the innermost function of ours that it is in, else the innermost of all."""
    innermost = sys._current_frames().get(thread)  # noqa: SLF001 - documented, and the only way to ask
    frame = innermost
    while frame is not None and _module(frame).split(".")[0] not in OURS:
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return "a thread that has ended"
    return f"{_module(frame)}.{frame.f_code.co_qualname}, line {frame.f_lineno}"


def _module(frame: FrameType) -> str:
    spec = frame.f_globals.get("__spec__")  # `__main__` is called by its own name there
    return str(getattr(spec, "name", None) or frame.f_globals.get("__name__", "?"))
