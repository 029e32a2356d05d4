"""Fetched versions on an actor's machine, shared by its actors: whole folders, drafts, and marks of who uses what.

    RUN_ID/v000012-3f9a61c02b7d41ce/           whole and verified; it got this name by a rename, after all else
    RUN_ID/.fetch-v000012-3f9a61c02b7d41ce/    a download under way: whoever holds its lock goes on with it

A mark of use is a shared lock on the folder itself; whoever removes a folder holds it alone. The kernel drops locks
with their holder, however that ended: a killed actor blocks nobody, and keeps nothing from being removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from common.errors import RunError
from common.log import get_logger

log = get_logger(__name__)
CONTENT = "files"  # within a draft: the folder to be
OURS = re.compile(
    r"v\d{6,}-[0-9a-f]{16}|\.fetch-v\d{6,}-[0-9a-f]{16}(-\d+)?|\.gone-[0-9a-f]{16}"
)  # nothing else is ever removed
LOOK_EVERY, SAY_EVERY = 0.02, 10.0  # seconds, while another actor downloads
BEAT_EVERY, STUCK_AFTER = 1.0, 30.0  # seconds, of who downloads


class VersionFolders:
    """The folders of one run's versions. Other processes of this user may hold the same ones.

    Args:
        parent: of all runs' folders; on a local disk.
        run_id: whose versions.
    """

    def __init__(self, parent: Path, run_id: str) -> None:
        self._parent, self._folder = parent, parent / run_id
        self._marks: dict[Path, int] = {}  # descriptors that hold the locks

    def path(self, version: int, digest: str) -> Path:
        """Where a version lies once it is whole. Another digest, another folder: none is ever changed."""
        return self._folder / f"v{version:06d}-{digest[:16]}"

    def use(self, version: int, digest: str) -> Path | None:
        """Mark a version's folder as used by this process. None: it is not there."""
        folder = self.path(version, digest)
        if folder in self._marks:
            if _is_at(self._marks[folder], folder):
                return folder
            _unlock(self._marks.pop(folder))
        mark = _lock(folder, fcntl.LOCK_SH)
        if mark is None:
            return None
        self._marks[folder] = mark
        return folder

    def release(self, folder: Path) -> None:
        """Drop this process's mark."""
        if folder in self._marks:
            _unlock(self._marks.pop(folder))

    def release_others(self, kept: Iterable[Path]) -> None:
        """Drop this process's marks on all but these."""
        for folder in self._marks.keys() - set(kept):
            self.release(folder)

    def discard(self, folder: Path) -> None:
        """Remove a folder in use whose content is wrong, whoever else uses it; but not what has taken its place."""
        if folder in self._marks and _is_at(self._marks[folder], folder):
            _remove(folder)
        self.release(folder)

    def remove_unused(self, keep: Iterable[Path] = ()) -> None:
        """Remove versions and drafts that no process uses, but for `keep`."""
        kept = {*self._marks, *keep, *(_draft_of(folder) for folder in keep if not folder.exists())}
        for folder in self._folder.glob("*"):
            if folder in kept or not OURS.fullmatch(folder.name):
                continue
            self.remove_if_unused(folder)

    def remove_if_unused(self, folder: Path) -> None:
        """Remove a folder, unless a process uses it."""
        lock = _lock(folder, fcntl.LOCK_EX)
        if lock is not None:
            log.info("version_removed", folder=str(folder))
            _remove(folder)
            _unlock(lock)

    def remove_other_runs(self) -> None:
        """Remove what actors of runs before left here, where none of them is alive."""
        for run in self._parent.glob("*"):
            if run != self._folder and run.is_dir() and not run.is_symlink():
                VersionFolders(self._parent, run.name).remove_unused()
                with contextlib.suppress(OSError):
                    run.rmdir()  # unless something else, or something in use, is there

    @contextlib.asynccontextmanager
    async def draft(self, version: int, digest: str) -> AsyncIterator[Path | None]:
        """The folder to download into, for this process alone, with what an earlier attempt left in it.

        Waits, and says so, while another actor downloads; one that was stopped amid it is not waited for, but passed
        by. None: the other one has finished, the version is there.
        """
        found = await self._alone(version, self.path(version, digest))
        if found is None:
            yield None
            return
        draft, lock = found
        (draft / CONTENT).mkdir(exist_ok=True)
        beating = asyncio.create_task(_beat(draft))
        try:
            yield draft / CONTENT
        finally:
            beating.cancel()
            _unlock(lock)

    def finish(self, content: Path, version: int, digest: str) -> None:
        """What `draft` gave is whole and verified: it appears under its name, marked as used by this process."""
        target = self.path(version, digest)
        mark = _lock(content, fcntl.LOCK_SH)
        assert mark is not None, "nobody else may lock the content of a draft"
        try:
            content.rename(target)
        except OSError as error:
            _unlock(mark)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else one that passed this process by was the first
        else:
            self.release(target)
            self._marks[target] = mark
        shutil.rmtree(content.parent)

    def close(self) -> None:
        """Drop all marks."""
        self.release_others(())

    async def _alone(self, version: int, target: Path) -> tuple[Path, int] | None:
        """A draft and its lock; None when the version is whole."""
        said, attempt, watch = -SAY_EVERY, 1, _Watch()
        while True:
            draft = _draft_of(target, attempt)
            lock, is_whole = _lock_draft(draft, target)
            if lock is not None or is_whole:
                return None if lock is None else (draft, lock)
            if watch.stands_still(draft):
                log.warning("download_stands_still", policy_version=version, draft=str(draft), seconds=STUCK_AFTER)
                attempt, watch = attempt + 1, _Watch()
            elif time.monotonic() - said >= SAY_EVERY:
                said, there = time.monotonic(), bytes_in(draft)
                log.info("waiting_for_download", policy_version=version, by="another actor here", bytes_there=there)
            await asyncio.sleep(LOOK_EVERY)


