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
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actor.world import frames
from actor.world.config import WorldConfig
from actor.world.process import WorldProcess
from common.errors import RunError, UsageError
from common.log import get_logger

log = get_logger(__name__)
T = TypeVar("T")
TASK_ID = re.compile(r"[A-Za-z0-9]+_[0-9]+")
START_SECONDS = 180.0
TURN_LIMIT = 64 << 20  # bytes of one observation with its changes
KILL_SECONDS = 5.0  # a member answers this soon after its cell process was killed, or is killed too
RESTART_SECONDS = (0.0, 0.5, 2.0, 5.0, 15.0)  # waits before the host is started again; the last one repeats
REQUIRED_GUARDS = ("own-uid", "no-network")


class WorldFailure(Exception):  # noqa: N818  # named for what it means to an episode: infrastructure, never a reward
    """The world or its grading broke down; says nothing about the policy. The episode has no reward."""


@dataclass(frozen=True)
class TaskText:
    """What an agent is told of its task."""

    task_id: str
    instruction: str
    first_name: str
    last_name: str
    email: str
    phone_number: str
    datetime: str


@dataclass(frozen=True)
class Observation:
    """What a cell led to."""

    text: str
    failed: bool  # the cell raised, was refused or was killed
    completed: bool  # complete_task was called, now or before
    killed: str | None = None  # which limit ended the cell process: time, episode, cpu, output, killed, crashed, exited


@dataclass(frozen=True)
class Verdict:
    """What the task's own tests say of the state that the episode left."""

    reward: float  # share of the tests that passed, 0 to 1
    success: bool  # all passed
    passes: tuple[str, ...]  # the requirements that were met
    failures: tuple[str, ...]  # and those that were not


