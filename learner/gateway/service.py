"""The gateway process: the learner's only one on the network. This file wires its parts; `python -m` starts it.

Who waits for what, and who unblocks it:

    actor ── LeaseRequest ──► book: a free place in an open group, or a new draw within the staleness bound
              waits for:  the first version (trainer publishes) · the step under way (trainer publishes) · the end
    actor ── Trajectory ───► inbox ─► ledger ─► commit ─► Ack          waits for: the disk, nothing else
    trainer ─ NextGroups ──► book: enough ready groups                 waits for: trajectories (actors), parked <= 1 s
    trainer ─ Published ───► ledger ─► commit ─► Noted, Announcement to every actor
    stragglers, run over ──► ledger ─► commit ─► Cancellation to who holds them
    actor ── FileRequest ──► files desk                                waits for: nothing
    anyone listed ─ StatusRequest ─► status: the run as it stands      waits for: nothing
    tick: leases nobody renewed lapse (their members are issued again) · silent actors are named · figures are written

One thread handles what comes; a second (`guard.py`) only watches what connections make this process hold. What arrived
together is handled together and committed once; only then are the answers sent. A stalled trainer stalls nobody here,
and a crash of either side loses nothing that was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import zmq
import zmq.asyncio

from common.config import LinkConfig, RunConfig, parse_command_line
from common.errors import RunError, UsageError
from common.log import Reminder, configure, get_logger, identify
from common.messages import Cancellation, Message, Unreadable
from common.metrics_config import MetricsConfig
from common.notify import Notifier
from common.processes import parent_of_this
from common.prompt_config import PromptConfig
from common.run_lock import only_one
from common.sockets import INSECURE, SAY_INSECURE_EVERY, name_and_frames, question_in
from common.wire import encode
from learner.config import SECTIONS, LearnerConfig
from learner.gateway.blobs import Blobs
from learner.gateway.credit import Credit
from learner.gateway.draw import read_tasks
from learner.gateway.evaluation import EvaluationLists
from learner.gateway.exported import exported
from learner.gateway.files_desk import FilesDesk
from learner.gateway.listing import Listing
from learner.gateway.liveness import Liveness
from learner.gateway.ports import Sockets, listening
from learner.gateway.reception import Reception
from learner.gateway.room import Journalling
from learner.gateway.run_state import RunState
from learner.gateway.status import StatusDesk
from learner.gateway.trainer_desk import TrainerDesk
from learner.gateway.trainer_socket import TrainerSocket
from learner.gateway.trainer_watch import TrainerWatch

log = get_logger("learner.gateway.service")  # __name__ is "__main__" in its process

T = TypeVar("T")
BATCH_BYTES = 64 << 20  # read together before a commit
BATCH_MESSAGES = 256
TICK_SECONDS = 0.5
STOPPED_SECONDS = 3.0  # without a tick: the process or the machine stood still
FIGURES_EVERY = 2.0  # seconds
FAREWELL_SECONDS = 15.0  # that actors have to leave after the end


class Gateway:
    """A running gateway."""

    def __init__(
        self,
        run: RunState,
        link: LinkConfig,
        sockets: Sockets,
        *,
        stop: asyncio.Event | None = None,
        stop_with_parent: bool = False,
        notifier: Notifier | None = None,
    ) -> None:
        self._run = run
        self._sockets = sockets
        self._guard = sockets.guard
        self._blobs = Blobs(run.folder / "checkpoints")
        self._desk = TrainerDesk(run, lambda: self.reception.peers.versions_in_use(time.monotonic()))
        self._end_reminder = Reminder(time.monotonic)
        self._listing = Listing(sockets.listed, sockets.guard)
        self._liveness = Liveness(notifier or Notifier(), sockets.actors)
        self._insecure_reminder = Reminder(time.monotonic, SAY_INSECURE_EVERY)
        self._credit = Credit(link.memory_megabytes << 20, link.peer_megabytes << 20)
        self._journalling = Journalling(run, self._credit)
        self._trainer = TrainerSocket(
            sockets.trainer,
            self._desk,
            self._durably,
            lambda: self._journalling.lacking,
            lambda: self.reception.peers.any_live(time.monotonic()),
            watch=TrainerWatch(link.heartbeat_seconds, link.heartbeat_seconds * link.silence_intervals),
        )
        self._missed = run.ledger.holders()  # since a restart; they have not found this process yet
        self._stop = stop or asyncio.Event()
        self._stop_with_parent = stop_with_parent
        self.reception = Reception(
            run,
            heartbeat_seconds=link.heartbeat_seconds,
            silence=link.heartbeat_seconds * link.silence_intervals,
            is_connected=self._is_connected,
            is_listed=self._listing.has,
            credit=self._credit,
        )
        self.status = StatusDesk(
            run, link, self.reception, self._trainer, journalling=self._journalling, guard=sockets.guard
        )
        self.reception.on_status = self.status.answer
        fetches, quarantine = self.reception.peers.fetches, self.reception.quarantine
        self._files = FilesDesk(sockets.files, self._blobs, sockets.guard, fetches, quarantine)

    def stop(self) -> None:
        """End `serve` as soon as what is in hand is done."""
        self._stop.set()

    async def serve(self) -> None:
        """Until the run is over or `stop`."""
        loops: list[Coroutine[Any, Any, None]] = [
            self._serve_actors(),
            self._files.serve(),
            self._trainer.serve(),
            self._tick(),
        ]
        tasks = [*(asyncio.create_task(loop) for loop in loops), self._sockets.gate]
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, stopped):
            task.cancel()
        results = await asyncio.gather(*tasks, stopped, return_exceptions=True)
        self._blobs.close()
        for result in results:
            if isinstance(result, Exception):
                raise result  # and nothing half-changed is committed
        self._durably(lambda: True)

    # --- actors

    async def _serve_actors(self) -> None:
        while True:
            batch = await self._arrived_together()
            if self._journalling.lacking:
                answers = self._answers_when_full(batch)
            else:
                wanted = sum(len(frame) for frames in batch for frame in frames)
                answers = self._durably(partial(self._answers_to, batch), wanted) or []
            for routing, number, answer in answers:
                self._send(routing, number, answer)
            self._liveness.took()

    async def _arrived_together(self) -> deque[list[zmq.Frame]]:
        """At least one message, and whatever else waits already, within limits; none of connections that were cut."""
        frames: list[zmq.Frame] | None = await self._sockets.actors.recv_multipart(copy=False)
        batch: deque[list[zmq.Frame]] = deque()
        size = count = 0
        while frames is not None:
            if self._guard.heard(frames):
                batch.append(frames)
            count += 1
            size += sum(len(frame) for frame in frames)
            full = size >= BATCH_BYTES or count >= BATCH_MESSAGES
            frames = None if full else await self._waiting()
        return batch

    async def _waiting(self) -> list[zmq.Frame] | None:
        """A message that waits already. The error that says there is none keeps alive whatever stands beside it here:
        caught one level higher it would hold the whole batch until the next collection of garbage.
        """
        try:
            frames: list[zmq.Frame] = await self._sockets.actors.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        return frames

    def _answers_to(self, batch: deque[list[zmq.Frame]]) -> list[tuple[bytes, bytes, Message]]:
        """To whom, under which number, what; each message is let go as it is answered."""
        answers: list[tuple[bytes, bytes, Message]] = []
        while batch:
            name, parts = name_and_frames(batch.popleft())
            routing, number, body, wrong = question_in(parts)
            if wrong:
                self.reception.quarantine.put(name, body, wrong)
                answers.append((routing, number, Unreadable(reason=wrong)))
            else:
                answers.append((routing, number, self.reception.answer(name, routing, body)))
        return answers

    def _answers_when_full(self, batch: deque[list[zmq.Frame]]) -> list[tuple[bytes, bytes, Message]]:
        answers: list[tuple[bytes, bytes, Message]] = []
        while batch:
            name, parts = name_and_frames(batch.popleft())
            routing, number, body, wrong = question_in(parts)
            lacking = self._journalling.lacking
            answer = None if wrong else self.reception.answer_when_full(name, routing, body, lacking)
            if answer is not None:
                answers.append((routing, number, answer))
        return answers

    def _durably(self, work: Callable[[], T], wanted: int = 0) -> T | None:
        """What `work` gives, once all that it changed is on the disk; None when that takes no more of it."""
        done = self._journalling.done(work, wanted)
        if done is None:
            self.reception.episodes_done = self._run.ledger.arrived()
            return None
        if self._run.moved:
            self._trainer.news()
        for announcement in self._run.news:
            self._blobs.forget(announcement.policy_version)
            body = encode(announcement)
            for peer in self.reception.peers.present:
                self._send_body(peer.routing, b"", body)
        for peer in self.reception.peers.present if self._run.cancelled else ():
            if lease_ids := self._run.cancelled.get(peer.name):
                self._send(peer.routing, b"", Cancellation(lease_ids=tuple(lease_ids)))
        self._run.news.clear()
        self._run.cancelled.clear()
        return done

    def _send(self, routing: bytes, number: bytes, message: Message) -> bool:
        """Without waiting: an actor that is gone or does not read asks again later. Whether it could be sent."""
        return self._send_body(routing, number, encode(message))

    def _send_body(self, routing: bytes, number: bytes, body: bytes) -> bool:
        sent = self._sockets.actors.send_multipart([routing, number, body], flags=zmq.NOBLOCK)
        assert isinstance(sent, asyncio.Future)
        error = sent.exception()
        if error is None:
            self._guard.said(routing, number, body)
        elif not isinstance(error, zmq.ZMQError):
            raise error
        return error is None

    def _is_connected(self, routing: bytes) -> bool:
        return self._send(routing, b"", Unreadable(reason="nothing: the gateway looks whether you are there"))

    # --- time

    async def _tick(self) -> None:
        figures_at = over_since = 0.0
        now, parent = time.monotonic(), parent_of_this()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            before, now = now, time.monotonic()
            if now - before > STOPPED_SECONDS:
                # while this process was stopped nobody could renew: their heartbeats wait in the socket
                log.warning("gateway_was_stopped", seconds=round(now - before, 1))
                self._run.book.extend_all(now)
                self.reception.peers.extend_all(now)
                self._trainer.watch.extend()
            for peer in self.reception.peers.newly_silent(now):
                log.warning("actor_silent", actor=peer.name, seconds=round(now - peer.heard_at, 1))
            self._guard.alive()
            self._liveness.look()
            self.reception.count_live(now)
            self._missed -= self.reception.peers.names
            if self._journalling.look():
                self._durably(partial(self._let_go, now))
            if now - figures_at >= FIGURES_EVERY:
                figures_at = now
                self._liveness.say(self._run.course.phase, *self.status.write_figures())
            if self._sockets.listed is None and self._insecure_reminder.is_due():
                log.warning("insecure_link", reason=INSECURE)
            if self._stop_with_parent and os.getppid() != parent:
                log.error("parent_gone", parent=parent)
                self.stop()
            if self._run.finished:
                over_since = over_since or now
                # a run resumed when it was over already: its trainer, still loading, is to hear so
                if not self._desk.trainer_is_done:
                    if self._end_reminder.is_due():
                        log.info("gateway_waits", waiting_for="the trainer to say that it has finished")
                elif now - over_since > FAREWELL_SECONDS or not (self._missed or self.reception.peers.any_live(now)):
                    log.info("gateway_done", actors_left=not self.reception.peers.any_live(now))
                    self.stop()

    def _let_go(self, now: float) -> bool:
        for record in self._run.book.expire(now):
            log.warning("lease_lapsed", lease=record.lease_id, actor=record.actor, state=record.state)
        self._listing.dismiss_unlisted(self.reception.dismiss_unlisted)
        return True


@contextlib.asynccontextmanager
async def opened(
    run: RunState,
    link: LinkConfig,
    *,
    stop: asyncio.Event | None = None,
    stop_with_parent: bool = False,
    notifier: Notifier | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway whose ports are bound and written to gateway.json; `notifier` is told so.

    Raises:
        UsageError: a port in use, keys missing or readable by others.
    """
    async with listening(run.folder, link) as sockets:
        ports = {"port": sockets.port, "files_port": sockets.files_port}
        log.info("gateway_listens", run=run.run_id, phase=run.course.phase, host=link.host, **ports)
        notifier = notifier or Notifier()
        notifier.ready()
        yield Gateway(run, link, sockets, stop=stop, stop_with_parent=stop_with_parent, notifier=notifier)


