"""Stage 2, Lease -> Episode: turns of code and observation in one world, then its verdict.

    opening ─► [ sample ─► execute ─► observation ] ... ─► grade

An episode ends when the policy completes the task, a limit of its lease is reached, or a cell was killed and its
world runs no more cells; however it ends, it is graded as it stands, and a tag says how. A turn cut by its token
limit is executed as it stands and the episode goes on; one cut by a limit of the episode (its context, its tokens, its
time) is kept and not executed. Where the prompt is to stub, a full context ends it only when stubs make no room either
(context.py). Its time is what it spent in engine and world: not what it waited for a slot, or for a swap of versions. A
cell under way has its own limits, so that time is looked at before and while a turn is sampled. A turn without code
gets an observation that says so. What breaks down around the policy (world, grader, engine) is never a reward: it is
raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

from actor.context import Context
from actor.world_protocol import OpenWorld, Seen, Task, Worlds
from common.log import get_logger
from common.messages import MAX_TOKENS, Lease, Sampling

log = get_logger(__name__)
LEAST_TURN_TOKENS = 16  # an observation leaves at least this much room for the turn that follows
Limit = Literal["turn_limit", "context_limit", "token_budget", "time_limit"]
End = Literal[Limit, "completed", "killed"]


class SampledTurn(Protocol):
    """One turn's tokens, all lists [n]; `finish` is "stop", "length", or "time" where its seconds were over."""

    ids: list[int]
    log_probs: list[float]
    versions: list[int]
    finish: str
    seconds: float
    kept_cache: bool


class Sampler(Protocol):
    """What an episode needs of the policy."""

    def episode(self) -> AbstractAsyncContextManager[int | None]: ...

    async def generate(
        self,
        ids: Sequence[int],
        *,
        temperature: float,
        max_tokens: int,
        pinned: int | None = None,
        max_seconds: float | None = None,
    ) -> SampledTurn: ...


class Wording(Protocol):
    """Text to tokens and back (`common.prompt.Prompt`)."""

    freed_share: float | None  # of a full context, freed by stubs; None: it ends the episode

    def opening(self, instruction: str, supervisor: Task) -> list[int]: ...
    def observation(self, text: str, room: int, *, stopped: bool = True) -> list[int]: ...
    def stub(self, *, stopped: bool = True) -> list[int]: ...
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
    ids: list[int]  # [T]: opening, then sampled tokens and observations by turns; contexts one after the other
    turns: list[Turn] = field(default_factory=list)
    repeats: list[tuple[int, int]] = field(default_factory=list)  # in `ids`, with which each later context begins
    tags: list[str] = field(default_factory=list)
    reward: float = 0.0
    success: bool = False
    failures: tuple[str, ...] = ()
    started_at: float = 0.0  # wall clock, seconds since 1970
    seconds: float = 0.0
    engine_seconds: float = 0.0
    world_seconds: float = 0.0

    @property
    def sampled_tokens(self) -> int:
        return sum(turn.end - turn.begin for turn in self.turns)

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
    slot: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> Episode:
    """Roll out a lease. `longest` is how many tokens the engine can hold; `on_begin` gets the episode, which grows.

    Turns are taken within a `slot`; the world is opened before it and graded after it.

    Raises:
        WorldFailure, EngineFailure, RequestFailure: infrastructure; the lease is to be returned.
    """
    clock = time.perf_counter
    began, started_at = clock(), time.time()
    world = await worlds.open(lease.task_id)
    try:
        episode = Episode(lease, prompt.opening(world.task.instruction, world.task), started_at=started_at)
        episode.world_seconds += clock() - began
        opened = clock()
        async with slot():
            began += clock() - opened  # what it waited for its slot is not the episode's
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
    clock = _Clock(episode, sampling.max_episode_seconds)
    context = Context(episode.ids, min(sampling.max_context_tokens, longest), prompt.freed_share)
    while True:
        max_tokens, limit = _most_tokens(episode, context, sampling)
        if max_tokens < 1 or clock.is_over:
            return limit if max_tokens < 1 else "time_limit"
        sampled = await policy.generate(
            context.ids, temperature=sampling.temperature, max_tokens=max_tokens, pinned=pinned, **clock.left
        )
        stopped = prompt.has_stopped(sampled.ids)
        _append_turn(episode, sampled)
        context.sampled(sampled.ids, prompt.stub(stopped=stopped))
        if sampled.finish != "stop":
            if sampled.finish == "time" or limit != "turn_limit":
                return "time_limit" if sampled.finish == "time" else limit
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
        room = context.most_room - min(LEAST_TURN_TOKENS, sampling.max_turn_tokens)
        observation = prompt.observation(text, room, stopped=stopped)
        if not observation or not _show(episode, context, observation, sampling):
            return "context_limit"


