"""Stage 1: what is evaluated, when, and under which label. Pure, apart from reading the lists.

before, after   the held-out lists, while nothing is trained: `before.t0`, `after.t0.test_challenge`
online          the dev list every so many versions, on a share of the actors' slots, while training goes on: `dev.v12`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from common.config import Section
from common.errors import UsageError
from common.evaluation import LIST_NAME, label_of
from learner.gateway.draw import read_tasks

ONLINE = "dev.v"  # labels of online evaluations, before the version that they are of


class EvaluationConfig(Section):
    """What is evaluated: before the first and after the last step, and on the way."""

    tasks: Path | None = Field(
        default=None,
        description="held-out task ids, one a line; none: no evaluation",
        examples=["root/data/datasets/test_normal.txt"],
    )
    beside: tuple[Path, ...] = Field(
        default=(),
        description="further lists, each reported under its file's name, evaluated beside at the first temperature",
        examples=[("root/data/datasets/test_challenge.txt",)],
    )
    temperatures: tuple[float, ...] = Field(
        default=(0.0, 1.0), min_length=1, description="softmax temperatures, an evaluation each", examples=[(0.0,)]
    )
    rollouts: int = Field(
        default=1, ge=1, description="episodes of a task at a temperature above 0, count", examples=[4]
    )
    before: bool = Field(default=True, description="whether the start is evaluated", examples=[True])
    after: bool = Field(default=True, description="whether the end is evaluated", examples=[True])
    max_turns: int | None = Field(
        default=None, ge=1, description="turns of an episode, count; none: as in training", examples=[50]
    )

    dev_tasks: Path | None = Field(
        default=None,
        description="task ids that are evaluated while training goes on, one a line, at the first temperature",
        examples=["root/data/datasets/dev.txt"],
    )
    dev_every: int | None = Field(
        default=None,
        ge=1,
        description="policy versions from one evaluation of dev_tasks to the next; none: none is made",
        examples=[5],
    )
    dev_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="of the connected actors' slots, the share that episodes of dev_tasks may use, but at least one",
        examples=[0.25],
    )

    @model_validator(mode="after")
    def lists_agree(self) -> Self:
        """A list beside the main one needs that one; the dev list an interval."""
        if self.dev_every is not None and self.dev_tasks is None:
            raise ValueError("evaluation.dev_every is set, but evaluation.dev_tasks is not: set both or none")
        if self.beside and self.tasks is None:
            raise ValueError("evaluation.beside is set, but evaluation.tasks is not: set both or none")
        return self


@dataclass(frozen=True)
class EvaluationLists:
    """The task ids of each list that is evaluated."""

    main: tuple[str, ...] = ()  # empty: no evaluation
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by the list's name
    dev: tuple[str, ...] = ()  # evaluated while training goes on

    @classmethod
    def read(cls, config: EvaluationConfig) -> Self:
        """The lists of a configuration.

        Raises:
            UsageError: a list is missing, empty, has a task twice, or its file's name cannot be part of a label.
        """
        main = tuple(read_tasks(config.tasks, "learner.evaluation.tasks")) if config.tasks is not None else ()
        beside: dict[str, tuple[str, ...]] = {}
        for file in config.beside:
            option = "learner.evaluation.beside"
            if LIST_NAME.fullmatch(file.stem) is None:
                raise UsageError(f"{option}: {file}: its results go by its file's name: letters, digits, '_' and '-'")
            if file.stem in beside:
                raise UsageError(f"{option}: {file}: another list of that name is there: rename one")
            beside[file.stem] = tuple(read_tasks(file, option))
        dev = tuple(read_tasks(config.dev_tasks, "learner.evaluation.dev_tasks")) if config.dev_tasks else ()
        return cls(main, beside, dev)

    @property
    def task_ids(self) -> set[str]:
        """The ids of all lists."""
        return {*self.main, *self.dev, *chain.from_iterable(self.beside.values())}


@dataclass(frozen=True)
class EvaluationTask:
    """One task of one evaluation."""

    label: str  # "before.t0"
    task_id: str
    temperature: float
    rollouts: int

    @property
    def group_id(self) -> str:
        return f"{self.label}.{self.task_id}"


def evaluation_tasks(config: EvaluationConfig, lists: EvaluationLists, when: str) -> list[EvaluationTask]:
    """All of an evaluation, `when` "before" or "after": the main list by temperatures, then those beside it."""
    if not lists.main:
        return []
    first = config.temperatures[0]
    parts = [(temperature, "", lists.main) for temperature in config.temperatures]
    parts += [(first, name, tasks) for name, tasks in lists.beside.items()]
    return [
        task
        for temperature, name, tasks in parts
        for task in _of_list(config, label_of(when, temperature, name), tasks, temperature)
    ]


def online_tasks(config: EvaluationConfig, lists: EvaluationLists, version: int) -> list[EvaluationTask]:
    """All of the online evaluation of a version."""
    return _of_list(config, f"{ONLINE}{version}", lists.dev, config.temperatures[0])


def is_online(label: str) -> bool:
    """Whether an evaluation goes on beside training, so that nobody waits for it."""
    return label.startswith(ONLINE)


def _of_list(config: EvaluationConfig, label: str, tasks: Sequence[str], temperature: float) -> list[EvaluationTask]:
    rollouts = config.rollouts if temperature > 0 else 1
    return [EvaluationTask(label, task, temperature, rollouts) for task in tasks]
