"""The ids of all tasks that a run may ask for: their digest, and the pages in which they cross the link. Pure.

Both sides compute the same digest, so an actor that rejoins compares 64 characters instead of the list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from common.messages import TASK_IDS_AT_ONCE, TaskIds


def digest_of(task_ids: Sequence[str]) -> str:
    """sha256 in hex of a sorted list."""
    return hashlib.sha256("\n".join(task_ids).encode()).hexdigest()


class TaskList:
    """The sorted list, each id once."""

    def __init__(self, task_ids: Iterable[str]) -> None:
        self.task_ids = tuple(sorted(set(task_ids)))
        self.digest = digest_of(self.task_ids)

    def page(self, begin: int) -> TaskIds:
        """The ids from place `begin` on, as many as a message may have."""
        ids = self.task_ids[begin : begin + TASK_IDS_AT_ONCE]
        return TaskIds(tasks_digest=self.digest, count=len(self.task_ids), task_ids=ids)
