"""Stage 12 without downloads: the learner's published versions as this machine sees them (`link.shared_folder`).

Nothing is ever written there. Each actor hashes what it reads, and tells the learner in its heartbeats what that is,
so that it stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from actor.verification import Identity, verified
from common.checkpoint import Manifest, folder_of, read_manifest
from common.errors import RunError, UsageError
from common.log import get_logger

log = get_logger(__name__)
SEEN_WITHIN = 60.0  # seconds: network file systems show a new folder late
LOOK_EVERY = 0.2


class SharedFolder:
    """Versions of one run, read where the learner wrote them.

    Args:
        folder: the learner's `checkpoints`.

    Raises:
        UsageError: there is no such folder here.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no folder of this machine; mount it, or leave link.shared_folder out")
        self._folder = folder
        self._known: dict[tuple[int, str], Identity | None] = {}  # what this process has hashed
        self.reads: frozenset[int] = frozenset()  # versions whose files must stay where they are

    async def fetch(self, version: int, digest: str, is_wanted: Callable[[], bool]) -> tuple[Path, Manifest, str]:
        """A version's folder, its manifest and the manifest's digest; every file's digest verified.

        Args:
            version: which.
            digest: of its manifest; empty: what is there under that number.
            is_wanted: asked while it is not to be seen; False ends the waiting.

        Raises:
            RunError: it is not to be seen, or its files differ from its manifest.
        """
        folder = folder_of(self._folder, version)
        self.reads |= {version}
        digest = await self._seen(folder, version, digest, is_wanted)
        try:
            manifest, found = await verified(folder, digest, self._known.get((version, digest)))
        except OSError as error:
            raise RunError(f"version {version}: {error.filename or folder}: {error.strerror}") from error
        self._known[version, digest] = found
        return folder, manifest, digest

    async def remove(self, version: int, digest: str) -> None:
        """Hash it again before it is used again."""
        self._known.pop((version, digest), None)

    async def keep_only(self, kept: dict[int, str], _target: tuple[int, str]) -> None:
        """No longer read other versions than these."""
        self._known = {one: found for one, found in self._known.items() if kept.get(one[0]) == one[1]}
        self.reads = frozenset(kept)

    def close(self) -> None:
        """Nothing is held."""

    async def _seen(self, folder: Path, version: int, digest: str, is_wanted: Callable[[], bool]) -> str:
        """Wait until the folder shows the manifest of that digest; gives its digest."""
        since, said = time.monotonic(), False
        while True:
            try:
                found = (await asyncio.to_thread(read_manifest, folder))[1]
                reason = f"{folder}: its manifest is {found[:12]}, expected {digest[:12]}"
            except RunError as error:
                found, reason = "", str(error)
            if found and found == (digest or found):
                return found
            if not is_wanted() or time.monotonic() - since > SEEN_WITHIN:
                raise RunError(reason)
            if not said:
                log.info("waiting_for_shared_folder", policy_version=version, reason=reason)
                said = True
            await asyncio.sleep(LOOK_EVERY)
