"""Stage 2's slots: an episode samples in one, between the opening of its world and its grading, which need none.

So a world is opened while its episode waits for a slot, and the next episode begins while the last one is graded. How
many slots there are follows the engine's load (concurrency.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from actor.concurrency import Concurrency, Load
from common.log import get_logger

log = get_logger(__name__)


class Slots:
    """As many at a time as `concurrency` says; who came first is first. For one event loop."""

    def __init__(self, concurrency: Concurrency, on_change: Callable[[int], None] = lambda _: None) -> None:
        self.taken = 0
        self._concurrency, self._on_change = concurrency, on_change
        self._queue: deque[asyncio.Future[None]] = deque()
        self._open = True

    @property
    def limit(self) -> int:
        """Episodes that may sample at a time, count."""
        return self._concurrency.limit

    @property
    def waiting_for(self) -> str:
        """What holds episodes up here, or ""."""
        if self.limit == self._concurrency.most:
            return ""
        return f"room in the engine's KV cache: {self.limit} of {self._concurrency.most} episodes at a time"

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Within this an episode samples."""
        if not self._open or self.taken >= self.limit or self._queue:
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release()  # the slot was handed over in the moment of the cancellation
                raise
        else:
            self.taken += 1
        try:
            yield
        finally:
            self._release()

    def shut(self) -> None:
        """Let no episode begin any more."""
        self._open = False

    def observe(self, load: Load) -> None:
        """A step of the engine."""
        before = self.limit
        limit = self._concurrency.observe(load, self.taken)
        if limit == before:
            return
        why = "preempted" if load.preempted else "full" if limit < before else "room"
        log.info("concurrency_changed", episodes=limit, before=before, reason=why, kv_cache=round(load.usage, 3))
        self._hand_over()
        self._on_change(limit)

    def _release(self) -> None:
        self.taken -= 1
        self._hand_over()

    def _hand_over(self) -> None:
        while self._open and self._queue and self.taken < self.limit:
            turn = self._queue.popleft()
            if not turn.cancelled():
                self.taken += 1
                turn.set_result(None)
