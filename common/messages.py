"""Everything that crosses the link, one type a message (stages 1, 3, 4 and 11); `common.wire` makes frames of them.

docs/protocol.md says the same for who writes another client; a test holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.rollouts import MAX_TOKENS, Digest, Float32, Identifier, Int32, Lease, Message, Sampling, Trajectory
from common.status_messages import MOST_HEARTBEAT_ERRORS, LoggedError, Status, StatusRequest

__all__ = [
    "MAX_TOKENS",
    "Digest",
    "Float32",
    "Identifier",
    "Int32",
    "Lease",
    "Message",
    "Sampling",
    "Status",
    "StatusRequest",
    "Trajectory",
]

PROTOCOL_VERSION = 6
TASK_IDS_AT_ONCE = 5_000  # of 200 characters at most: a quarter of what a message may hold
MOST_TASK_IDS = 200_000


class Hello(Message):
    """An actor's first word on a connection. Answered with `Welcome` or `Refused`."""

    kind: Literal["hello"] = "hello"
    protocol: int = Field(description="protocol version", examples=[PROTOCOL_VERSION])
    actor: Identifier = Field(description="the actor's name, unique in the run; its key's name", examples=["actor-0"])
    instance: Identifier = Field(
        description="drawn anew by each process: tells a restarted actor from a second one",
        examples=["9f3a61c02b7d4e58"],
    )
    slots: int = Field(ge=1, le=10_000, description="leases that it may hold, count", examples=[36])
    schema_digest: Digest = Field(description="of the messages that it knows, sha256 in hex", examples=["ab" * 32])
    prompt_digest: Digest = Field(description="of the prompt's form, sha256 in hex", examples=["ab" * 32])
    prompt: str = Field(default="", max_length=200, description="its options, for a person", examples=["react"])
    tokenizer_digest: Digest | Literal[""] = Field(
        default="",
        description="sha256 of the tokenizer.json that it works with, in hex; empty before it has one",
        examples=["ab" * 32],
    )
    run_id: Identifier | Literal[""] = Field(
        default="", description="the run that it joined; empty before its first `Welcome`", examples=["tiny-1"]
    )
    lease_ids: tuple[Identifier, ...] = Field(
        default=(),
        max_length=100_000,
        description="leases held; those of this name that its first heartbeat does not hold either are free",
        examples=[("g000041.3.0",)],
    )


class Welcome(Message):
    """The gateway's answer to `Hello`: which run this is and what version is current."""

    kind: Literal["welcome"] = "welcome"
    run_id: Identifier = Field(description="the run", examples=["demo-20260101-120000"])
    policy_version: int = Field(ge=-1, description="current version, -1 before the first", examples=[12])
    manifest_digest: str = Field(
        description="sha256 of its manifest, hex, empty before the first", examples=["ab" * 32]
    )
    heartbeat_seconds: float = Field(gt=0, description="how often a heartbeat is expected, seconds", examples=[2.0])
    credit_bytes: int = Field(
        ge=0,
        description="trajectories that may be under way unacknowledged, bytes; a single one may always be",
        examples=[64 << 20],
    )
    tasks_digest: Digest | Literal[""] = Field(
        default="",
        description="sha256 in hex of the ids of all tasks that the run may ask for, sorted, one a line without a last "
        "line end; empty: not told",
        examples=["ab" * 32],
    )


class TaskIdsRequest(Message):
    """Which tasks may this run ask for? From the id at a place of the sorted list on. Answered with `TaskIds`."""

    kind: Literal["task_ids_request"] = "task_ids_request"
    begin: int = Field(ge=0, le=MOST_TASK_IDS, description="place of the first id wanted, from 0", examples=[0])


class TaskIds(Message):
    """A part of the sorted list of all tasks that the run may ask for: training's and evaluations'."""

    kind: Literal["task_ids"] = "task_ids"
    tasks_digest: Digest = Field(description="of the whole list, as in `Welcome`", examples=["ab" * 32])
    count: int = Field(ge=0, le=MOST_TASK_IDS, description="ids in the whole list, count", examples=[90])
    task_ids: tuple[Identifier, ...] = Field(
        max_length=TASK_IDS_AT_ONCE, description="ids from the place asked for on", examples=[("spotifyLongest_12",)]
    )


