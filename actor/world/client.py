"""The actor's side of the worlds: opens one per episode, runs its cells, has it graded. Never blocks the event loop.

    WorldHost --task id and a socket--> host process --fork--> member process (databases) --fork--> cell process
    World     --code--> member --observation and changes--> World --changes--> grader process --verdict--> World

Time limits are kept here, outside of everything that they limit: with SIGKILL through descriptors of the processes
(pidfds), which cannot name another process by mistake.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actor.world import frames
from actor.world.config import WorldConfig
from actor.world.grader import Grader, Verdict
from actor.world.process import WorldProcess
from actor.world.root import TaskText, check_root, read_task
from actor.world.transport import ready, receive, send_descriptors
from actor.world.warm_host import WarmHost
from actor.world_protocol import UnusableTask, WorldFailure
from common.errors import RunError, UsageError
from common.log import get_logger

__all__ = ["Observation", "TaskText", "UnusableTask", "Verdict", "World", "WorldConfig", "WorldFailure", "WorldHost"]
log = get_logger(__name__)
TURN_LIMIT = 64 << 20  # bytes of one observation with its changes
KILL_SECONDS = 5.0  # a member answers this soon after its cell process was killed, or is killed too


@dataclass(frozen=True)
class Observation:
    """What a cell led to."""

    text: str
    failed: bool  # the cell raised, was refused or was killed
    completed: bool  # complete_task was called, now or before
    killed: str | None = (
        None  # what ended the cell process: time, episode, cpu, memory, output, killed, crashed, exited
    )
    goes_on: bool = False  # though it was killed: a fresh cell process takes the next cell


class WorldHost:
    """The warm process that forks worlds, the grader, and the worlds that are open."""

    def __init__(self, config: WorldConfig, python: Path, root: Path, *, log_calls: bool = False) -> None:
        self.config, self.python, self.root, self._log_calls = config, python, root, log_calls
        self._scratch = Path()
        self._host: WarmHost | None = None
        self._grader: Grader | None = None
        self._sending = asyncio.Lock()  # a loop keeps one waiter per socket: a second would displace the first
        self._slots = asyncio.Semaphore(config.max_worlds)
        self._opened = 0
        self._worlds: set[World] = set()

    @classmethod
    async def start(cls, config: WorldConfig, python: Path, root: Path, *, log_calls: bool = False) -> WorldHost:
        """Starts host and grader; returns when both are warm. Raises UsageError (root, python), RunError (start).

        `log_calls`: each world's `calls` are the API calls that its turns made.
        """
        host = cls(config, python, root, log_calls=log_calls)
        warm_task = check_root(root)
        if not os.access(python, os.X_OK):
            raise UsageError(f"{python} is not an executable python: run `loop world install` first")
        host._scratch = Path(tempfile.mkdtemp(prefix="loop-world-"))
        host._scratch.chmod(0o711)  # cells reach their own folder in it and list nothing
        settings = {"scratch": str(host._scratch), "warm_task": warm_task}
        required = config.require_confinement
        host._grader = Grader(python, {**settings, "root": str(root / "full")}, config.grade_seconds, required=required)
        host._host = WarmHost(python, {**settings, **host._of_episodes()}, required=required)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(host._host.running())
                group.create_task(host._grader.start())
        except BaseException as error:  # a cancellation, too, leaves nothing behind
            await host.close()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        return host

    def _of_episodes(self) -> dict[str, Any]:
        """What the host process is told of the episodes that it forks."""
        return {
            "root": str(self.root / "episode"),
            "characters": self.config.observation_characters,
            "memory_bytes": self.config.memory_megabytes << 20,
            "cpu_seconds": int(self.config.episode_seconds) + 1,
            "log_calls": self._log_calls,
        }

    @property
    def waiting_for(self) -> str:
        """What every world waits for, in words; empty while nothing is lacking."""
        return "; ".join(
            part.waiting_for for part in (self._host, self._grader) if part is not None and part.waiting_for
        )

    @property
    def restarts(self) -> int:
        """Times that the host died."""
        return self._host.restarts if self._host is not None else 0

    @property
    def guards(self) -> tuple[str, ...]:
        """What confines the worlds, as their host has tried it."""
        return self._host.guards if self._host is not None else ()

    async def open(self, task_id: str) -> World:
        """A world at the task's start. Waits while `max_worlds` are open. Raises WorldFailure, UnusableTask."""
        try:
            task = read_task(self.root, task_id)
        except UsageError as error:
            raise UnusableTask(str(error)) from None
        await self._slots.acquire()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            await self._warm()  # however long that warms up: the limit is of what it takes then
            async with asyncio.timeout(self.config.open_seconds):
                self._opened += 1
                number = self._opened  # others open meanwhile
                await self._ask(number, task_id, theirs.fileno())
                theirs.close()
                world = World(self, number, task, ours, await _hello(ours, task_id))
        except BaseException as error:
            theirs.close()
            ours.close()
            self._slots.release()
            if isinstance(error, TimeoutError | OSError | RunError):
                raise WorldFailure(f"no world opened for task {task_id}: {str(error) or 'it took too long'}") from error
            raise
        self._worlds.add(world)
        return world

    async def close(self) -> None:
        """Ends all worlds and both processes, and removes their files. Idempotent."""
        if self._host is not None:
            await self._host.shut()
        await asyncio.gather(*(world.close() for world in list(self._worlds)))
        if self._host is not None:
            await self._host.close()
        if self._grader is not None:
            await self._grader.close()
        if self._scratch != Path():
            shutil.rmtree(self._scratch, ignore_errors=True)

    async def fresh_cell(self, number: int, task_id: str) -> tuple[int, socket.socket]:
        """A new cell process for an open world: its pidfd, and the socket that is for its member.

        Raises OSError, WorldFailure, RunError, TimeoutError.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        for_member, shell = socket.socketpair()
        try:
            async with asyncio.timeout(self.config.open_seconds):
                await self._ask(number, task_id, theirs.fileno(), shell.fileno())
                theirs.close()
                shell.close()
                return (await _hello(ours, task_id, 1))[0], for_member
        except BaseException:
            for_member.close()
            raise
        finally:
            for sock in (ours, theirs, shell):
                sock.close()

    async def _ask(self, number: int, task_id: str, *descriptors: int) -> None:
        process = await self._warm()
        asked = json.dumps({"open": number, "task": task_id}).encode()
        async with self._sending:
            await send_descriptors(process.sock, asked, *descriptors)

    async def _warm(self) -> WorldProcess:
        assert self._host is not None
        return await self._host.running()

    def forget(self, world: World) -> None:
        """A world has closed."""
        if world in self._worlds:
            self._worlds.remove(world)
            self._slots.release()

    async def graded(self, task_id: str, changes: list[bytes]) -> Verdict:
        """The grader's verdict. Raises WorldFailure when it cannot be had."""
        assert self._grader is not None
        return await self._grader.grade(task_id, changes)


