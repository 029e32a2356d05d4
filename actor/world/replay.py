"""Replay: a trajectory's turns executed again in a fresh world, and all that comes of it compared with the record.

    Trajectory ─► its turns, sampled again as they are ─► `run_episode` ─► observations, end, verdict ─► `Replay`

The episode's own code decides what is executed, what an observation looks like, how much room it has and when the
episode is over, so nothing of that is written twice. Engine and world are seeded: what differs is a defect, or has one
of the reasons in `EXCUSES`, which are found and named, not assumed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np

from actor.episode import Episode, Wording, run_episode
from actor.trajectory import LONGEST_FAILURE, MOST_FAILURES
from actor.world_protocol import Judged, OpenWorld, Seen, Task, Worlds
from common.behaviour import KILLED
from common.messages import Int32, Trajectory
from common.rollouts import transcript

Kind = Literal["opening", "observation", "cut", "end", "grade"]
Outcome = Literal["same", "different", "not_exact"]
CLOCK, CHANCE, ADDRESS = "clock", "chance", "address"
EXCUSES = {
    CLOCK: "a limit of time killed a cell or ended the episode, which no replay meets at the same instruction",
    CHANCE: "its code asks the machine for chance or for processor time, which the engine does not seed",
    ADDRESS: "an observation shows addresses in memory, which are another process's",
}
CLOCKS = ("time", "episode", "cpu", "killed")  # what kills a cell at no instruction in particular
UNSEEDED = re.compile(
    r"\b(uuid1|uuid4|urandom|SystemRandom|getpid|process_time\w*|thread_time\w*|clock_gettime\w*|id\()"
)
MEMORY_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
NOT_COMPARED = ("several_versions",)  # tags that tell of the engine, not of the world


class ReplayWording(Wording, Protocol):
    """What replay needs of the prompt: what an episode needs, and tokens as text for the diff."""

    def text(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Difference:
    """One thing that came out otherwise."""

    kind: Kind
    turn: int  # of the action that led to it, from 0; -1: before the first
    recorded: str
    replayed: str
    excuse: str = ""  # a key of EXCUSES where the difference has such a reason

    def diff(self) -> str:
        """Both as a unified diff."""
        sides = self.recorded.splitlines(), self.replayed.splitlines()
        return "\n".join(difflib.unified_diff(*sides, "recorded", "replayed", lineterm="", n=2))


@dataclass(frozen=True)
class Replay:
    """A trajectory replayed."""

    trajectory_id: str
    task_id: str
    label: str
    turns: int  # executed
    reward: float  # of the replay
    success: bool
    differences: tuple[Difference, ...]
    excuses: tuple[str, ...]  # keys of EXCUSES: why it cannot be replayed exactly, whether it differs now or not

    @property
    def outcome(self) -> Outcome:
        if any(not difference.excuse for difference in self.differences):
            return "different"
        return "not_exact" if self.differences else "same"

    def facts(self) -> dict[str, Any]:
        """As one JSON object."""
        told = asdict(self) | {"outcome": self.outcome, "excuses": {name: EXCUSES[name] for name in self.excuses}}
        told["differences"] = [asdict(difference) | {"diff": difference.diff()} for difference in self.differences]
        return told


async def replay(trajectory: Trajectory, worlds: Worlds, prompt: ReplayWording, longest: int) -> Replay:
    """Execute a trajectory's turns in a fresh world and compare. `longest`: tokens that its engine could hold.

    Raises:
        UnusableTask: the data root has no such task.
        WorldFailure: a world broke down, which says nothing of the trajectory.
    """
    world = await worlds.open(trajectory.lease.task_id)
    rerun = _Rerun(trajectory, world, prompt)
    try:
        try:
            await run_episode(trajectory.lease, rerun, rerun, prompt, longest, on_begin=rerun.begun.append)
        except _NoMoreTurns:
            rerun.begun[0].tag("goes_on")
        verdict = rerun.verdict or await world.grade()
    finally:
        await world.close()
    episode = rerun.begun[0]
    found = [*_gaps(rerun, episode, prompt), *_end(rerun, episode, prompt), *_grade(rerun, verdict)]
    excuses = _Excuses(rerun)
    return Replay(
        trajectory_id=trajectory.trajectory_id,
        task_id=trajectory.lease.task_id,
        label=trajectory.lease.label,
        turns=len(episode.turns),
        reward=verdict.reward,
        success=verdict.success,
        differences=tuple(excuses.judged(difference) for difference in found),
        excuses=tuple(excuses.known(found)),
    )


class _NoMoreTurns(Exception):  # noqa: N818  # it names what happened
    """The replay needs a turn after the last one that was recorded."""


@dataclass
class _RepeatedTurn:
    """A recorded turn, as if it had been sampled now."""

    ids: list[int]
    log_probs: list[float]
    versions: list[int]
    finish: str
    seconds: float = 0.0
    kept_cache: bool = False


@dataclass
class _Rerun:
    """Policy and worlds of one replay: turns as recorded, and one world that stays open to be graded in any case."""

    trajectory: Trajectory
    world: OpenWorld
    prompt: ReplayWording
    begun: list[Episode] = field(default_factory=list)
    seen: dict[int, Seen] = field(default_factory=dict)  # by turn
    code: dict[int, str] = field(default_factory=dict)  # by turn
    verdict: Judged | None = None
    position: int = 0

    @property
    def task(self) -> Task:
        return self.world.task

    @property
    def turns(self) -> int:
        """Recorded ones."""
        return len(self.trajectory.turns)

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[int | None]:
        yield None

    async def generate(
        self,
        ids: Sequence[int],
        *,
        temperature: float,
        max_tokens: int,
        pinned: int | None = None,
        max_seconds: float | None = None,
    ) -> _RepeatedTurn:
        """The next recorded turn, whatever stands before it now."""
        del ids, temperature, pinned, max_seconds
        if self.position == self.turns:
            raise _NoMoreTurns
        begin, end = self.trajectory.turns[self.position]
        sampled = self.ids(self.position)
        self.position += 1
        log_probs, versions = self.trajectory.log_probs[begin:end], self.trajectory.versions[begin:end]
        stopped = self.prompt.has_stopped(sampled) or len(sampled) < max_tokens
        return _RepeatedTurn(sampled, log_probs.tolist(), versions.tolist(), "stop" if stopped else "length")

    def ids(self, turn: int) -> list[int]:
        """A recorded turn's tokens."""
        begin, end = self.trajectory.turns[turn]
        ids: list[int] = self.trajectory.tokens[begin:end].tolist()
        return ids

    async def open(self, _task_id: str) -> OpenWorld:
        return self

    async def execute(self, code: str) -> Seen:
        self.code[self.position - 1] = code
        self.seen[self.position - 1] = seen = await self.world.execute(code)
        return seen

    async def grade(self) -> Judged:
        self.verdict = await self.world.grade()
        return self.verdict

    async def close(self) -> None:
        """Whoever opened the world closes it, when it is graded."""


