"""Stage 4, the actor's half: a finished trajectory is on disk before it is sent, and leaves the disk on its ack alone.

    add ─► spool ─► within the credit ─► link ══► gateway
             ▲                                      │
             └──── removed ◄── ack, new credit ◄────┘

The link repeats what is not answered, through cuts and restarts of the learner. What a killed actor leaves in the
spool, its next start sends. What cannot be read any more, here or there, is no trajectory: its lease is returned.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from actor.spool import Spool
from common.errors import RunError
from common.link import NotUnderstood
from common.log import about, get_logger
from common.messages import Ack, LeaseReturn, Message, Trajectory
from common.wire import MAX_MESSAGE_BYTES, encode

log = get_logger(__name__)
SENT_AT_ONCE = 64
REASON_CHARACTERS = 300
SAY_AGAIN_SECONDS = 10.0
ROOM_SECONDS = 1.0  # between two tries whether the disk takes a trajectory
FRESH_BYTES = 64 << 20  # of frames kept in memory too until they are sent, so that they need not be read again


class Outbox:
    """The spool of one run, and what sends it. One event loop; the disk is another thread's.

    Args:
        file: the spool's index; frames lie beside it.
        run_id: the run.
        request: gives the answer to a message, or to a frame that is one (`ActorLink.request`).
        on_ack: is told each answer.
        credit_bytes: of trajectories that may be under way; one may be always, alone. `grant` changes it.
        compress: whether what is added from now on is kept and sent as zstd frames.

    Raises:
        UsageError: not a usable spool.
    """

    def __init__(
        self,
        file: Path,
        run_id: str,
        request: Callable[[Message | bytes], Awaitable[Message]],
        on_ack: Callable[[Ack], None],
        *,
        credit_bytes: int = MAX_MESSAGE_BYTES,
        compress: bool = False,
    ) -> None:
        self._request, self._on_ack, self._file, self._compress = request, on_ack, file, compress
        self._spool = Spool(file, run_id)
        self._unsent = list(self._spool.ids)
        self._under_way: dict[str, int] = {}  # bytes
        self._fresh: dict[str, bytes] = {}
        self._writing: set[str] = set()
        self._credit = credit_bytes
        self._waits_for_room = ""
        self._said_at = -SAY_AGAIN_SECONDS
        self._changed = asyncio.Event()
        self._acked = asyncio.Event()

    @property
    def ids(self) -> tuple[str, ...]:
        """Trajectories without an ack, oldest first; last those that are just being written."""
        return (*self._spool.ids, *self._writing)

    @property
    def size(self) -> int:
        """Bytes without an ack."""
        return self._spool.size

    @property
    def waiting_for(self) -> str:
        """What it waits for, in words; empty when it does not wait."""
        if self._waits_for_room:
            return self._waits_for_room
        if not self._unsent or self._may_send(self._unsent[0]):
            return ""
        under_way = sum(self._under_way.values())
        return f"the learner to acknowledge {under_way} bytes under way: its credit is {self._credit} bytes"

    @property
    def waits_for_room(self) -> bool:
        """Whether the spool's disk is full."""
        return bool(self._waits_for_room)

    def grant(self, credit_bytes: int) -> None:
        """The learner's newest word on how much may be under way."""
        if credit_bytes != self._credit:
            self._credit = credit_bytes
            self._changed.set()

    async def add(self, trajectory: Trajectory) -> None:
        """Spool a trajectory; durable when this returns. While the disk is full, this waits and says so.

        Raises:
            ValueError: it is larger than the link carries.
        """
        name = trajectory.trajectory_id
        if self._compress:
            frame = await asyncio.to_thread(encode, trajectory, compress=True)
        else:
            frame = encode(trajectory)
        while (failure := await asyncio.shield(self._write(name, frame))) is not None:
            self._waits_for_room = f"room on the spool's disk ({failure})"
            self._say("spool_takes_no_more", file=str(self._file), reason=str(failure), trajectory=name)
            await asyncio.sleep(ROOM_SECONDS)
        self._waits_for_room = ""

    async def _write(self, name: str, frame: bytes) -> Exception | None:
        """Once begun it is not given up when its episode is cancelled: what lies in the spool is sent."""
        self._writing.add(name)
        try:
            await self._spool.add(name, frame)
        except (OSError, sqlite3.Error) as error:
            return error
        finally:
            self._writing.discard(name)
            self._acked.set()  # `flushed` looks again
        if sum(map(len, self._fresh.values())) + len(frame) <= FRESH_BYTES:
            self._fresh[name] = frame
        if name not in self._unsent and name not in self._under_way:
            self._unsent.append(name)
        self._changed.set()
        log.debug("trajectory_spooled", trajectory=name, bytes=len(frame))
        return None

    async def run(self) -> None:
        """Send until cancelled, as much at a time as the credit allows.

        Raises:
            RunError: the learner refused this actor.
        """
        self._unsent = [name for name in self._spool.ids if name not in self._under_way]
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                while self._unsent and self._may_send(self._unsent[0]):
                    name = self._unsent.pop(0)
                    self._under_way[name] = self._spool.length(name)
                    group.create_task(self._send(name))
                try:
                    async with asyncio.timeout(SAY_AGAIN_SECONDS if self._unsent else None):
                        await self._changed.wait()
                except TimeoutError:
                    self._say("outbox_waits", waiting_for=self.waiting_for, trajectories=len(self._spool.ids))

    async def flushed(self) -> None:
        """Wait until all is acknowledged."""
        while self._spool.ids or self._writing:
            self._acked.clear()
            await self._acked.wait()

    def close(self) -> None:
        """Close the files; what is in them stays."""
        self._spool.close()

    def _may_send(self, name: str) -> bool:
        if not self._under_way:
            return True
        wanted = sum(self._under_way.values()) + self._spool.length(name)
        return wanted <= self._credit and len(self._under_way) < SENT_AT_ONCE

    async def _send(self, name: str) -> None:
        log.debug("trajectory_sent", trajectory=name)
        try:
            with about(trajectory=name, lease=name):
                answer = await self._answer_to(name)
        finally:
            del self._under_way[name]
            self._changed.set()
        if not isinstance(answer, Ack) or answer.trajectory_id != name:
            raise RunError(f"the learner answered trajectory {name} with {type(answer).__name__}: versions differ?")
        if answer.outcome != "ok":
            log.warning("trajectory_not_taken", trajectory=name, outcome=answer.outcome, reason=answer.reason)
        log.debug("trajectory_acknowledged", trajectory=name, outcome=answer.outcome)
        self._spool.remove(name)
        self._acked.set()
        self._on_ack(answer)

    async def _answer_to(self, name: str) -> Message:
        try:
            frame = self._fresh.pop(name) if name in self._fresh else await self._spool.read(name)
            return await self._request(frame)
        except (NotUnderstood, ValueError) as error:
            # a damaged disk, or a spool of another version: sent again, it would end every start of this actor
            log.error("trajectory_unreadable", trajectory=name, reason=str(error))
            reason = f"its trajectory cannot be read: {error}"[:REASON_CHARACTERS]
            return await self._request(LeaseReturn(lease_id=name, reason=reason))

    def _say(self, event: str, **fields: object) -> None:
        if time.monotonic() - self._said_at >= SAY_AGAIN_SECONDS:
            self._said_at = time.monotonic()
            log.warning(event, **fields)