class WorldHost:
    """The warm process that forks worlds, the grader, and the worlds that are open."""

    def __init__(self, config: WorldConfig, python: Path, root: Path) -> None:
        self.config, self.python, self.root = config, python, root
        self.restarts = 0
        self.guards: tuple[str, ...] = ()
        self._scratch = Path()
        self._host: WorldProcess | None = None
        self._grader: Grader | None = None
        self._starting = asyncio.Lock()
        self._slots = asyncio.Semaphore(config.max_worlds)
        self._opened = 0
        self._failed_starts = 0
        self._worlds: set[World] = set()
        self._warm_task = ""
        self._closed = False

    @classmethod
    async def start(cls, config: WorldConfig, python: Path, root: Path) -> WorldHost:
        """Starts host and grader; returns when both are warm. Raises UsageError (root, python), RunError (start)."""
        host = cls(config, python, root)
        host._warm_task = check_root(root)  # noqa: SLF001
        if not os.access(python, os.X_OK):
            raise UsageError(f"{python} is not an executable python: run `loop world install` first")
        host._scratch = Path(tempfile.mkdtemp(prefix="loop-world-"))  # noqa: SLF001
        host._scratch.chmod(0o711)  # noqa: SLF001  # cells reach their own folder in it and list nothing
        host._grader = Grader(host._new_grader, config.grade_seconds)  # noqa: SLF001
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(host._running())  # noqa: SLF001
                group.create_task(host._grader.start())  # noqa: SLF001
        except BaseExceptionGroup as errors:
            await host.close()
            raise errors.exceptions[0] from None
        return host

    async def open(self, task_id: str) -> World:
        """A world at the task's start. Waits while `max_worlds` are open. Raises UsageError, WorldFailure."""
        task = read_task(self.root, task_id)
        await self._slots.acquire()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            async with asyncio.timeout(self.config.open_seconds):
                process = await self._running()
                self._opened += 1
                asked = json.dumps({"open": self._opened, "task": task_id}).encode()
                await _send_descriptor(process.sock, asked, theirs.fileno())
                theirs.close()
                world = World(self, task, ours, await _hello(ours, task_id))
        except BaseException as error:
            theirs.close()
            ours.close()
            self._slots.release()
            if isinstance(error, TimeoutError | OSError):
                raise WorldFailure(f"no world opened for task {task_id}: {error or 'it took too long'}") from error
            raise
        self._worlds.add(world)
        return world

    async def close(self) -> None:
        """Ends all worlds and both processes, and removes their files. Idempotent."""
        self._closed = True
        for world in list(self._worlds):
            await world.close()
        if self._host is not None:
            await self._host.stop()
        if self._grader is not None:
            await self._grader.close()
        if self._scratch != Path():
            shutil.rmtree(self._scratch, ignore_errors=True)

    def forget(self, world: World) -> None:
        """A world has closed."""
        if world in self._worlds:
            self._worlds.remove(world)
            self._slots.release()

    async def graded(self, task_id: str, changes: list[bytes]) -> Verdict:
        """The grader's verdict. Raises WorldFailure when it cannot be had."""
        assert self._grader is not None
        return await self._grader.grade(task_id, changes)

    async def _running(self) -> WorldProcess:
        """The warm host process, started (again) where there is none."""
        async with self._starting:
            if self._host is not None and self._host.alive:
                return self._host
            if self._closed:
                raise WorldFailure("the worlds are closed")
            if self._host is not None:
                await self._host.stop()
                self.restarts += 1
                log.error("world_host_died", returncode=self._host.process.returncode, restarts=self.restarts)
                await asyncio.sleep(RESTART_SECONDS[min(self._failed_starts, len(RESTART_SECONDS) - 1)])
            self._failed_starts += 1
            self._host = await self._new_host()
            self._failed_starts = 0
            return self._host

    async def _new_host(self) -> WorldProcess:
        settings = {
            "root": str(self.root / "episode"),
            "scratch": str(self._scratch),
            "warm_task": self._warm_task,
            "characters": self.config.observation_characters,
            "memory_bytes": self.config.memory_megabytes << 20,
            "cpu_seconds": int(self.config.episode_seconds) + 1,
        }
        process = await WorldProcess.start("actor.world.host", socket.SOCK_SEQPACKET, self.python, settings)
        told = await _within_start(process, _packet(process.sock))
        self.guards = tuple(told["guards"])
        missing = [guard for guard in REQUIRED_GUARDS if guard not in self.guards]
        log.info("world_host_ready", seconds=told["seconds"], guards=list(self.guards), missing=missing)
        if missing and self.config.require_confinement:
            await process.stop()
            raise RunError(f"world.require_confinement is set but {', '.join(missing)} cannot be had: run as root")
        return process

    async def _new_grader(self) -> WorldProcess:
        settings = {"root": str(self.root / "full"), "scratch": str(self._scratch), "warm_task": self._warm_task}
        process = await WorldProcess.start("actor.world.grade", socket.SOCK_STREAM, self.python, settings)
        await _within_start(process, _first_header(process.sock))
        return process


