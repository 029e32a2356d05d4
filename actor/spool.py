"""Stage 4, the actor's disk: finished trajectories that the learner has not acknowledged, as the frames to be sent.

SQLite names them, files beside it hold them. All that asks for the disk while it is busy is one transaction after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError, UsageError
from common.log import about_nothing, get_logger
from common.segments import Place, Segments

log = get_logger(__name__)
SEGMENT_BYTES = 64 << 20
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS spool (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    trajectory_id TEXT NOT NULL,
    segment INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    UNIQUE (run_id, trajectory_id)
);
"""


@dataclass
class _Change:
    """A frame to keep, or, without one, a frame to forget."""

    name: str
    frame: bytes | None = None
    place: Place | None = None
    done: asyncio.Future[None] | None = None


class Spool:
    """The trajectories of one run in one file; those of other runs stay untouched.

    Raises:
        UsageError: not a usable spool.
    """

    def __init__(self, file: Path, run_id: str) -> None:
        self._run_id = run_id
        self._disk = ThreadPoolExecutor(1, "spool")
        self._changes: list[_Change] = []
        self._committing: asyncio.Task[None] | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _opened(file)
            query = "SELECT run_id, trajectory_id, segment, offset, length FROM spool ORDER BY number"
            rows = [(run, name, Place(*place)) for run, name, *place in self._connection.execute(query)]
            ends = Counter[int]()
            for _, _, place in rows:
                ends[place.segment] = max(ends[place.segment], place.end)
            self._segments = Segments(file.parent / "spool", ends, SEGMENT_BYTES)
        except (sqlite3.Error, OSError, RunError) as error:
            raise UsageError(f"{file}: not a usable spool: {error}; set actor.folder to a folder of its own") from None
        self._held = Counter(place.segment for _, _, place in rows)  # frames in each file
        self._places = {name: place for run, name, place in rows if run == run_id}
        for reason in self._segments.damaged:
            log.error("spool_damaged", reason=reason)
        if self._places:
            log.info("spool_taken_up", trajectories=len(self._places))
        if len(rows) > len(self._places):
            log.warning("spool_of_other_runs", trajectories=len(rows) - len(self._places), file=str(file))

    @property
    def ids(self) -> tuple[str, ...]:
        """Trajectories in it, oldest first."""
        return tuple(self._places)

    @property
    def size(self) -> int:
        """Bytes of them."""
        return sum(place.length for place in self._places.values())

    def length(self, name: str) -> int:
        """Bytes of one."""
        return self._places[name].length

    async def add(self, name: str, frame: bytes) -> None:
        """Keep a frame; durable when this returns. Raises OSError or sqlite3.Error: the disk takes no more."""
        done = asyncio.get_running_loop().create_future()
        self._changes.append(_Change(name, frame, done=done))
        self._begin_to_commit()
        await done

    async def read(self, name: str) -> bytes:
        """A frame. Raises ValueError: the disk has lost it."""
        try:
            return await asyncio.to_thread(self._segments.read, self._places[name])
        except RunError as error:
            raise ValueError(str(error)) from None

    def remove(self, name: str) -> None:
        """Forget a frame, soon: a crash before may bring it back, and the learner knows it then."""
        self._changes.append(_Change(name, place=self._places.pop(name)))
        self._begin_to_commit()

    def close(self) -> None:
        """Close the files; what is in them stays."""
        self._disk.shutdown(wait=True)
        if self._changes:
            with contextlib.suppress(OSError, sqlite3.Error):
                self._commit([change for change in self._changes if change.frame is None])
        self._segments.close()
        self._connection.close()

    def _begin_to_commit(self) -> None:
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all(), context=about_nothing())

    async def _commit_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._changes:
            batch, self._changes = self._changes, []
            try:
                # who asked may be gone before the disk has answered; what is begun is not given up
                await asyncio.shield(loop.run_in_executor(self._disk, self._commit, batch))
            except (OSError, sqlite3.Error) as error:
                added = [change for change in batch if change.done is not None]
                for change in added:
                    _tell(change, error)
                self._changes = [change for change in batch if change.done is None] + self._changes
                if not added:
                    log.warning("spool_keeps_what_was_acknowledged", trajectories=len(batch), reason=str(error))
                    return
            else:
                for change in batch:
                    if change.frame is not None and change.place is not None:
                        self._places[change.name] = change.place
                    _tell(change)

    def _commit(self, batch: list[_Change]) -> None:
        """In the disk's thread: frames, then their rows, as one."""
        held = self._held.copy()
        try:
            self._connection.execute("BEGIN")
            for change in batch:
                if change.frame is not None:
                    change.place = self._segments.append(change.frame)
                    held[change.place.segment] += 1
                    place = (change.place.segment, change.place.offset, change.place.length)
                    self._connection.execute(
                        "INSERT OR REPLACE INTO spool (run_id, trajectory_id, segment, offset, length)"
                        " VALUES (?, ?, ?, ?, ?)",
                        (self._run_id, change.name, *place),
                    )
                elif change.place is not None:
                    self._connection.execute(
                        "DELETE FROM spool WHERE run_id = ? AND trajectory_id = ?", (self._run_id, change.name)
                    )
                    held[change.place.segment] -= 1
            self._segments.sync()
            self._connection.execute("COMMIT")
        except (OSError, sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._segments.cut()
            raise
        self._segments.settle()
        for segment in [one for one, frames in held.items() if not frames and one != self._segments.current]:
            self._segments.remove(segment)
            del held[segment]
        self._held = held


def _tell(change: _Change, error: Exception | None = None) -> None:
    if change.done is None or change.done.done():
        return
    if error is None:
        change.done.set_result(None)
    else:
        change.done.set_exception(error)


def _opened(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if found != SCHEMA_VERSION and tables:
        connection.close()
        raise RunError(f"of another version of this program ({found}, this is {SCHEMA_VERSION})")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(SCHEMA)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    return connection