class Refused(Message):
    """The gateway will not work with this actor; the reason is for its operator."""

    kind: Literal["refused"] = "refused"
    reason: str = Field(
        description="what differs and what to do", examples=["protocol 2 here, 1 there: upgrade the actor"]
    )
    temporary: bool = Field(
        default=False, description="whether saying `Hello` again later may succeed", examples=[True]
    )


class Unreadable(Message):
    """The answer to a frame that is no message; nothing else came of it."""

    kind: Literal["unreadable"] = "unreadable"
    reason: str = Field(description="what was wrong with it", examples=["heartbeat.episodes: Field required"])


class LeaseRequest(Message):
    """An actor has free slots. Answered with `LeaseGrant`."""

    kind: Literal["lease_request"] = "lease_request"
    count: int = Field(ge=1, le=1_000, description="free slots, count", examples=[6])


class LeaseGrant(Message):
    """Leases for an actor; none when nothing may be rolled out now, with the reason in words."""

    kind: Literal["lease_grant"] = "lease_grant"
    leases: tuple[Lease, ...] = Field(description="granted leases")
    waiting_for: str = Field(
        default="", description="why fewer than asked", examples=["the staleness bound: step 41 is under way"]
    )


class LeaseReturn(Message):
    """A lease that this actor cannot fulfil (a failure, a polite leave); never a reward. Answered with `Ack`."""

    kind: Literal["lease_return"] = "lease_return"
    lease_id: Identifier = Field(description="the lease", examples=["g000041.3.0"])
    reason: str = Field(max_length=2000, description="why", examples=["world host died"])
    failure: bool = Field(
        default=True, description="whether it counts towards the member's failures; a leave does not", examples=[False]
    )
    tokens: int = Field(
        default=0,
        ge=0,
        le=MAX_TOKENS,
        description="tokens that its episode had reached, count; 0: not known",
        examples=[180],
    )


class Ack(Message):
    """The learner's word on one trajectory or returned lease; with `ok` it is on the learner's disk."""

    kind: Literal["ack"] = "ack"
    trajectory_id: Identifier = Field(description="which", examples=["g000041.3.0"])
    outcome: Literal["ok", "duplicate", "stale", "invalid", "fenced"] = Field(
        description="what became of it", examples=["ok"]
    )
    reason: str = Field(default="", description="why, when not ok", examples=["lag 9 above the bound 4"])
    policy_version: int = Field(ge=-1, description="current version", examples=[12])
    manifest_digest: str = Field(description="sha256 of its manifest, hex", examples=["ab" * 32])
    credit_bytes: int = Field(
        ge=0,
        description="trajectories that may be under way unacknowledged, bytes; a single one may always be",
        examples=[64 << 20],
    )


class Heartbeat(Message):
    """An actor lives, and how it does. Answered with `HeartbeatReply`. Renews its leases."""

    kind: Literal["heartbeat"] = "heartbeat"
    policy_version: int = Field(ge=-1, description="version it samples with", examples=[12])
    episodes: int = Field(ge=0, description="episodes under way, count", examples=[32])
    lease_ids: tuple[Identifier, ...] = Field(
        default=(), max_length=100_000, description="leases held, all renewed", examples=[("g000041.3.0",)]
    )
    tokens_per_second: float = Field(
        ge=0, description="sampled tokens a second since the last heartbeat", examples=[900.0]
    )
    spooled: int = Field(ge=0, description="trajectories not acknowledged yet, count", examples=[0])
    spooled_bytes: int = Field(default=0, ge=0, description="of them on its disk, bytes", examples=[0])
    waiting_for: str = Field(
        default="", max_length=2000, description="what it waits for, in words", examples=["leases"]
    )
    reads: tuple[int, ...] = Field(
        default=(), max_length=1000, description="versions whose files the learner must keep", examples=[(12,)]
    )
    errors: tuple[LoggedError, ...] = Field(
        default=(),
        max_length=MOST_HEARTBEAT_ERRORS,
        description="warnings and errors that it logged since the last heartbeat, the newest, oldest first",
        examples=[()],
    )


