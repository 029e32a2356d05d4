"""Whether an episode's state changes are explained by its API calls. Pure; standard library only.

In come a turn's database changes and the calls that made them, as its member process told both; out comes what is
wrong with them, or nothing. A call tells how many statements it ran in which app. Every statement must belong to a
call, and every call must be one that may change that app: the tables below are read from the engine's sources, and a
test holds all APIs against them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

READING = ("GET", "HEAD", "OPTIONS")
_MAIL = frozenset({"gmail", "file_system"})  # verification codes, receipts, invitations, with attachments
_CARDS = frozenset({"admin"})  # balances of payment cards
# app: whose data a call of it may change beside its own
BESIDE: dict[str, frozenset[str]] = {
    "amazon": _MAIL | _CARDS,
    "file_system": _MAIL,
    "gmail": _MAIL,
    "phone": frozenset(),
    "simple_note": _MAIL,
    "splitwise": _MAIL,
    "spotify": _MAIL | _CARDS,
    "supervisor": frozenset(),
    "todoist": _MAIL,
    "venmo": _MAIL | _CARDS,
}
# reading calls that write: downloads make a file, a music player is made when it is first looked at
DOWNLOADS = re.compile(
    r"/amazon/order_receipt/|/amazon/prime/subscriptions/[^/]+/receipt$|/gmail/attachments/|"
    r"/splitwise/(expenses|payments)/[^/]+/file$|/spotify/premium/subscriptions/[^/]+/receipt$|"
    r"/todoist/task_comments/[^/]+/attachments/|/venmo/(bank_transfers|transactions)/[^/]+/receipt$"
)
PLAYER = re.compile(r"/spotify/music_player/")
NEVER_RAN = (401, 405)  # the app turned the call away before its API began
PRIVATE = re.compile(r"/+(seed|dbs|date_time|show_api_response_schemas|admin)(/|$)")


def private_route(path: str) -> bool:
    """Whether this is one of the engine's own routes, by which it loads databases and sets its clock."""
    return PRIVATE.match(path) is not None


def may_change(method: str, path: str, status: int) -> frozenset[str]:
    """The apps whose data this call may have changed."""
    app = path.lstrip("/").split("/")[0]
    if app not in BESIDE or status in NEVER_RAN:
        return frozenset()
    if method not in READING:
        return BESIDE[app] | {app}
    if DOWNLOADS.match(path):
        return frozenset({app, "file_system"})
    return frozenset({app}) if PLAYER.match(path) else frozenset()


def unexplained(changes: Mapping[str, list[Any]], calls: list[Any]) -> str | None:
    """What of a turn's changes no call explains, in words; None when all is explained.

    `changes`: statements by app. `calls`: [method, path, status, {app: statements}] each. Raises ValueError,
    TypeError when they are not of this form.
    """
    told: Counter[str] = Counter()
    for method, path, status, counts in calls:
        allowed = may_change(method, path, status)
        for app, count in counts.items():
            if app not in allowed:
                return f"{method} {path[:80]} is said to have changed {app}, which it cannot"
            told[app] += count
    for app in sorted(changes.keys() | told.keys()):
        found = len(changes.get(app, ()))
        if found != told[app]:
            return f"{found} statements changed {app}, of which its API calls explain {told[app]}"
    return None
