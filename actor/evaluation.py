"""Stages 1 to 3 without a learner: every task of a data set is played, and what is finished is kept.

    jobs ─► `at_once` players ─► run_episode ─► outputs layout ─► a line of episodes.jsonl

An episode counts when its line is on the disk, behind its outputs; an evaluation that is interrupted goes on with those
that have none. What breaks around the policy is tried again, then the episode is lost and named, never counted. An
engine that fails ends this part; who owns it starts it again, and what is left is played.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from actor.episode import Episode, Sampler, Wording, run_episode
from actor.world.outputs import Played, write_outputs
from actor.world_protocol import Judged, OpenWorld, Seen, Task, UnusableTask, WorldFailure
from common.errors import RunError, UsageError
from common.evaluation import Scored
from common.log import about, get_logger
from common.messages import Lease, Sampling

log = get_logger(__name__)
LEASE_SECONDS = 3600.0  # nobody waits for it
IDENTITY, EPISODES = "evaluation.json", "episodes.jsonl"
GOES_ON = "what is finished is kept: the same command goes on"


@dataclass(frozen=True, order=True)
class Job:
    """One episode to play."""

    rollout: int  # of its task, from 0
    task_id: str


@dataclass(frozen=True)
class Finished:
    """One episode that is played and graded, as its line of episodes.jsonl has it."""

    task_id: str
    rollout: int
    success: bool
    reward: float
    version: int  # that sampled it
    turns: int
    tokens: int
    tags: tuple[str, ...]
    failures: tuple[str, ...]  # requirements that failed
    attempts: int
    seconds: float

    def scored(self, difficulty: int) -> Scored:
        return Scored(self.task_id, self.rollout, self.reward, self.success, self.version, difficulty=difficulty)


@dataclass(frozen=True)
class Lost:
    """An episode that the infrastructure failed too often; it has no result."""

    task_id: str
    rollout: int
    reason: str


class Records:
    """An evaluation's folder: what it is of, and its finished episodes.

    Raises:
        UsageError: the folder holds another evaluation.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        file = out / IDENTITY
        wanted = json.loads(json.dumps(identity))
        there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else wanted
        if there != wanted:
            other = next(name for name in {**there, **wanted} if there.get(name) != wanted.get(name))
            raise UsageError(
                f"{out}: another evaluation is there ({other}: {there.get(other)}, not {wanted.get(other)}): "
                "name another --out"
            )
        file.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        self._file = out / EPISODES
        self.finished: dict[Job, Finished] = {}
        whole = 0
        for line in self._file.read_bytes().splitlines(keepends=True) if self._file.exists() else ():
            if not line.endswith(b"\n"):
                break  # a kill tore it: that episode is played again
            whole += len(line)
            fields = json.loads(line)
            lists = {name: tuple(fields[name]) for name in ("tags", "failures")}
            self._keep(Finished(**{**fields, **lists}))
        if self._file.exists():
            os.truncate(self._file, whole)

    def add(self, finished: Finished) -> None:
        """Durable when it returns."""
        with self._file.open("ab") as stream:
            stream.write(json.dumps(asdict(finished)).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._keep(finished)

    def _keep(self, finished: Finished) -> None:
        self.finished[Job(finished.rollout, finished.task_id)] = finished


class RecordedWorld:
    """An episode's world that remembers what was done in it."""

    def __init__(self, world: RecordableWorld, task_id: str) -> None:
        self._world, self.played = world, Played(task_id)

    @property
    def task(self) -> Task:
        return self._world.task

    async def execute(self, code: str) -> Seen:
        seen = await self._world.execute(code)
        self.played.cells.append((code, seen.text))
        return seen

    async def grade(self) -> Judged:
        verdict = await self._world.grade()
        self.played.changes, self.played.calls = self._world.changes, self._world.calls
        return verdict

    async def close(self) -> None:
        await self._world.close()


class RecordableWorld(OpenWorld, Protocol):
    """What an evaluation needs of a world beyond an episode: what its outputs are written from."""

    @property
    def changes(self) -> Sequence[bytes]: ...
    @property
    def calls(self) -> bytes: ...


class RecordableWorlds(Protocol):
    """Where such worlds come from."""

    async def open(self, task_id: str) -> RecordableWorld: ...


class RecordingWorlds:
    """Opens one episode's world, and remembers it."""

    def __init__(self, worlds: RecordableWorlds) -> None:
        self._worlds = worlds
        self.world: RecordedWorld | None = None

    async def open(self, task_id: str) -> RecordedWorld:
        self.world = RecordedWorld(await self._worlds.open(task_id), task_id)
        return self.world


@dataclass(frozen=True)
class Terms:
    """How an evaluation's episodes are played."""

    out: Path
    root: Path
    experiment: str  # of the first rollout's outputs; the others' end in -r1, ...
    version: int
    sampling: Sampling
    longest: int  # tokens that the engine can hold
    attempts: int
    at_once: int

    def experiment_of(self, rollout: int) -> str:
        return f"{self.experiment}-r{rollout}" if rollout else self.experiment


@dataclass(frozen=True)
class Parts:
    """Who plays, where, in what words."""

    policy: Sampler
    worlds: RecordableWorlds
    prompt: Wording
    request_failure: type[Exception]  # one request's: the engine works on
    engine_failure: type[Exception]  # the engine is dead or stuck


async def play_all(
    jobs: Sequence[Job],
    terms: Terms,
    records: Records,
    parts: Parts,
    on_finished: Callable[[Finished], None] = lambda _: None,
) -> list[Lost]:
    """Play the jobs that have no result yet; what was lost.

    Raises:
        Exception: `parts.engine_failure`, when the engine is gone; what is finished is kept.
        RunError: something else broke that is not the episodes'; likewise.
    """
    left: Iterator[Job] = iter([job for job in jobs if job not in records.finished])
    lost: list[Lost] = []

    async def player() -> None:
        for job in left:
            outcome = await _play(job, terms, parts)
            if isinstance(outcome, Lost):
                log.error("episode_lost", task=job.task_id, rollout=job.rollout, reason=outcome.reason)
                lost.append(outcome)
                continue
            records.add(outcome)
            on_finished(outcome)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(terms.at_once, len(jobs))):
                group.create_task(player())
    except BaseExceptionGroup as errors:
        raise _first(errors, parts.engine_failure) from None
    return sorted(lost, key=lambda one: (one.task_id, one.rollout))