class World:
    """One episode's world. Turns are taken one at a time."""

    def __init__(self, host: WorldHost, task: TaskText, sock: socket.socket, pidfds: list[int]) -> None:
        self.task = task
        self._host, self._sock, self._pidfds = host, sock, pidfds
        self._changes: list[bytes] = []
        self._completed = False
        self._killed: str | None = None
        self._open = True
        self._deadline = asyncio.get_running_loop().time() + host.config.episode_seconds

    async def execute(self, code: str) -> Observation:
        """Runs one cell. A cell over a limit is killed, and its world runs no more cells. Raises WorldFailure."""
        if not self._open:
            raise WorldFailure(f"the world of task {self.task.task_id} is closed")
        if self._killed is not None:
            return self._ended("The session has ended: no more code can be executed.")
        loop = asyncio.get_running_loop()
        left = self._deadline - loop.time()
        seconds = max(0.0, min(self._host.config.cell_seconds, left))
        limit = "time" if self._host.config.cell_seconds <= left else "episode"
        try:
            turn = asyncio.ensure_future(self._turn(code))
            done, _ = await asyncio.wait({turn}, timeout=seconds)
            if not done:
                self._kill(1)
                self._killed = limit
                done, _ = await asyncio.wait({turn}, timeout=KILL_SECONDS)
            if not done:
                self._kill(0)
            head, body = await turn
        except (OSError, EOFError, frames.BadFrame) as error:
            await self.close()
            raise WorldFailure(f"the world of task {self.task.task_id} broke down: {error}") from error
        finally:
            if not turn.done():
                turn.cancel()
        return self._observed(head, body, seconds)

    async def grade(self) -> Verdict:
        """Ends the episode and grades the state that it left. Raises WorldFailure."""
        if not self._open:
            raise WorldFailure(f"the world of task {self.task.task_id} is closed")
        await self.close()
        return await self._host.graded(self.task.task_id, self._changes)

    async def close(self) -> None:
        """Ends the world's processes. Idempotent; without `grade` the episode is abandoned."""
        if not self._open:
            return
        self._open = False
        self._kill(1)
        self._kill(0)
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._sock.close()
        self._host.forget(self)

    async def _turn(self, code: str) -> frames.Frame:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._sock, frames.pack({}, code.encode("utf-8", errors="replace")))
        return await _receive(self._sock, TURN_LIMIT)

    def _observed(self, head: dict[str, Any], body: bytes, seconds: float) -> Observation:
        text, changes = body[: head["text"]].decode(), body[head["text"] :]
        if changes:
            self._changes.append(changes)
        self._completed = head["completed"]
        if head["ended"] is None:
            self._killed = None  # the cell ended just before its limit did
            return Observation(text, head["failed"], self._completed)
        self._killed = self._killed or head["ended"]
        why = {
            "time": f"Execution timed out after {seconds:g} seconds.",
            "episode": "The time of the whole session is over.",
            "cpu": "The session used too much processor time.",
        }.get(self._killed, "The process that executes code ended.")
        return self._ended(f"Execution failed. Traceback:\n{why} The session has ended.")

    def _ended(self, text: str) -> Observation:
        return Observation(text, failed=True, completed=self._completed, killed=self._killed)

    def _kill(self, which: int) -> None:
        """0 is the member, 1 the cell process."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfds[which], signal.SIGKILL)


class Grader:
    """The grader process and the verdicts that are awaited from it. One request at a time is sent."""

    def __init__(self, make: Any, seconds: float) -> None:
        self._make, self._seconds = make, seconds
        self._process: WorldProcess | None = None
        self._turn = asyncio.Lock()
        self._number = 0

    async def start(self) -> None:
        self._process = await self._make()

    async def close(self) -> None:
        if self._process is not None:
            await self._process.stop()

    async def grade(self, task_id: str, changes: list[bytes]) -> Verdict:
        """The verdict on a task's start state with these changes. Raises WorldFailure after one retry."""
        async with self._turn:
            try:
                told = await self._ask(task_id, changes)
            except (OSError, EOFError, TimeoutError, frames.BadFrame) as error:
                log.error("world_grader_died", error=repr(error))
                told = await self._again(task_id, changes)
        if "verdict" not in told:
            raise WorldFailure(f"task {task_id} cannot be graded: {told.get('failed')}")
        return _verdict(told["verdict"])

    async def _again(self, task_id: str, changes: list[bytes]) -> dict[str, Any]:
        try:
            await self.close()
            await self.start()
            return await self._ask(task_id, changes)
        except (OSError, EOFError, TimeoutError, frames.BadFrame, RunError) as error:
            raise WorldFailure(f"the grader broke down twice on task {task_id}: {error!r}") from error

    async def _ask(self, task_id: str, changes: list[bytes]) -> dict[str, Any]:
        if self._process is None or not self._process.alive:
            raise EOFError("the grader is not running")
        self._number += 1
        head = {"number": self._number, "task": task_id, "sizes": [len(turn) for turn in changes]}
        async with asyncio.timeout(self._seconds):
            await asyncio.get_running_loop().sock_sendall(self._process.sock, frames.pack(head, b"".join(changes)))
            while True:
                told, _ = await _receive(self._process.sock, TURN_LIMIT)
                if told.get("number") == self._number:
                    return told


