"""What each message of an actor does and how it is answered. No sockets here: a name, a connection, a message come in.

The answers may leave only after `RunState.commit`: a grant or an `ok` that was told is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from common.log import Reminder, get_logger
from common.messages import (
    PROTOCOL_VERSION,
    Ack,
    Goodbye,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Identifier,
    LeaseGrant,
    LeaseRequest,
    LeaseReturn,
    Message,
    Refused,
    ReloadReport,
    StatusRequest,
    TaskIdsRequest,
    Trajectory,
    Unreadable,
    Welcome,
)
from common.prompt_text import form_digest
from common.wire import decode, schema_digest, unpack
from learner.gateway.credit import Credit
from learner.gateway.handshake import Common, other_protocol
from learner.gateway.leases import Verdict
from learner.gateway.peers import Peer, Peers
from learner.gateway.quarantine import Quarantine
from learner.gateway.reports import Reports
from learner.gateway.run_state import RunState

log = get_logger(__name__)
_ID: TypeAdapter[str] = TypeAdapter(Identifier)


class Reception:
    """Answers actors.

    Args:
        run: the run's state.
        heartbeat_seconds: interval expected of actors.
        silence: seconds after which an actor counts as gone.
        is_connected: whether a connection is still there.
        is_listed: whether the key of a name is still in the list of those who may connect.
        credit: what each actor may have under way.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        run: RunState,
        *,
        heartbeat_seconds: float,
        silence: float,
        is_connected: Callable[[bytes], bool],
        is_listed: Callable[[str], bool],
        credit: Credit | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._heartbeat_seconds = heartbeat_seconds
        self._is_connected = is_connected
        self._is_listed = is_listed
        self._clock = clock
        self.credit = credit or Credit()
        self._withheld = Reminder(clock)
        self.peers = Peers(silence)
        self.episodes_done = run.ledger.arrived()
        self.quarantine = Quarantine(run.folder / "quarantine", clock)
        self.reports = Reports()
        # answers who asks how the run does, at any time and without a `Hello`
        self.on_status: Callable[[StatusRequest], Message] = _no_status

    def answer(self, name: str, routing: bytes, body: bytes) -> Message:
        """The answer to one message of `name` on the connection `routing`.

        The name is its key's; an insecure link knows none (""), and believes what the connection's `Hello` said.
        """
        name = name or self.peers.name_on(routing)
        try:
            message = decode(body)
        except ValueError as error:
            return self._unreadable(name, body, str(error))
        peer = self._peer_or_answer(name, routing, message)
        return peer if isinstance(peer, Message) else self._answer_known(peer, message, body)

    def answer_when_full(self, name: str, routing: bytes, body: bytes, lacking: str) -> Message | None:  # noqa: PLR0911 - one a kind
        """The answer while nothing can be written: nobody's lease is forgotten, nothing is granted or taken.

        None: no answer, so that it is sent again later.
        """
        try:
            message = decode(body)
        except ValueError:
            return None
        peer = self._peer_or_answer(name or self.peers.name_on(routing), routing, message)
        if isinstance(peer, Message):
            return peer
        match message:
            case LeaseRequest():
                return LeaseGrant(leases=(), waiting_for=lacking)
            case Heartbeat():
                peer.heartbeat = message
                self.reports.told(peer.name, message.errors)
                self._run.book.renew(peer.name, message.lease_ids, self._clock())
                return self._reply([])
            case ReloadReport():
                self._note_reload(peer, message)
                return self._reply([])
            case TaskIdsRequest():
                return self._run.tasks.page(message.begin)
            case Goodbye():
                peer.left = True  # its leases lapse
                return self._reply([])
        return None

    def _peer_or_answer(self, name: str, routing: bytes, message: Message) -> Peer | Message:
        """Who is behind a message; or its answer, where that needs no one who was welcomed or there is none."""
        if isinstance(message, StatusRequest):
            return self.on_status(message)
        if isinstance(message, Hello):
            return self._hello(name or message.actor, routing, message)
        peer = self.peers.hear(name, routing, self._clock())
        return peer or Refused(reason="this connection has not said Hello", temporary=True)

    def _answer_known(self, peer: Peer, message: Message, body: bytes) -> Message:  # noqa: PLR0911 - one a kind
        _note_return(peer)
        match message:
            case Trajectory():
                return self._ack(message.trajectory_id, self._receive(peer.name, message, body))
            case LeaseRequest():
                return self._grant(peer, message)
            case LeaseReturn():
                return self._ack(message.lease_id, self._take_back(peer.name, message))
            case Heartbeat():
                return self._heartbeat(peer, message)
            case ReloadReport():
                self._note_reload(peer, message)
                return self._reply([])
            case TaskIdsRequest():
                return self._run.tasks.page(message.begin)
            case Goodbye():
                freed = self._run.book.release(self._run.book.leased_to(peer.name), "actor_left")
                peer.left = True
                log.info("actor_left", actor=peer.name, reason=message.reason, leases_freed=len(freed))
                return self._reply([])
        return self._unreadable(peer.name, body, f"{type(message).__name__} is nothing that an actor says")

    def dismiss_unlisted(self) -> None:
        """Actors whose key was taken off the list while they were connected are heard no longer."""
        for peer in [peer for peer in self.peers.present if not self._is_listed(peer.name)]:
            freed = self._run.book.release(self._run.book.leased_to(peer.name), "key_removed")
            peer.left = True
            log.warning("actor_dismissed", actor=peer.name, reason="its key was removed", leases_freed=len(freed))

    def count_live(self, now: float) -> None:
        """What is shared among the actors that are heard: credit, and the slots of online evaluations."""
        live = self.peers.live(now)
        self.credit.live = len(live)
        self._run.share_slots(sum(peer.slots for peer in live))

    def _hello(self, name: str, routing: bytes, hello: Hello) -> Message:
        now = self._clock()
        if not self._is_listed(name):
            return Refused(reason=f"the key of {name} was removed from the list")
        prompt = self._run.prompt
        common = Common(self._run.run_id, schema_digest(), form_digest(prompt), str(prompt), self._run.tokenizer_digest)
        difference = common.difference(name, hello)
        if difference:
            return self._refuse(name, difference)
        peer = self.peers.hello(name, hello, routing, now, self._is_connected)
        if isinstance(peer, Refused):
            log.warning("actor_refused", actor=name, reason=peer.reason)
            return peer
        _note_return(peer)
        self.count_live(now)
        self._run.book.renew(name, hello.lease_ids, now)
        peer.unclaimed = frozenset(self._run.book.leased_to(name)) - set(hello.lease_ids)
        counts = {"holds": len(hello.lease_ids), "unclaimed": len(peer.unclaimed)}
        log.info("actor_welcomed", actor=name, instance=hello.instance, slots=hello.slots, **counts)
        return Welcome(
            run_id=self._run.run_id,
            policy_version=self._run.policy_version,
            manifest_digest=self._run.manifest_digest,
            heartbeat_seconds=self._heartbeat_seconds,
            credit_bytes=self.credit.bytes,
            tasks_digest=self._run.tasks.digest,
        )

    def _refuse(self, name: str, reason: str) -> Refused:
        log.warning("actor_refused", actor=name, reason=reason)
        return Refused(reason=reason)

    def _heartbeat(self, peer: Peer, heartbeat: Heartbeat) -> HeartbeatReply:
        peer.heartbeat = heartbeat
        self.reports.told(peer.name, heartbeat.errors)
        if peer.unclaimed:
            # a restarted actor, or one whose grant got lost: what it does not hold now it never will
            freed = self._run.book.release(peer.unclaimed.difference(heartbeat.lease_ids), "unclaimed")
            peer.unclaimed = frozenset()
            log.info("leases_freed", actor=peer.name, leases=len(freed))
        return self._reply(self._run.book.renew(peer.name, heartbeat.lease_ids, self._clock()))

    def _take_back(self, actor: str, returned: LeaseReturn) -> Verdict:
        if returned.failure:
            log.warning("lease_failed", actor=actor, lease=returned.lease_id, reason=returned.reason)
        else:
            log.info("lease_returned", actor=actor, lease=returned.lease_id, reason=returned.reason)
        return self._run.inbox.give_back(
            actor, returned.lease_id, returned.reason, failure=returned.failure, tokens=returned.tokens
        )

    def _receive(self, actor: str, trajectory: Trajectory, body: bytes) -> Verdict:
        verdict = self._run.inbox.receive(actor, trajectory, body)
        told = _told_by(actor, trajectory)
        if verdict.outcome == "ok":
            self.episodes_done += 1
            self.reports.arrived(actor, self._clock())
            log.debug("trajectory_received", reward=trajectory.reward, **told)
        else:
            log.warning("trajectory_not_taken", outcome=verdict.outcome, reason=verdict.reason, **told)
        return verdict

    def _grant(self, peer: Peer, request: LeaseRequest) -> LeaseGrant:
        if self._run.finished:
            return LeaseGrant(leases=(), waiting_for="nothing: the run is over")
        room = self._room(peer)
        leases, waiting_for = self._run.book.grant(peer.name, min(request.count, room), self._clock())
        if waiting_for:
            if self._withheld.is_due():
                asked = {"asked": request.count, "granted": len(leases)}
                log.info("leases_withheld", actor=peer.name, waiting_for=waiting_for, **asked)
        elif room < request.count:
            waiting_for = f"its own slots: {self._run.book.leased(peer.name)} leases are out to it"
        else:
            self._withheld.over()
        return LeaseGrant(leases=tuple(leases), waiting_for=waiting_for)

    def _room(self, peer: Peer) -> int:
        """Leases that an actor may have more: one a slot, and one for each trajectory that waits in its spool.

        Those in the spool as its heartbeat told, and no more of them than it has slots.
        """
        spooled = min(peer.heartbeat.spooled, peer.slots) if peer.heartbeat is not None else 0
        return max(0, peer.slots + spooled - self._run.book.leased(peer.name))

    def _note_reload(self, peer: Peer, report: ReloadReport) -> None:
        self._run.metrics.write("reload", actor=peer.name, **report.model_dump(exclude={"kind"}))
        told = {"actor": peer.name, "policy_version": report.policy_version}
        figures = {"probe_difference": report.probe_difference, "seconds": round(report.seconds, 3)}
        if report.accepted:
            log.info("version_reloaded", pause_seconds=round(report.pause_seconds, 3), **told, **figures)
        else:
            log.error("version_refused", reason=report.reason, **told, **figures)

    def _unreadable(self, name: str, body: bytes, reason: str) -> Message:
        self.quarantine.put(name, body, reason)
        told = _what_it_tells(body)
        if told.get("kind") == "hello" and told.get("protocol") != PROTOCOL_VERSION:
            # another version's Hello may have other fields: what differs is the version
            return self._refuse(name, other_protocol(told.get("protocol")))
        trajectory_id = _trajectory_id_in(told)
        if trajectory_id is None:
            return Unreadable(reason=reason)
        return self._ack(trajectory_id, self._run.inbox.reject_unreadable(name, trajectory_id, reason))

    def _ack(self, trajectory_id: str, verdict: Verdict) -> Ack:
        return Ack(
            trajectory_id=trajectory_id,
            outcome=verdict.outcome,
            reason=verdict.reason,
            policy_version=self._run.policy_version,
            manifest_digest=self._run.manifest_digest,
            credit_bytes=self.credit.bytes,
        )

    def _reply(self, cancelled: list[str]) -> HeartbeatReply:
        return HeartbeatReply(
            policy_version=self._run.policy_version,
            manifest_digest=self._run.manifest_digest,
            cancelled=tuple(cancelled),
            finished=self._run.finished,
            credit_bytes=self.credit.bytes,
        )


