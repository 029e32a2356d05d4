"""Stage 12: a version's files, from the learner's files port to a folder of this machine (`actor.versions`).

    whole already ─► verified since the machine started? else hashed ─► used
    not there     ─► one actor of the machine downloads, the others wait ─► hashed as it is written ─► used by all

A download that was cut, by whatever, goes on from its last byte; what its first bytes are is found out by hashing them.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Protocol

from actor.verification import NOTE, identity, note_verified, noted, verified
from actor.version_folders import VersionFolders, bytes_in
from common.checkpoint import MANIFEST, Manifest, read_manifest, sync
from common.errors import RunError
from common.log import Reminder, get_logger
from common.messages import FileChunk
from common.wire import CHUNK_BYTES

log = get_logger(__name__)
LARGEST_MANIFEST = 16 << 20
ATTEMPTS = 4  # at a folder that is whole
LOOK_AGAIN, SAY_EVERY = 2.0, 60.0  # seconds, while there is no room
FULL = (errno.ENOSPC, errno.EDQUOT)


class Files(Protocol):
    """Where files of published versions come from (`common.file_link.FileLink`)."""

    async def fetch(self, version: int, name: str, offset: int, length: int) -> FileChunk: ...
    async def fetch_file(self, version: int, name: str, size: int, target: Path) -> str: ...


class Downloads:
    """Downloaded versions of one run."""

    reads: frozenset[int] = frozenset()  # of the learner's own folders

    def __init__(self, folders: VersionFolders, files: Files) -> None:
        self._folders, self._files = folders, files
        self._doubted: set[Path] = set()  # to be hashed whatever was noted

    async def fetch(self, version: int, digest: str, is_wanted: Callable[[], bool]) -> tuple[Path, Manifest, str]:
        """A version's folder, its manifest and the manifest's digest; every file's digest verified.

        Args:
            version: which.
            digest: of its manifest; empty: what the learner has under that number.
            is_wanted: asked while there is no room on the disk; False ends the waiting.

        Raises:
            RunError: the learner does not have it, its files differ from its manifest, or the disk fails.
        """
        text = b""
        if not digest:
            text = await self._manifest_text(version)
            digest = hashlib.sha256(text).hexdigest()
        reminder = Reminder(time.monotonic, SAY_EVERY)
        while True:
            try:
                return await self._fetched(version, digest, text, is_wanted)
            except OSError as error:
                what = f"version {version}: {error.filename or 'its files'}: {error.strerror}"
                if error.errno not in FULL or not is_wanted():
                    raise RunError(what) from error
                if reminder.is_due():
                    # not even a folder for it, or its manifest: no failure of the version's
                    log.error("no_room_for_version", policy_version=version, reason=f"{what}: make room there")
            await asyncio.sleep(LOOK_AGAIN)

    async def _fetched(
        self, version: int, digest: str, text: bytes, is_wanted: Callable[[], bool]
    ) -> tuple[Path, Manifest, str]:
        for _ in range(ATTEMPTS):
            folder = self._folders.use(version, digest)
            if folder is not None:
                try:
                    return folder, await self._verified(folder, digest), digest
                except RunError as error:
                    # what a crash of the machine left may be torn
                    log.warning("version_fetched_again", policy_version=version, reason=str(error))
                    await asyncio.to_thread(self._folders.discard, folder)
            async with self._folders.draft(version, digest) as draft:
                if draft is not None:
                    manifest = await self._manifest(version, digest, draft, text)
                    await self._download(version, manifest, draft, is_wanted)
                    self._folders.finish(draft, version, digest)
        raise RunError(f"version {version}: what was written is not what is read, {ATTEMPTS} times: is the disk sound?")

    async def remove(self, version: int, digest: str) -> None:
        """Never use a version's files again unless they are hashed again; remove them when nobody else uses them."""
        folder = self._folders.path(version, digest)
        self._folders.release(folder)
        self._doubted.add(folder)
        await asyncio.to_thread(self._folders.remove_if_unused, folder)

    async def keep_only(self, kept: dict[int, str], target: tuple[int, str]) -> None:
        """No longer use other versions than these (digest by number), and remove what no actor uses.

        The learner's current one stays, and what there is of its download.
        """
        folders = {self._folders.path(*one) for one in kept.items()}
        self._folders.release_others(folders)
        await asyncio.to_thread(self._folders.remove_unused, [self._folders.path(*target)])

    def close(self) -> None:
        self._folders.close()

    async def _verified(self, folder: Path, digest: str) -> Manifest:
        known = None if folder in self._doubted else noted(folder)
        manifest, found = await verified(folder, digest, known)
        self._doubted.discard(folder)
        if found != known:
            note_verified(folder, found)
        return manifest

    async def _manifest_text(self, version: int) -> bytes:
        text = b""
        while True:
            chunk = await self._files.fetch(version, MANIFEST, len(text), CHUNK_BYTES)
            if chunk.error or chunk.size > LARGEST_MANIFEST:
                raise RunError(f"version {version}, {MANIFEST}: {chunk.error or f'{chunk.size} bytes are too many'}")
            text += chunk.data
            if len(text) >= chunk.size or not chunk.data:
                return text

    async def _manifest(self, version: int, digest: str, draft: Path, text: bytes) -> Manifest:
        """The manifest in the draft, as an earlier attempt left it or fetched."""
        file = draft / MANIFEST
        present = file.read_bytes() if file.exists() else text
        if hashlib.sha256(present).hexdigest() != digest:
            present = await self._manifest_text(version)
        if hashlib.sha256(present).hexdigest() != digest:
            raise RunError(f"version {version}, {MANIFEST}: its digest is not the one announced")
        file.write_bytes(present)
        return read_manifest(draft)[0]

    async def _download(self, version: int, manifest: Manifest, draft: Path, is_wanted: Callable[[], bool]) -> None:
        targets = {name: draft / _inside(name) for name in manifest.files}
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        began, there = time.perf_counter(), bytes_in(draft)
        while True:
            await self._room(version, manifest, draft, is_wanted)
            try:
                for name, target in targets.items():
                    await self._one_file(version, name, manifest, target)
                break
            except OSError as error:
                if error.errno not in FULL:
                    raise
                log.error("disk_full", policy_version=version, folder=str(draft), reason=error.strerror)
                await asyncio.sleep(LOOK_AGAIN)
        await asyncio.to_thread(_sync_folders, draft)
        note_verified(draft, identity(draft, manifest))
        log.info(
            "version_downloaded",
            policy_version=version,
            bytes=bytes_in(draft) - there,
            bytes_of_before=there,
            seconds=round(time.perf_counter() - began, 3),
        )

    async def _one_file(self, version: int, name: str, manifest: Manifest, target: Path) -> None:
        """A file that was begun before and comes out wrong was damaged here: once more, from its start."""
        entry = manifest.files[name]
        for was_begun in (True, False) if _is_begun(target) else (False,):
            if await self._files.fetch_file(version, name, entry.size, target) == entry.sha256:
                return
            _begin_again(target)
            if was_begun:
                log.warning("draft_was_damaged", policy_version=version, file=name)
        raise RunError(f"version {version}, {name}: sha256 differs from the manifest")

    async def _room(self, version: int, manifest: Manifest, draft: Path, is_wanted: Callable[[], bool]) -> None:
        """Wait until the disk has room for what is missing.

        Raises:
            RunError: the version is no longer wanted.
        """
        said = -SAY_EVERY
        while True:
            missing = sum(entry.size for entry in manifest.files.values()) - bytes_in(draft)
            if missing <= shutil.disk_usage(draft).free:
                return
            await asyncio.to_thread(
                self._folders.remove_unused
            )  # the draft is locked, what this actor samples from is marked
            free = shutil.disk_usage(draft).free
            if missing <= free:
                return
            if not is_wanted():
                raise RunError(f"version {version}: there was no room for it, and it is no longer the newest")
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                log.error("no_room_for_version", policy_version=version, folder=str(draft), missing=missing, free=free)
            await asyncio.sleep(LOOK_AGAIN)


def _is_begun(target: Path) -> bool:
    return target.exists()


def _begin_again(target: Path) -> None:
    target.unlink(missing_ok=True)


def _sync_folders(draft: Path) -> None:
    for folder in {draft, *(path.parent for path in draft.rglob("*"))}:
        sync(folder)


def _inside(name: str) -> Path:
    """A manifest's file name as a path that stays within the version's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name == MANIFEST or path.name.startswith(NOTE):
        raise RunError(f"the manifest names a file outside of its folder: {name!r}")
    return Path(*path.parts)