class World:
    """One episode's world. Turns are taken one at a time."""

    def __init__(self, host: WorldHost, number: int, task: TaskText, sock: socket.socket, pidfds: list[int]) -> None:
        self.number, self.task = number, task
        self._host, self._sock, self._pidfds = host, sock, pidfds
        self._changes: list[bytes] = []
        self._calls: list[bytes] = []
        self._completed = False
        self._killed: str | None = None
        self._tampered: str | None = None
        self._open, self._broken, self._member_killed = True, False, False
        self._deadline: float | None = None  # from the first cell on: a world may be opened ahead of its episode

    async def execute(self, code: str) -> Observation:
        """Runs one cell. A cell over a limit is killed; then `world.killed_cell` says whether there are more.

        Raises WorldFailure.
        """
        self._must_stand()
        if self._killed is not None:
            if not self._goes_on():
                return self._ended("The session has ended: no more code can be executed.")
            await self._restart()
        now = asyncio.get_running_loop().time()
        self._deadline = self._deadline or now + self._host.config.episode_seconds
        left = self._deadline - now
        seconds = max(0.0, min(self._host.config.cell_seconds, left))
        turn = asyncio.ensure_future(self._turn(code))
        try:
            done, _ = await asyncio.wait({turn}, timeout=seconds)
            if not done:
                self._killed = "time" if self._host.config.cell_seconds <= left else "episode"
                self._kill(1)
                done, _ = await asyncio.wait({turn}, timeout=KILL_SECONDS)
            if not done:
                self._member_killed = True
                self._kill(0)
            head, body = await turn
        except (OSError, EOFError, frames.BadFrame) as error:
            if self._killed is not None:  # an API call outlasted the kill, so its member was ended too
                return self._ended(self._why(seconds))
            self._broken = True
            raise WorldFailure(f"the world of task {self.task.task_id} broke down: {error}") from error
        finally:
            if not turn.done():  # cancelled in the middle of a turn: what comes next on the socket is not known
                turn.cancel()
                self._broken = True
        return self._observed(head, body, seconds)

    @property
    def changes(self) -> tuple[bytes, ...]:
        """The tracked database changes of the turns that made any, in order, as JSON."""
        return tuple(self._changes)

    @property
    def calls(self) -> bytes:
        """The API calls so far as JSON lines, where they are logged: as a cell process tells them, so not relied on."""
        return b"".join(self._calls)

    async def grade(self) -> Verdict:
        """Ends the episode and grades the state that it left. Raises WorldFailure."""
        self._must_stand()
        closing = asyncio.create_task(self.close())
        try:
            verdict = await self._host.graded(self.task.task_id, self._changes)
        finally:
            await closing
        if self._tampered is not None:
            verdict = verdict.as_tampered(self._tampered)
        if verdict.tampered:
            log.warning("world_tampered", task=self.task.task_id)
            log.debug("tampering_found", task=self.task.task_id, reason=verdict.reason)  # may quote the policy
        return verdict

    async def close(self) -> None:
        """Ends the world's processes. Idempotent; without `grade` the episode is abandoned."""
        if not self._open:
            return
        self._open = False
        self._kill(1)
        os.close(self._pidfds[1])
        self._sock.close()  # the member ends when it sees this, unless an API call keeps it
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await ready(self._pidfds[0], write=False)
        except TimeoutError:
            pass
        finally:
            self._kill(0)
            os.close(self._pidfds[0])
            self._host.forget(self)

    def _must_stand(self) -> None:
        if self._broken or not self._open:
            state = "broken" if self._broken else "closed"
            raise WorldFailure(f"the world of task {self.task.task_id} is {state}")

    def _goes_on(self) -> bool:
        """Whether a killed cell's world gets a fresh process: not when its time is over or its member has ended."""
        if self._host.config.killed_cell == "end" or self._member_killed:
            return False
        return self._killed not in {None, "episode", "memory", "output"}

    async def _restart(self) -> None:
        """A fresh cell process, whose socket its member gets. Raises WorldFailure."""
        self._broken = True  # until it is done
        try:
            pidfd, shell = await self._host.fresh_cell(self.number, self.task.task_id)
            os.close(self._pidfds[1])
            self._pidfds[1] = pidfd
            with shell:
                await asyncio.get_running_loop().sock_sendall(self._sock, frames.pack({"shell": True}))
                await send_descriptors(self._sock, b"s", shell.fileno())
        except (OSError, RunError, UsageError) as error:
            raise WorldFailure(f"the world of task {self.task.task_id} got no fresh process: {error}") from error
        self._broken, self._killed = False, None

    async def _turn(self, code: str) -> frames.Frame:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._sock, frames.pack({}, code.encode("utf-8", errors="replace")))
        return await receive(self._sock, TURN_LIMIT)

    def _observed(self, head: dict[str, Any], body: bytes, seconds: float) -> Observation:
        until, end = head["text"], head["text"] + head["calls"]
        text, changes = body[:until].decode(), body[end:]
        self._calls.append(body[until:end])
        if changes:
            self._changes.append(changes)
        self._completed = head["completed"]
        self._tampered = self._tampered or head.get("tampered")
        if head["ended"] is None:  # also when it ended just before its limit did
            return Observation(text, head["failed"], self._completed)
        self._killed = self._killed or head["ended"]
        self._kill(1)
        return self._ended(self._why(seconds))

    def _why(self, seconds: float) -> str:
        why = {
            "time": f"Execution timed out after {seconds:g} seconds.",
            "episode": "The time of the whole session is over.",
            "cpu": "The session used too much processor time.",
            "memory": "The session changed more data than there is room for.",
        }.get(self._killed or "", "The process that executes code ended.")
        then = (
            "The session was started anew: all variables are gone, what was done in the apps stands."
            if self._goes_on()
            else "The session has ended."
        )
        return f"Execution failed. Traceback:\n{why} {then}"

    def _ended(self, text: str) -> Observation:
        goes_on = self._goes_on()
        return Observation(text, failed=True, completed=self._completed, killed=self._killed, goes_on=goes_on)

    def _kill(self, which: int) -> None:
        """0 is the member, 1 the cell process."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfds[which], signal.SIGKILL)


async def _hello(sock: socket.socket, task_id: str, count: int = 2) -> list[int]:
    """A member's first frame: descriptors of its process and of its cell process. Raises WorldFailure, UnusableTask."""
    await ready(sock, write=False)
    data, pidfds, _, _ = socket.recv_fds(sock, frames.LENGTHS.size + 4096, count)
    if len(pidfds) == count:
        for pidfd in pidfds:
            os.set_inheritable(pidfd, False)
        return pidfds
    if not data:
        raise WorldFailure(f"no world opened for task {task_id}: the host or the new process ended")
    told = frames.header(data[frames.LENGTHS.size :])
    if "failed" in told:
        raise WorldFailure(f"no world opened for task {task_id}: {told['failed']}")
    raise UnusableTask(f"task {task_id} of the data root cannot be opened: {told.get('refused')}")
