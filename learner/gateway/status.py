"""How the run does, as plain data: what the gateway's parts know of it, put together for who asks (`loop status`).

    reception (actors) ┐
    lease book, ledger ┼─► picture: `Status` ─► its words ─► whoever asks, the learner's gauges
    trainer's watch    ┤
    disk, connections  ┘

Nothing here changes anything. What takes long to look at is looked at seldom: at most a twentieth of the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from common.config import LinkConfig
from common.last_errors import last_errors
from common.messages import PROTOCOL_VERSION, Message, Refused
from common.status_messages import (
    MOST_ACTORS,
    MOST_ERRORS,
    MOST_GROUPS,
    ActorState,
    ActorStatus,
    BooksStatus,
    GroupStatus,
    LagTally,
    LoggedError,
    Status,
    StatusRequest,
    Tally,
)
from learner.gateway.guard import Guard
from learner.gateway.handshake import other_protocol
from learner.gateway.peers import Peer
from learner.gateway.reception import Reception
from learner.gateway.records import Group
from learner.gateway.room import Journalling
from learner.gateway.run_state import RunState
from learner.gateway.status_words import stalls, waits_for
from learner.gateway.trainer_socket import TrainerSocket

T = TypeVar("T")
LATE_INTERVALS = 2  # of heartbeats, after which an actor is late
LEAST_BOOKS_SECONDS, LEAST_DISK_SECONDS = 1.0, 15.0  # that a figure is shown again
SELDOM = 20  # times as long as it took to look at
MOST_EVALUATION_GROUPS = MOST_GROUPS // 2  # beside training's
STATES: tuple[ActorState, ...] = ("silent", "late", "starting", "waiting", "working", "left")  # as they are shown
PENDING = ("leased", "received", "handed")
LEASES = "SELECT purpose, state, reason, COUNT(*) FROM leases GROUP BY purpose, state, reason"
LAGS = """
SELECT l.oldest_version, COUNT(*) FROM groups g JOIN leases l USING (group_id)
WHERE g.state = 'trained' AND g.step = ? AND l.state = 'trained' GROUP BY l.oldest_version
"""
FIRST_LEASE = "SELECT MIN(granted_at) FROM leases WHERE group_id = ?"
OLDEST_LEASE = "SELECT MIN(granted_at), actor FROM leases WHERE group_id = ? AND state = 'leased'"


class Seldom(Generic[T]):
    """A figure that is looked at anew only after `least` seconds, and after long where looking took long."""

    def __init__(self, look: Callable[[], T], least: float, clock: Callable[[], float]) -> None:
        self._look, self._least, self._clock = look, least, clock
        self._found: T | None = None
        self._until = float("-inf")

    def __call__(self) -> T:
        now = self._clock()
        if self._found is None or now >= self._until:
            self._found = self._look()
            took = self._clock() - now
            self._until = now + took + max(self._least, SELDOM * took)
        return self._found


class StatusDesk:
    """Answers who asks how the run does."""

    def __init__(
        self,
        run: RunState,
        link: LinkConfig,
        reception: Reception,
        trainer: TrainerSocket,
        *,
        journalling: Journalling,
        guard: Guard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._reception, self._trainer = run, reception, trainer
        self._journalling, self._guard, self._clock = journalling, guard, clock
        self._interval, self._silence = link.heartbeat_seconds, link.heartbeat_seconds * link.silence_intervals
        self._began = clock()
        self._books = Seldom(self._look_at_books, LEAST_BOOKS_SECONDS, clock)
        self._run_bytes = Seldom(lambda: bytes_in(run.folder), LEAST_DISK_SECONDS, clock)

    def answer(self, request: StatusRequest) -> Message:
        """The run as it stands; refused to who speaks another protocol."""
        if request.protocol != PROTOCOL_VERSION:
            return Refused(reason=other_protocol(request.protocol))
        return self.picture()

    def picture(self) -> Status:
        """The run as it stands, in figures and words."""
        figures = self._figures()
        return figures.model_copy(update={"waiting_for": waits_for(figures), "stalls": stalls(figures)})

    def write_figures(self) -> tuple[int, str]:
        """The line `rollouts`: counts as they stand; `unreadable_frames`, `connections_cut`: since this start.

        Gives how many actors there are, and what is waited for.
        """
        book, live = self._run.book, self._reception.peers.live(self._clock())
        waits = self._trainer.waits_for or book.waits_for()
        waits = self._journalling.lacking or ("" if live else "an actor to connect") or waits
        rates = [peer.heartbeat.tokens_per_second for peer in live if peer.heartbeat]
        self._run.metrics.write(
            "rollouts",
            episodes_done=self._reception.episodes_done,
            unreadable_frames=self._reception.quarantine.count,
            leased=book.leased(),
            ready_groups=book.ready(),
            evaluations_left=book.evaluations_left(),
            actors=len(live),
            connections=self._guard.count,
            connections_cut=self._guard.cuts,
            tokens_per_second=round(sum(rates), 1),
            waiting_for=waits,
        )
        return len(live), waits

    def _figures(self) -> Status:
        run, book, reception, now = self._run, self._run.book, self._reception, self._clock()
        live = reception.peers.live(now)
        beats = [peer.heartbeat for peer in live if peer.heartbeat is not None]
        actors = self._actors(now)
        carried = sum(bool(group.carried) for group in book.in_state("open"))
        ready, handed = book.ready(), len(book.in_state("handed"))
        return Status(
            run_id=run.run_id,
            at=time.time(),
            up_seconds=max(0.0, now - self._began),
            heartbeat_seconds=self._interval,
            phase=run.course.phase,
            waiting_for="",
            stalls=(),
            policy_version=run.policy_version,
            version_seconds=self._version_seconds(),
            step=book.steps,
            steps=book.config.steps,
            trained_lags=self._trained_lags(),
            trainer=self._trainer.watch.status(),
            actors=actors[:MOST_ACTORS],
            actors_known=sum(1 for _ in reception.peers.present),
            actors_live=len(live),
            tokens_per_second=float(sum(beat.tokens_per_second for beat in beats)),
            episodes_per_minute=float(sum(actor.episodes_per_minute for actor in actors)),
            episodes_done=reception.episodes_done,
            leased=book.leased(),
            groups_open=sum(group.purpose == "train" for group in book.in_state("open")),
            groups_ready=ready,
            groups_handed=handed,
            groups_lacking=max(0, book.config.groups_per_step - ready - handed),
            groups_carried=carried,
            evaluations_left=book.evaluations_left(),
            oldest_groups=self._oldest_groups(now),
            spooled=sum(beat.spooled for beat in beats),
            spooled_bytes=sum(beat.spooled_bytes for beat in beats),
            disk_free_bytes=free_bytes(run.folder),
            run_bytes=self._run_bytes(),
            disk_lacking=self._journalling.lacking,
            commit_seconds=reception.credit.commit_seconds,
            connections=self._guard.count,
            connections_cut=self._guard.cuts,
            unreadable_frames=reception.quarantine.count,
            errors=self._errors(),
            books=self._books(),
        )

    # --- actors

    def _actors(self, now: float) -> tuple[ActorStatus, ...]:
        shown = [self._actor(peer, now) for peer in self._reception.peers.all]
        return tuple(sorted(shown, key=lambda actor: (STATES.index(actor.state), actor.name)))

    def _actor(self, peer: Peer, now: float) -> ActorStatus:
        beat, state = peer.heartbeat, self._state(peer, now)
        version = beat.policy_version if beat is not None else -1
        speaks = beat is not None and state not in ("silent", "left")
        return ActorStatus(
            name=peer.name,
            state=state,
            heard_seconds=max(0.0, now - peer.heard_at),
            policy_version=version,
            lag=max(0, self._run.policy_version - version) if version >= 0 else -1,
            slots=peer.slots,
            leases=self._run.book.leased(peer.name),
            episodes=beat.episodes if beat is not None else 0,
            tokens_per_second=beat.tokens_per_second if beat is not None and speaks else 0.0,
            episodes_per_minute=float(self._reception.reports.episodes_per_minute(peer.name, now)),
            spooled=beat.spooled if beat is not None else 0,
            spooled_bytes=beat.spooled_bytes if beat is not None else 0,
            waiting_for=beat.waiting_for if beat is not None else "its first heartbeat",
        )

    def _state(self, peer: Peer, now: float) -> ActorState:
        quiet, beat = now - peer.heard_at, peer.heartbeat
        if peer.left:
            return "left"
        if quiet > self._silence:
            return "silent"
        if quiet > LATE_INTERVALS * self._interval:
            return "late"
        if beat is None or beat.policy_version < 0:
            return "starting"
        return "working" if beat.episodes else "waiting"

    # --- groups, versions, books

    def _oldest_groups(self, now: float) -> tuple[GroupStatus, ...]:
        opened = self._run.book.in_state("open")
        evaluated = [group for group in opened if group.purpose == "evaluate"][:MOST_EVALUATION_GROUPS]
        trained = [group for group in opened if group.purpose == "train"]
        return tuple(self._group(group, now) for group in [*evaluated, *trained][:MOST_GROUPS])

    def _group(self, group: Group, now: float) -> GroupStatus:
        ((first,),) = self._run.ledger.look(FIRST_LEASE, (group.group_id,))
        ((oldest, actor),) = self._run.ledger.look(OLDEST_LEASE, (group.group_id,))
        peer = self._reception.peers.named(actor) if actor else None
        most = self._run.book.config.most_failures
        return GroupStatus(
            group_id=group.group_id,
            task_id=group.task_id,
            label=group.label,
            members=len(group.members),
            arrived=len(group.survivors),
            leased=sum(bool(member.leases) and member.leases[-1].state == "leased" for member in group.members),
            lost=sum(member.arrived is None and member.is_lost(most) for member in group.members),
            carried=bool(group.carried),
            open_seconds=since(first, 0.0),
            oldest_lease_seconds=since(oldest, -1.0),
            oldest_lease_actor=actor or "",
            oldest_lease_heard_seconds=max(0.0, now - peer.heard_at) if peer is not None else -1.0,
        )

    def _version_seconds(self) -> float:
        found = self._run.ledger.look("SELECT published_at FROM versions ORDER BY version DESC LIMIT 1")
        return since(found[0][0] if found else None, -1.0)

    def _trained_lags(self) -> tuple[LagTally, ...]:
        """Of the step that was made last, against the version that it began with."""
        step = self._run.book.steps
        query = "SELECT version FROM versions WHERE step < ? ORDER BY step DESC, version DESC LIMIT 1"
        before = self._run.ledger.look(query, (step,))
        if not step or not before:
            return ()
        rows = self._run.ledger.look(LAGS, (step,))
        return tuple(
            LagTally(lag=lag, trajectories=count) for lag, count in sorted((before[0][0] - v, n) for v, n in rows)
        )

    def _look_at_books(self) -> BooksStatus:
        rows = self._run.ledger.look(LEASES)
        counts: dict[str, int] = {}
        dropped: dict[str, int] = {}
        for _, state, reason, count in rows:
            counts[state] = counts.get(state, 0) + count
            if state == "dropped":
                dropped[reason] = dropped.get(reason, 0) + count
        known = {"trained", "evaluated", "dropped", *PENDING}
        return BooksStatus(
            issued=sum(counts.values()),
            trained=counts.get("trained", 0),
            evaluated=counts.get("evaluated", 0),
            dropped=tuple(Tally(name=reason, count=count) for reason, count in sorted(dropped.items())),
            pending=tuple(Tally(name=state, count=counts[state]) for state in PENDING if state in counts),
            balanced=counts.keys() <= known and "" not in dropped,
        )

    def _errors(self) -> tuple[LoggedError, ...]:
        """The newest of all, oldest first."""
        own = (error.model_copy(update={"source": "gateway"}) for error in last_errors())
        found = [*own, *self._trainer.watch.errors, *self._reception.reports.errors]
        return tuple(sorted(found, key=lambda error: error.at)[-MOST_ERRORS:])


def since(moment: float | None, otherwise: float) -> float:
    """Seconds since a moment of the ledger's, on the wall clock; `otherwise` where there is none."""
    return otherwise if moment is None else max(0.0, time.time() - moment)


def free_bytes(folder: Path) -> int:
    """That this process may still write there."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def bytes_in(folder: Path) -> int:
    """That the files below a folder take on their disk; what goes away meanwhile counts no more."""
    total, todo = 0, [str(folder)]
    seen: set[int] = set()  # a file may have several names, as where a version is linked
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                        continue
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink == 1 or found.st_ino not in seen:
                        seen |= {found.st_ino} if found.st_nlink > 1 else set()
                        total += found.st_blocks * 512
        except OSError:
            continue
    return total
