"""An actor, wired: who waits for what, and who unblocks it.

    Hello ─► Welcome ─┬─► task ids agreed on ─► worlds warm up ───────┐
                      └─► first version fetched ─► engine ─► probe ───┴─► episodes, `actor.episodes` at a time

    asking     waits for free slots          unblocked by an episode's end, an ack, a new version
    episode    waits for its minimum version unblocked by the reloader; for tokens: engine; for observations: world
    outbox     waits for trajectories        unblocked by an episode's end; their acks free the spool
    reloader   waits for a new version       unblocked by announcement, ack or heartbeat reply
    heartbeats wait for their interval; they renew all leases, and bring what to stop and that the run is finished

What breaks is told apart by class: a world costs one episode, a request one episode, the engine its episodes and a new
start; their leases are returned, never graded. An absent learner costs nothing until the spool is full.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from actor.agreement import Agreement
from actor.config import ActorConfig, WorldConfig
from actor.episode import Episode, run_episode
from actor.lease import CANCELLED, Leases
from actor.leaving import end_episodes, say_goodbye
from actor.outbox import Outbox
from actor.policy import EngineFailure, Policy, RequestFailure
from actor.reload import Reloader
from actor.trajectory import trajectory_of
from actor.versions import Versions, source_of
from actor.world_protocol import Provider, WorldFailure, WorldService
from common.checkpoint import TOKENIZER
from common.config import LinkConfig, RunConfig
from common.errors import RunError
from common.file_link import FileLink
from common.keys import actor_keys
from common.link import ActorLink
from common.log import get_logger
from common.messages import PROTOCOL_VERSION, Ack, Heartbeat, HeartbeatReply, Hello, Lease
from common.prompt import Prompt, PromptConfig, form_digest
from common.wire import schema_digest

log = get_logger(__name__)
ENGINE_STARTS = 4  # the first, and again after the engine died
CLOSE_SECONDS = 3.0  # for the ends of engine and worlds, whose processes end with this one in any case


class Worker:
    """One actor of one run. `provider` makes its worlds of the section `world`."""

    def __init__(
        self,
        run: RunConfig,
        link: LinkConfig,
        world: WorldConfig,
        config: ActorConfig,
        prompt: PromptConfig,
        *,
        provider: Provider,
    ) -> None:
        self._run, self._world, self._config, self._prompt = run, world, config, prompt
        self._provider = provider
        self._shared_folder = link.shared_folder
        self.folder = config.folder or run.folder / "actors" / config.name
        keys = None if link.insecure else actor_keys(link.keys, config.name)
        self._instance = secrets.token_hex(8)
        self._compress = link.compression == "zstd"
        self._run_id = self._tokenizer_digest = ""  # not known yet
        self._link = ActorLink(link, keys, self._hello)
        self._files = FileLink(link, keys)
        self._agreement = Agreement(self._link.request)
        self._leases = Leases(config.episodes, self._link.request)
        self._outbox: Outbox | None = None
        self._versions: Versions | None = None
        self._policy: Policy | None = None
        self._worlds: WorldService | None = None
        self._episodes: dict[str, asyncio.Task[None]] = {}
        self._unwanted: set[str] = set()  # episodes that the learner cancelled
        self._doing = "the learner"
        self._stopping = asyncio.Event()
        self._stop_reason = ""

    def stop(self, reason: str) -> None:
        """Leave politely: `run` returns when that is done."""
        self._stop_reason = self._stop_reason or reason
        self._stopping.set()

    async def run(self) -> None:
        """Work until the run is finished or `stop` is called.

        Raises:
            UsageError: configuration, keys or data root are unusable.
            RunError: what failed while running.
        """
        tasks = [self._task(self._stopping.wait()), self._task(self._live())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failure = _failure_of(tasks[1])
            await self._leave(tasks[1], self._stop_reason or str(failure))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._close()
        if failure is not None:
            raise failure

    # ---- the link's side

    def _hello(self) -> Hello:
        return Hello(
            protocol=PROTOCOL_VERSION,
            actor=self._config.name,
            instance=self._instance,
            slots=self._config.episodes,
            schema_digest=schema_digest(),
            prompt_digest=form_digest(self._prompt),
            prompt=str(self._prompt),
            tokenizer_digest=self._tokenizer_digest,
            run_id=self._run_id,
            lease_ids=self._held(),
        )

    def _held(self) -> tuple[str, ...]:
        return (*self._leases.ids, *(self._outbox.ids if self._outbox is not None else ()))

    async def _live(self) -> None:
        """All of an actor's life but its leaving."""
        welcome = await self._link.connect()
        self._run_id = welcome.run_id
        folder = self._config.versions or self._run.folder / "versions"
        source = source_of(self._shared_folder, folder, welcome.run_id, self._files)
        self._versions = Versions(source, welcome.run_id)
        self._versions.heard(welcome.policy_version, welcome.manifest_digest)
        self._outbox = outbox = Outbox(
            self.folder / "spool.sqlite",
            welcome.run_id,
            self._link.request,
            self._on_ack,
            credit_bytes=welcome.credit_bytes,
            compress=self._compress,
        )
        self._link.on_credit = outbox.grant
        async with asyncio.TaskGroup() as group:
            group.create_task(self._heartbeats(welcome.heartbeat_seconds))
            group.create_task(self._announcements(self._versions))
            group.create_task(self._outbox.run())
            warming = group.create_task(self._start_worlds())
            group.create_task(self._work(self._versions, warming))

    async def _heartbeats(self, interval: float) -> None:
        since, tokens = time.monotonic(), 0
        while True:
            now, sampled = time.monotonic(), self._policy.sampled_tokens if self._policy is not None else 0
            message = Heartbeat(
                policy_version=self._policy.version if self._policy is not None else -1,
                episodes=len(self._episodes),
                lease_ids=self._held(),
                tokens_per_second=max(0, sampled - tokens) / max(now - since, 1e-3),
                spooled=len(self._outbox.ids) if self._outbox is not None else 0,
                waiting_for=self._waiting_for(),
                reads=tuple(sorted(self._versions.reads)) if self._versions is not None else (),
            )
            since, tokens = now, sampled
            reply = await self._link.request(message)
            if isinstance(reply, HeartbeatReply):
                self._on_heartbeat_reply(reply)
            await self._agreement.renew(self._link.welcome.tasks_digest)
            await asyncio.sleep(interval)

    def _waiting_for(self) -> str:
        sending = self._outbox.waiting_for if self._outbox is not None else ""
        return (self._doing or "; ".join(filter(None, (sending, self._leases.waiting_for))))[:2000]

    def _on_heartbeat_reply(self, reply: HeartbeatReply) -> None:
        if reply.finished:
            self.stop("the run is finished")
        unwanted = set(reply.cancelled)
        self._leases.drop_waiting(unwanted)
        for lease_id in unwanted & set(self._episodes):
            log.info("episode_cancelled", lease=lease_id)
            self._unwanted.add(lease_id)
            self._episodes[lease_id].cancel(CANCELLED)

    async def _announcements(self, versions: Versions) -> None:
        """The link tells every version that any message named, in the order of arrival."""
        async for announcement in self._link.announcements():
            versions.heard(announcement.policy_version, announcement.manifest_digest)
            self._leases.news()

    def _on_ack(self, _ack: Ack) -> None:
        self._leases.news()

    # ---- the work

    async def _work(self, versions: Versions, warming: asyncio.Task[WorldService]) -> None:
        """Engine and worlds, then episodes; the engine anew when it died."""
        for starts in range(1, ENGINE_STARTS + 1):
            try:
                await self._roll_out(versions, warming)
            except* EngineFailure as failures:
                log.error("engine_failed", reason=str(_first(failures)), starts=starts)
                await self._leases.give_back_all(f"engine failure: {_first(failures)}")
                await self._stop_policy()
        raise RunError(f"vLLM's engine failed {ENGINE_STARTS} times; the log has why")

    async def _roll_out(self, versions: Versions, warming: asyncio.Task[WorldService]) -> None:
        reloader, prompt = await self._start_policy(versions)
        self._doing = "worlds to warm up"
        worlds = await warming
        self._doing = ""
        log.info("ready", policy_version=self._policy.version if self._policy else -1, episodes=self._config.episodes)
        async with asyncio.TaskGroup() as group:
            group.create_task(reloader.run())
            group.create_task(self._leases.ask(self._may_ask))
            while True:
                lease = await self._leases.next()
                task = group.create_task(self._fulfil(lease, reloader, worlds, prompt))
                self._episodes[lease.lease_id] = task
                task.add_done_callback(partial(self._forget_episode, lease.lease_id))

    def _forget_episode(self, lease_id: str, _task: asyncio.Task[None]) -> None:
        self._episodes.pop(lease_id, None)
        self._unwanted.discard(lease_id)

    def _may_ask(self) -> str:
        full = self._outbox is not None and self._outbox.size > self._config.spool_megabytes << 20
        return "the spool is full: the learner acknowledges nothing" if full else ""

    async def _fulfil(self, lease: Lease, reloader: Reloader, worlds: WorldService, prompt: Prompt) -> None:
        """One lease: a trajectory in the spool, or the lease returned. One failure costs one lease."""
        assert self._policy is not None
        assert self._outbox is not None
        begun: list[Episode] = []
        longest = self._policy.context_tokens
        try:
            await reloader.at_least(lease.minimum_version)
            episode = await run_episode(lease, self._policy, worlds, prompt, longest, on_begin=begun.append)
            trajectory = trajectory_of(episode, self._config.name)
            await self._outbox.add(trajectory)
        except (WorldFailure, RequestFailure, ValueError) as error:
            log.warning("episode_failed", lease=lease.lease_id, task=lease.task_id, reason=str(error))
            await self._leases.give_back(lease, f"{type(error).__name__}: {error}")
            return
        except asyncio.CancelledError:
            if lease.lease_id in self._outbox.ids:
                self._leases.done(lease)
            elif lease.lease_id in self._unwanted:
                await self._leases.cancelled(lease, sum(len(episode.ids) for episode in begun))
            raise
        log.info(
            "episode_finished",
            lease=lease.lease_id,
            task=lease.task_id,
            reward=episode.reward,
            turns=len(episode.turns),
            tokens=len(episode.ids),
            tags=episode.tags,
            seconds=round(episode.seconds, 3),
            engine_seconds=round(episode.engine_seconds, 3),
            world_seconds=round(episode.world_seconds, 3),
        )
        self._leases.done(lease)

    async def _start_worlds(self) -> WorldService:
        worlds = await asyncio.to_thread(self._provider, self._world)
        self._worlds = worlds
        await self._agreement.begin(worlds, self._link.welcome.tasks_digest)
        await worlds.start()
        return worlds

    async def _start_policy(self, versions: Versions) -> tuple[Reloader, Prompt]:
        """The engine on the newest version, probed. Gives what keeps it new, and the prompt of its tokenizer."""
        config = self._config
        importing = asyncio.create_task(Policy.prepare(config.engine))
        self._doing = "the first policy version"
        await versions.other_than("")
        folder, manifest = await versions.fetch_full(config.reload)
        self._doing = "vLLM's engine to start"
        await importing
        prompt = Prompt.load(folder, self._prompt)
        entry = manifest.files.get(TOKENIZER)
        self._tokenizer_digest = entry.sha256 if entry is not None else ""
        self._policy = policy = await Policy.start(
            folder,
            manifest.policy_version,
            config.engine,
            mode=config.reload.mode,
            slots=config.episodes,
            seed=_seed(self._run.seed, config.name, manifest.policy_version),
            stop_ids=prompt.stop_ids,
        )
        self._doing = "the probe"
        reloader = Reloader(versions, policy, config.reload, self._link.request)
        await reloader.begin(folder, manifest)
        await reloader.catch_up()
        return reloader, prompt

    # ---- leaving

    async def _leave(self, living: asyncio.Task[Any], reason: str) -> None:
        """Give episodes a last moment, return leases, flush the spool, say goodbye. Never fails; bounded in time."""
        log.info("leaving", reason=reason, episodes=len(self._episodes))
        self._leases.stop_asking()
        drains = not living.done() and self._stop_reason == "signal"
        await end_episodes(self._episodes, self._config.drain_seconds if drains else 0.0)
        if self._outbox is None:
            return
        sending = self._task(self._outbox.run()) if living.done() else None
        flush_seconds = self._config.flush_seconds
        await say_goodbye(self._leases, self._outbox, self._link.request, reason=reason, flush_seconds=flush_seconds)
        if sending is not None:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        log.info("left", spooled=len(self._outbox.ids), leases=len(self._leases.ids))

    async def _stop_policy(self) -> None:
        if self._policy is not None:
            policy, self._policy = self._policy, None
            await asyncio.to_thread(policy.stop)

    async def _close(self) -> None:
        began = time.monotonic()
        worlds = self._worlds.close() if self._worlds is not None else asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(self._stop_policy(), worlds)
        await asyncio.gather(self._link.close(), self._files.close())
        if self._outbox is not None:
            self._outbox.close()
        if self._versions is not None:
            self._versions.close()
        log.info("closed", seconds=round(time.monotonic() - began, 2))

    @staticmethod
    def _task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.create_task(coroutine)


def _seed(run_seed: int, name: str, version: int) -> int:
    """The engine's seed: another for each actor, and for an engine that starts again on a later version."""
    return int.from_bytes(hashlib.sha256(f"{run_seed} {name} {version}".encode()).digest()[:4], "big") >> 1


def _failure_of(task: asyncio.Task[Any]) -> BaseException | None:
    if not task.done() or task.cancelled() or task.exception() is None:
        return None
    return _first(task.exception())


def _first(error: BaseException | None) -> BaseException | None:
    """What lies at the bottom of groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
