"""For `loop doctor`: whether this machine's clock and the learner's tell the same time.

The learner's answer to `loop status` carries its time; nothing comes of asking. What the way there and back takes is
what cannot be told, so it is asked some times and the quickest answer counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from common.config import LinkConfig
from common.errors import RunError, UsageError
from common.finding import Check, Finding, error, ok, warning
from common.keys import ActorKeys, actor_keys
from common.status_link import StatusLink, Unreachable

MOST_SKEW = 1.0  # seconds; an episode's turn takes about that, so logs merged by time would tell it in a wrong order
ASK_SECONDS = 5.0
ASKED = 3  # times
REMEDY = (
    "run chronyd or systemd-timesyncd (NTP) on both machines: `loop tail` merges logs by time, and `loop status` tells "
    "when an error was by it; leases go by monotonic clocks and do not mind"
)


def clock_checks(link: LinkConfig, name: str, *, wanted: bool) -> list[Check]:
    """An actor's."""
    return [Check("learner's clock", lambda: against_learner(link, name, wanted=wanted))]


def against_learner(link: LinkConfig, name: str, *, wanted: bool) -> Finding:
    """Both clocks side by side, as far as the link lets it be told."""
    try:
        if link.port == 0:
            return ok("not compared: link.port is 0, see the line about the learner's port")
        keys = None if link.insecure else actor_keys(link.keys, name)
    except UsageError:
        return ok(f"not compared: {name} has no usable key, see the line about it")
    try:
        ahead, unsure = asyncio.run(_ask(link, keys))
    except Unreachable:
        if not wanted:
            return ok("not compared: no learner answers there yet")
        remedy = "see the line about the learner's port; if that is ok, its gateway hangs: look at its log"
        return warning(f"not compared: the learner did not tell its time in {ASK_SECONDS:g} s", remedy)
    except RunError as refused:
        remedy = "install the same version on both sides, and have this actor's key listed at the learner"
        return error(f"not compared: {refused}", remedy)
    return judge(ahead, unsure)


def judge(ahead: float, unsure: float) -> Finding:
    """`ahead`: of the learner's clock, seconds; `unsure`: how much more or less it may be."""
    side = "ahead of" if ahead > 0 else "behind"
    if abs(ahead) - unsure > MOST_SKEW:
        return warning(f"this machine's is {abs(ahead):.1f} s {side} the learner's", REMEDY)
    return ok(f"{abs(ahead) * 1000:.0f} ms {side} the learner's, give or take {unsure * 1000:.0f}")


async def _ask(link: LinkConfig, keys: ActorKeys | None) -> tuple[float, float]:
    """As `difference`, over the link."""
    there, told = StatusLink(link, keys), []
    try:
        await there.ask(ASK_SECONDS)  # the handshake takes longer than the question
        for _ in range(ASKED):
            sent, began = time.time(), time.monotonic()
            status = await there.ask(ASK_SECONDS)
            told.append((time.monotonic() - began, sent, status.at))
    finally:
        there.close()
    return difference(told)


def difference(told: Iterable[tuple[float, float, float]]) -> tuple[float, float]:
    """Seconds that this clock is ahead, and the uncertainty, by the quickest of some answers.

    Each: seconds from question to answer, this machine's time at the question, the learner's at the answer.
    """
    seconds, sent, there = min(told)
    return sent + seconds / 2 - there, seconds / 2
