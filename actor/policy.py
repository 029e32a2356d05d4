"""The policy as episodes see it: turns of one version or several, and the gate that shuts while versions change.

    generate(ids) ──► gate ──► request of one version ──► actor.engine
                       ▲            │ interrupted by a swap: goes on as a new request of the new version
    held() ── shut ────┘            ▼
      load_full / load_adapter, score (the probe), use ── open

A turn that a swap interrupts is continued by a second request, whose prompt is the first one's prompt and tokens. In
the mode `in_flight_kept_cache` the first request itself goes on, with the keys and values of the version before. The
engine can be probed only while it runs, so turns are sampled on meanwhile, and their tokens count once it agrees:

    running ── swap ──► sampled on, unjudged ──► use:    they count
                                             └─► refuse: they are discarded, the turn goes on from those that count
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

from actor.config import EngineConfig, SwapMode
from actor.engine import Answer, Engine, Loading, RequestFailure
from actor.engine_load import OnLoad
from actor.probe import Score
from common.errors import RunError
from common.log import get_logger

log = get_logger(__name__)
NO_ADAPTERS = (
    "the run publishes LoRA adapters, and a request cannot change its adapter: "
    "actor.reload.mode in_flight_kept_cache is for full weights; use in_flight"
)


@dataclass
class Sampled:
    """What the policy sampled in one turn; all lists are [n]. The stop token is the last when `finish` is "stop"."""

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)  # nats, of the distribution sampled from (temperature applied)
    versions: list[int] = field(default_factory=list)
    finish: str = ""  # "stop", "length" or "time"
    seconds: float = 0.0  # with the engine, not at the gate
    kept_cache: bool = False  # some token's context has keys and values of an older version than its own


class Policy:
    """Who samples with which version, and when. For one event loop."""

    def __init__(self, engine: Engine, mode: SwapMode) -> None:
        self.engine, self.mode = engine, mode
        self.version = -1  # what new requests sample with
        self.sampled_tokens = 0
        self._users: Counter[int] = Counter()  # requests and pinned episodes by version
        self._stays = 0  # episodes or turns that keep their version
        self._probing = False  # alone with the engine
        self._unjudged: Loading | None = None  # sampled with, and not probed yet
        self._refused: Loading | None = None  # the last that was sampled with and refused
        self._open = asyncio.Event()  # the gate
        self._changed = asyncio.Event()

    @classmethod
    async def start(
        cls,
        folder: Path,
        version: int,
        config: EngineConfig,
        *,
        mode: SwapMode,
        slots: int,
        seed: int,
        stop_ids: Iterable[int],
        on_load: OnLoad | None = None,
    ) -> Policy:
        """Start the engine on the model in `folder`. The gate is shut until `use`. Raises as `Engine.start`."""
        # where turns run on while the engine is probed, the probe needs a place beside them
        places = slots + (mode == "in_flight_kept_cache")
        engine = await Engine.start(
            folder, version, config, slots=places, seed=seed, stop_ids=stop_ids, on_load=on_load
        )
        return cls(engine, mode)

    @property
    def context_tokens(self) -> int:
        """Tokens of the longest sequence."""
        return self.engine.context_tokens

    def stop(self) -> None:
        """End the engine process. Idempotent. Blocks for a second."""
        self._open.clear()
        self.engine.stop()

    # ---- sampling

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[int | None]:
        """An episode's stay; gives the version to sample its turns with, None when each turn takes the current one."""
        if self.mode != "between_episodes":
            yield None
            return
        async with self._stay() as version:
            yield version

    @asynccontextmanager
    async def _stay(self) -> AsyncIterator[int]:
        """Of an episode or a turn that keeps the version which is current when it begins."""
        await self._until(self._open.is_set)
        version = self.version
        self._users[version] += 1
        self._stays += 1
        try:
            yield version
        finally:
            self._stays -= 1
            await self._leave(version)

    async def generate(
        self,
        ids: Sequence[int],
        *,
        temperature: float,
        max_tokens: int,
        pinned: int | None = None,
        max_seconds: float | None = None,
    ) -> Sampled:
        """Sample one turn after `ids`. `pinned` is what `episode` gave; `max_seconds` are of the engine's time.

        Raises:
            EngineFailure: the engine is dead, or has not answered within `request_seconds`.
            RequestFailure: the engine refused this request.
        """
        turn = partial(self._turn, ids, temperature=temperature, max_tokens=max_tokens, max_seconds=max_seconds)
        if self.mode == "between_turns":
            async with self._stay() as version:
                return await turn(pinned=version)
        return await turn(pinned=pinned)

    async def _turn(
        self,
        ids: Sequence[int],
        *,
        temperature: float,
        max_tokens: int,
        max_seconds: float | None,
        pinned: int | None,
    ) -> Sampled:
        """As many requests as it takes, all of the version `pinned`, or each of the current one."""
        sampled = Sampled()
        while True:
            await self._until(partial(self._may_sample, pinned))
            version = self.version if pinned is None else pinned
            self._users[version] += 1
            began = perf_counter()
            try:
                answer = await self.engine.sample(
                    [*ids, *sampled.ids],
                    version,
                    temperature=temperature,
                    max_tokens=max_tokens - len(sampled.ids),
                    max_seconds=None if max_seconds is None else max(0.0, max_seconds - sampled.seconds),
                )
            finally:
                sampled.seconds += perf_counter() - began
                await self._leave(version)
            finish = await self._count(sampled, answer)
            if finish != "abort" or len(sampled.ids) >= max_tokens:
                sampled.finish = "stop" if finish == "stop" else "length"
                return sampled
            if max_seconds is not None and sampled.seconds >= max_seconds:
                sampled.finish = "time"
                return sampled

    async def _count(self, sampled: Sampled, answer: Answer) -> str:
        """Add the tokens that count, once that is known; says how the request ended, "abort" when some do not."""
        await self._until(lambda: self._unjudged is None or self._unjudged not in answer.loadings)
        count = len(answer.ids)
        if self._refused in answer.loadings:
            count = answer.loadings.index(self._refused)
        loadings = answer.loadings[:count]
        sampled.ids += answer.ids[:count]
        sampled.log_probs += answer.log_probs[:count]
        sampled.versions += [loading.version for loading in loadings]
        sampled.kept_cache |= any(loading is not answer.began_with for loading in loadings)
        self.sampled_tokens += count
        return answer.finish if count == len(answer.ids) else "abort"

    def _may_sample(self, pinned: int | None) -> bool:
        return not self._probing and (pinned is not None or self._open.is_set())

    async def score(self, ids: Sequence[int], version: int) -> list[Score]:
        """What each engine worker says of a probe [P] under a loaded version. Asks no gate.

        Raises:
            RunError: the engine does not take it.
            EngineFailure: as `generate`.
        """
        async with self._alone():
            try:
                return await self.engine.score(list(ids), version)
            except RequestFailure as error:
                raise RunError(f"the probe could not be scored: {error}") from error

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Within this the engine has no other request, where it can load adapters.

        With LoRA on, vLLM 0.32 dies when prompt log-probs are in one batch with requests that sample.
        """
        self._probing = self.engine.config.adapter_rank > 0
        try:
            if self._probing:
                # they go on after it, and find their own context in the prefix cache
                await self.engine.interrupt()
                await self.engine.idle()
            yield
        finally:
            self._probing = False
            self._changed.set()

    # ---- versions

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Within this no trajectory's token is sampled. Turns under way are interrupted, or awaited, as the mode says.

        The gate opens again through `use` alone: after an error it stays shut, since what is loaded is not verified.
        """
        self._open.clear()
        # what is on its way into the engine must be there to be interrupted
        await self.engine.submitted()
        if self._stays:
            what = "turns" if self.mode == "between_turns" else "episodes"
            log.info("swap_waits", waiting_for=f"{what} to end", count=self._stays)
            await self._until(lambda: self._stays == 0)
        yield

    async def load_full(self, folder: Path, version: int) -> float:
        """Replace all weights; for use within `held`. Turns go on or are interrupted as the mode says. Seconds."""
        # where nothing runs there is nothing to keep: the prefix cache is emptied too
        keep = self.mode == "in_flight_kept_cache" and self.engine.under_way > 0
        seconds = await self.engine.load_full(folder, version, keep=keep)
        # no token of it is sampled before this: the engine gets no turn to tell of one
        self._unjudged = self.engine.full if keep else None
        return seconds

    async def refuse(self) -> None:
        """What `load_full` loaded is not used: tokens sampled with it are discarded, and no more are sampled."""
        if self._unjudged is not None:
            await self.engine.interrupt()
            self._refused, self._unjudged = self._unjudged, None
            self._changed.set()
            await self.engine.idle()

    async def load_adapter(self, folder: Path, version: int) -> float:
        """Load a LoRA adapter beside those in use. Returns the seconds.

        Raises:
            RunError: the engine refuses it, or the mode: a request cannot change its adapter.
            EngineFailure: the engine died.
        """
        if self.mode == "in_flight_kept_cache":
            raise RunError(NO_ADAPTERS)
        in_use, slots = {*self._users.keys() & self.engine.adapters, version}, self.engine.config.adapter_slots
        if len(in_use) > slots:
            log.warning("adapter_slots_exceeded", versions=sorted(in_use), slots=slots, effect="turns wait for a slot")
        return await self.engine.load_adapter(folder, version)

    async def use(self, version: int) -> None:
        """Sample with a loaded version from now on, and open the gate. Adapters that nobody uses are removed."""
        assert version == self.engine.full.version or version in self.engine.adapters
        old, self.version = self.version, version
        self._unjudged = None
        if self.mode == "in_flight" and old in self.engine.adapters:
            await self.engine.interrupt()
        self._open.set()
        self._changed.set()
        for loaded in [other for other in self.engine.adapters if other != version and not self._users[other]]:
            await self.forget(loaded)

    async def forget(self, version: int) -> None:
        """Remove an adapter from the engine, if it is there."""
        await self.engine.forget(version)

    def loaded(self) -> set[int]:
        """Versions whose folders the engine may still read."""
        return {self.engine.full.version, self.version, *self.engine.adapters}

    async def _leave(self, version: int) -> None:
        self._users[version] -= 1
        if not self._users[version]:
            del self._users[version]
            if version != self.version and self._open.is_set():
                await self.forget(version)
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
