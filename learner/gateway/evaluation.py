"""Stage 1: what is evaluated, when, and under which label. Pure, apart from reading the lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from common.config import Section
from common.errors import UsageError
from common.evaluation import LIST_NAME, label_of
from learner.gateway.draw import read_tasks


class EvaluationConfig(Section):
    """What is evaluated before the first and after the last step."""

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

    @model_validator(mode="after")
    def lists_agree(self) -> Self:
        """A list beside the main one needs that one."""
        if self.beside and self.tasks is None:
            raise ValueError("evaluation.beside is set, but evaluation.tasks is not: set both or none")
        return self


@dataclass(frozen=True)
class EvaluationLists:
    """The task ids of each list that is evaluated."""

    main: tuple[str, ...] = ()  # empty: no evaluation
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by the list's name

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
        return cls(main, beside)


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


def _of_list(config: EvaluationConfig, label: str, tasks: Sequence[str], temperature: float) -> list[EvaluationTask]:
    rollouts = config.rollouts if temperature > 0 else 1
    return [EvaluationTask(label, task, temperature, rollouts) for task in tasks]