class _Clock:
    """How much of its time an episode has spent in engine and world since its turns began."""

    def __init__(self, episode: Episode, seconds: float | None) -> None:
        self._episode, self._seconds = episode, seconds
        self._began = self._now()

    @property
    def left(self) -> dict[str, float]:
        """As an argument of `generate`, where there is a limit."""
        return {} if self._seconds is None else {"max_seconds": self._seconds - (self._now() - self._began)}

    @property
    def is_over(self) -> bool:
        return any(seconds <= 0 for seconds in self.left.values())

    def _now(self) -> float:
        return self._episode.engine_seconds + self._episode.world_seconds


def _most_tokens(episode: Episode, context: Context, sampling: Sampling) -> tuple[int, Limit]:
    """Tokens that the next turn may have, and the limit that it has met when it has so many; `turn_limit`: its own."""
    limits: list[tuple[int, Limit]] = [(context.room, "context_limit")]
    if sampling.max_episode_tokens is not None:
        limits.append((sampling.max_episode_tokens - episode.sampled_tokens, "token_budget"))
    tokens, limit = min(limits)
    # a turn that fills the context exactly has met that limit too, unless there will be room again
    goes_on = limit == "context_limit" and context.most_room > context.room
    if tokens < sampling.max_turn_tokens or (tokens == sampling.max_turn_tokens and not goes_on):
        return tokens, limit
    return sampling.max_turn_tokens, "turn_limit"


def _show(episode: Episode, context: Context, observation: list[int], sampling: Sampling) -> bool:
    """What comes after a turn, in this context or a further one; False: a trajectory can hold no more of those."""
    new = context.show(observation, sampling.max_turn_tokens)
    if new is None:
        episode.ids += observation
        return True
    if len(episode.ids) + len(context.ids) + sampling.max_turn_tokens > MAX_TOKENS:
        return False
    episode.repeats.append((len(episode.ids), len(episode.ids) + new))
    episode.ids += context.ids
    episode.tag("stubs")
    return True


def _append_turn(episode: Episode, sampled: SampledTurn) -> None:
    episode.engine_seconds += sampled.seconds
    if not sampled.ids:  # its time was over before it began
        return
    begin = len(episode.ids)
    episode.ids += sampled.ids
    episode.turns.append(Turn(begin, len(episode.ids), tuple(sampled.log_probs), tuple(sampled.versions)))
    log.debug(
        "turn_sampled",
        lease=episode.lease.lease_id,
        turn=len(episode.turns),
        tokens=len(sampled.ids),
        policy_version=max(sampled.versions),
        seconds=round(sampled.seconds, 3),
    )
    if len({version for turn in episode.turns for version in turn.versions}) > 1:
        episode.tag("several_versions")
    if sampled.kept_cache:
        episode.tag("kept_cache")


async def _execute(episode: Episode, world: OpenWorld, code: str | None) -> Seen | None:
    if code is None:
        episode.tag("no_code")
        return None
    since = time.perf_counter()
    seen = await world.execute(code)
    episode.world_seconds += time.perf_counter() - since
    return seen
