"""All that an actor knows of worlds: open a task, execute cells, grade, finish. AppWorld's are in `actor.world`.

What `--world.provider package.module:name` names is called with the section `world` and gives a `WorldService`; a
class whose constructor takes the section will do. In the order of an actor's life:

    provider(config)         once, in a thread: find data, install what is needed, start nothing
    await service.start()    returns when worlds can be opened
    service.waiting_for      what all worlds wait for, as a process that starts again; in the actor's status
    service.check(task_ids)  in a thread, beside `start`: all tasks that the learner may ask for, before any is leased
    await service.open(id)   as often as there are leases: a world, which is executed in, graded, closed
    await service.close()    ends whatever it started
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol

from actor.world.config import WorldConfig
from common.errors import UsageError
from common.prompt import Supervisor


class WorldFailure(Exception):  # noqa: N818  # named for what it means to an episode: infrastructure, never a reward
    """The world or its grading broke down; says nothing about the policy. The episode has no reward."""


class UnusableTask(WorldFailure):
    """The task cannot be had here at all: it is not known, or its data are broken. Other tasks can."""


class Task(Supervisor, Protocol):
    """What a world says of its task."""

    @property
    def instruction(self) -> str: ...


class Seen(Protocol):
    """What a cell led to: its observation, whether the task is completed, what killed the cell, if anything, and
    whether its world takes further cells all the same.
    """

    @property
    def text(self) -> str: ...
    @property
    def completed(self) -> bool: ...
    @property
    def killed(self) -> str | None: ...
    @property
    def goes_on(self) -> bool: ...


class Judged(Protocol):
    """The verdict of a task's tests: reward from 0 to 1, success, requirements that failed; what a cheat gets is 0."""

    @property
    def reward(self) -> float: ...
    @property
    def success(self) -> bool: ...
    @property
    def failures(self) -> tuple[str, ...]: ...
    @property
    def tampered(self) -> bool: ...


class OpenWorld(Protocol):
    """One episode's world. Its methods raise `WorldFailure` when it broke down."""

    @property
    def task(self) -> Task: ...
    async def execute(self, code: str) -> Seen: ...
    async def grade(self) -> Judged: ...

    async def close(self) -> None:
        """Finish; always called, graded or not, and maybe amid a cell. Idempotent."""


class Worlds(Protocol):
    """Where worlds come from."""

    async def open(self, task_id: str) -> OpenWorld:
        """A world at the task's start. Raises WorldFailure; UnusableTask when another try would be no better."""


class WorldService(Worlds, Protocol):
    """Worlds of one kind, for one actor."""

    def check(self, task_ids: Sequence[str]) -> None:
        """Whether these tasks can be had, quickly. Raises UsageError that names the first that cannot, and why."""

    @property
    def waiting_for(self) -> str:
        """What all worlds wait for, in words, as a process that starts again; empty while nothing is lacking."""

    async def start(self) -> None:
        """Returns when worlds can be opened. Raises UsageError, RunError."""

    async def close(self) -> None:
        """Ends what was started. Idempotent, and right at any time."""


Provider = Callable[[WorldConfig], WorldService]


def provider_of(name: str) -> Provider:
    """What `package.module:name` names. Raises UsageError when it cannot be imported, is not there or not callable."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"world.provider: {name}: {error}; is it importable (PYTHONPATH)?") from None
    if not callable(found):
        raise UsageError(f"world.provider: {name} is not a class or function that takes the section `world`")
    provider: Provider = found
    return provider


def worlds_of(provider: Provider, config: WorldConfig) -> WorldService:
    """What the provider gives. Raises UsageError as the provider does, and where a part of `WorldService` lacks."""
    worlds = provider(config)
    parts = ("check", "waiting_for", "start", "open", "close")
    missing = [part for part in parts if not hasattr(worlds, part)]
    if missing:
        raise UsageError(
            f"world.provider: its {type(worlds).__name__} has no {', '.join(missing)}; see actor/world_protocol.py"
        )
    return worlds
