"""How often the engine may fail before its actor gives up: failures in a row are counted, not failures over days."""

from __future__ import annotations

import time
from collections.abc import Callable

from common.errors import RunError

LONGEST_WAIT = 30.0  # seconds, after a start that failed


class EngineStarts:
    """Counts an engine's failures; one that had settled was well, so that its failure is the first of a new row.

    Settled is an engine that has worked for `settled_seconds` since its probe and finished an episode. So an engine
    that dies once a day is started again for ever, one that dies at each start, or of each load, `most` times.
    """

    def __init__(self, most: int, settled_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0  # in a row
        self._most, self._settled_seconds, self._clock = most, settled_seconds, clock
        self._working_since: float | None = None
        self._finished = False
        self._last = ""

    @property
    def told(self) -> str:
        """In words, after which failures the next start is."""
        return f" again: {self.failures} failures in a row, last: {self._last}" if self.failures else ""

    @property
    def again(self) -> bool:
        """Whether the next start follows a failure."""
        return self.failures > 0

    def working(self) -> None:
        """The engine is started and probed."""
        self._working_since = self._clock()
        self._finished = False

    def finished(self) -> None:
        """An episode was finished with it."""
        self._finished = True

    def failed(self, error: BaseException) -> float:
        """It died or is stuck, or did not start again. How many seconds to wait before the next start.

        Raises:
            RunError: it was one failure too many.
        """
        since, self._working_since = self._working_since, None
        if since is not None and self._finished and self._clock() - since >= self._settled_seconds:
            self.failures = 0
        self.failures += 1
        self._last = str(error)
        if self.failures >= self._most:
            raise RunError(f"vLLM's engine failed {self.failures} times in a row, last: {error}; the log has why")
        return 0.0 if since is not None else min(LONGEST_WAIT, 2.0**self.failures)  # memory of the last one is let go