class _Watch:
    """Whether the one who holds a draft has stood still: its beats are looked at, by this process's clock."""

    def __init__(self) -> None:
        self._beat, self._since, self._looked = -1, 0.0, 0.0

    def stands_still(self, draft: Path) -> bool:
        now, beat = time.monotonic(), self._beat
        with contextlib.suppress(OSError):
            beat = draft.stat().st_mtime_ns
        if beat != self._beat or now - self._looked > STUCK_AFTER / 2:  # or this process itself stood still
            self._beat, self._since = beat, now
        self._looked = now
        return now - self._since > STUCK_AFTER


async def _beat(draft: Path) -> None:
    while True:
        with contextlib.suppress(OSError):
            os.utime(draft)
        await asyncio.sleep(BEAT_EVERY)


def _lock_draft(draft: Path, target: Path) -> tuple[int | None, bool]:
    """The lock of a draft if it can be had, and whether what it is to be is there already."""
    if target.exists():
        return None, True
    draft.mkdir(parents=True, exist_ok=True)
    lock = _lock(draft, fcntl.LOCK_EX)
    if lock is None or not target.exists():
        return lock, False
    draft.rmdir()  # made after the other one had finished: empty
    _unlock(lock)
    return None, True


def bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder, as far as they are there while others change it."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(where) / name).stat().st_size
    return total


def _draft_of(target: Path, attempt: int = 1) -> Path:
    return target.with_name(f".fetch-{target.name}" if attempt == 1 else f".fetch-{target.name}-{attempt}")


def _lock(folder: Path, how: int) -> int | None:
    """A descriptor that holds the folder's lock; None: it is not there, is being removed, or others hold its lock.

    Raises:
        RunError: the disk knows no locks.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
        if _is_at(lock, folder):
            return lock
    except BlockingIOError:
        pass
    except OSError as error:
        os.close(lock)
        raise RunError(f"{folder}: cannot be locked: {error.strerror}: put actor.versions on a local disk") from None
    os.close(lock)
    return None


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether an open folder still has its name: it may have been renamed or replaced."""
    try:
        there, held = folder.stat(), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _remove(folder: Path) -> None:
    """Its name goes first, at once; a crash amid the rest leaves what `remove_unused` finds."""
    gone = folder.with_name(f".gone-{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _unlock(lock: int) -> None:
    """Also where a forked child has inherited the descriptor."""
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
