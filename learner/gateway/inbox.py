"""Stage 4, the learner's end: a trajectory is checked against the ledger, journalled, and only then acknowledged.

Each outcome is final for its sender: whatever the `Ack` says, the trajectory may leave the spool.
"""

from __future__ import annotations

from common.messages import Trajectory
from learner.gateway.leases import LeaseBook, Verdict
from learner.gateway.ledger import Ledger
from learner.gateway.records import LeaseRecord

MAX_DETAIL = 300


class Inbox:
    """Trajectories and returned leases on their way into the ledger. The caller commits before it answers."""

    def __init__(self, book: LeaseBook, ledger: Ledger) -> None:
        self._book = book
        self._ledger = ledger

    def receive(self, actor: str, trajectory: Trajectory, frame: bytes) -> Verdict:
        """What becomes of a trajectory from `actor` (its key's name); `frame` is what the ledger keeps."""
        record = self._book.find(trajectory.trajectory_id)
        verdict = self._judge(actor, trajectory, record)
        if verdict.outcome == "ok":
            assert record is not None
            self._book.arrive(record, trajectory.oldest_version, trajectory.reward)
            self._ledger.journal(trajectory, frame)
        elif record is not None and record.actor == actor and self._book.may_arrive(record):
            self._book.reject(record, verdict.outcome, verdict.reason)
        if verdict.outcome == "fenced":
            self._ledger.note_straggler(trajectory.trajectory_id, actor, len(trajectory.sampled_bytes))
        if verdict.outcome != "ok":
            self._ledger.tell(trajectory.trajectory_id, verdict.outcome, f"from {actor}: {verdict.reason}")
        return verdict

    def reject_unreadable(self, actor: str, trajectory_id: str, reason: str) -> Verdict:
        """A frame that claims to be a trajectory and is none: its lease failed."""
        record = self._book.find(trajectory_id)
        if record is not None and record.actor == actor and self._book.may_arrive(record):
            self._book.reject(record, "invalid", reason[:MAX_DETAIL])
        return Verdict("invalid", reason[:MAX_DETAIL])

    def give_back(self, actor: str, lease_id: str, reason: str, *, failure: bool = True, tokens: int = 0) -> Verdict:
        """A returned lease: it is issued again, or its member is lost after too many failures.

        `tokens`: how long the episode was by then, 0 unknown; of a straggler, that is kept.
        """
        record = self._book.find(lease_id)
        if tokens and self._ledger.note_straggler(lease_id, actor, tokens):
            self._ledger.tell(lease_id, "returned", f"it was cut at {tokens} tokens")
            return Verdict("fenced", "its group was closed without it")
        if record is None or record.state != "leased":
            return Verdict("duplicate", "no longer leased")
        if record.actor != actor:
            return Verdict("fenced", f"leased to {record.actor}")
        self._book.give_back(record, reason[:MAX_DETAIL], failure=failure)
        return Verdict("ok")

    def _judge(self, actor: str, trajectory: Trajectory, record: LeaseRecord | None) -> Verdict:
        if record is None:
            return self._judge_unknown(trajectory.trajectory_id)
        if record.reward is not None:  # it is journalled, whatever came of it since
            return Verdict("duplicate", f"it is {record.state} {record.reason}".rstrip())
        if record.actor != actor or not self._book.may_arrive(record):
            return Verdict("fenced", f"leased to {record.actor}, {record.state} {record.reason}".rstrip())
        if trajectory.lease != record.lease or trajectory.trajectory_id != trajectory.lease.lease_id:
            return Verdict("invalid", "its lease is not the one that was granted")
        if trajectory.actor != actor:
            return Verdict("invalid", f"made by {trajectory.actor}, sent by {actor}")
        return self._judge_versions(trajectory)

    def _judge_versions(self, trajectory: Trajectory) -> Verdict:
        newest, oldest = int(trajectory.versions.max()), trajectory.oldest_version
        highest = self._ledger.highest_version_ever()
        if newest > highest:
            return Verdict("invalid", f"sampled by version {newest}, the newest is {highest}")
        if trajectory.lease.purpose == "evaluate":
            if oldest < trajectory.lease.minimum_version:
                wanted = trajectory.lease.minimum_version
                return Verdict("invalid", f"sampled by version {oldest}, its lease asks for {wanted}")
            return Verdict("ok")
        lag = self._book.policy_version - oldest
        bound = self._book.config.staleness_bound
        return Verdict("stale", f"lag {lag} above the bound {bound}") if lag > bound else Verdict("ok")

    def _judge_unknown(self, trajectory_id: str) -> Verdict:
        known = self._ledger.lease_state(trajectory_id)
        if known is None:
            return Verdict("invalid", "no such lease was granted")
        state, reason = known
        if self._ledger.has_arrived(trajectory_id):
            return Verdict("duplicate", f"it is {state} {reason}".rstrip())
        return Verdict("fenced", f"dropped: {reason}")
