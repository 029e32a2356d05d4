"""The way between trainer and gateway (stages 5 and 11): groups one way, published versions the other.

A unix socket in the run folder, one request at a time, msgpack messages; trajectories pass as the very frames that the
ledger holds. The trainer's saved state is the truth about what was trained on: `hello` tells it after each start, and
whatever was handed out but not consumed becomes ready again.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import zmq
from pydantic import Field, TypeAdapter

from common.errors import RunError
from common.log import get_logger
from common.messages import Identifier, Message, Trajectory
from common.status_messages import MOST_ERRORS, LoggedError
from common.wire import decode, decode_as, encode

log = get_logger(__name__)

ANSWER_WITHIN = 10.0  # seconds; the gateway parks `next_groups` for one second at most
M = TypeVar("M", bound=Message)
LONGEST_IPC_PATH = 100  # bytes; the system's limit is 107


class Resume(Message):
    """What the trainer's newest complete state says."""

    kind: Literal["resume"] = "resume"
    policy_version: int = Field(ge=0, description="version that belongs to the state", examples=[12])
    step: int = Field(ge=0, description="steps made, count", examples=[12])
    consumed: tuple[Identifier, ...] = Field(
        description="trajectories that this step trained on", examples=[("g1.0.0",)]
    )
    dropped: dict[Identifier, str] = Field(default={}, description="trajectories that it passed over: reason by id")


class TrainerHello(Message):
    """The trainer started. Answered with `TrainerWelcome`."""

    kind: Literal["trainer_hello"] = "trainer_hello"
    resume: Resume | None = Field(description="none in a run that has made no step")


class TrainerWelcome(Message):
    """Where the run stands after `TrainerHello`."""

    kind: Literal["trainer_welcome"] = "trainer_welcome"
    run_id: Identifier = Field(description="the run; it belongs into every manifest", examples=["tiny-20260101-120000"])
    policy_version: int = Field(ge=-1, description="current version, -1 before the first is published", examples=[12])
    step: int = Field(ge=0, description="steps made, count", examples=[12])


class NextGroups(Message):
    """The trainer wants the groups of a step; the same again if it asks again. Answered with `Groups` or `NotYet`."""

    kind: Literal["next_groups"] = "next_groups"
    step: int = Field(ge=1, description="the step they are for, from 1", examples=[13])


class GroupHeader(Message):
    """A group's name and members; the trajectories follow as frames, in this order."""

    group_id: Identifier = Field(description="the task draw", examples=["g000041"])
    task_id: Identifier = Field(description="AppWorld task", examples=["spotifyLongest_12"])
    trajectory_ids: tuple[Identifier, ...] = Field(description="members that are there", examples=[("g000041.0.0",)])


class Groups(Message):
    """The groups of a step."""

    kind: Literal["groups"] = "groups"
    groups: tuple[GroupHeader, ...] = Field(description="in the order of their draw")


class NotYet(Message):
    """Groups are missing."""

    kind: Literal["not_yet"] = "not_yet"
    reason: str = Field(description="what is missing, in words", examples=["2 groups: g000041 has 4 of 6"])


class Published(Message):
    """A version exists, with what its step trained on and what it passed over. Answered with `Noted`."""

    kind: Literal["published"] = "published"
    policy_version: int = Field(ge=0, description="the version; 0 is the start", examples=[13])
    manifest_digest: str = Field(description="sha256 of its manifest, hex", examples=["ab" * 32])
    step: int = Field(ge=0, description="steps made, count", examples=[13])
    consumed: tuple[Identifier, ...] = Field(description="trajectories trained on", examples=[("g000041.0.0",)])
    dropped: dict[Identifier, str] = Field(description="trajectories passed over: reason by id")


class TrainingFinished(Message):
    """All steps are made. Answered with `Noted`."""

    kind: Literal["training_finished"] = "training_finished"


class TrainerBeat(Message):
    """The trainer lives, and what it is at; said beside its work, not answered."""

    kind: Literal["trainer_beat"] = "trainer_beat"
    doing: str = Field(max_length=100, description="what it is at", examples=["forward_backward"])
    step: int = Field(ge=0, description="of which step, from 1; 0: of none", examples=[13])
    seconds: float = Field(ge=0, description="since it began that, seconds", examples=[12.5])
    errors: tuple[LoggedError, ...] = Field(
        default=(), max_length=MOST_ERRORS, description="warnings and errors logged since the last one, oldest first"
    )


class Noted(Message):
    """It is in the ledger."""

    kind: Literal["noted"] = "noted"
    in_use: tuple[int, ...] = Field(
        default=(), description="versions that live actors sample with or fetch, ascending", examples=[(11, 12)]
    )


class Impossible(Message):
    """The gateway cannot do what was asked; the run cannot go on so."""

    kind: Literal["impossible"] = "impossible"
    reason: str = Field(description="why", examples=["the ledger stands at step 12, the trainer brings no state"])


