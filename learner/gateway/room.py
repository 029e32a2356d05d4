"""What changes is on the disk before anyone is told; what the gateway does, and says, while the disk takes no more.

A transaction that the disk did not take is taken back whole and nobody is told anything of it (G1); trajectories stay
in the actors' spools, which send them again. Once there is room the gateway goes on, without a restart.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from common.log import Reminder, get_logger
from learner.gateway.credit import Credit
from learner.gateway.run_state import RunState

log = get_logger(__name__)
T = TypeVar("T")
LEAST_FREE = 1 << 20  # bytes, for the ledger's own pages


class Room:
    """The room on one disk."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._reminder = Reminder(clock)
        self._wanted = 0
        self.lacking = ""  # what is waited for, in words; empty while there is room

    @property
    def free(self) -> int:
        """Bytes that this process may still write."""
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize

    def refused(self, error: Exception, wanted: int) -> None:
        """The disk did not take a transaction of `wanted` bytes. Raises `error` when that is no lack of room."""
        if not self._is_full(error):
            raise error
        self._wanted = LEAST_FREE + 2 * wanted
        self._say(str(error))

    def look(self) -> bool:
        """Whether there is room; for now and then while it was lacking."""
        if self.lacking and self.free >= self._wanted:
            log.info("disk_has_room", folder=str(self._folder), free_bytes=self.free)
            self.lacking = ""
            self._reminder.over()
        elif self.lacking:
            self._say("still full")
        return not self.lacking

    def _say(self, reason: str) -> None:
        needed = f"{self.free} bytes free, {self._wanted} needed"
        self.lacking = f"room on the learner's disk: {needed}"
        if self._reminder.is_due():
            told = f"disk full: {needed}, make room in {self._folder}; no trajectory is taken until then, none is lost"
            log.error("disk_full", told=told, reason=reason)

    def _is_full(self, error: Exception) -> bool:
        if isinstance(error, sqlite3.Error):
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            # where the ledger's index in shared memory cannot grow, SQLite speaks of an I/O error
            return code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self.free < LEAST_FREE)
        return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Journalling:
    """Work whose changes are on the disk when it is done, or are as if it had not been tried."""

    def __init__(self, run: RunState, credit: Credit, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._credit, self._clock = run, credit, clock
        self._room = Room(run.folder, clock)
        self._slow = Reminder(clock)

    @property
    def lacking(self) -> str:
        """What is waited for before anything can be written, in words; empty as a rule."""
        return self._room.lacking

    def done(self, work: Callable[[], T], wanted: int = 0) -> T | None:
        """What `work` gives, once all that it changed is on the disk.

        None when the disk took no more (`wanted`: bytes that came): then nothing has changed, and nobody is told.
        """
        try:
            result = work()
            began = self._clock()
            self._run.commit()
        except (sqlite3.Error, OSError) as error:
            self._room.refused(error, wanted)
            self._credit.has_room = False
            self._run.go_back(self._clock())
            return None
        self._credit.commit_seconds = self._clock() - began
        if self._credit.is_behind and self._slow.is_due():
            told = {"seconds": round(self._credit.commit_seconds, 2), "credit_bytes": self._credit.bytes}
            log.warning("journal_behind", waiting_for="the disk of the run folder", **told)
        return result

    def look(self) -> bool:
        """Whether anything can be written; for now and then."""
        if self._room.lacking and self._room.look():
            self._credit.has_room = True
            self._run.book.extend_all(self._clock())  # nobody could deliver
        return not self._room.lacking
