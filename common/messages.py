"""Everything that crosses the link, one type a message (stages 1, 3, 4 and 11); `common.wire` makes frames of them.

Arrays travel as little-endian bytes (a 32k-token trajectory decodes in 0.02 ms so, in 1.8 ms as a list). PROTOCOL.md
beside this file says the same for who writes another client; a test holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

PROTOCOL_VERSION = 3
MAX_TOKENS = 1 << 20

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.:@-]+$")]


class Message(BaseModel):
    """What all messages share: immutable, strict types, no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Sampling(Message):
    """How a lease wants its episode sampled. top-p, top-k and penalties are absent on purpose: they break the ratio."""

    temperature: float = Field(
        ge=0, le=10, description="softmax temperature; 0 takes the likeliest token", examples=[1.0]
    )
    max_turns: int = Field(ge=1, description="turns of an episode, count", examples=[7])
    max_turn_tokens: int = Field(ge=1, description="tokens sampled in one turn, count", examples=[90])
    max_context_tokens: int = Field(ge=16, description="tokens of a whole episode, count", examples=[768])


class Lease(Message):
    """Stage 1: the right and duty to roll out one member of a group. Group identity is fixed here."""

    kind: Literal["lease"] = "lease"
    lease_id: Identifier = Field(description="unique in the run: group, member and epoch", examples=["g000041.3.0"])
    group_id: Identifier = Field(description="the task draw it belongs to", examples=["g000041"])
    member: int = Field(ge=0, description="index within the group, from 0", examples=[3])
    epoch: int = Field(
        ge=0, description="times this member was leased before; a result of an older epoch is fenced", examples=[0]
    )
    task_id: Identifier = Field(description="AppWorld task", examples=["spotifyLongest_12"])
    purpose: Literal["train", "evaluate"] = Field(description="whether it may be trained on", examples=["train"])
    label: str = Field(default="", max_length=100, description="which evaluation it belongs to", examples=["after.t0"])
    minimum_version: int = Field(ge=0, description="policy version that the episode needs at least", examples=[12])
    sampling: Sampling = Field(description="how to sample")
    time_to_live: float = Field(gt=0, description="seconds until an unrenewed lease lapses", examples=[120.0])


