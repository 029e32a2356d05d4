"""How an actor leaves: episodes get a last moment, leases go back, the spool is flushed, goodbye is said.

    SIGTERM, SIGINT ─► no lease is asked for or begun ─► `drain_seconds` for episodes ─► what is left is cancelled
        ─► leases returned ─► `flush_seconds` for acks ─► Goodbye ─► exit code 0          again: exit code 1 at once

The same at any time: while the engine starts, worlds warm up or a version is loaded, and while the learner is away:
then leases lapse there, and what is in the spool is sent by the next start. Nothing here fails; all of it is bounded
in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from actor.lease import Leases
from actor.outbox import Outbox
from common.errors import RunError
from common.log import get_logger
from common.messages import Goodbye, Message

log = get_logger(__name__)
SAY_EVERY = 5.0  # seconds, for what episodes it waits
RETURN_SECONDS = 2.0  # for returning leases, and for saying goodbye


async def end_episodes(episodes: Mapping[str, asyncio.Task[None]], drain_seconds: float) -> None:
    """Waits that long for episodes to end by themselves, then cancels what is left. `episodes` may change meanwhile."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + drain_seconds
    while (under_way := [task for task in episodes.values() if not task.done()]) and loop.time() < deadline:
        seconds = deadline - loop.time()
        log.info("draining", waiting_for=f"{len(under_way)} episodes to end", seconds_left=round(seconds, 1))
        await asyncio.wait(under_way, timeout=min(seconds, SAY_EVERY))
    left = list(episodes.values())
    for task in left:
        task.cancel()
    if left:  # one that is just being spooled is not to be returned besides
        await asyncio.wait(left, timeout=RETURN_SECONDS / 2)


async def say_goodbye(
    leases: Leases,
    outbox: Outbox,
    request: Callable[[Message], Awaitable[Message]],
    *,
    reason: str,
    flush_seconds: float,
) -> None:
    """Returns all leases, waits for the acks of what was spooled, says `Goodbye` with the reason."""
    with suppress(TimeoutError, RunError, ExceptionGroup):
        async with asyncio.timeout(RETURN_SECONDS):
            await leases.give_back_all(reason)
    with suppress(TimeoutError):
        async with asyncio.timeout(flush_seconds):
            await outbox.flushed()
    with suppress(TimeoutError, RunError):
        async with asyncio.timeout(RETURN_SECONDS):
            await request(Goodbye(reason=reason[:2000]))
