"""Replays many trajectories of a run, many worlds at once, and keeps what came of them: an audit of what was recorded.

Flows in: a journal, places of frames in it, worlds, a prompt. Flows out: a `Tally`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actor.world.replay import ReplayWording, replay
from actor.world_protocol import WorldFailure, Worlds
from common.errors import UsageError
from common.journal import FramePlace, Journal
from common.messages import Trajectory
from common.wire import unpack

AT_ONCE = 32  # worlds; more gain nothing where no tokens are waited for, and come nearer to the limits of time


@dataclass
class Tally:
    """What was found so far."""

    total: int
    outcomes: Counter[str] = field(default_factory=Counter)  # same, different, not_exact, failed
    kinds: Counter[str] = field(default_factory=Counter)  # of a trajectory's first difference without excuse
    excuses: Counter[str] = field(default_factory=Counter)  # why trajectories cannot be replayed exactly
    reasons: Counter[str] = field(default_factory=Counter)  # why there was no replay
    told: list[dict[str, Any]] = field(default_factory=list)  # facts of all that did not come out the same

    @property
    def done(self) -> int:
        return self.outcomes.total()

    @property
    def clean(self) -> bool:
        """Whether nothing differs that has no excuse, and all could be replayed."""
        return not self.outcomes["different"] and not self.outcomes["failed"]

    def add(self, facts: dict[str, Any]) -> None:
        """One trajectory's facts: `Replay.facts`, or outcome `failed` with a reason."""
        outcome = facts["outcome"]
        self.outcomes[outcome] += 1
        self.excuses.update(facts["excuses"])
        if outcome == "failed":
            self.reasons[facts["reason"]] += 1
        elif outcome == "different":
            self.kinds[next(one["kind"] for one in facts["differences"] if not one["excuse"])] += 1
        if outcome != "same":
            self.told.append(facts)

    def facts(self) -> dict[str, Any]:
        """As one JSON object; trajectories by their ids."""
        return {
            "replayed": self.done - self.outcomes["failed"],
            **{name: self.outcomes[name] for name in ("same", "different", "not_exact", "failed")},
            "kinds": dict(self.kinds.most_common()),
            "excuses": dict(self.excuses.most_common()),
            "reasons": dict(self.reasons.most_common()),
            "trajectories": sorted(self.told, key=lambda facts: str(facts["trajectory_id"])),
        }


def drawn(journal: Journal, count: int | None, seed: int) -> list[FramePlace]:
    """All frames of a journal, or `count` of them; those of a task stand together, as a host builds its world once."""
    places = list(journal.places())
    if count is not None and count < len(places):
        places = random.Random(seed).sample(places, count)  # noqa: S311 - a sample, not a secret
    return sorted(places, key=_task_of)


def _task_of(place: FramePlace) -> str:
    try:
        return str(unpack(place.read())["lease"]["task_id"])
    except (ValueError, LookupError, TypeError):  # read again later, and named then
        return ""


async def audit(
    journal: Journal,
    places: list[FramePlace],
    worlds: Worlds,
    prompt: ReplayWording,
    *,
    longest: int,
    at_once: int = AT_ONCE,
    on_done: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Replay the trajectories at `places`, `at_once` of them at a time; `on_done` is told after each."""
    tally = Tally(len(places))
    waiting = iter(places)  # one for all workers: each takes the next

    async def work() -> None:
        for place in waiting:
            trajectory = journal.read(place)
            if trajectory is None:
                tally.total -= 1
                continue
            tally.add(await facts_of(trajectory, worlds, prompt, longest))
            on_done(tally)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return tally


async def facts_of(trajectory: Trajectory, worlds: Worlds, prompt: ReplayWording, longest: int) -> dict[str, Any]:
    """A replay's facts; outcome `failed` with a reason where there could be none: no such task, a world that broke."""
    try:
        return (await replay(trajectory, worlds, prompt, longest)).facts()
    except (WorldFailure, UsageError) as error:
        told = {"trajectory_id": trajectory.trajectory_id, "task_id": trajectory.lease.task_id}
        return {**told, "outcome": "failed", "reason": str(error), "excuses": {}}
