"""An actor, wired: who waits for what, and who unblocks it.

    Hello ─► Welcome ─┬─► task ids agreed on ─► worlds warm up ───────┐
                      └─► first version fetched ─► engine ─► probe ───┴─► episodes, `actor.episodes` at a time

    asking     waits for leases to be few    unblocked by an episode's end, an ack, a new version
    episode    waits for its world           unblocked by the world's host; then for its minimum version: reloader,
               for a slot: another's last turn; for tokens: engine; for observations: world; for its verdict: grader
    outbox     waits for trajectories        unblocked by an episode's end; their acks free the spool
    reloader   waits for a new version       unblocked by announcement, ack or heartbeat reply
    heartbeats wait for their interval; they renew all leases, and bring what to stop and that the run is finished

What breaks is told apart by class: a world costs one episode, a request one episode, the engine its episodes and a new
start; their leases are returned, never graded (`actor.fulfilment` has the table). While the learner is away no lease
can be had, so an actor goes on with those that it holds, at most `actor.episodes`, spools what they give, then pauses
and says so. That bounds staleness, too: the learner granted them within its bound, and judges what arrives late.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Collection, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from actor.agreement import Agreement
from actor.concurrency import Concurrency
from actor.config import ActorConfig, WorldConfig
from actor.engine import Engine, EngineFailure
from actor.engine_starts import LONGEST_WAIT, EngineStarts
from actor.fulfilment import FailedInARow, Fulfilment
from actor.gauges import Gauges
from actor.lease import CANCELLED, Leases
from actor.leaving import end_episodes, say_goodbye
from actor.outbox import Outbox
from actor.policy import Policy
from actor.reload import Reloader
from actor.slots import Slots
from actor.standing import Standing
from actor.tally import CountedWorlds, Tally
from actor.telling import WORLDS_SECONDS, Telling, longest_stillness
from actor.versions import Versions, source_of
from actor.world_protocol import Provider, WorldService, worlds_of
from common.checkpoint import TOKENIZER
from common.config import LinkConfig, RunConfig
from common.errors import RunError
from common.file_link import FileLink
from common.keys import actor_keys
from common.link import ActorLink
from common.log import get_logger, identify
from common.messages import PROTOCOL_VERSION, Ack, HeartbeatReply, Hello
from common.notify import Notifier
from common.prompt import Prompt, PromptConfig, form_digest
from common.wire import schema_digest

log = get_logger(__name__)
FINISHED = "the run is finished"
CLOSE_SECONDS = 3.0  # for the ends of engine and worlds, whose processes end with this one in any case


class Worker:
    """One actor of one run. `provider` makes its worlds of the section `world`; `notifier` is told how it is."""

    def __init__(
        self,
        run: RunConfig,
        link: LinkConfig,
        world: WorldConfig,
        config: ActorConfig,
        prompt: PromptConfig,
        *,
        provider: Provider,
        notifier: Notifier | None = None,
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
        self._alone = asyncio.Lock()  # vLLM's import and the tasks' check: 13 s in turn, 30 s at once
        self._agreement = Agreement(self._link.request, self._alone)
        self._leases = Leases(config.leases, self._link.request)
        concurrency = Concurrency(config.least_episodes, config.episodes, config.kv_cache_full)
        self._slots = Slots(concurrency, self._on_slots)
        self._standing = Standing(self._leases, lambda: self._link.silent_seconds)
        self._standing.slots = self._slots
        self._tally = Tally()
        self.gauges = Gauges(config.name, self.folder, self._standing, self._tally, lambda: self._link.silent_seconds)
        self._telling = Telling(notifier or Notifier(), self._standing, longest_stillness(world, config))
        self._starts = EngineStarts(config.engine.starts, config.engine.settled_seconds)
        self._failed = FailedInARow(config.episodes)
        self._outbox: Outbox | None = None
        self._versions: Versions | None = None
        self._policy: Policy | None = None
        self._worlds: WorldService | None = None
        self._episodes: dict[str, asyncio.Task[None]] = {}
        self._unwanted: set[str] = set()  # episodes that the learner cancelled
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
        telling = self._task(self._telling.tell())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failure = _failure_of(tasks[1])
            telling.cancel()
            self._telling.leaves(finished=self._stop_reason == FINISHED)
            await self._leave(tasks[1], self._stop_reason or str(failure))
            for task in tasks:
                task.cancel()
            _, stuck = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            if stuck:
                log.warning("left_unfinished", reason="the engine, the worlds or the disk did not let go in time")
            await self._close()
        if failure is not None:
            raise failure

    # ---- the link's side

    def _hello(self) -> Hello:
        return Hello(
            protocol=PROTOCOL_VERSION,
            actor=self._config.name,
            instance=self._instance,
            slots=self._config.leases,
            schema_digest=schema_digest(),
            prompt_digest=form_digest(self._prompt),
            prompt=str(self._prompt),
            tokenizer_digest=self._tokenizer_digest,
            run_id=self._run_id,
            lease_ids=self._standing.lease_ids,
        )

    async def _live(self) -> None:
        """All of an actor's life but its leaving."""
        welcome = await self._link.connect()
        self._run_id = self.gauges.run_id = welcome.run_id
        identify(run=welcome.run_id)
        folder = self._config.versions or self._run.folder / "versions"
        source = source_of(self._shared_folder, folder, welcome.run_id, self._files)
        self._versions = Versions(source, welcome.run_id)
        self._versions.heard(welcome.policy_version, welcome.manifest_digest)
        self._standing.versions = self._versions
        self._outbox = self._standing.outbox = outbox = Outbox(
            self.folder / "spool.sqlite",
            welcome.run_id,
            self._link.request,
            self._on_ack,
            credit_bytes=welcome.credit_bytes,
            compress=self._compress,
        )
        self._link.on_credit = outbox.grant
        self._link.on_cancelled = self._cancel
        async with asyncio.TaskGroup() as group:
            group.create_task(self._heartbeats(welcome.heartbeat_seconds))
            group.create_task(self._standing.watch(welcome.heartbeat_seconds))
            group.create_task(self._announcements(self._versions))
            group.create_task(self._outbox.run())
            warming = group.create_task(self._start_worlds())
            group.create_task(self._work(self._versions, warming))

    async def _heartbeats(self, interval: float) -> None:
        while True:
            reply = await self._link.request(self._standing.heartbeat())
            if isinstance(reply, HeartbeatReply):
                self._on_heartbeat_reply(reply)
            await self._agreement.renew(self._link.welcome.tasks_digest)
            await asyncio.sleep(interval)

    def _on_heartbeat_reply(self, reply: HeartbeatReply) -> None:
        if reply.finished:
            self.stop(FINISHED)
        self._cancel(reply.cancelled)

    def _cancel(self, lease_ids: Collection[str]) -> None:
        """Leases that the learner wants no longer: their requests leave the engine, their worlds are killed."""
        self._leases.drop_waiting(set(lease_ids))
        # it may be said twice: an episode that is on its way out is left to tell its length
        for lease_id in (set(lease_ids) & set(self._episodes)) - self._unwanted:
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

    def _on_slots(self, count: int) -> None:
        self._leases.most = self._config.leases - self._config.episodes + count
        self._leases.news()

    # ---- the work

    async def _work(self, versions: Versions, warming: asyncio.Task[WorldService]) -> None:
        """Engine and worlds, then episodes; the engine anew when it died."""
        async with asyncio.TaskGroup() as group:
            # beside the engine's lives: an answer that it grants leases with is never given up
            group.create_task(self._leases.ask(self._may_ask))
            while True:
                try:
                    await self._roll_out(versions, warming)
                except* EngineFailure as failures:
                    failure = _first(failures)
                    assert failure is not None
                    log.error("engine_failed", reason=str(failure), failures=self._starts.failures + 1)
                    self._tally.engine_failures += 1
                    self._standing.doing = f"vLLM's engine to end, which failed: {failure}"
                    self._telling.takes(LONGEST_WAIT)
                    # an absent learner holds up nothing
                    group.create_task(self._leases.give_back_all(f"engine failure: {failure}"))
                    await self._stop_policy()
                    wait = self._starts.failed(failure)
                if self._stopping.is_set():
                    return
                await asyncio.sleep(wait)

    async def _roll_out(self, versions: Versions, warming: asyncio.Task[WorldService]) -> None:
        reloader, prompt = await self._start_policy(versions)
        self._standing.doing = "worlds to warm up"
        self._telling.takes(WORLDS_SECONDS)
        worlds = await warming
        self._standing.doing = ""
        self._leases.news()
        assert self._policy is not None
        assert self._outbox is not None
        fulfilment = Fulfilment(
            name=self._config.name,
            leases=self._leases,
            outbox=self._outbox,
            policy=self._policy,
            worlds=CountedWorlds(worlds, self._tally),
            prompt=prompt,
            slots=self._slots,
            at_least=reloader.at_least,
            unwanted=self._unwanted,
            failed=self._failed,
            on_finished=self._starts.finished,
            tally=self._tally,
        )
        self._starts.working()
        self._telling.works()
        log.info("ready", policy_version=self._policy.version, episodes=self._config.episodes)
        async with asyncio.TaskGroup() as group:
            group.create_task(reloader.run())
            while True:
                lease = await self._leases.next()
                task = group.create_task(fulfilment.fulfil(lease))
                self._episodes[lease.lease_id] = task
                task.add_done_callback(partial(self._forget_episode, lease.lease_id))

    def _forget_episode(self, lease_id: str, _task: asyncio.Task[None]) -> None:
        self._episodes.pop(lease_id, None)
        self._unwanted.discard(lease_id)

    def _may_ask(self) -> str:
        if self._standing.doing:
            return self._standing.doing
        full = self._outbox is not None and self._outbox.size > self._config.spool_megabytes << 20
        return "the spool is full: the learner acknowledges nothing" if full else ""

    async def _start_worlds(self) -> WorldService:
        worlds = await asyncio.to_thread(worlds_of, self._provider, self._world)
        self._worlds = self._standing.worlds = worlds
        async with asyncio.TaskGroup() as group:
            group.create_task(worlds.start())  # other processes, and the seconds that they take are an actor's first
            group.create_task(self._agreement.begin(worlds, self._link.welcome.tasks_digest))
        return worlds

    async def _import_engine(self) -> None:
        async with self._alone:
            await Engine.prepare(self._config.engine)

    async def _start_policy(self, versions: Versions) -> tuple[Reloader, Prompt]:
        """The engine on the newest version, probed. Gives what keeps it new, and the prompt of its tokenizer."""
        config = self._config
        importing = asyncio.create_task(self._import_engine())
        self._standing.doing = "the first policy version"
        self._telling.waits()
        await versions.other_than("")
        folder, manifest = await versions.fetch_full(config.reload)
        self._standing.doing = f"vLLM's engine to start{self._starts.told}"
        self._telling.takes(config.engine.start_seconds)
        await importing
        prompt = Prompt.load(folder, self._prompt)
        entry = manifest.files.get(TOKENIZER)
        self._tokenizer_digest = entry.sha256 if entry is not None else ""
        try:
            policy = await Policy.start(
                folder,
                manifest.policy_version,
                config.engine,
                mode=config.reload.mode,
                slots=config.episodes,
                seed=_seed(self._run.seed, config.name, manifest.policy_version),
                stop_ids=prompt.stop_ids,
                on_load=self._tally.loads(self._slots.observe),
            )
        except RunError as error:
            if not self._starts.again:
                raise
            raise EngineFailure(str(error)) from error
        self._policy = self._standing.policy = policy
        self._standing.doing = "the probe"
        self._telling.waits()  # and what it finds may be fetched anew; the engine's own limits bound the rest
        reloader = Reloader(versions, policy, config.reload, self._tally.reports(self._link.request))
        await reloader.begin(folder, manifest)
        await reloader.catch_up()
        return reloader, prompt

    # ---- leaving

    async def _leave(self, living: asyncio.Task[Any], reason: str) -> None:
        """Give episodes a last moment, return leases, flush the spool, say goodbye. Never fails; bounded in time."""
        log.info("leaving", reason=reason, episodes=len(self._episodes))
        self._leases.stop_asking()
        self._slots.shut()
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
            policy, self._policy, self._standing.policy = self._policy, None, None
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
