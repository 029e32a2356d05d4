"""Who is listed, looked at again and again while the gateway runs: keys come and go without a restart."""

from __future__ import annotations

import time
from collections.abc import Callable

from common.errors import UsageError
from common.keys import KeyList
from common.log import Reminder, get_logger
from learner.gateway.guard import Guard

log = get_logger(__name__)
COMPARED_SECONDS = 5.0  # between looks at each connection's key while the list is the same


class Listing:
    """The list of keys as the gateway uses it; None: an insecure link, where everybody counts as listed."""

    def __init__(self, listed: KeyList | None, guard: Guard) -> None:
        self._listed, self._guard = listed, guard
        self._reminder = Reminder(time.monotonic)
        self._seen, self._compared_at = -1, 0.0

    def has(self, name: str) -> bool:
        """Whether an actor is listed. While the list cannot be read, everybody is who was."""
        try:
            return self._listed is None or self._listed.has(name)
        except UsageError as error:
            self._say_unreadable(error)
            return True

    def dismiss_unlisted(self, dismiss: Callable[[], None]) -> None:
        """Keys that were removed, or replaced, end connections; and by `dismiss` free leases."""
        if self._listed is None:
            return
        try:
            changes, now = self._listed.look(), time.monotonic()
            # a key that was let in while the list changed is heard of later
            if changes == self._seen and now - self._compared_at < COMPARED_SECONDS:
                return
            self._guard.dismiss_unlisted(self._listed)
            self._seen, self._compared_at = changes, now
        except UsageError as error:
            self._say_unreadable(error)
        dismiss()

    def _say_unreadable(self, error: UsageError) -> None:
        """A broken file in the list is no reason to send connected actors away."""
        if self._reminder.is_due():
            log.error("key_list_unreadable", reason=str(error))
