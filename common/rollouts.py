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
    max_context_tokens: int = Field(ge=16, description="tokens of a context, count", examples=[768])
    max_episode_tokens: int | None = Field(
        default=None, ge=1, description="tokens sampled in a whole episode, count; nothing: no limit", examples=[4000]
    )
    max_episode_seconds: float | None = Field(
        default=None,
        gt=0,
        description="time of an episode in engine and world, seconds; nothing: no limit",
        examples=[600.0],
    )


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
    """Stage 3: one finished episode as the learner needs it. T tokens, N turns, C contexts.

    Tokens are exactly what the policy saw and sampled, in order; nothing is decoded and encoded again. Where the oldest
    observations were replaced to make room, what followed was sampled in another context: it lies behind the one before
    it, begins with what it repeats of it, and is a sequence of its own.
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
    context_bytes: bytes = Field(
        default=b"",
        repr=False,
        description="of each context after the first, where it begins and where what is new in it begins, "
        "int32 [C - 1, 2]",
        examples=[b""],
    )
    reward: float = Field(ge=0, le=1, description="share of the task's tests passed", examples=[0.75])
    success: bool = Field(description="whether all tests passed", examples=[False])
    failures: tuple[str, ...] = Field(
        default=(), max_length=1000, description="requirements that failed", examples=[("answer matches",)]
    )
    tags: tuple[str, ...] = Field(
        default=(),
        max_length=50,
        description="how it ended and what happened on the way",
        examples=[("turn_limit", "kept_cache")],
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
    def repeats(self) -> Int32:
        """Begin and end of what each context after the first repeats of the one before it [C - 1, 2]."""
        return np.frombuffer(self.context_bytes, "<i4").reshape(-1, 2)

    @property
    def contexts(self) -> Int32:
        """Begin and end of each context [C, 2]: a sequence of its own, in which its turns were sampled."""
        begins = np.concatenate(([0], self.repeats[:, 0])).astype(np.int32)
        ends = np.append(begins[1:], np.int32(len(self.sampled_bytes)))
        return np.stack((begins, ends), axis=1)

    @property
    def transcript(self) -> tuple[Int32, Int32]:
        """Tokens and turns [N, 2] of the episode as one sequence, without what later contexts repeat."""
        return transcript(self.tokens, self.turns, self.repeats)

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
        _check_contexts(self.context_bytes, mask)
        return self


def transcript(tokens: Int32, turns: Int32, repeats: Int32) -> tuple[Int32, Int32]:
    """Tokens [T] and turns [N, 2] without the tokens of `repeats` [C - 1, 2]."""
    if not len(repeats):
        return tokens, turns
    kept = np.ones(len(tokens), np.bool_)
    for begin, end in repeats:
        kept[begin:end] = False
    places = np.concatenate(([0], np.cumsum(kept))).astype(np.int32)  # [T + 1]: of each token among those kept
    return tokens[kept], places[turns]


def _check_contexts(context_bytes: bytes, mask: npt.NDArray[np.uint8]) -> None:
    if len(context_bytes) % 8:
        raise ValueError(f"context_bytes: {len(context_bytes)} bytes are not pairs of int32")
    if not context_bytes:
        return
    bounds = np.frombuffer(context_bytes, "<i4").reshape(-1, 2).astype(np.int64)
    if bounds[0, 0] < 1 or (np.diff(bounds.reshape(-1), append=len(mask)) < 1).any():
        raise ValueError("context_bytes: contexts must be ordered, not empty and within the trajectory")
    sampled = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))  # [T + 1]: sampled tokens before each
    if (sampled[bounds[:, 1]] != sampled[bounds[:, 0]]).any():
        raise ValueError("context_bytes: what a context repeats was not sampled in it")
    if (np.diff(sampled[np.concatenate(([0], bounds[:, 0], [len(mask)]))]) < 1).any():
        raise ValueError("context_bytes: a context without a sampled token")