async def _run(run: RunState, link: LinkConfig, metrics: MetricsConfig, *, stop_with_parent: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    notifier = Notifier()
    serving = opened(run, link, stop=stop, stop_with_parent=stop_with_parent, notifier=notifier)
    async with serving as gateway, exported(metrics, run.folder, run.run_id, gateway.status.picture):
        await gateway.serve()
        notifier.stopping()


def main(argv: Sequence[str]) -> int:
    """Serve one run until it is over or a signal comes. 0 either way."""
    loaded, flags = parse_command_line(
        SECTIONS,
        argv,
        usage="usage: python -m learner.gateway.service [--config FILE]",
        flags={"stop-with-parent": "stop when the process that started this one is gone"},
    )
    where, link = loaded.section("run", RunConfig), loaded.section("link", LinkConfig)
    learner, metrics = loaded.section("learner", LearnerConfig), loaded.section("metrics", MetricsConfig)
    where.folder.mkdir(parents=True, exist_ok=True)
    configure("gateway", **where.log("gateway"), to="output", run=where.folder.name)
    with only_one(where.folder / "gateway.lock"):
        try:
            run = RunState(
                where.folder,
                learner.rollout,
                learner.evaluation,
                seed=where.seed,
                train_tasks=read_tasks(learner.rollout.train_tasks, "learner.rollout.train_tasks"),
                lists=EvaluationLists.read(learner.evaluation),
                now=time.monotonic(),
                prompt=loaded.section("prompt", PromptConfig),
            )
            identify(run=run.run_id)
            try:
                asyncio.run(_run(run, link, metrics, stop_with_parent=flags["stop-with-parent"]))
            finally:
                run.close()
        except sqlite3.Error as error:
            raise RunError(f"{where.folder}/ledger.sqlite: {error}; nothing unsaved was acknowledged") from error
    return 0


def _exit_code(argv: Sequence[str]) -> int:
    try:
        return main(argv)
    except (UsageError, RunError) as error:
        log.error("gateway_failed", reason=str(error))
        sys.stderr.write(f"gateway: {error}\n")
        return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    sys.exit(_exit_code(sys.argv[1:]))
