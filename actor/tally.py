"""What has happened in an actor since it was started, counted where it happens; `gauges.py` tells it (stages 2 and 12).

fulfilment ─► outcomes of episodes      counted worlds ─► how many are open      worker ─► engines that failed
engine's steps ─► load                  reports of reloads ─► how they went
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Literal

from actor.concurrency import Load
from actor.engine_load import OnLoad
from actor.episode import Episode
from actor.world_protocol import Judged, OpenWorld, Seen, Task, Worlds
from common.messages import Message, ReloadReport

Outcome = Literal["finished", "failed", "cancelled", "interrupted"]
OUTCOMES: tuple[Outcome, ...] = ("finished", "failed", "cancelled", "interrupted")
PARTS = ("engine", "world", "other")  # of an episode's seconds
RELOADS = ("accepted", "refused")


class Tally:
    """Of one actor, for its event loop; it outlives its engines."""

    def __init__(self) -> None:
        self.episodes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.episode_seconds = dict.fromkeys(PARTS, 0.0)  # of those finished
        self.turns = 0  # likewise
        self.succeeded = 0  # likewise
        self.worlds_open = 0
        self.worlds_opened = 0
        self.engine_failures = 0
        self.load: Load | None = None  # of the engine's last step
        self.preempted = self.cached = self.computed = 0
        self.reloads: Counter[str] = Counter(dict.fromkeys(RELOADS, 0))
        self.reload_seconds = self.pause_seconds = 0.0
        self.probe_difference: float | None = None  # of the last reload that got so far, nats

    def finished(self, episode: Episode) -> None:
        """A trajectory is in the spool."""
        self.episodes["finished"] += 1
        self.succeeded += episode.success
        self.turns += len(episode.turns)
        self.episode_seconds["engine"] += episode.engine_seconds
        self.episode_seconds["world"] += episode.world_seconds
        other = max(0.0, episode.seconds - episode.engine_seconds - episode.world_seconds)
        self.episode_seconds["other"] += other

    def ended(self, outcome: Outcome) -> None:
        """An episode came to nothing: it failed, the learner cancelled it, or what it ran on ended."""
        self.episodes[outcome] += 1

    def loads(self, then: OnLoad) -> OnLoad:
        """Hears of every step of the engine, before `then` does."""

        def on_load(load: Load) -> None:
            self.load = load
            self.preempted += load.preempted
            self.cached += load.cached
            self.computed += load.computed
            then(load)

        return on_load

    def reports(self, send: Callable[[Message], Awaitable[Message]]) -> Callable[[Message], Awaitable[Message]]:
        """Hears of every reload that is reported, before `send` does."""

        async def report(message: Message) -> Message:
            if isinstance(message, ReloadReport):
                self.reloads["accepted" if message.accepted else "refused"] += 1
                self.reload_seconds += message.seconds
                self.pause_seconds += message.pause_seconds
                if message.probe_difference >= 0:
                    self.probe_difference = message.probe_difference
            return await send(message)

        return report


class CountedWorlds:
    """Worlds as they are, counted while they are open."""

    def __init__(self, worlds: Worlds, tally: Tally) -> None:
        self._worlds, self._tally = worlds, tally

    async def open(self, task_id: str) -> OpenWorld:
        return _CountedWorld(await self._worlds.open(task_id), self._tally)


class _CountedWorld:
    def __init__(self, world: OpenWorld, tally: Tally) -> None:
        self._world, self._tally = world, tally
        self._open = True
        tally.worlds_open += 1
        tally.worlds_opened += 1

    @property
    def task(self) -> Task:
        return self._world.task

    async def execute(self, code: str) -> Seen:
        return await self._world.execute(code)

    async def grade(self) -> Judged:
        return await self._world.grade()

    async def close(self) -> None:
        try:
            await self._world.close()
        finally:
            self._tally.worlds_open -= self._open
            self._open = False
