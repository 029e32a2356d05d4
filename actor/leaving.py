"""How an actor leaves: episodes get a last moment, leases go back, the spool is flushed, goodbye is said.

Nothing here fails, and all of it is bounded in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from actor.lease import Leases
from actor.outbox import Outbox
from common.errors import RunError
from common.messages import Goodbye, Message

RETURN_SECONDS = 2.0  # for returning leases, and for saying goodbye


async def end_episodes(episodes: Mapping[str, asyncio.Task[None]], drain_seconds: float) -> None:
    """Waits that long for episodes to end by themselves, then cancels what is left. `episodes` may change meanwhile."""
    if episodes and drain_seconds > 0:
        await asyncio.wait(list(episodes.values()), timeout=drain_seconds)
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
