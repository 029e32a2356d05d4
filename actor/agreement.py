"""Before stage 1: every task that the learner may ask for can be had here, or this actor does not begin.

Flows in: the digest of the run's task ids, as each `Welcome` tells it. Flows out: nothing, or a UsageError that names
the first tasks that are not to be had; the actor leaves with it as its reason, so it stands in both sides' logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from actor.world_protocol import WorldService
from common.errors import RunError
from common.log import get_logger
from common.messages import Message, TaskIds, TaskIdsRequest
from common.task_ids import digest_of

log = get_logger(__name__)
Request = Callable[[Message], Awaitable[Message]]


class Agreement:
    """On which list of task ids learner and worlds agreed last.

    `alone` is held by what has the interpreter for itself: small reads beside vLLM's import each wait for its turn.
    """

    def __init__(self, request: Request, alone: asyncio.Lock) -> None:
        self._request, self._alone = request, alone
        self._worlds: WorldService | None = None
        self._digest = ""

    async def begin(self, worlds: WorldService, digest: str) -> None:
        """As `renew`, with the worlds that are to be used from now on."""
        await self._agree(worlds, digest)
        self._worlds = worlds

    async def renew(self, digest: str) -> None:
        """After a `Welcome`: a learner that was started again may have other lists.

        Raises:
            UsageError: the first tasks that the worlds do not have, and why.
            RunError: the learner's list is not what it says it is.
        """
        if self._worlds is not None and digest != self._digest:
            await self._agree(self._worlds, digest)

    async def _agree(self, worlds: WorldService, digest: str) -> None:
        task_ids = await fetch_task_ids(self._request) if digest else []
        async with self._alone:
            await asyncio.to_thread(worlds.check, task_ids)
        self._digest = digest
        log.info("tasks_agreed", tasks=len(task_ids))


async def fetch_task_ids(request: Request) -> list[str]:
    """All ids that the run may ask for, page by page. Raises RunError when what comes is no list of them."""
    task_ids: list[str] = []
    digest = ""
    while True:
        page = await request(TaskIdsRequest(begin=len(task_ids)))
        if not isinstance(page, TaskIds):
            raise RunError(f"the learner answered a question for task ids with {type(page).__name__}: versions differ?")
        if task_ids and page.tasks_digest != digest:  # another learner was started meanwhile
            task_ids.clear()
            continue
        digest = page.tasks_digest
        task_ids += page.task_ids
        if len(task_ids) >= page.count:
            break
        if not page.task_ids:
            raise RunError(f"the learner's list of task ids ends after {len(task_ids)} of {page.count}")
    if digest_of(task_ids) != digest:
        raise RunError("the learner's list of task ids is not the one whose digest it tells")
    return task_ids
