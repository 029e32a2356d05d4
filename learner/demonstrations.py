"""Demonstrations to learn from before there is a policy: a file of JSON lines in, token sequences with weights out.

A demonstration is one finished episode of somebody who errs now and then. What it says is checked line by line, because
the file is made by another program; what it becomes is exactly what an episode's prompt would build.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import UsageError
from common.messages import Int32
from common.prompt import Prompt

LOG_IN = ".login("


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DemonstratedSupervisor(_Record):
    """On whose behalf the task was done."""

    first_name: str
    last_name: str
    email: str
    phone_number: str


class DemonstratedTurn(_Record):
    """What was executed, and what the world printed."""

    code: str = Field(min_length=1)
    observation: str


class Demonstration(_Record):
    """One line of the file."""

    task_id: str = Field(min_length=1)
    scenario: str = Field(min_length=1)
    instruction: str = Field(min_length=1)
    supervisor: DemonstratedSupervisor
    turns: tuple[DemonstratedTurn, ...] = Field(min_length=1)
    right: bool
    success: bool


def read_demonstrations(file: Path) -> list[Demonstration]:
    """All of the file's demonstrations, in order.

    Raises UsageError that names the file, and the line when one does not fit.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{file}: {reason}: `loop world demonstrate` writes demonstrations") from None
    found = [_parsed(line, f"{file}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise UsageError(f"{file}: holds no demonstration; `loop world demonstrate` writes them")
    return found


def _parsed(line: str, where: str) -> Demonstration:
    try:
        return Demonstration.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{where}: {field + ': ' if field else ''}{first['msg']}") from None


def split_tasks(
    demonstrations: Sequence[Demonstration], held_out: float, rng: random.Random
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Those to train on and those to measure on, split by task so that no task is in both."""
    tasks = sorted({demonstration.task_id for demonstration in demonstrations})
    kept_out = set(rng.sample(tasks, round(len(tasks) * held_out)))
    train = [demonstration for demonstration in demonstrations if demonstration.task_id not in kept_out]
    return train, [demonstration for demonstration in demonstrations if demonstration.task_id in kept_out]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A demonstration as tokens. `tokens` [T]; `sampled` [T], True where the policy would have sampled the token."""

    scenario: str
    right: bool
    tokens: Int32
    sampled: np.ndarray[tuple[int], np.dtype[np.bool_]]


def as_example(demonstration: Demonstration, prompt: Prompt, context: int, *, drill: bool = False) -> Example | None:
    """The episode's tokens as an actor would have them; None when they exceed `context`.

    A drill leaves out the turn that logs in, which is long and always the same: copying values is learned sooner from
    sequences that consist of little else.
    """
    tokens = prompt.opening(demonstration.instruction, demonstration.supervisor)
    sampled = [False] * len(tokens)
    turns = [turn for turn in demonstration.turns if not (drill and LOG_IN in turn.code)] or demonstration.turns
    for number, turn in enumerate(turns, start=1):
        reply = prompt.reply(turn.code)
        seen = prompt.observation(turn.observation, context) if number < len(turns) else []
        tokens += reply + seen
        sampled += [True] * len(reply) + [False] * len(seen)
    if len(tokens) > context:
        return None
    return Example(
        scenario=demonstration.scenario,
        right=demonstration.right,
        tokens=np.array(tokens, np.int32),
        sampled=np.array(sampled, np.bool_),
    )