def _gaps(rerun: _Rerun, episode: Episode, prompt: ReplayWording) -> list[Difference]:
    """What stands before each turn: the opening, then observations."""
    found = []
    theirs, ours = _spans_before(*rerun.trajectory.transcript), _spans_before(*_transcript_of(episode))
    for number, (recorded, replayed) in enumerate(zip(theirs, ours, strict=False)):
        if recorded != replayed:
            kind: Kind = "opening" if number == 0 else _kind(rerun, number - 1, recorded, prompt)
            found.append(Difference(kind, number - 1, *_texts(recorded, replayed, prompt)))
    return found


def _transcript_of(episode: Episode) -> tuple[Int32, Int32]:
    turns = np.array([(turn.begin, turn.end) for turn in episode.turns], np.int32).reshape(-1, 2)
    repeats = np.array(episode.repeats, np.int32).reshape(-1, 2)
    return transcript(np.array(episode.ids, np.int32), turns, repeats)


def _spans_before(tokens: Int32, turns: Int32) -> list[list[int]]:
    """What stands before each turn."""
    ends = [0, *(int(end) for _, end in turns)]
    return [tokens[end:begin].tolist() for end, (begin, _) in zip(ends, turns, strict=False)]


def _kind(rerun: _Rerun, turn: int, recorded: list[int], prompt: ReplayWording) -> Kind:
    """`cut` where the world said the same, and it was the room for it that differed."""
    sampled = rerun.ids(turn)
    said = prompt.told(sampled, rerun.seen[turn].text if turn in rerun.seen else None)
    whole = prompt.observation(said, len(recorded), stopped=prompt.has_stopped(sampled))
    return "cut" if whole == recorded else "observation"


