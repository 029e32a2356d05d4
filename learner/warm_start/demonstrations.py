"""Demonstrations to learn from before there is a policy: a file of JSON lines in, validated records out.

A demonstration is one finished episode of somebody who errs now and then. The file is made by another program, so every
line is checked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import UsageError


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
    success: bool | None


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
