"""The gateway as the trainer sees it; in several processes rank 0 asks, and tells the others what was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from common.wire import decode_as, encode
from learner.gateway.trainer_port import (
    GroupHeader,
    GroupRecord,
    Groups,
    NotYet,
    Resume,
    TrainerMessage,
    TrainerWelcome,
    Waiting,
    records_of,
)
from learner.trainer.ranks import Ranks


class Port(Protocol):
    """The gateway as the trainer sees it; `learner.gateway.trainer_port.TrainerPort` says what each call means."""

    def hello(self, resume: Resume | None) -> TrainerWelcome: ...
    def next_groups(self, step: int) -> list[GroupRecord] | Waiting: ...
    def published(
        self, version: int, manifest_digest: str, step: int, consumed: Sequence[str], dropped: Mapping[str, str]
    ) -> frozenset[int]: ...
    def finished(self) -> None: ...


class SharedPort:
    """A port that every rank asks alike. Answers cross as the messages that they came in."""

    def __init__(self, port: Port | None, ranks: Ranks) -> None:
        """`port` is rank 0's alone."""
        self._port, self._ranks = port, ranks

    def hello(self, resume: Resume | None) -> TrainerWelcome:
        (frame,) = self._ranks.broadcast(None if self._port is None else [encode(self._port.hello(resume))])
        welcome = decode_as(TrainerMessage, frame)
        assert isinstance(welcome, TrainerWelcome)
        return welcome

    def next_groups(self, step: int) -> list[GroupRecord] | Waiting:
        frames = self._ranks.broadcast(None if self._port is None else _frames(self._port.next_groups(step)))
        answer = decode_as(TrainerMessage, frames[0])
        return Waiting(answer.reason) if isinstance(answer, NotYet) else records_of(answer, frames[1:])

    def published(
        self, version: int, manifest_digest: str, step: int, consumed: Sequence[str], dropped: Mapping[str, str]
    ) -> frozenset[int]:
        """Versions in use, told to rank 0 alone, which removes old ones."""
        if self._port is None:
            return frozenset()
        return self._port.published(version, manifest_digest, step, consumed, dropped)

    def finished(self) -> None:
        if self._port is not None:
            self._port.finished()


def _frames(answer: list[GroupRecord] | Waiting) -> list[bytes]:
    if isinstance(answer, Waiting):
        return [encode(NotYet(reason=answer.reason))]
    headers = [
        GroupHeader(
            group_id=record.group_id,
            task_id=record.task_id,
            trajectory_ids=tuple(member.trajectory_id for member in record.members),
        )
        for record in answer
    ]
    members = (member for record in answer for member in record.members)
    return [encode(Groups(groups=tuple(headers))), *(encode(member) for member in members)]