def _texts(recorded: list[int], replayed: list[int], prompt: ReplayWording) -> tuple[str, str]:
    texts = prompt.text(recorded), prompt.text(replayed)
    return texts if texts[0] != texts[1] else (f"{texts[0]}\n{recorded}", f"{texts[1]}\n{replayed}")


def _end(rerun: _Rerun, episode: Episode, prompt: ReplayWording) -> list[Difference]:
    """How it ended, after how many turns, and what happened on the way."""
    recorded = _ending(rerun.turns, rerun.trajectory.tags)
    replayed = _ending(len(episode.turns), episode.tags)
    if recorded == replayed:
        return []
    last = len(episode.turns) - 1
    seen = rerun.seen.get(last)
    goes_on = f"\nafter turn {last}: {prompt.text(rerun.ids(last + 1))}" if last + 1 < rerun.turns else ""
    return [Difference("end", last, recorded + goes_on, replayed + (f"\n{seen.text}" if seen else ""))]


def _ending(turns: int, tags: Sequence[str]) -> str:
    return f"turns {turns}\n{', '.join(sorted(set(tags) - set(NOT_COMPARED)))}"


def _grade(rerun: _Rerun, verdict: Judged) -> list[Difference]:
    trajectory = rerun.trajectory
    recorded = _verdict(trajectory.reward, trajectory.failures, success=trajectory.success)
    replayed = _verdict(verdict.reward, verdict.failures, success=verdict.success)
    return [] if recorded == replayed else [Difference("grade", rerun.turns - 1, recorded, replayed)]


def _verdict(reward: float, failures: Sequence[str], *, success: bool) -> str:
    lines = (f"failed: {failure[:LONGEST_FAILURE]}" for failure in failures[:MOST_FAILURES])
    return "\n".join((f"reward {reward!r}", f"success {success}", *lines))


class _Excuses:
    """From which turn on a replay may differ, and why."""

    def __init__(self, rerun: _Rerun) -> None:
        killed = {f"killed_by_{clock}" for clock in CLOCKS} & set(rerun.trajectory.tags)
        recorded = [_recorded_kill(rerun)] if killed else []
        clocks = [turn for turn, seen in rerun.seen.items() if seen.killed in CLOCKS]
        if "time_limit" in rerun.trajectory.tags:
            recorded.append(rerun.turns - 1)
        chances = [turn for turn, code in rerun.code.items() if UNSEEDED.search(code)]
        starts = {CLOCK: [*recorded, *clocks], CHANCE: chances}
        self._since = {name: min(turns) for name, turns in starts.items() if turns}

    def judged(self, difference: Difference) -> Difference:
        """The difference with its excuse, where it has one."""
        otherwise = ADDRESS if _only_addresses(difference) else ""
        name = next((name for name, turn in self._since.items() if difference.turn >= turn), otherwise)
        return replace(difference, excuse=name)

    def known(self, found: Sequence[Difference]) -> list[str]:
        return [*self._since, *([ADDRESS] if any(_only_addresses(difference) for difference in found) else [])]


def _recorded_kill(rerun: _Rerun) -> int:
    """The first recorded turn whose cell was killed: the one that was told so, else the last one, which nobody told."""
    tokens, turns = rerun.trajectory.transcript
    observations = (tokens[end:begin].tolist() for (_, end), (begin, _) in pairwise(turns))
    told = (number for number, ids in enumerate(observations) if KILLED.search(rerun.prompt.text(ids)))
    return next(told, rerun.turns - 1)


def _only_addresses(difference: Difference) -> bool:
    masked = (MEMORY_ADDRESS.sub("0x", side) for side in (difference.recorded, difference.replayed))
    return difference.kind == "observation" and len(set(masked)) == 1
