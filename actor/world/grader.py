"""The actor's side of grading: one grader process, asked for one verdict at a time, started again when it dies."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actor.world import frames
from actor.world.guards import insist, missing_guards
from actor.world.process import WorldProcess
from actor.world.transport import first_header, receive
from actor.world_protocol import WorldFailure
from common.errors import RunError
from common.log import get_logger

log = get_logger(__name__)
VERDICT_LIMIT = 16 << 20  # bytes


@dataclass(frozen=True)
class Verdict:
    """What the task's own tests say of the state that the episode left."""

    reward: float  # share of the tests that passed, 0 to 1
    success: bool  # all passed
    passes: tuple[str, ...]  # the requirements that were met
    failures: tuple[str, ...]  # and those that were not
    tampered: bool = False  # the state changed without an API call, or a cell tried what no honest one does
    reason: str = ""  # of that, in words

    def as_tampered(self, reason: str) -> Verdict:
        """The same state, worth nothing."""
        return replace(self, reward=0.0, success=False, tampered=True, reason=reason)


class Grader:
    """The grader process and the verdicts that are awaited from it."""

    def __init__(self, python: Path, settings: dict[str, str], seconds: float, *, required: bool = False) -> None:
        self._python, self._settings, self._seconds = python, settings, seconds
        self._required = required  # its guards
        self.guards: tuple[str, ...] = ()
        self.waiting_for = ""  # in words, while it starts again
        self._process: WorldProcess | None = None
        self._turn = asyncio.Lock()
        self._number = 0

    async def start(self) -> None:
        """Returns when it is warm. Raises RunError, also when guards are required that cannot be had."""
        process = await WorldProcess.start("actor.world.grade", socket.SOCK_STREAM, self._python, self._settings)
        told = await process.first_word(first_header(process.sock))
        self.guards = tuple(told["guards"])
        missing = missing_guards(self.guards)
        log.info("world_grader_ready", guards=list(self.guards), missing=missing)
        self._process = process
        if self._required and missing:
            process.sock.close()  # it ends when it sees that, and `close` buries it: here a cancellation may come
            insist("the grader", missing)

    async def close(self) -> None:
        """Ends the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            await process.stop()

    async def grade(self, task_id: str, changes: list[bytes]) -> Verdict:
        """The verdict on a task's start state with these changes. Raises WorldFailure after one retry."""
        async with self._turn:
            try:
                told = await self._ask(task_id, changes)
            except (OSError, EOFError, TimeoutError, frames.BadFrame) as error:
                log.warning("world_grader_died", task=task_id, reason=repr(error))
                told = await self._again(task_id, changes)
        if "tampered" in told:
            return Verdict(0.0, success=False, passes=(), failures=("not tampered with",)).as_tampered(told["tampered"])
        if "verdict" not in told:
            failed = str(told.get("failed"))
            log.debug("grading_failed", task=task_id, reason=failed)  # may quote what the policy wrote
            raise WorldFailure(f"task {task_id} cannot be graded: {failed.partition(':')[0]}")
        return _verdict(told["verdict"])

    async def _again(self, task_id: str, changes: list[bytes]) -> dict[str, Any]:
        try:
            if self._process is not None:
                self._process.kill()
            await self.close()
            await self._start_again()
            return await self._ask(task_id, changes)
        except (OSError, EOFError, TimeoutError, frames.BadFrame, RunError) as error:
            raise WorldFailure(f"the grader broke down twice on task {task_id}: {error!r}") from error

    async def _start_again(self) -> None:
        self.waiting_for = "the worlds' grader, which died and starts again"
        try:
            await self.start()
        finally:
            self.waiting_for = ""

    async def _ask(self, task_id: str, changes: list[bytes]) -> dict[str, Any]:
        if self._process is None or not self._process.alive:
            raise EOFError("the grader is not running")
        self._number += 1
        head = {"number": self._number, "task": task_id, "sizes": [len(turn) for turn in changes]}
        async with asyncio.timeout(self._seconds):
            await asyncio.get_running_loop().sock_sendall(self._process.sock, frames.pack(head, b"".join(changes)))
            while True:
                told, _ = await receive(self._process.sock, VERDICT_LIMIT)
                if told.get("number") == self._number:
                    return told


def _verdict(told: dict[str, Any]) -> Verdict:
    passes = tuple(one["requirement"] for one in told["passes"])
    failures = tuple(one["requirement"] for one in told["failures"])
    return Verdict(len(passes) / max(1, told["num_tests"]), told["success"], passes, failures)
