"""Stage 12: a new policy version is fetched, verified, swapped in, probed, and only then used.

    announced ─► fetch (old version samples on) ─► digests ─► hold ─► swap ─► probe ─► use
                   ▲                                              differs: swap back │
                   └────────────── folder removed, fetched afresh ◄──────────────────┘

No token that was sampled between swap and a probe that agrees gets into a trajectory. The probe is scored by every
engine worker, twice: what the prefix cache knows of it under the version's name before is stale; what it knows after
must give the same. After `attempts` failures of one version the
actor stops: something is wrong that trying will not mend. Files that are missing or damaged at the learner are waited
for instead, with the version before: the learner publishes them again when it is started again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from actor.config import ReloadConfig
from actor.probe import NOT_PROBED, ProbeDiffers, Score, judge
from actor.versions import Versions
from common.checkpoint import Manifest, Probe
from common.errors import RunError
from common.log import get_logger
from common.messages import Message, ReloadReport

log = get_logger(__name__)
REPORTED = ("probe_difference", "seconds", "pause_seconds")
LONGEST_WAIT = 32.0  # seconds, between two attempts at a version


class Swappable(Protocol):
    """What a reload needs of the policy."""

    version: int

    def held(self) -> AbstractAsyncContextManager[None]: ...
    async def load_full(self, folder: Path, version: int) -> float: ...
    async def load_adapter(self, folder: Path, version: int) -> float: ...
    async def score(self, ids: Sequence[int], version: int) -> Sequence[Score]: ...
    async def refuse(self) -> None: ...
    async def use(self, version: int) -> None: ...
    async def forget(self, version: int) -> None: ...
    def loaded(self) -> set[int]: ...


class Refusal(Exception):  # noqa: N818 - a verdict on a version; caught here, where it is reported
    """A version must not be used; says why, and whether it was its files: those the learner can mend."""

    def __init__(self, reason: str, difference: float = NOT_PROBED, *, of_files: bool = False) -> None:
        super().__init__(reason)
        self.difference, self.of_files = difference, of_files


@dataclass(frozen=True)
class Swap:
    """How one swap went."""

    probe_difference: float  # nats
    pause_seconds: float  # during which no token was sampled


class Reloader:
    """Brings the policy to the newest version, again and again."""

    def __init__(
        self,
        versions: Versions,
        policy: Swappable,
        config: ReloadConfig,
        report: Callable[[Message], Awaitable[object]],
    ) -> None:
        self._versions, self._policy, self._config, self._report = versions, policy, config, report
        self._full_version = -1
        self._digest = ""  # of what is used
        self._failed: dict[int, int] = {}
        self._used = asyncio.Event()

    async def begin(self, folder: Path, manifest: Manifest) -> None:
        """Verify and use the full version that the engine was started with. Loads it again when the probe differs."""
        version = manifest.policy_version
        while True:
            try:
                difference = await self._judge(manifest.probe, version)
                break
            except Refusal as refusal:
                await self._refused(version, refusal, 0.0)
            await self._versions.remove(version)
            folder, manifest = await self._versions.fetch(version)
            await self._policy.load_full(folder, version)
        self._full_version = version
        self._digest = self._versions.digest_of(version)
        await self._accept(version)
        log.info("policy_version_in_use", policy_version=version, probe_difference=difference)

    async def run(self) -> None:
        """Reload until cancelled.

        Raises:
            RunError: a version failed too often.
            EngineFailure: the engine died.
        """
        while True:
            await self.reload(await self._versions.other_than(self._digest))

    async def catch_up(self) -> None:
        """Reload until the policy is the learner's current one. Raises as `run`."""
        while self._digest != self._versions.digest:
            await self.reload(self._versions.target)

    async def reload(self, version: int) -> None:
        """One attempt at a version; what fails is reported and may be tried again."""
        began, digest = time.perf_counter(), self._versions.digest
        try:
            swap = await self._swapped(version, digest)
        except (Refusal, RunError) as error:
            if self._versions.digest != digest:
                # the learner keeps the newest few alone: what was replaced while it was fetched is no failure
                log.info("version_passed_over", policy_version=version, reason=str(error))
                return
            refusal = error if isinstance(error, Refusal) else Refusal(str(error))
            await self._refused(version, refusal, time.perf_counter() - began)
            return
        self._digest = digest
        self._failed.pop(version, None)
        await self._versions.keep_only(self._policy.loaded())
        report = ReloadReport(
            policy_version=version,
            accepted=True,
            probe_difference=swap.probe_difference,
            seconds=time.perf_counter() - began,
            pause_seconds=swap.pause_seconds,
        )
        figures = report.model_dump()
        log.info("policy_version_in_use", policy_version=version, **{name: figures[name] for name in REPORTED})
        await self._report(report)

    async def at_least(self, version: int) -> None:
        """Wait until the policy samples with this version or a newer one."""
        while self._policy.version < version:
            self._used.clear()
            await self._used.wait()

    async def _swapped(self, version: int, digest: str) -> Swap:
        try:
            folder, manifest = await self._versions.fetch(version, digest)
        except RunError as error:
            raise Refusal(str(error), of_files=True) from error
        if manifest.kind == "full":
            return await self._swap_full(folder, manifest)
        if manifest.base_version != self._full_version:
            raise RunError(f"version {version} is an adapter on {manifest.base_version}, not on {self._full_version}")
        return await self._swap_adapter(folder, manifest)

    async def _swap_full(self, folder: Path, manifest: Manifest) -> Swap:
        version, before = manifest.policy_version, self._policy.version
        async with self._policy.held():
            paused = time.perf_counter()
            await self._policy.load_full(folder, version)
            try:
                difference = await self._judge(manifest.probe, version)
            except Refusal as refusal:
                await self._policy.refuse()
                await self._swap_back(before, refusal)
                raise
            self._full_version = version
            await self._accept(version)
        return Swap(difference, time.perf_counter() - paused)

    async def _swap_back(self, version: int, why: Refusal) -> None:
        folder, manifest = await self._versions.fetch(version, self._digest)
        await self._policy.load_full(folder, version)
        try:
            await self._judge(manifest.probe, version)
        except Refusal as refusal:
            # the gate stays shut
            raise Refusal(f"{why}; version {version} cannot be brought back: {refusal}", why.difference) from refusal
        await self._accept(version)

    async def _swap_adapter(self, folder: Path, manifest: Manifest) -> Swap:
        """The one in use goes on while the new adapter is loaded; only the probe has the engine for itself."""
        version = manifest.policy_version
        await self._policy.load_adapter(folder, version)
        paused = time.perf_counter()
        try:
            difference = await self._judge(manifest.probe, version)
        except Refusal:
            await self._policy.forget(version)
            raise
        await self._accept(version)
        return Swap(difference, time.perf_counter() - paused)

    async def _accept(self, version: int) -> None:
        await self._policy.use(version)
        self._used.set()

    async def _judge(self, probe: Probe, version: int) -> float:
        """Largest difference of a probe log-prob from the learner's, nats. Raises Refusal."""
        try:
            scores = await self._policy.score(probe.tokens, version)
            return judge(scores, probe, self._config.probe_tolerance)
        except RunError as error:
            raise Refusal(str(error)) from error
        except ProbeDiffers as verdict:
            raise Refusal(str(verdict), verdict.difference) from verdict

    async def _refused(self, version: int, refusal: Refusal, seconds: float) -> None:
        """Report a failure, and wait before the next attempt.

        Raises:
            RunError: it was one too many.
        """
        failures = self._failed[version] = self._failed.get(version, 0) + 1
        await self._versions.remove(version)
        log.error("policy_version_refused", policy_version=version, reason=str(refusal), failures=failures)
        await self._report(
            ReloadReport(
                policy_version=version,
                accepted=False,
                probe_difference=refusal.difference,
                seconds=seconds,
                pause_seconds=0.0,
                reason=str(refusal)[:2000],
            )
        )
        if failures >= self._config.attempts and not refusal.of_files:
            raise RunError(f"policy version {version} was refused {failures} times, last: {refusal}")
        with suppress(TimeoutError):
            async with asyncio.timeout(min(LONGEST_WAIT, self._config.retry_seconds * 2 ** (failures - 1))):
                await self._versions.other_than(self._versions.digest)
