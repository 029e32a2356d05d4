"""Stage 2, Lease -> Episode: turns of code and observation in one world, then its verdict.

    opening ─► [ sample ─► execute ─► observation ] ... ─► grade

An episode ends when the policy completes the task, a limit of its lease is reached, or a cell was killed and its
world runs no more cells; however it ends, it is graded as it stands, and a tag says how. A turn cut by its token
limit is executed as it stands and the episode goes on; one cut by the episode's context limit is not executed. A turn
without code gets an observation that says so. What breaks down around the policy (world, grader, engine) is never a
reward: it is raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from actor.world_protocol import OpenWorld, Seen, Task, Worlds
from common.messages import Lease

LEAST_TURN_TOKENS = 16  # an observation leaves at least this much room for the turn that follows
End = Literal["completed", "turn_limit", "context_limit", "killed"]


class SampledTurn(Protocol):
    """One turn's tokens, all lists [n]; `finish` is "stop" or "length"."""

    ids: list[int]
    log_probs: list[float]
    versions: list[int]
    finish: str
    seconds: float


class Sampler(Protocol):
    """What an episode needs of the policy."""

    def episode(self) -> AbstractAsyncContextManager[int | None]: ...

    async def generate(
        self, ids: Sequence[int], *, temperature: float, max_tokens: int, pinned: int | None = None
    ) -> SampledTurn: ...


class Wording(Protocol):
    """Text to tokens and back (`common.prompt.Prompt`)."""

    def opening(self, instruction: str, supervisor: Task) -> list[int]: ...
    def observation(self, text: str, room: int, *, stopped: bool = True) -> list[int]: ...
    def code(self, sampled_ids: Sequence[int]) -> str | None: ...
    def told(self, sampled_ids: Sequence[int], output: str | None) -> str: ...
    def has_stopped(self, sampled_ids: Sequence[int]) -> bool: ...


@dataclass(frozen=True)
class Turn:
    """One sampled span of an episode's tokens, [begin, end)."""

    begin: int
    end: int
    log_probs: tuple[float, ...]  # [end - begin], nats
    versions: tuple[int, ...]  # [end - begin]


@dataclass
class Episode:
    """What happened between a lease and its verdict."""

    lease: Lease
    ids: list[int]  # [T]: opening, then sampled tokens and observations by turns
    turns: list[Turn] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    reward: float = 0.0
    success: bool = False
    failures: tuple[str, ...] = ()
    started_at: float = 0.0  # wall clock, seconds since 1970
    seconds: float = 0.0
    engine_seconds: float = 0.0
    world_seconds: float = 0.0

    def tag(self, tag: str) -> None:
        if tag not in self.tags:
            self.tags.append(tag)


async def run_episode(
    lease: Lease,
    policy: Sampler,
    worlds: Worlds,
    prompt: Wording,
    longest: int,
    *,
    on_begin: Callable[[Episode], None] | None = None,
) -> Episode:
    """Roll out a lease. `longest` is how many tokens the engine can hold; `on_begin` gets the episode, which grows.

    Raises:
        WorldFailure, EngineFailure, RequestFailure: infrastructure; the lease is to be returned.
    """
    clock = time.perf_counter
    began, started_at = clock(), time.time()
    world = await worlds.open(lease.task_id)
    try:
        episode = Episode(lease, prompt.opening(world.task.instruction, world.task), started_at=started_at)
        episode.world_seconds += clock() - began
        if on_begin is not None:
            on_begin(episode)
        async with policy.episode() as pinned:
            end = await _turns(episode, policy, world, prompt, pinned=pinned, longest=longest)
        episode.tag(end)
        since = clock()
        verdict = await world.grade()
        episode.world_seconds += clock() - since
    finally:
        await world.close()
    if verdict.tampered:
        episode.tag("tampered")
    episode.reward, episode.success, episode.failures = verdict.reward, verdict.success, verdict.failures
    episode.seconds = clock() - began
    return episode


async def _turns(
    episode: Episode, policy: Sampler, world: OpenWorld, prompt: Wording, *, pinned: int | None, longest: int
) -> End:
    """Turns until something ends them; says what."""
    sampling = episode.lease.sampling
    limit = min(sampling.max_context_tokens, longest)
    while True:
        room = limit - len(episode.ids)
        if room < 1:
            return "context_limit"
        max_tokens = min(sampling.max_turn_tokens, room)
        sampled = await policy.generate(
            episode.ids, temperature=sampling.temperature, max_tokens=max_tokens, pinned=pinned
        )
        _append_turn(episode, sampled)
        stopped = sampled.finish == "stop"
        if not stopped:
            if max_tokens == room:
                return "context_limit"
            episode.tag("token_limit")
        seen = await _execute(episode, world, prompt.code(sampled.ids))
        if seen is not None and seen.completed:
            return "completed"
        if seen is not None and seen.killed is not None:
            episode.tag(f"killed_by_{seen.killed}")
            if not seen.goes_on:
                return "killed"
        if len(episode.turns) >= sampling.max_turns:
            return "turn_limit"
        text = prompt.told(sampled.ids, None if seen is None else seen.text)
        left = limit - len(episode.ids) - min(LEAST_TURN_TOKENS, sampling.max_turn_tokens)
        observation = prompt.observation(text, left, stopped=prompt.has_stopped(sampled.ids))
        if not observation:
            return "context_limit"
        episode.ids += observation


def _append_turn(episode: Episode, sampled: SampledTurn) -> None:
    begin = len(episode.ids)
    episode.ids += sampled.ids
    episode.turns.append(Turn(begin, len(episode.ids), tuple(sampled.log_probs), tuple(sampled.versions)))
    episode.engine_seconds += sampled.seconds
    if len({version for turn in episode.turns for version in turn.versions}) > 1:
        episode.tag("several_versions")


async def _execute(episode: Episode, world: OpenWorld, code: str | None) -> Seen | None:
    if code is None:
        episode.tag("no_code")
        return None
    since = time.perf_counter()
    seen = await world.execute(code)
    episode.world_seconds += time.perf_counter() - since
    return seen
