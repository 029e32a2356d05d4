"""Stages 1 and 3 on the wire: a lease says what is to be rolled out, a trajectory what came of it.

Arrays travel as little-endian bytes (a 32k-token trajectory decodes in 0.02 ms so, in 1.8 ms as a list).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

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