TrainerMessage = TypeAdapter[Any](
    Annotated[
        TrainerHello
        | TrainerWelcome
        | NextGroups
        | Groups
        | NotYet
        | Published
        | TrainingFinished
        | TrainerBeat
        | Noted
        | Impossible,
        Field(discriminator="kind"),
    ]
)


@dataclass(frozen=True)
class GroupRecord:
    """A group as the trainer gets it: complete, or closed with its survivors (two or more)."""

    group_id: str
    task_id: str
    members: list[Trajectory]


@dataclass(frozen=True)
class Waiting:
    """There are no groups yet; why, in words."""

    reason: str


def records_of(groups: Groups, frames: Sequence[bytes]) -> list[GroupRecord]:
    """Groups with their members, which follow as frames."""
    left = iter(frames)
    records = []
    for header in groups.groups:
        members = [decode(next(left)) for _ in header.trajectory_ids]
        trajectories = [member for member in members if isinstance(member, Trajectory)]
        records.append(GroupRecord(header.group_id, header.task_id, trajectories))
    return records


def trainer_socket(run_folder: Path) -> Path:
    """Where the unix socket lies: in the run folder, or, when that path is too long, in a private temp folder."""
    path = run_folder.resolve() / "gateway.sock"
    if len(os.fsencode(path)) <= LONGEST_IPC_PATH:
        return path
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"loop-{os.getuid()}-{mark}" / "gateway.sock"


class TrainerPort:
    """The trainer's side. Synchronous; from one thread. A gateway that restarts is waited for.

    Order of a step: `next_groups(step)` until groups come; train; save the state with the consumed ids; publish the
    checkpoint; `published(...)`. Version 0 is published with step 0 before the first step.
    """

    def __init__(self, run_folder: Path) -> None:
        self._address = f"ipc://{trainer_socket(run_folder)}"
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._numbers = itertools.count(1)

    def hello(self, resume: Resume | None) -> TrainerWelcome:
        """Say what the trainer's state is, after each start; `None` in a run that has made no step.

        Raises:
            RunError: the ledger has steps that a trainer without state cannot go on from.
        """
        return self._expect(TrainerWelcome, self._ask(TrainerHello(resume=resume)))

    def next_groups(self, step: int) -> list[GroupRecord] | Waiting:
        """The groups that step number `step` (from 1) trains on, or, after a second, what they wait for."""
        answer, blobs = self._ask(NextGroups(step=step))
        if isinstance(answer, NotYet):
            return Waiting(answer.reason)
        return records_of(self._expect(Groups, (answer, blobs)), blobs)

    def published(
        self, version: int, manifest_digest: str, step: int, consumed: Sequence[str], dropped: Mapping[str, str]
    ) -> frozenset[int]:
        """A version is published; what its step trained on, and what it passed over with reasons.

        Saying it twice does nothing more. What was handed out for the step and stands in neither counts as dropped.
        Returns the versions that live actors use, which must not be removed.
        """
        message = Published(
            policy_version=version,
            manifest_digest=manifest_digest,
            step=step,
            consumed=tuple(consumed),
            dropped=dict(dropped),
        )
        return frozenset(self._expect(Noted, self._ask(message)).in_use)

    def finished(self) -> None:
        """All steps are made: the gateway goes on to the last evaluation."""
        self._expect(Noted, self._ask(TrainingFinished()))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        self._context.term()

    def _ask(self, message: Message) -> tuple[Message, list[bytes]]:
        """The answer and its blobs; asked again on a fresh socket until there is one."""
        body = encode(message)
        for attempt in itertools.count(1):
            if self._socket is None:
                self._socket = self._context.socket(zmq.DEALER)
                self._socket.setsockopt(zmq.LINGER, 0)
                self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
                self._socket.connect(self._address)
            number = next(self._numbers).to_bytes(8, "big")
            self._socket.send_multipart([number, body])
            answer = self._answer_to(number, self._socket)
            if answer is not None:
                return decode_as(TrainerMessage, answer[0]), answer[1:]
            log.warning("waiting_for_gateway", at=self._address, attempt=attempt)
            self._socket.close(linger=0)
            self._socket = None
        raise AssertionError("count() never ends")

    def _answer_to(self, number: bytes, socket: zmq.Socket[bytes]) -> list[bytes] | None:
        deadline = time.monotonic() + ANSWER_WITHIN
        while (left := deadline - time.monotonic()) > 0:
            if socket.poll(int(left * 1000) + 1):
                got, *frames = socket.recv_multipart()
                if got == number and frames:
                    return frames
        return None

    @staticmethod
    def _expect(kind: type[M], answer: tuple[Message, list[bytes]]) -> M:
        message = answer[0]
        if isinstance(message, Impossible):
            raise RunError(f"the gateway cannot go on: {message.reason}")
        if not isinstance(message, kind):
            raise RunError(
                f"the gateway answered {type(message).__name__}, expected {kind.__name__}; see gateway.jsonl"
            )
        return message
