"""The `world` and `actor` sections, as `loop actor` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from actor.world.config import WorldConfig
from common.config import Section

__all__ = ["ActorConfig", "EngineConfig", "ReloadConfig", "WorldConfig"]


SwapMode = Literal["in_flight", "in_flight_kept_cache", "between_turns", "between_episodes"]


class EngineConfig(Section):
    """vLLM's engine. What is not named here is reached through `arguments`."""

    dtype: str = Field(default="auto", description="type of weights and activations", examples=["float32"])
    context_tokens: int | None = Field(
        default=None, ge=16, description="tokens of the longest sequence; none: what the model allows", examples=[1024]
    )
    kv_cache_megabytes: int | None = Field(
        default=None,
        ge=1,
        description="memory for keys and values, MiB; none: 256 on CPUs, a share of the memory on GPUs",
        examples=[256],
    )
    memory_fraction: float = Field(
        default=0.9, gt=0, le=1, description="share of a GPU's memory that the engine may use", examples=[0.9]
    )
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs that share one copy of the model", examples=[1])
    data_parallel: int = Field(default=1, ge=1, description="copies of the model", examples=[1])
    adapter_rank: int = Field(
        default=0, ge=0, description="largest LoRA rank that may be published; 0: full weights only", examples=[16]
    )
    adapter_slots: int = Field(
        default=2, ge=2, description="adapters sampled with at the same time; more make requests wait", examples=[2]
    )
    gpus: str = Field(
        default="",
        pattern=r"^(\d+(,\d+)*)?$",
        description="GPUs for this actor's engine alone, as nvidia-smi numbers them; empty: all that the environment "
        "leaves it",
        examples=["0,1"],
    )
    cpu_threads: int = Field(default=1, ge=1, description="threads of the engine on CPUs, count", examples=[1])
    cpus: str = Field(
        default="",
        pattern=r"^(\d+(-\d+)?(,\d+(-\d+)?)*)?$",
        description="cores that the engine's process is kept to, numbers and ranges; empty: any. Worlds use any",
        examples=["0-1,4"],
    )
    request_seconds: float = Field(
        default=300.0,
        gt=0,
        description="seconds for one turn's tokens; then the engine counts as stuck",
        examples=[300.0],
    )
    start_seconds: float = Field(
        default=900.0, gt=0, description="seconds that the engine may take to start", examples=[900.0]
    )
    starts: int = Field(
        default=4,
        ge=1,
        description="failures of the engine in a row after which the actor ends, count; after fewer it starts again",
        examples=[4],
    )
    settled_seconds: float = Field(
        default=600.0,
        ge=0,
        description="an engine that worked this long and finished an episode was well: its failure is the first of a "
        "new row, seconds",
        examples=[600.0],
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="other engine arguments of vLLM by their names there (dashes will do), checked by vLLM",
        examples=[{"block_size": 32}],
    )


class ReloadConfig(Section):
    """Stage 12: how a new policy version comes into use."""

    mode: SwapMode = Field(
        default="in_flight",
        description="when: amid a turn (it goes on with the new version, its context computed anew or, full weights "
        "alone, kept), when turns have ended, or episodes",
        examples=["in_flight"],
    )
    probe_tolerance: float = Field(
        default=1e-3,
        gt=0,
        description="largest difference of a probe log-prob from the learner's, nats (fp32 0.001; bf16 0.3)",
        examples=[1e-3],
    )
    attempts: int = Field(
        default=3,
        ge=1,
        description="failures of one version after which the actor stops, count; damaged files are waited for",
        examples=[3],
    )
    retry_seconds: float = Field(
        default=1.0, gt=0, description="wait after a failed attempt, doubled each time, seconds", examples=[1.0]
    )


class ActorConfig(Section):
    """One actor."""

    name: str = Field(
        default="actor-0",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="its name, unique in the run; its key's name",
        examples=["actor-0"],
    )
    folder: Path | None = Field(
        default=None,
        description="folder for the spool; none: actors/NAME in the run's folder",
        examples=["/var/lib/loop/actor-0"],
    )
    versions: Path | None = Field(
        default=None,
        description="local folder for fetched versions, one download for all actors that name it; none: versions in "
        "the run's folder",
        examples=["/var/lib/loop/versions"],
    )
    episodes: int = Field(default=32, ge=1, le=9000, description="most episodes at a time, count", examples=[32])
    least_episodes: int = Field(
        default=1,
        ge=1,
        description="fewest episodes at a time that a full KV cache may leave, count; as many as `episodes`: fixed",
        examples=[8],
    )
    kv_cache_full: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="share of the KV cache in use above which fewer episodes run at a time",
        examples=[0.95],
    )
    ahead: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="leases beyond `episodes`, count: their worlds open before a slot is free, or they are graded; "
        "none: an eighth of `episodes`",
        examples=[4],
    )
    drain_seconds: float = Field(
        default=2.0,
        ge=0,
        description="after SIGTERM, how long episodes may still end before their leases are returned, seconds",
        examples=[2.0],
    )
    flush_seconds: float = Field(
        default=3.0, ge=0, description="on leaving, how long to wait for outstanding acks, seconds", examples=[3.0]
    )
    spool_megabytes: int = Field(
        default=1024,
        ge=1,
        description="trajectories waiting for the learner, MiB; at that no more leases are asked for",
        examples=[1024],
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="vLLM's engine", examples=[{"dtype": "float32"}]
    )
    reload: ReloadConfig = Field(
        default_factory=ReloadConfig, description="new versions", examples=[{"mode": "in_flight"}]
    )

    @model_validator(mode="after")
    def a_kept_cache_is_for_full_weights(self) -> Self:
        """A request cannot change its adapter."""
        if self.reload.mode == "in_flight_kept_cache" and self.engine.adapter_rank:
            raise ValueError(
                "reload.mode: a kept cache is for full weights, a request cannot change its adapter: use in_flight, "
                "or leave engine.adapter_rank at 0"
            )
        return self

    @property
    def leases(self) -> int:
        """Most leases held at a time. With one slot nothing is held ahead: which is played first is never left open."""
        return self.episodes + (self.episodes // 8 if self.ahead is None else self.ahead)

    @model_validator(mode="after")
    def _least_is_not_more(self) -> Self:
        if self.least_episodes > self.episodes:
            raise ValueError(f"least_episodes ({self.least_episodes}) is more than episodes ({self.episodes})")
        return self