class Trajectory(Message):
    """Stage 3: one finished episode as the learner needs it. T tokens, N turns.

    Tokens are exactly what the policy saw and sampled, in order; nothing is decoded and encoded again.
    """

    kind: Literal["trajectory"] = "trajectory"
    trajectory_id: Identifier = Field(description="unique in the run; equals the lease's id", examples=["g000041.3.0"])
    lease: Lease = Field(description="the lease it fulfils")
    actor: Identifier = Field(description="who rolled it out", examples=["actor-0"])
    token_bytes: bytes = Field(repr=False, description="token ids, int32 [T]", examples=[b"\x01\x00\x00\x00"])
    sampled_bytes: bytes = Field(
        repr=False, description="1 where the policy sampled the token, uint8 [T]", examples=[b"\x01"]
    )
    log_prob_bytes: bytes = Field(
        repr=False,
        description="behaviour log-probs in nats, float32 [T], 0 where not sampled",
        examples=[b"\x00\x00\x00\x00"],
    )
    version_bytes: bytes = Field(
        repr=False,
        description="policy version that sampled each token, int32 [T], -1 where not sampled",
        examples=[b"\x00\x00\x00\x00"],
    )
    turn_bytes: bytes = Field(
        repr=False, description="begin and end of each turn's sampled span, int32 [N, 2]", examples=[b"\x00" * 8]
    )
    reward: float = Field(ge=0, le=1, description="share of the task's tests passed", examples=[0.75])
    success: bool = Field(description="whether all tests passed", examples=[False])
    failures: tuple[str, ...] = Field(
        default=(), max_length=1000, description="requirements that failed", examples=[("answer matches",)]
    )
    tags: tuple[str, ...] = Field(
        default=(), max_length=50, description="how it ended and what happened on the way", examples=[("turn_limit",)]
    )
    started_at: float = Field(description="wall clock, seconds since 1970", examples=[1.7e9])
    seconds: float = Field(ge=0, description="duration of the episode, seconds", examples=[3.2])
    engine_seconds: float = Field(ge=0, description="of it, waiting for tokens, seconds", examples=[2.1])
    world_seconds: float = Field(ge=0, description="of it, waiting for the world, seconds", examples=[0.4])

    @property
    def tokens(self) -> Int32:
        """Token ids [T]."""
        return np.frombuffer(self.token_bytes, "<i4")

    @property
    def sampled(self) -> npt.NDArray[np.bool_]:
        """Loss mask [T]: True where the policy sampled the token."""
        return np.frombuffer(self.sampled_bytes, "u1").astype(np.bool_)

    @property
    def log_probs(self) -> Float32:
        """Behaviour log-probs [T], nats."""
        return np.frombuffer(self.log_prob_bytes, "<f4")

    @property
    def versions(self) -> Int32:
        """Policy version of each token [T], -1 where not sampled."""
        return np.frombuffer(self.version_bytes, "<i4")

    @property
    def turns(self) -> Int32:
        """Begin and end of each turn's sampled span [N, 2]."""
        return np.frombuffer(self.turn_bytes, "<i4").reshape(-1, 2)

    @property
    def oldest_version(self) -> int:
        """The oldest policy version that sampled a token here."""
        return int(self.versions.view("<u4").min())  # unsigned, -1 is the largest

    @model_validator(mode="after")
    def arrays_agree(self) -> Self:
        """Lengths, masks, versions, turn bounds and finiteness; the reason names the field.

        Raises:
            ValueError: what is wrong and in which field.
        """
        count = len(self.sampled_bytes)
        if not 0 < count <= MAX_TOKENS:
            raise ValueError(f"sampled_bytes: {count} tokens, allowed are 1 to {MAX_TOKENS}")
        for name in ("token_bytes", "log_prob_bytes", "version_bytes"):
            if len(getattr(self, name)) != 4 * count:
                raise ValueError(f"{name}: {len(getattr(self, name))} bytes for {count} tokens of 4 bytes")
        if len(self.turn_bytes) % 8:
            raise ValueError(f"turn_bytes: {len(self.turn_bytes)} bytes are not pairs of int32")
        mask, log_probs = np.frombuffer(self.sampled_bytes, "u1"), self.log_probs
        if mask.max() > 1:
            raise ValueError("sampled_bytes: a mask holds 0 and 1 alone")
        if not mask.any():
            raise ValueError("sampled_bytes: no token was sampled")
        # NaN is below nothing, and the largest of anything with NaN is NaN
        if not log_probs.max() <= 1e-3 or log_probs.min() == -np.inf:
            raise ValueError("log_prob_bytes: a log-prob is not finite or above 0")
        if self.tokens.min() < 0:
            raise ValueError("token_bytes: a token id is negative")
        if ((self.versions >= 0).view("u1") != mask).any():
            raise ValueError("version_bytes: versions must stand at the sampled tokens and -1 elsewhere")
        # lengths of what lies between turns and of turns, in alternation; in int64, where no difference wraps
        lengths = np.diff(self.turns.reshape(-1).astype(np.int64), prepend=0, append=count)
        if (lengths < 0).any():
            raise ValueError("turn_bytes: turns must be ordered and within the trajectory")
        if (np.repeat(np.arange(len(lengths)).astype("u1") & 1, lengths) != mask).any():
            raise ValueError("turn_bytes: turns must cover the sampled tokens exactly")
        return self


class Hello(Message):
    """An actor's first word on a connection. Answered with `Welcome` or `Refused`."""

    kind: Literal["hello"] = "hello"
    protocol: int = Field(description="protocol version", examples=[PROTOCOL_VERSION])
    actor: Identifier = Field(description="the actor's name, unique in the run; its key's name", examples=["actor-0"])
    instance: Identifier = Field(
        description="drawn anew by each process: tells a restarted actor from a second one",
        examples=["9f3a61c02b7d4e58"],
    )
    slots: int = Field(ge=1, le=10_000, description="episodes at a time, count", examples=[32])
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
    waiting_for: str = Field(
        default="", max_length=2000, description="what it waits for, in words", examples=["leases"]
    )
    reads: tuple[int, ...] = Field(
        default=(), max_length=1000, description="versions whose files the learner must keep", examples=[(12,)]
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
    | Refused
    | Unreadable
    | LeaseRequest
    | LeaseGrant
    | LeaseReturn
    | Ack
    | Heartbeat
    | HeartbeatReply
    | Announcement
    | ReloadReport
    | Goodbye
    | FileRequest
    | FileChunk,
    Field(discriminator="kind"),
]
