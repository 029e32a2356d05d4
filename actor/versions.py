"""Stage 12, its first half: which version the learner says is current, and its files on this machine, verified (G5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from actor.config import ReloadConfig
from actor.downloads import Downloads, Files
from actor.shared_folder import SharedFolder
from actor.version_folders import VersionFolders
from common.checkpoint import MANIFEST, Manifest
from common.errors import RunError
from common.log import get_logger

log = get_logger(__name__)


class Source(Protocol):
    """Where verified folders come from (`actor.downloads.Downloads`, `actor.shared_folder.SharedFolder`)."""

    @property
    def reads(self) -> frozenset[int]: ...
    async def fetch(self, version: int, digest: str, is_wanted: Callable[[], bool]) -> tuple[Path, Manifest, str]: ...
    async def remove(self, version: int, digest: str) -> None: ...
    async def keep_only(self, kept: dict[int, str], target: tuple[int, str]) -> None: ...
    def close(self) -> None: ...


def source_of(shared: Path | None, folder: Path, run_id: str, files: Files) -> Source:
    """The learner's own folder where it is mounted here, else downloads, which the machine's actors share."""
    if shared is not None:
        return SharedFolder(shared)
    folders = VersionFolders(folder, run_id)
    folders.remove_other_runs()
    return Downloads(folders, files)


class Versions:
    """Versions of one run, and which of them the learner says is current."""

    def __init__(self, source: Source, run_id: str) -> None:
        self._source, self._run_id = source, run_id
        self.target = -1
        self.digest = ""  # of the target's manifest
        self._news = asyncio.Event()
        self._digests: dict[int, str] = {}  # of what was fetched
        self._fetching = -1

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

    @property
    def reads(self) -> frozenset[int]:
        """Versions whose files the learner must keep for this actor."""
        return self._source.reads | ({self._fetching} if self._fetching >= 0 else set())

    @property
    def is_fetching(self) -> bool:
        """Whether a version's files are under way or being hashed."""
        return self._fetching >= 0

    def digest_of(self, version: int) -> str:
        """Of a fetched version's manifest."""
        return self._digests[version]

    async def fetch(self, version: int, digest: str = "") -> tuple[Path, Manifest]:
        """A version's folder and manifest, every file's digest verified. An empty digest: what the learner has.

        Raises:
            RunError: the learner does not have it, its files differ from its manifest, or it is another run's.
        """
        self._fetching = version
        try:
            is_wanted = self._is_wanted(digest)
            folder, manifest, found = await self._source.fetch(version, digest, is_wanted)
        finally:
            self._fetching = -1
        if manifest.run_id != self._run_id or manifest.policy_version != version:
            await self._source.remove(version, found)
            raise RunError(
                f"{MANIFEST} is of version {manifest.policy_version} of run {manifest.run_id}, "
                f"expected {version} of {self._run_id}"
            )
        self._digests[version] = found
        return folder, manifest

    async def fetch_full(self, config: ReloadConfig) -> tuple[Path, Manifest]:
        """The newest version, or the full one that it sits on; tried again as a reload is. Raises as `fetch`."""
        failures = 0
        while True:
            version, digest = self.target, self.digest
            try:
                folder, manifest = await self.fetch(version, digest)
                if manifest.base_version is None:
                    return folder, manifest
                return await self.fetch(manifest.base_version)
            except RunError as error:
                if self.digest != digest:
                    log.info("version_passed_over", policy_version=version, reason=str(error))
                    failures = 0
                    continue
                failures += 1
                log.error("policy_version_refused", policy_version=version, reason=str(error), failures=failures)
                if failures >= config.attempts:
                    raise
            await asyncio.sleep(config.retry_seconds * 2 ** (failures - 1))

    async def remove(self, version: int) -> None:
        """A version is suspect: fetched or at least hashed afresh before it is used again."""
        await self._source.remove(version, self._digests.pop(version, self.digest))

    async def keep_only(self, versions: set[int]) -> None:
        """Other versions are no longer used by this actor."""
        self._digests = {version: digest for version, digest in self._digests.items() if version in versions}
        await self._source.keep_only(self._digests, (self.target, self.digest))

    def close(self) -> None:
        """Use none of them any more; the files stay for the next actor."""
        self._source.close()

    def _is_wanted(self, digest: str) -> Callable[[], bool]:
        """Whether a version is still what the learner says is current, asked while waiting for it."""
        was_current = digest == self.digest
        return lambda: digest == self.digest or not was_current