def check_root(root: Path) -> str:
    """Whether this is a data root of ours; a task id of it. Raises UsageError that names what is missing."""
    for part in ("full", "episode"):
        for inner in ("api_docs", "base_dbs", "datasets", "tasks"):
            if not (root / part / "data" / inner).is_dir():
                raise UsageError(f"{root} is not a data root: {part}/data/{inner} is missing; run `loop world build`")
    tasks = sorted(path.name for path in (root / "episode" / "data" / "tasks").iterdir() if TASK_ID.fullmatch(path.name))
    if not tasks:
        raise UsageError(f"{root} is not a data root: episode/data/tasks holds no task; run `loop world build`")
    if any((root / "episode" / "data" / "tasks").glob("*/ground_truth")):
        raise UsageError(f"{root}/episode holds ground truth, which episodes must not see; run `loop world build` again")
    return tasks[0]


def read_task(root: Path, task_id: str) -> TaskText:
    """What an agent is told of a task. Raises UsageError for a task that the root does not have."""
    path = root / "episode" / "data" / "tasks" / task_id / "specs.json"
    if not TASK_ID.fullmatch(task_id) or not path.is_file():
        raise UsageError(f"the data root {root} has no task {task_id!r}")
    try:
        specs = json.loads(path.read_text(encoding="utf-8"))
        person = {name: str(specs["supervisor"][name]) for name in ("first_name", "last_name", "email", "phone_number")}
        return TaskText(task_id, instruction=specs["instruction"], datetime=specs["datetime"], **person)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a task's specification: {error!r}") from error


def _verdict(told: dict[str, Any]) -> Verdict:
    passes = tuple(one["requirement"] for one in told["passes"])
    failures = tuple(one["requirement"] for one in told["failures"])
    return Verdict(len(passes) / max(1, told["num_tests"]), told["success"], passes, failures)


async def _within_start(process: WorldProcess, told: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """What a starting process says first. Raises RunError when it fails or says nothing."""
    try:
        async with asyncio.timeout(START_SECONDS):
            head = await told
        if "failed" in head:
            raise RunError(f"{process.module} did not start: {head['failed']}")
        return head
    except (OSError, EOFError, TimeoutError, frames.BadFrame, ValueError) as error:
        raise RunError(f"{process.module} did not start: {error or type(error).__name__}; its log has more") from error
    finally:
        if "head" not in locals() or "failed" in locals()["head"]:
            await process.stop(0.5)


async def _packet(sock: socket.socket) -> dict[str, Any]:
    data = await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
    if not data:
        raise EOFError("it ended")
    return frames.header(data)


async def _first_header(sock: socket.socket) -> dict[str, Any]:
    return (await _receive(sock, 1 << 20))[0]


async def _receive(sock: socket.socket, limit: int) -> frames.Frame:
    """The next frame. Raises EOFError when the peer closes, BadFrame above the limit."""
    head_length, body_length = frames.lengths(await _exactly(sock, frames.LENGTHS.size), limit)
    rest = await _exactly(sock, head_length + body_length)
    return frames.header(rest[:head_length]), rest[head_length:]


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        part = await loop.sock_recv(sock, min(count - len(data), 1 << 18))
        if not part:
            raise EOFError("its process has ended")
        data += part
    return bytes(data)


async def _ready(sock: socket.socket, *, write: bool) -> None:
    """Until the socket can be read or written: asyncio has no calls of its own that pass descriptors."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(sock, lambda: waiter.done() or waiter.set_result(None))
    try:
        await waiter
    finally:
        remove(sock)


async def _send_descriptor(sock: socket.socket, data: bytes, descriptor: int) -> None:
    while True:
        try:
            socket.send_fds(sock, [data], [descriptor])
            return
        except BlockingIOError:
            await _ready(sock, write=True)


async def _hello(sock: socket.socket, task_id: str) -> list[int]:
    """A member's first frame: descriptors of its process and of its cell process. Raises UsageError, WorldFailure."""
    await _ready(sock, write=False)
    data, pidfds, _, _ = socket.recv_fds(sock, frames.LENGTHS.size + 4096, 2)
    if len(pidfds) == 2:
        return pidfds
    if not data:
        raise WorldFailure(f"no world opened for task {task_id}: the host or the new process ended")
    told = frames.header(data[frames.LENGTHS.size :])
    raise UsageError(f"task {task_id} of the data root cannot be opened: {told.get('refused')}")
