"""Stage 12, its first half: files of published versions on the actor's machine, fetched once and verified."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from pathlib import Path, PurePosixPath
from typing import Protocol

from common.checkpoint import MANIFEST, Manifest, folder_of, read_manifest, verify
from common.errors import RunError
from common.log import get_logger
from common.messages import FileChunk

log = get_logger(__name__)
MANIFEST_CHUNK = 512 << 10
LARGEST_MANIFEST = 16 << 20


class Files(Protocol):
    """Where files of published versions come from (`common.file_link.FileLink`)."""

    async def fetch(self, version: int, name: str, offset: int, length: int) -> FileChunk: ...
    async def fetch_file(self, version: int, name: str, size: int, target: Path) -> None: ...


class Versions:
    """Fetched versions of one run in one folder, and which of them the learner says is current."""

    def __init__(self, folder: Path, run_id: str, files: Files) -> None:
        self._folder, self._run_id, self._files = folder, run_id, files
        self.target = -1
        self.digest = ""  # of the target's manifest
        self._news = asyncio.Event()

    def heard(self, version: int, digest: str) -> None:
        """The learner's current version, from whatever message named it.

        The digest decides: a learner that went back to an older state may publish a number anew with other weights.
        """
        if version >= 0 and digest != self.digest:
            self.target, self.digest = version, digest
            self._news.set()

    async def other_than(self, digest: str) -> int:
        """Wait for a target other than this one; gives the newest."""
        while self.digest in ("", digest):
            self._news.clear()
            await self._news.wait()
        return self.target

    async def fetch(self, version: int, *, expected: bool = True) -> tuple[Path, Manifest]:
        """A version's folder, fetched when it is not there, every digest verified.

        Raises:
            RunError: the learner does not have it, or its files differ from its manifest.
        """
        digest = self.digest if expected and version == self.target else None
        folder = folder_of(self._folder, version)
        if (folder / MANIFEST).exists():
            try:
                # what a killed actor left may be damaged, or of another run
                return folder, self._of_this_run(await asyncio.to_thread(verify, folder, digest), version)
            except RunError as error:
                log.warning("version_fetched_again", policy_version=version, reason=str(error))
                self.remove(version)
        draft = self._folder / f".fetch-{folder.name}"
        draft.mkdir(parents=True, exist_ok=True)
        manifest = await self._fetch_manifest(version, digest, draft)
        for name, entry in manifest.files.items():
            target = draft / _inside(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            await self._files.fetch_file(version, name, entry.size, target)
        try:
            self._of_this_run(await asyncio.to_thread(verify, draft, digest), version)
        except RunError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        draft.rename(folder)
        return folder, manifest

    def remove(self, version: int) -> None:
        """Forget a fetched version."""
        shutil.rmtree(folder_of(self._folder, version), ignore_errors=True)

    def keep_only(self, versions: set[int]) -> None:
        """Remove all folders but these, and drafts of fetches that were given up."""
        kept = {folder_of(self._folder, version) for version in versions}
        for folder in (*self._folder.glob("v*"), *self._folder.glob(".fetch-*")):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    async def _fetch_manifest(self, version: int, digest: str | None, draft: Path) -> Manifest:
        text = b""
        while True:
            chunk = await self._files.fetch(version, MANIFEST, len(text), MANIFEST_CHUNK)
            if chunk.error or chunk.size > LARGEST_MANIFEST:
                raise RunError(f"version {version}, {MANIFEST}: {chunk.error or f'{chunk.size} bytes are too many'}")
            text += chunk.data
            if len(text) >= chunk.size or not chunk.data:
                break
        if digest and hashlib.sha256(text).hexdigest() != digest:
            raise RunError(f"version {version}, {MANIFEST}: its digest is not the one announced")
        (draft / MANIFEST).write_bytes(text)
        return self._of_this_run(read_manifest(draft)[0], version)

    def _of_this_run(self, manifest: Manifest, version: int) -> Manifest:
        if manifest.run_id != self._run_id or manifest.policy_version != version:
            raise RunError(
                f"{MANIFEST} is of version {manifest.policy_version} of run {manifest.run_id}, "
                f"expected {version} of {self._run_id}"
            )
        return manifest


def _inside(name: str) -> Path:
    """A manifest's file name as a path that stays within the version's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name == MANIFEST:
        raise RunError(f"the manifest names a file outside of its folder: {name!r}")
    return Path(*path.parts)
