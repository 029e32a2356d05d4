"""An event loop whose clock moves only when nothing is left to do: minutes of back-off and silence take no time.

Work for threads is done at once, in the loop itself; every run of the same coroutines is the same run.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

MOST_TURNS = 20_000


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._turns = 0  # of the loop since time last passed
        self._select = self._selector.select
        self._selector.select = self._leap

    def time(self) -> float:
        return self._now

    def run_in_executor(self, _executor, work, *arguments):
        done = self.create_future()
        try:
            done.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            done.set_exception(error)
        return done

    def _leap(self, timeout=None):
        if timeout is None:
            raise RuntimeError("nothing is left to happen, and everybody waits")
        self._turns = 0 if timeout > 0 else self._turns + 1
        if self._turns > MOST_TURNS:
            raise RuntimeError("somebody is busy without end, and no time passes")
        self._now += max(0.0, timeout)
        return self._select(0)


@contextmanager
def virtual_time():
    """A loop as the current one, and `time`'s clocks showing its time."""
    loop = VirtualLoop()
    try:
        with ExitStack() as stack:
            for name in ("monotonic", "perf_counter"):
                stack.enter_context(patch(f"time.{name}", loop.time))
            stack.enter_context(patch("time.time", lambda: 1.7e9 + loop.time()))
            asyncio.set_event_loop(loop)
            yield loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()