def _no_status(_request: StatusRequest) -> Message:
    """For a reception that nobody watches."""
    return Refused(reason="nobody here knows how the run does", temporary=True)


def _told_by(actor: str, trajectory: Trajectory) -> dict[str, Any]:
    """What a trajectory's lines carry."""
    name = trajectory.trajectory_id
    newest = int(trajectory.versions.max(initial=-1))
    lease = {"lease": name, "group": trajectory.lease.group_id, "task": trajectory.lease.task_id}
    return {"actor": actor, "trajectory": name, "policy_version": newest, **lease}


def _note_return(peer: Peer) -> None:
    """Say that an actor is heard again, after its silence was said."""
    if peer.silent:
        peer.silent = False
        log.info("actor_heard_again", actor=peer.name, seconds=round(peer.quiet, 1))


def _what_it_tells(frame: bytes) -> dict[str, Any]:
    """The fields of a frame that is a map but no message; none when it is not even that."""
    try:
        return unpack(frame)
    except ValueError:
        return {}


def _trajectory_id_in(told: dict[str, Any]) -> str | None:
    """The id in what claims to be a trajectory and fails to be one; so its sender can be answered by id."""
    try:
        return _ID.validate_python(told["trajectory_id"]) if told.get("kind") == "trajectory" else None
    except (ValueError, KeyError):
        return None
