"""Stage 4, the actor's half: a finished trajectory is on disk before it is sent, and leaves the disk on its ack alone.

    add ─► spool (SQLite) ─► send ─► link ══► gateway
              ▲                                 │
              └── row deleted ◄── ack ◄─────────┘

The link repeats what is not answered, through cuts and restarts of the learner. What a killed actor leaves in the
spool, its next start sends. What cannot be read any more, here or there, is no trajectory: its lease is returned.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from common.errors import RunError, UsageError
from common.link import NotUnderstood
from common.log import get_logger
from common.messages import Ack, LeaseReturn, Message, Trajectory
from common.wire import decode, encode

log = get_logger(__name__)
T = TypeVar("T")
SENT_AT_ONCE = 8
REASON_CHARACTERS = 300
SCHEMA = """
CREATE TABLE IF NOT EXISTS spool (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    trajectory_id TEXT NOT NULL,
    frame BLOB NOT NULL,
    UNIQUE (run_id, trajectory_id)
);
"""


class Outbox:
    """The spool of one run, and what sends it. One event loop; the disk is another thread's."""

    def __init__(
        self,
        file: Path,
        run_id: str,
        request: Callable[[Message], Awaitable[Message]],
        on_ack: Callable[[Ack], None],
    ) -> None:
        self._request, self._on_ack, self._run_id = request, on_ack, run_id
        self._disk = ThreadPoolExecutor(1, "spool")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(SCHEMA)
            rows = self._connection.execute("SELECT run_id, trajectory_id, length(frame) FROM spool ORDER BY number")
            spooled = rows.fetchall()
        except (sqlite3.Error, OSError) as error:
            raise UsageError(f"{file}: not a usable spool: {error}; set actor.folder to a folder of its own") from None
        self._sizes = {name: size for run, name, size in spooled if run == run_id}
        self._unsent = list(self._sizes)
        self._more = asyncio.Event()
        self._acked = asyncio.Event()
        if self._sizes:
            log.info("spool_taken_up", trajectories=len(self._sizes))
        if len(spooled) > len(self._sizes):
            log.warning("spool_of_other_runs", trajectories=len(spooled) - len(self._sizes), file=str(file))

    @property
    def ids(self) -> tuple[str, ...]:
        """Trajectories without an ack, oldest first."""
        return tuple(self._sizes)

    @property
    def size(self) -> int:
        """Bytes without an ack."""
        return sum(self._sizes.values())

    async def add(self, trajectory: Trajectory) -> None:
        """Spool a trajectory; durable when this returns. Raises RunError when the disk takes no more."""
        frame = encode(trajectory)
        name = trajectory.trajectory_id
        try:
            await self._on_disk(self._insert, name, frame)
        except sqlite3.Error as error:
            raise RunError(f"the spool takes no more: {error}; make room on its disk") from error
        self._sizes[name] = len(frame)
        self._unsent.append(name)
        self._more.set()

    async def run(self) -> None:
        """Send until cancelled, a few at a time.

        Raises:
            RunError: the learner refused this actor.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(SENT_AT_ONCE):
                group.create_task(self._send_each())

    async def flushed(self) -> None:
        """Wait until all is acknowledged."""
        while self._sizes:
            self._acked.clear()
            await self._acked.wait()

    def close(self) -> None:
        """Close the file; what is in it stays."""
        self._disk.shutdown(wait=True)
        self._connection.close()

    async def _send_each(self) -> None:
        while True:
            while not self._unsent:
                self._more.clear()
                await self._more.wait()
            await self._send(self._unsent.pop(0))

    async def _send(self, name: str) -> None:
        frame = await self._on_disk(self._select, name)
        try:
            answer = await self._request(decode(frame))
        except (ValueError, NotUnderstood) as error:
            # a damaged disk, or a spool of another version: sent again, it would end every start of this actor
            log.error("trajectory_unreadable", trajectory=name, bytes=len(frame), reason=str(error))
            reason = f"its trajectory cannot be read: {error}"[:REASON_CHARACTERS]
            answer = await self._request(LeaseReturn(lease_id=name, reason=reason))
        if not isinstance(answer, Ack) or answer.trajectory_id != name:
            raise RunError(f"the learner answered trajectory {name} with {type(answer).__name__}: versions differ?")
        if answer.outcome != "ok":
            log.info("trajectory_not_taken", trajectory=name, outcome=answer.outcome, reason=answer.reason)
        await self._on_disk(self._delete, name)
        del self._sizes[name]
        self._acked.set()
        self._on_ack(answer)

    async def _on_disk(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)

    def _insert(self, name: str, frame: bytes) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO spool (run_id, trajectory_id, frame) VALUES (?, ?, ?)", (self._run_id, name, frame)
        )

    def _select(self, name: str) -> bytes:
        query = "SELECT frame FROM spool WHERE run_id = ? AND trajectory_id = ?"
        frame: bytes = self._connection.execute(query, (self._run_id, name)).fetchone()[0]
        return frame

    def _delete(self, name: str) -> None:
        self._connection.execute("DELETE FROM spool WHERE run_id = ? AND trajectory_id = ?", (self._run_id, name))