async def _play(job: Job, terms: Terms, parts: Parts) -> Finished | Lost:
    with about(task=job.task_id):
        return await _played(job, terms, parts)


async def _played(job: Job, terms: Terms, parts: Parts) -> Finished | Lost:
    reason = ""
    for attempt in range(1, terms.attempts + 1):
        recording = RecordingWorlds(parts.worlds)
        lease = _lease(job, attempt, terms)
        try:
            episode = await run_episode(lease, parts.policy, recording, parts.prompt, terms.longest)
        except UnusableTask as error:  # another try would be no better
            return Lost(job.task_id, job.rollout, str(error))
        except (WorldFailure, parts.request_failure) as error:
            reason = f"{type(error).__name__}: {error}"
            log.warning("episode_failed", task=job.task_id, rollout=job.rollout, attempt=attempt, reason=reason)
            continue
        assert recording.world is not None
        experiment = terms.experiment_of(job.rollout)
        await asyncio.to_thread(write_outputs, terms.out, terms.root, experiment, recording.world.played)
        return _finished(job, episode, attempt)
    return Lost(job.task_id, job.rollout, f"{terms.attempts} times, last: {reason}")


def _lease(job: Job, attempt: int, terms: Terms) -> Lease:
    group = f"{terms.experiment}.{job.task_id}"
    return Lease(
        lease_id=f"{group}.{job.rollout}.{attempt}",
        group_id=group,
        member=job.rollout,
        epoch=attempt - 1,
        task_id=job.task_id,
        purpose="evaluate",
        label="eval",
        minimum_version=terms.version,
        sampling=terms.sampling,
        time_to_live=LEASE_SECONDS,
    )


def _finished(job: Job, episode: Episode, attempts: int) -> Finished:
    return Finished(
        task_id=job.task_id,
        rollout=job.rollout,
        success=bool(episode.success),
        reward=float(episode.reward),
        version=min((version for turn in episode.turns for version in turn.versions), default=-1),
        turns=len(episode.turns),
        tokens=len(episode.ids),
        tags=tuple(episode.tags),
        failures=tuple(episode.failures),
        attempts=attempts,
        seconds=round(episode.seconds, 3),
    )


def _first(error: BaseException, engine_failure: type[Exception]) -> BaseException:
    """What lies at the bottom of groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, RunError | UsageError | engine_failure) or not isinstance(error, Exception):
        return error
    return RunError(f"{type(error).__name__}: {error}; {GOES_ON}")
