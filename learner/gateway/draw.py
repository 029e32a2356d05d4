"""Which tasks are rolled out, and in which order (stage 1). Pure, apart from reading the lists.

Training: the list's tasks in seeded random order, each once before any comes again: a pass over the list is an epoch.
What stands at a place of that endless list follows from the seed alone; places of tasks that are left out for a while
are passed over, which follows from what came of earlier draws. The ledger has both, so a gateway that restarts goes on
where it was.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from common.config import Section
from common.errors import UsageError

if TYPE_CHECKING:
    from common.messages import Sampling
    from learner.gateway.history import History

TASK_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,200}")  # what a lease may name


class RolloutConfig(Section):
    """What is rolled out for training, and how old it may be."""

    train_tasks: Path = Field(
        default=Path("train.txt"),
        description="task ids to train on, one a line",
        examples=["root/data/datasets/train.txt"],
    )
    steps: int = Field(default=24, ge=0, description="steps of the whole run, count", examples=[24])
    groups_per_step: int = Field(default=12, ge=1, description="task draws that a step trains on, count", examples=[40])
    group_size: int = Field(default=6, ge=2, description="rollouts of a task draw (K), count", examples=[6])
    staleness_bound: int = Field(
        default=0,
        ge=0,
        description="largest lag of a token that is trained on, policy versions; 0 alternates rollouts and steps",
        examples=[4],
    )
    temperature: float = Field(default=1.0, gt=0, le=10, description="softmax temperature of rollouts", examples=[1.0])
    max_turns: int = Field(default=7, ge=1, description="turns of an episode, count", examples=[40])
    max_turn_tokens: int = Field(default=90, ge=1, description="tokens sampled in one turn, count", examples=[1500])
    max_context_tokens: int = Field(
        default=640, ge=16, description="tokens of an episode's context, count", examples=[32000]
    )
    max_episode_tokens: int | None = Field(
        default=None, ge=1, description="tokens sampled in a whole episode, count; none: no limit", examples=[20000]
    )
    max_episode_seconds: float | None = Field(
        default=None,
        gt=0,
        description="time of an episode in engine and world, seconds, while its actor swaps versions not counted; "
        "none: no limit",
        examples=[1800.0],
    )
    lease_seconds: float = Field(
        default=60.0, gt=0, description="silence after which an actor's leases lapse, seconds", examples=[120.0]
    )
    most_failures: int = Field(
        default=3, ge=1, description="lapsed and returned leases after which a member is dropped, count", examples=[3]
    )
    straggler_share: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="of the members of a step's groups that are not lost, the share that is waited for while the "
        "trainer waits, the rest is cut; 1 waits for all",
        examples=[1.0],
    )
    straggler_members: int | None = Field(
        default=None,
        ge=2,
        description="members that every group has at least before any is cut, count; none: two thirds of group_size, "
        "rounded up",
        examples=[4],
    )
    stragglers: Literal["cut", "carry"] = Field(
        default="cut",
        description="what becomes of groups whose last members a step does not wait for: cut: they are closed without "
        "those; carry: they go on, others are drawn in their place, and they are trained on in a later step, when they "
        "are whole; needs a staleness_bound of 1 or more",
        examples=["carry"],
    )
    refill_most: int = Field(
        default=0,
        ge=0,
        description="groups without signal (all rewards equal) that a step replaces by other draws at most, count; "
        "0 replaces none",
        examples=[40],
    )
    retire_after: int | None = Field(
        default=None,
        ge=1,
        description="groups of a task without signal, one after the other, after which it is left out for a while, "
        "count; none leaves out none",
        examples=[3],
    )
    retire_epochs: int = Field(
        default=1,
        ge=1,
        description="epochs (passes over the list) that such a task is left out before it is tried again, count",
        examples=[2],
    )
    horizon_start: int | None = Field(
        default=None,
        ge=1,
        description="turns of an episode at the first step, growing linearly to max_turns, count; none: max_turns",
        examples=[10],
    )
    horizon_steps: int | None = Field(
        default=None, ge=1, description="steps after which max_turns is reached, count", examples=[20]
    )

    @model_validator(mode="after")
    def horizon_grows(self) -> Self:
        """A schedule of turns has a start, a length, and grows."""
        if (self.horizon_start is None) != (self.horizon_steps is None):
            given, missing = ("start", "steps") if self.horizon_steps is None else ("steps", "start")
            raise ValueError(f"rollout.horizon_{given} is set, but rollout.horizon_{missing} is not: set both or none")
        if self.horizon_start is not None and self.horizon_start > self.max_turns:
            raise ValueError(
                f"rollout.horizon_start {self.horizon_start} is above rollout.max_turns {self.max_turns}: lower it"
            )
        return self

    @model_validator(mode="after")
    def enough_members_remain(self) -> Self:
        """A group has the members that it is not cut below."""
        if self.straggler_members is not None and self.straggler_members > self.group_size:
            raise ValueError(
                f"rollout.straggler_members {self.straggler_members} is above rollout.group_size {self.group_size}: "
                "lower it"
            )
        return self

    @model_validator(mode="after")
    def what_is_carried_may_be_older(self) -> Self:
        """What goes on beyond a step is trained on by a later version."""
        if self.stragglers == "carry" and not self.staleness_bound:
            raise ValueError("rollout.stragglers: carry needs rollout.staleness_bound of 1 or more: raise it, or cut")
        return self

    @property
    def least_members(self) -> int:
        """Members that a group is not cut below, count."""
        return self.straggler_members or max(2, -(-2 * self.group_size // 3))

    def turns_at(self, step: int) -> int:
        """Turns of an episode that is drawn when `step` steps are made."""
        if self.horizon_start is None or self.horizon_steps is None:
            return self.max_turns
        grown = (self.max_turns - self.horizon_start) * min(step, self.horizon_steps) // self.horizon_steps
        return self.horizon_start + grown

    @property
    def sampling(self) -> Sampling:
        """How training episodes are sampled, once the horizon has grown."""
        # imported when used: messages and numpy would double the time of `--help`
        from common.messages import Sampling  # noqa: PLC0415

        return Sampling(
            temperature=self.temperature,
            max_turns=self.max_turns,
            max_turn_tokens=self.max_turn_tokens,
            max_context_tokens=self.max_context_tokens,
            max_episode_tokens=self.max_episode_tokens,
            max_episode_seconds=self.max_episode_seconds,
        )


class TaskDraw:
    """The tasks of a run's training, place by place, and which of them are left out now.

    Raises:
        UsageError: tasks are to be retired from a list that a single step draws whole.
    """

    def __init__(self, tasks: Sequence[str], seed: int, config: RolloutConfig) -> None:
        if config.retire_after is not None and len(tasks) <= config.groups_per_step:
            raise UsageError(
                f"learner.rollout.retire_after: the list has {len(tasks)} tasks and a step draws "
                f"{config.groups_per_step}, so none can be left out: give a longer list, or unset it"
            )
        self._tasks = tuple(tasks)
        self._seed = seed
        self._config = config
        self._pass = -1
        self._order: list[str] = []

    def task(self, number: int) -> str:
        """The task at place `number` of the endless list, from 0."""
        turn, index = divmod(number, len(self._tasks))
        if turn != self._pass:
            self._pass, self._order = turn, list(self._tasks)
            random.Random(f"{self._seed}:{turn}").shuffle(self._order)  # noqa: S311 - a reproducible order, no secret
        return self._order[index]

    def next_number(self, history: History) -> int:
        """The place of the next draw: the first after the last draw whose task is not left out."""
        number, epoch, left_out = history.next_number, -1, set[str]()
        while True:
            if number // len(self._tasks) != epoch:
                epoch = number // len(self._tasks)
                left_out = self.left_out(history, epoch)
            if self.task(number) not in left_out:
                return number
            number += 1

    def left_out_now(self, history: History) -> set[str]:
        """Tasks that the epoch of the next draw leaves out."""
        return self.left_out(history, self.next_number(history) // len(self._tasks))

    def left_out(self, history: History, epoch: int) -> set[str]:
        """Tasks that `epoch` (a pass, from 0) leaves out.

        Those whose last `retire_after` complete groups were without signal, for the `retire_epochs` passes after the
        one of their last draw. Then they are drawn once more: without signal again, they are left out again. Where
        fewer tasks than a step draws would remain, all come back.
        """
        if self._config.retire_after is None:
            return set()
        count = len(self._tasks)
        retired = {
            task
            for task, last in history.without_signal(self._config.retire_after).items()
            if epoch - last // count <= self._config.retire_epochs
        }
        retired &= set(self._tasks)
        return retired if count - len(retired) >= self._config.groups_per_step else set()


def read_tasks(file: Path, option: str) -> list[str]:
    """Task ids of a list file, one a line; empty lines are passed over.

    Raises:
        UsageError: missing, empty, a line that is no task id, or a task twice; with the option that names it.
    """
    try:
        tasks = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {file}: cannot be read: {getattr(error, 'strerror', error)}") from None
    if not tasks:
        raise UsageError(f"{option}: {file}: lists no task")
    for task, count in Counter(tasks).items():
        if not TASK_ID.fullmatch(task):
            raise UsageError(
                f"{option}: {file}: '{task[:100]}' is not a task id; 'loop world tasks --out FILE' writes such a list"
            )
        if count > 1:
            raise UsageError(f"{option}: {file}: lists {task} more than once")
    return tasks