class HeartbeatReply(Message):
    """The gateway lives; current version; leases that this actor should stop."""

    kind: Literal["heartbeat_reply"] = "heartbeat_reply"
    policy_version: int = Field(ge=-1, description="current version", examples=[12])
    manifest_digest: str = Field(description="sha256 of its manifest, hex", examples=["ab" * 32])
    cancelled: tuple[Identifier, ...] = Field(default=(), description="leases no longer wanted", examples=[()])
    finished: bool = Field(default=False, description="the run is over: leave politely", examples=[False])
    credit_bytes: int = Field(
        ge=0,
        description="trajectories that may be under way unacknowledged, bytes; a single one may always be",
        examples=[64 << 20],
    )


class Announcement(Message):
    """Stage 11: a new version exists. A hint; the truth is in every ack and heartbeat."""

    kind: Literal["announcement"] = "announcement"
    policy_version: int = Field(ge=0, description="the version", examples=[13])
    manifest_digest: str = Field(description="sha256 of its manifest, hex", examples=["ab" * 32])


class Cancellation(Message):
    """Leases of this actor that are wanted no longer. A hint; the truth is in every heartbeat's reply."""

    kind: Literal["cancellation"] = "cancellation"
    lease_ids: tuple[Identifier, ...] = Field(
        max_length=100_000, description="leases to stop", examples=[("g000041.3.0",)]
    )


class ReloadReport(Message):
    """Stage 12: how a swap went: the probe's figures, and whether the version is used.

    Answered with `HeartbeatReply`.
    """

    kind: Literal["reload_report"] = "reload_report"
    policy_version: int = Field(ge=0, description="the version", examples=[13])
    accepted: bool = Field(description="whether the actor samples with it now", examples=[True])
    probe_difference: float = Field(description="largest difference of probe log-probs, nats", examples=[9.5e-7])
    seconds: float = Field(ge=0, description="fetch to use, seconds", examples=[0.4])
    pause_seconds: float = Field(ge=0, description="of it, with the engine paused, seconds", examples=[0.08])
    reason: str = Field(
        default="", max_length=2000, description="why not, when refused", examples=["probe differs by 0.7 nats"]
    )


class Goodbye(Message):
    """An actor leaves politely; its leases are free at once. Answered with `HeartbeatReply`."""

    kind: Literal["goodbye"] = "goodbye"
    reason: str = Field(max_length=2000, description="why", examples=["SIGTERM"])


class FileRequest(Message):
    """One chunk of one file of a published version, on the files port. Receiver-driven. Answered with `FileChunk`."""

    kind: Literal["file_request"] = "file_request"
    policy_version: int = Field(ge=0, description="the version", examples=[13])
    name: str = Field(
        min_length=1,
        max_length=500,
        description="file below the version's folder, as its manifest names it",
        examples=["model.safetensors"],
    )
    offset: int = Field(ge=0, le=1 << 62, description="first byte wanted", examples=[0])
    length: int = Field(ge=1, le=4 << 20, description="bytes wanted", examples=[512 << 10])


class FileChunk(Message):
    """The bytes asked for; `error` instead when there are none to give."""

    kind: Literal["file_chunk"] = "file_chunk"
    policy_version: int = Field(ge=0, description="the version", examples=[13])
    name: str = Field(description="the file", examples=["model.safetensors"])
    offset: int = Field(ge=0, description="first byte", examples=[0])
    size: int = Field(ge=0, description="size of the whole file, bytes", examples=[4_000_000])
    data: bytes = Field(repr=False, description="the bytes", examples=[b""])
    error: str = Field(default="", description="why there are none", examples=["version 3 is no longer kept"])


AnyMessage = Annotated[
    Lease
    | Trajectory
    | Hello
    | Welcome
    | TaskIdsRequest
    | TaskIds
    | Refused
    | Unreadable
    | LeaseRequest
    | LeaseGrant
    | LeaseReturn
    | Ack
    | Heartbeat
    | HeartbeatReply
    | Announcement
    | Cancellation
    | ReloadReport
    | Goodbye
    | FileRequest
    | FileChunk
    | StatusRequest
    | Status,
    Field(discriminator="kind"),
]
